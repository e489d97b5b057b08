//! Stages: where the versions of each lie, so that the latest of a stage is found however many versions there are.
//!
//! A model's head keeps a [`Span`] for each stage that was ever used. A registration moves the top of the first stage
//! for free; a change of stage rewrites the spans of both stages in its transaction. A deletion leaves them alone, so
//! that a top may be a version that was deleted since: whoever looks for the latest looks further down then, and the
//! dispatch of the deletion moves the top down for those who come later.

use super::Registry;
use super::identity::{Slot, named_as_read};
use super::tracking::link_to_run;
use crate::domain::model::{Model, Span};
use crate::domain::stage::DEFAULT_STAGES;
use crate::domain::{
    AliasName, Event, EventType, ModelName, StageName, TenantName, Timestamp, Version, VersionId,
    VersionNumber,
};
use crate::dynamodb::items::{
    Reader, alias_from_item, as_number, floor_of, top_of, version_from_item,
};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::table::{Expression, Item, Query, Write};
use crate::error::{ErrorCode, Result};

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How many versions the first look at a stage reads; each further one reads more.
const FIRST_LOOK: usize = 25;
/// Most versions that one look reads.
const LONGEST_LOOK: usize = 1_000;

/// What goes with a model when it is shown.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    /// The latest version of each stage that has one, by number.
    pub latest: Vec<Version>,
    /// What its aliases hold.
    pub aliases: BTreeMap<AliasName, VersionNumber>,
}

/// A version's entering a stage, and leaving another one unless it comes back into it.
#[derive(Debug, Clone)]
pub(super) struct Shift {
    /// The version.
    pub(super) number: VersionNumber,
    /// The stage that it leaves.
    pub(super) from: Option<StageName>,
    /// The stage that it enters.
    pub(super) to: StageName,
}

/// The stages in which a model's versions may stand: those of its head, and those that every registry begins with.
fn stages_of(model: &Model) -> Result<BTreeSet<StageName>> {
    let mut stages: BTreeSet<StageName> = model.pointers.stages.keys().cloned().collect();
    for stage in DEFAULT_STAGES {
        stages.insert(StageName::parse(*stage)?);
    }
    Ok(stages)
}

fn id_of(model: &Model, number: VersionNumber) -> VersionId {
    VersionId {
        tenant: model.tenant.clone(),
        model: model.name.clone(),
        number,
    }
}

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

    /// The latest version that stands in a stage of a model whose home is known, and the top of that stage.
    pub async fn latest_in_stage(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        stage: &StageName,
    ) -> Result<(Option<Version>, u32)> {
        let key = keys::model(tenant, model);
        let Slot::Held(head, _) = self.read_slot(tenant, &key).await? else {
            return Ok((None, 0));
        };
        let span = head.span(stage);
        let latest = self.newest_in_stage(tenant, model, stage, span).await?;
        Ok((latest, span.top))
    }

    /// The latest versions of each stage and the aliases of models, in as few reads as the models' heads allow.
    ///
    /// One `BatchGetItem` for every hundred latest versions and aliases; the answer is in the order of the models.
    pub async fn neighbours(&self, models: &[Model]) -> Result<Vec<Neighbours>> {
        let mut found: Vec<Neighbours> = models.iter().map(|_| Neighbours::default()).collect();
        let mut wanted: Vec<Key> = Vec::new();
        let mut owners: HashMap<String, usize> = HashMap::new();
        for (index, model) in models.iter().enumerate() {
            owners.insert(keys::model_partition(&model.tenant, &model.name), index);
            for stage in stages_of(model)? {
                let span = model.span(&stage);
                if !span.is_empty()
                    && let Ok(number) = VersionNumber::new(span.top.into())
                {
                    wanted.push(keys::version(&id_of(model, number)));
                }
            }
            for alias in &model.pointers.aliases {
                wanted.push(keys::alias(&model.tenant, &model.name, alias));
            }
        }
        wanted.sort_by(|left, right| (&left.pk, &left.sk).cmp(&(&right.pk, &right.sk)));
        wanted.dedup();
        for item in self.table.batch_get(&wanted, true).await? {
            let reader = Reader(&item);
            let Some(&index) = owners.get(reader.text("pk")?) else {
                continue;
            };
            let (Some(model), Some(neighbours)) = (models.get(index), found.get_mut(index)) else {
                continue;
            };
            if reader.text("sk")?.starts_with("A#") {
                let alias = alias_from_item(&model.tenant, &model.name, &item)?;
                neighbours
                    .aliases
                    .extend(alias.version.map(|number| (alias.name, number)));
            } else {
                let version = version_from_item(&model.tenant, &model.name, &item)?;
                if version.deleted_at.is_none()
                    && model.span(&version.stage).top == version.id.number.get()
                {
                    neighbours.latest.push(version);
                }
            }
        }
        for (model, neighbours) in models.iter().zip(&mut found) {
            self.complete(model, neighbours).await?;
        }
        Ok(found)
    }

    /// Looks further for what the head of a model did not know.
    async fn complete(&self, model: &Model, neighbours: &mut Neighbours) -> Result<()> {
        if !model.pointers.is_complete {
            let aliases = self.aliases(&model.tenant, &model.name).await?;
            neighbours.aliases = aliases
                .into_iter()
                .filter_map(|alias| Some((alias.name, alias.version?)))
                .collect();
        }
        for stage in stages_of(model)? {
            let span = model.span(&stage);
            if span.is_empty() || neighbours.latest.iter().any(|one| one.stage == stage) {
                continue;
            }
            // What stands at the top was looked at already; only a deletion or a change of stage leaves it there.
            let below = Span {
                top: span.top - 1,
                ..span
            };
            neighbours.latest.extend(
                self.newest_in_stage(&model.tenant, &model.name, &stage, below)
                    .await?,
            );
        }
        neighbours.latest.sort_by_key(|version| version.id.number);
        Ok(())
    }

    /// The write of a model's head that goes with its versions' entering stages, and leaving others.
    ///
    /// 1 `GetItem`, and 1 `Query` for each stage whose latest version leaves it while no later one enters.
    /// A promotion request that ends with it is counted down in the same write; a stage that was judged to have a certain
    /// top must have it still.
    pub(super) async fn span_write(
        &self,
        tenant: &TenantName,
        name: &ModelName,
        shifts: &[Shift],
        at: Timestamp,
        closes_request: bool,
        judged: Option<(&StageName, u32)>,
    ) -> Result<Option<Write>> {
        let key = keys::model(tenant, name);
        let Slot::Held(model, mut head) = self.read_slot(tenant, &key).await? else {
            return Ok(None);
        };
        if model.name.home() != name.home() {
            // The name means another model by now; the write of the version is refused, and says so.
            return Ok(None);
        }
        let touched: BTreeSet<&StageName> = shifts
            .iter()
            .flat_map(|shift| [Some(&shift.to), shift.from.as_ref()])
            .flatten()
            .collect();
        let (mut changed, mut shrinks) = (Vec::new(), false);
        for stage in touched {
            let seen = model.span(stage);
            let entering: Vec<VersionNumber> = numbers(shifts, |shift| shift.to == *stage);
            let leaving: Vec<VersionNumber> = numbers(shifts, |shift| {
                shift.from.as_ref() == Some(stage) && shift.to != *stage
            });
            let is_topped = entering.iter().any(|number| number.get() >= seen.top);
            let mut span = seen;
            if !is_topped
                && let Some(left) = self
                    .span_without(tenant, name, &leaving, stage, seen)
                    .await?
            {
                span = left;
                shrinks = true;
            }
            for number in entering {
                span = span.with(number);
            }
            let is_entered = shifts.iter().any(|shift| shift.to == *stage);
            if is_entered || span != seen {
                changed.push((stage.clone(), span));
            }
        }
        self.hints.forget(&key);
        if let Some((stage, top)) = judged.filter(|(stage, top)| model.span(stage).top != *top) {
            // The condition of the write holds what was judged against the truth, and is refused.
            head.insert(top_of(stage), as_number(top));
        }
        Ok(Some(head_write(
            &key,
            &model.name,
            &head,
            &changed,
            shrinks,
            Some(at),
            closes_request,
        )))
    }

    /// The span of a stage after versions left it, if that changes it.
    async fn span_without(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        leaving: &[VersionNumber],
        stage: &StageName,
        span: Span,
    ) -> Result<Option<Span>> {
        let leaves = |top: u32| leaving.iter().any(|number| number.get() == top);
        let mut below = span;
        while leaves(below.top) {
            below.top -= 1;
            let next = self.newest_in_stage(tenant, model, stage, below).await?;
            let Some(version) = next else {
                return Ok(Some(emptied(span)));
            };
            below.top = version.id.number.get();
        }
        Ok((below != span).then_some(below))
    }

    /// Lets a model's head look past the version that an event tells was deleted, so that later questions need not.
    pub async fn settle_deletion(&self, event: &Event) -> Result<()> {
        let (EventType::VersionDeleted, Some(model), Some(number)) =
            (event.kind, &event.model, event.version)
        else {
            return Ok(());
        };
        let id = VersionId {
            tenant: event.tenant.clone(),
            model: model.clone(),
            number,
        };
        let version = match self.version(&id).await {
            Ok(version) => version,
            Err(error) if error.code == ErrorCode::VersionNotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if version.deleted_at.is_none() {
            return Ok(());
        }
        self.settle_stage(&id, &version.stage).await
    }

    /// Moves the top of a stage's span down from a version that was deleted; does nothing if it moved already, or if the
    /// version was restored.
    pub async fn settle_stage(&self, id: &VersionId, stage: &StageName) -> Result<()> {
        let key = keys::model(&id.tenant, &id.model);
        let Slot::Held(model, head) = self.read_slot(&id.tenant, &key).await? else {
            return Ok(());
        };
        if model.name.home() != id.model.home() {
            return Ok(());
        }
        let seen = model.span(stage);
        if seen.top != id.number.get() {
            return Ok(());
        }
        // Looked for after the head was read, from which on nothing may have been entered: the version may be restored.
        let span = match self
            .newest_in_stage(&id.tenant, &id.model, stage, seen)
            .await?
        {
            Some(version) => Span {
                top: version.id.number.get(),
                ..seen
            },
            None => emptied(seen),
        };
        if span == seen {
            return Ok(());
        }
        self.hints.forget(&key);
        // If the head changed meanwhile, its top is right, or a look further down finds what is.
        self.table
            .write(head_write(
                &key,
                &model.name,
                &head,
                &[(stage.clone(), span)],
                true,
                None,
                false,
            ))
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

/// A span in which nothing stands any more: whatever is registered next has a higher number.
const fn emptied(span: Span) -> Span {
    Span {
        top: span.top,
        floor: span.top,
    }
}

/// The numbers of the versions whose shifts are of a kind.
fn numbers(shifts: &[Shift], of_kind: impl Fn(&Shift) -> bool) -> Vec<VersionNumber> {
    shifts
        .iter()
        .filter(|shift| of_kind(shift))
        .map(|shift| shift.number)
        .collect()
}

/// Rewrites spans of a head, if they are as they were read; `at` is when the model counts as changed, if it does.
///
/// A span that `shrinks` rests on which versions were found in it. A version that enters it meanwhile may leave its ends
/// where they are, or bring them back to where they were, so nothing at all may have been entered or left since.
fn head_write(
    key: &Key,
    model: &ModelName,
    head: &Item,
    changed: &[(StageName, Span)],
    shrinks: bool,
    at: Option<Timestamp>,
    closes_request: bool,
) -> Write {
    let (mut set, mut conditions) = (Vec::new(), Vec::new());
    let mut names = Vec::new();
    let mut values = Vec::new();
    if let Some(at) = at {
        set.push("#updated = :updated".to_owned());
        values.push(("updated".to_owned(), as_number(at.millis())));
    }
    let mut seen = Vec::new();
    if shrinks {
        match head.get("pointers") {
            Some(count) => {
                conditions.push("#pointers = :seen_pointers".to_owned());
                seen.push(("seen_pointers".to_owned(), count.clone()));
            }
            None => conditions.push("attribute_not_exists(#pointers)".to_owned()),
        }
    }
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
    if closes_request {
        set.push("#reqs = #reqs - :one".to_owned());
    }
    let with_names = |mut expression: Expression| {
        for (name, attribute) in &names {
            expression = expression.named(name, attribute.clone());
        }
        expression
    };
    let update = values.into_iter().fold(
        with_names(
            Expression::new(format!("SET {} ADD #pointers :one", set.join(", ")))
                .value("one", as_number(1)),
        ),
        |expression, (name, value)| expression.value(&name, value),
    );
    let condition = seen.into_iter().fold(
        with_names(named_as_read(model).and(&conditions.join(" AND "))),
        |expression, (name, value)| expression.value(&name, value),
    );
    Write::Update {
        key: key.clone(),
        update,
        condition,
    }
}
