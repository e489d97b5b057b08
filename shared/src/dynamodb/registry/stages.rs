//! Stages: where the versions of each lie, so that the latest of a stage is found however many versions there are.
//!
//! A model's head keeps a [`Span`] for each stage that was ever used. A registration moves the top of the first stage
//! for free; a change of stage rewrites the spans of both stages in its transaction. A deletion leaves them alone, so
//! that a top may be a version that was deleted since: whoever looks for the latest looks further down then, and the
//! dispatch of the deletion moves the top down for those who come later.

use super::tracking::link_to_run;
use super::{Registry, VersionChange};
use crate::domain::model::{Model, Span, model_not_found};
use crate::domain::{ModelName, StageName, TenantName, Version, VersionId, VersionNumber};
use crate::dynamodb::items::{as_number, floor_of, model_from_item, top_of, version_from_item};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Item, Query, Write};
use crate::error::Result;

/// How many versions the first look at a stage reads; each further one reads more.
const FIRST_LOOK: usize = 25;
/// Most versions that one look reads.
const LONGEST_LOOK: usize = 1_000;

impl Registry {
    /// The newest live version of a stage with a number up to the top of a span.
    pub async fn newest_in_stage(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        stage: &StageName,
        span: Span,
    ) -> Result<Option<Version>> {
        let (Ok(mut top), Ok(bottom)) = (
            VersionNumber::new(span.top.into()),
            VersionNumber::new(u64::from(span.floor) + 1),
        ) else {
            return Ok(None);
        };
        let mut limit = FIRST_LOOK;
        while top >= bottom {
            let query = Query::new(keys::model_partition(tenant, model))
                .between(keys::version_sk(bottom), keys::version_sk(top))
                .backward()
                .consistent()
                .limit(limit);
            let (items, after) = self.table.query(query).await?;
            for item in &items {
                let version = version_from_item(tenant, model, item)?;
                if version.stage == *stage && version.deleted_at.is_none() {
                    return Ok(Some(version));
                }
                top = version.id.number;
            }
            let Ok(next) = VersionNumber::new(u64::from(top.get()) - 1) else {
                return Ok(None);
            };
            if after.is_none() {
                return Ok(None);
            }
            top = next;
            limit = (limit * 4).min(LONGEST_LOOK);
        }
        Ok(None)
    }

    /// The write of a model's head that goes with a version's entering a stage, and leaving another one.
    pub(super) async fn span_write(
        &self,
        id: &VersionId,
        change: &VersionChange,
        entered: &StageName,
    ) -> Result<Write> {
        let key = keys::model(&id.tenant, &id.model);
        let head = self
            .table
            .get(&key, true)
            .await?
            .ok_or_else(|| model_not_found(&id.model))?;
        let model = model_from_item(&id.tenant, &head)?.model;
        let mut changed = vec![(entered.clone(), model.span(entered).with(id.number))];
        if let VersionChange::MoveTo { from, to } = change
            && from != to
            && let Some(span) = self.span_without(id, from, &model).await?
        {
            changed.push((from.clone(), span));
        }
        self.hints.forget(&key);
        Ok(head_write(&key, &head, &changed))
    }

    /// The span of a stage after a version left it, if that changes it.
    async fn span_without(
        &self,
        id: &VersionId,
        stage: &StageName,
        model: &Model,
    ) -> Result<Option<Span>> {
        let span = model.span(stage);
        if span.top != id.number.get() {
            return Ok(None);
        }
        let below = Span {
            top: span.top - 1,
            ..span
        };
        let next = self
            .newest_in_stage(&id.tenant, &id.model, stage, below)
            .await?;
        Ok(Some(match next {
            Some(version) => Span {
                top: version.id.number.get(),
                ..span
            },
            // Nothing is left below, and whatever is registered next has a higher number.
            None => Span {
                top: span.top,
                floor: span.top,
            },
        }))
    }

    /// Moves the top of a stage's span down from a version that was deleted; does nothing if it moved already.
    pub async fn settle_stage(&self, id: &VersionId, stage: &StageName) -> Result<()> {
        let key = keys::model(&id.tenant, &id.model);
        let Some(head) = self.table.get(&key, true).await? else {
            return Ok(());
        };
        let model = model_from_item(&id.tenant, &head)?.model;
        let Some(span) = self.span_without(id, stage, &model).await? else {
            return Ok(());
        };
        self.hints.forget(&key);
        // If the head changed meanwhile, its top is right, or a look further down finds what is.
        self.table
            .write(head_write(&key, &head, &[(stage.clone(), span)]))
            .await
            .map(drop)
    }

    /// The write that links a version to the run that it names.
    pub(super) fn link_to_origin(version: &Version) -> Option<Write> {
        let run = version.origin.as_ref()?.run_id.as_ref()?;
        let run = crate::domain::tracking::RunId::parse(run.as_str()).ok()?;
        Some(link_to_run(&version.id, &run))
    }
}

/// Rewrites spans of a head, if they are as they were read.
fn head_write(key: &keys::Key, head: &Item, changed: &[(StageName, Span)]) -> Write {
    let (mut set, mut conditions) = (Vec::new(), vec!["attribute_exists(#pk)".to_owned()]);
    let mut names = Vec::new();
    let mut values = Vec::new();
    let mut seen = Vec::new();
    for (index, (stage, span)) in changed.iter().enumerate() {
        for (word, attribute, number) in [
            ("top", top_of(stage), span.top),
            ("floor", floor_of(stage), span.floor),
        ] {
            let name = format!("{word}{index}");
            set.push(format!("#{name} = :{name}"));
            values.push((name.clone(), as_number(number)));
            match head.get(&attribute) {
                Some(value) => {
                    conditions.push(format!("#{name} = :seen_{name}"));
                    seen.push((format!("seen_{name}"), value.clone()));
                }
                None => conditions.push(format!("attribute_not_exists(#{name})")),
            }
            names.push((name, attribute));
        }
    }
    let named = |mut expression: Expression| {
        for (name, attribute) in &names {
            expression = expression.named(name, attribute.clone());
        }
        expression
    };
    let update = values.into_iter().fold(
        named(Expression::new(format!("SET {}", set.join(", ")))),
        |expression, (name, value)| expression.value(&name, value),
    );
    let condition = seen.into_iter().fold(
        named(Expression::new(conditions.join(" AND "))),
        |expression, (name, value)| expression.value(&name, value),
    );
    Write::Update {
        key: key.clone(),
        update,
        condition,
    }
}
