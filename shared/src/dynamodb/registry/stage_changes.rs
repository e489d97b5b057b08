//! Stages of versions, exclusive ones among them; and the dates after which versions should not be used.

use super::aliases::as_seen;
use super::identity::{is_marked, still_named, unmarked};
use super::settings::guard;
use super::stages::Shift;
use super::{Committed, Governing, Registry, WorkItem, put_event};
use crate::domain::{
    Alias, Event, ModelName, Realm, SettingsHead, StageName, TenantName, Timestamp, Version,
    VersionId, VersionNumber,
};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader, as_number, version_from_item};
use crate::dynamodb::keys;
use crate::dynamodb::table::{Expression, Query, Write, sort_key, text};
use crate::error::{Error, ErrorCode, Result};

/// What is known before a version changes its stage.
#[derive(Debug, Clone)]
pub struct StageLoaded {
    /// The version.
    pub version: Version,
    /// What governs its model.
    pub governing: Governing,
}

/// Which version stands in an exclusive stage, as it was written under certain rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageHolder {
    /// The version.
    pub version: Option<VersionNumber>,
    /// The revisions of the rules under which it got there; under others it says nothing.
    pub rules: String,
}

/// A decided change of a version's stage.
#[derive(Debug, Clone)]
pub struct StageChange {
    /// The version as it was seen.
    pub before: Version,
    /// The stage that it enters.
    pub to: StageName,
    /// The event that tells it.
    pub event: Event,
    /// Versions that are archived with it, as they were seen, each with its event.
    pub archived: Vec<(Version, Event)>,
    /// Where they are archived.
    pub archive_to: Option<StageName>,
    /// If the stage that it enters is exclusive: who was seen there, and the rules that say so.
    pub enters: Option<(Option<StageHolder>, String)>,
    /// Whether it is known to hold the exclusive stage that it leaves.
    pub leaves_exclusive: bool,
    /// The settings that the decision rests on.
    pub guards: Vec<(Realm, SettingsHead)>,
    /// Whether a protection guards the stage.
    pub is_guarded: bool,
    /// The top of the stage that it enters, if the decision rests on the latest version there.
    pub judged_top: Option<u32>,
    /// Whether it ends a promotion request that held on to the version.
    pub closes_request: bool,
    /// The answer to store under an idempotency key.
    pub answer: Option<Answer>,
}

/// A decided change of the dates of a version.
#[derive(Debug, Clone)]
pub struct LifecycleChange {
    /// The version as it was seen.
    pub before: Version,
    /// From when on it should not be used any more.
    pub deprecated_at: Option<Timestamp>,
    /// From when on it must not be used any more.
    pub end_of_life_at: Option<Timestamp>,
    /// The aliases that hold it, all of them.
    pub aliases: Vec<Alias>,
    /// When to tell that the dates have come.
    pub work: Vec<WorkItem>,
    /// The event that tells it.
    pub event: Event,
    /// The answer to store under an idempotency key.
    pub answer: Option<Answer>,
}

impl Registry {
    /// Loads a version and what governs it: 1 `GetItem`, or 1 `BatchGetItem` if the settings were not seen a moment ago.
    pub async fn load_stage(&self, id: &VersionId, now: Timestamp) -> Result<StageLoaded> {
        let heads = self.believed_heads(&id.tenant, &id.model, now);
        if heads.unknown().is_empty() {
            let version = self.version(id).await?;
            let governing = if version.id.model.home() == id.model.home() {
                self.take_heads(heads, &[], now)
            } else {
                self.governing(&id.tenant, &version.id.model, now).await?
            };
            return Ok(StageLoaded { version, governing });
        }
        let key = keys::version(id);
        let mut wanted = vec![key.clone()];
        wanted.extend(heads.unknown());
        let items = self.table.batch_get(&wanted, true).await?;
        let found = items
            .iter()
            .find(|item| sort_key(item) == key.sk && !is_marked(item));
        let Some(version) = found else {
            // It lies elsewhere, or nowhere; what was read of the settings may be another model's.
            let version = self.version(id).await?;
            let governing = self.governing(&id.tenant, &version.id.model, now).await?;
            return Ok(StageLoaded { version, governing });
        };
        Ok(StageLoaded {
            governing: self.take_heads(heads, &items, now),
            version: version_from_item(&id.tenant, &id.model, version)?,
        })
    }

    /// Which version stands in an exclusive stage, if that was ever written.
    pub async fn stage_holder(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        stage: &StageName,
    ) -> Result<Option<StageHolder>> {
        let item = self
            .table
            .get(&keys::exclusive_stage(tenant, model, stage), true)
            .await?;
        item.map(|item| {
            let reader = Reader(&item);
            Ok(StageHolder {
                version: reader
                    .maybe_number("version")
                    .map(VersionNumber::new)
                    .transpose()?,
                rules: reader.text("rules")?.to_owned(),
            })
        })
        .transpose()
    }

    /// All versions of a model that stand in a stage; reads every version of the model.
    pub async fn versions_in_stage(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        stage: &StageName,
    ) -> Result<Vec<Version>> {
        let query = Query::new(keys::model_partition(tenant, model))
            .prefix("V#")
            .consistent();
        let items = self.table.query_all(query, usize::MAX).await?;
        items
            .iter()
            .filter(|item| Reader(item).maybe_text("stage") == Some(stage.as_str()))
            .map(|item| version_from_item(tenant, model, item))
            .collect()
    }

    /// Commits a change of stage with everything that is archived by it, in one transaction.
    pub async fn commit_stage(&self, change: &StageChange, attempt: u32) -> Result<Committed> {
        let id = &change.before.id;
        self.hints.forget(&keys::version(id));
        for (version, _) in &change.archived {
            self.hints.forget(&keys::version(&version.id));
        }
        let Some(writes) = self.stage_writes(change).await? else {
            self.table.pause(attempt.min(4)).await;
            return Ok(Committed::Lost);
        };
        let outcome = self
            .try_commit(writes, &id.tenant, change.answer.clone())
            .await?;
        Ok(match outcome {
            Ok(Outcome::Done(())) => Committed::Done,
            Ok(Outcome::Replayed(response)) => Committed::Replayed(response),
            Err(_) => {
                self.forget_heads(&id.tenant, &id.model);
                self.table.pause(attempt.min(4)).await;
                Committed::Lost
            }
        })
    }

    /// The writes of a change of stage; the model's head is among them, for it says where the versions of each stage lie.
    ///
    /// `None` if the name means another model by now.
    pub(super) async fn stage_writes(&self, change: &StageChange) -> Result<Option<Vec<Write>>> {
        let id = &change.before.id;
        let from = &change.before.stage;
        let moved = |version: &Version, to: &StageName, event: &Event, condition: Expression| {
            let is_closing = change.closes_request && version.id == *id;
            let past = super::json_of(&version.standing.after_leaving(&version.stage))?;
            let mut words = String::from("SET #stage = :to, #been = :been, #updated = :updated");
            if is_closing {
                words.push_str(", #reqs = #reqs - :one");
            }
            let mut update = Expression::new(words)
                .value("to", text(to.as_str()))
                .value("been", text(past))
                .value("updated", as_number(event.time.millis()));
            if is_closing {
                update = update.value("one", as_number(1));
            }
            Ok::<_, Error>(Write::Update {
                key: keys::version(&version.id),
                update,
                condition,
            })
        };
        let condition = as_seen(&id.model, Some(&change.before), change.is_guarded)
            .and("#stage = :from")
            .value("from", text(from.as_str()));
        let mut writes = vec![
            moved(&change.before, &change.to, &change.event, condition)?,
            put_event(&change.event)?,
        ];
        if let Some(archive) = &change.archive_to {
            for (version, event) in &change.archived {
                let condition = Expression::new(format!("#stage = :from{}", unmarked(&id.model)))
                    .value("from", text(version.stage.as_str()));
                writes.push(moved(version, archive, event, condition)?);
                writes.push(put_event(event)?);
            }
        }
        if let Some((seen, rules)) = &change.enters {
            let condition = match seen {
                None => Expression::new("attribute_not_exists(#pk)"),
                Some(StageHolder {
                    version: None,
                    rules,
                }) => Expression::new("attribute_not_exists(#version) AND #rules = :rules")
                    .value("rules", text(rules)),
                Some(StageHolder {
                    version: Some(version),
                    rules,
                }) => Expression::new("#version = :version AND #rules = :rules")
                    .value("version", as_number(version.get()))
                    .value("rules", text(rules)),
            };
            let item = Builder::at(&keys::exclusive_stage(&id.tenant, &id.model, &change.to))
                .number("version", id.number.get())
                .text("rules", rules)
                .build();
            writes.push(Write::Put {
                item,
                condition: Some(condition),
            });
        }
        if change.leaves_exclusive {
            writes.push(Write::Update {
                key: keys::exclusive_stage(&id.tenant, &id.model, from),
                update: Expression::new("REMOVE #version"),
                condition: Expression::new("#version = :version")
                    .value("version", as_number(id.number.get())),
            });
        }
        writes.extend(
            change
                .guards
                .iter()
                .map(|(realm, head)| guard(&id.tenant, realm, *head)),
        );
        let mut shifts = vec![Shift {
            number: id.number,
            from: Some(from.clone()),
            to: change.to.clone(),
        }];
        if let Some(archive) = &change.archive_to {
            shifts.extend(change.archived.iter().map(|(version, _)| Shift {
                number: version.id.number,
                from: Some(version.stage.clone()),
                to: archive.clone(),
            }));
        }
        let head = self
            .span_write(
                &id.tenant,
                &id.model,
                &shifts,
                change.event.time,
                change.closes_request,
                change.judged_top.map(|top| (&change.to, top)),
            )
            .await?;
        // A known model is found by its name, which may mean it again when the transaction commits: without the write of
        // its head the version would then stand where nobody looks for it. Any other is marked, and the version refuses.
        if head.is_none() && id.model.is_known() {
            return Ok(None);
        }
        writes.extend(head);
        Ok(Some(writes))
    }

    /// Sets the dates of a version and of every alias that holds it, in one transaction; `false` if something changed meanwhile.
    pub async fn change_lifecycle(
        &self,
        change: &LifecycleChange,
    ) -> Result<std::result::Result<Outcome<()>, ()>> {
        let id = &change.before.id;
        let dates = [
            ("depr", change.deprecated_at),
            ("eol", change.end_of_life_at),
        ];
        let (mut set, mut remove) = (Vec::new(), Vec::new());
        for (name, at) in dates {
            match at {
                Some(at) => set.push((name, as_number(at.millis()))),
                None => remove.push(format!("#{name}")),
            }
        }
        let update = |more: Option<(&'static str, u64)>| {
            let more = more.map(|(name, value)| (name, as_number(value)));
            let set: Vec<_> = set.iter().cloned().chain(more).collect();
            let assignments: Vec<String> = set
                .iter()
                .map(|(name, _)| format!("#{name} = :{name}"))
                .collect();
            let mut words = Vec::new();
            if !set.is_empty() {
                words.push(format!("SET {}", assignments.join(", ")));
            }
            if !remove.is_empty() {
                words.push(format!("REMOVE {}", remove.join(", ")));
            }
            set.into_iter().fold(
                Expression::new(words.join(" ")),
                |expression, (name, value)| expression.value(name, value),
            )
        };
        // The dates replace whatever dates there are.
        let condition = Expression::new(format!(
            "#aliases = :held AND attribute_not_exists(#deleted){}",
            unmarked(&id.model)
        ))
        .value("held", as_number(change.aliases.len()));
        let mut writes = vec![
            Write::Update {
                key: keys::version(id),
                update: update(Some(("updated", change.event.time.millis()))),
                condition,
            },
            put_event(&change.event)?,
        ];
        for alias in &change.aliases {
            writes.push(Write::Update {
                key: keys::alias(&alias.tenant, &alias.model, &alias.name),
                update: update(None),
                condition: Expression::new(format!("#version = :version{}", unmarked(&id.model)))
                    .value("version", as_number(id.number.get())),
            });
        }
        writes.extend(still_named(&id.tenant, &id.model));
        writes.extend(change.work.iter().map(|work| Write::Put {
            item: work.to_item(),
            condition: None,
        }));
        self.hints.forget(&keys::version(id));
        for alias in &change.aliases {
            self.forget_alias(alias);
        }
        if writes.len() > 99 {
            return Err(Error::new(
                ErrorCode::VersionInUse,
                format!("{id} is held by too many aliases at once; remove some of them first"),
            ));
        }
        Ok(self
            .try_commit(writes, &id.tenant, change.answer.clone())
            .await?
            .map_err(drop))
    }

    /// Tells, once, that a date of a version has come; `false` if the date is another one by now, or it was told.
    pub async fn tell_lifecycle(
        &self,
        work: &WorkItem,
        id: &VersionId,
        is_end: bool,
        event: &Event,
    ) -> Result<bool> {
        let name = if is_end { "eol" } else { "depr" };
        let writes = vec![
            Write::Check {
                key: keys::version(id),
                condition: Expression::new(format!(
                    "#{name} = :at AND attribute_not_exists(#deleted)"
                ))
                .value("at", as_number(work.due.millis())),
            },
            put_event(event)?,
            Write::Delete {
                key: work.key(),
                condition: Some(Expression::new("attribute_exists(#pk)")),
            },
        ];
        Ok(self.table.transact(&writes).await?.is_ok())
    }
}
