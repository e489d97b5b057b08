//! The dates after which a version should not, and then must not be used any more.

use crate::gate;
use serde::Deserialize;
use serde_json::json;
use shared::domain::model::{MAX_REASON, check_text};
use shared::domain::{Alias, EventType, ModelName, Principal, Timestamp, VersionId};
use shared::dynamodb::{DECISIONS, LifecycleChange, Outcome, WorkItem, WorkKind};
use shared::http::Caller;
use shared::http::views::VersionView;
use shared::{App, Error, ErrorCode, Result};

/// Sets the dates; a date that is absent or `null` is taken away.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetLifecycle {
    #[serde(default)]
    deprecated_at: Option<Timestamp>,
    #[serde(default)]
    end_of_life_at: Option<Timestamp>,
    #[serde(default)]
    reason: Option<String>,
}

/// A date that has come, as work tells it.
#[derive(Debug, serde::Serialize, Deserialize)]
struct Subject {
    tenant: shared::domain::TenantName,
    /// The home of the model, so that a renaming does not lose the work.
    model: String,
    version: shared::domain::VersionNumber,
    is_end: bool,
}

pub(crate) async fn set(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    command: &SetLifecycle,
) -> Result<Outcome<VersionView>> {
    check_text("reason", command.reason.as_deref(), MAX_REASON)?;
    let (deprecated_at, end_of_life_at) = (command.deprecated_at, command.end_of_life_at);
    if let (Some(deprecated), Some(end)) = (deprecated_at, end_of_life_at)
        && end < deprecated
    {
        return Err(Error::invalid(
            "end_of_life_at",
            "the end of life lies before the deprecation; exchange them",
        ));
    }
    for _ in 1..=DECISIONS {
        let before = app.registry.version(id).await?;
        let id = &before.id.clone();
        before.require_live()?;
        let standing = &before.standing;
        if (standing.deprecated_at, standing.end_of_life_at) == (deprecated_at, end_of_life_at) {
            let view = VersionView::of(app, &before);
            return app.keep_unchanged(caller, 200, view).await;
        }
        let all = app.registry.aliases(&id.tenant, &id.model).await?;
        let aliases: Vec<Alias> = all
            .into_iter()
            .filter(|alias| alias.version == Some(id.number))
            .collect();
        let event = app
            .event(
                EventType::VersionLifecycleSet,
                &id.tenant,
                &caller.principal,
                &caller.request_id,
            )
            .about(&id.model)
            .of_version(id.number)
            .because(command.reason.clone())
            .with("deprecated_at", json!(deprecated_at))
            .with("end_of_life_at", json!(end_of_life_at));
        let mut after = before.clone();
        after.standing.deprecated_at = deprecated_at;
        after.standing.end_of_life_at = end_of_life_at;
        after.updated_at = event.time;
        let view = VersionView::of(app, &after);
        let mut work = Vec::new();
        for (at, is_end) in [(deprecated_at, false), (end_of_life_at, true)] {
            if let Some(due) = at {
                work.push(work_of(id, due, is_end)?);
            }
        }
        let change = LifecycleChange {
            before,
            deprecated_at,
            end_of_life_at,
            aliases,
            work,
            answer: caller.answer(200, &view, event.time)?,
            event,
        };
        if let Ok(outcome) = app.registry.change_lifecycle(&change).await? {
            return Ok(outcome.map(|()| view));
        }
    }
    Err(gate::too_busy(&id.to_string()))
}

fn work_of(id: &VersionId, due: Timestamp, is_end: bool) -> Result<WorkItem> {
    let subject = Subject {
        tenant: id.tenant.clone(),
        model: id.model.home().to_owned(),
        version: id.number,
        is_end,
    };
    Ok(WorkItem {
        kind: WorkKind::Lifecycle,
        due,
        subject: serde_json::to_string(&subject)
            .map_err(|error| Error::internal("writing JSON", error))?,
    })
}

/// Tells that a date has come, if it is still the version's.
pub(crate) async fn tell(app: &App, work: &WorkItem) -> Result<()> {
    let subject: Subject = serde_json::from_str(&work.subject).map_err(|error| {
        Error::new(
            ErrorCode::InvalidArgument,
            "the subject of a work item is no date of a version",
        )
        .caused_by(error)
    })?;
    let id = VersionId {
        tenant: subject.tenant,
        model: ModelName::of_home(subject.model)?,
        number: subject.version,
    };
    let kind = if subject.is_end {
        EventType::VersionEndOfLife
    } else {
        EventType::VersionDeprecated
    };
    let event = app
        .event(
            kind,
            &id.tenant,
            &Principal::parse("slipway")?,
            &app.ids.next(),
        )
        .about(&id.model)
        .of_version(id.number)
        .with("at", work.due.to_string());
    let is_told = app
        .registry
        .tell_lifecycle(work, &id, subject.is_end, &event)
        .await?;
    if !is_told {
        return app.registry.finish_work(work).await;
    }
    tracing::info!(
        model.name = id.model.as_str(),
        version.number = id.number.get(),
        "{kind}: {id}"
    );
    Ok(())
}
