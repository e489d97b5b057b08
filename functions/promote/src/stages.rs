//! Stages: a version's place in the life cycle.

use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::model::{MAX_REASON, check_text};
use shared::domain::version::{find_stage, version_not_found};
use shared::domain::{EventType, StageName, Version, VersionId};
use shared::dynamodb::{Outcome, VersionChange};
use shared::http::Caller;
use shared::http::views::VersionView;
use shared::{App, Error, ErrorCode, Result};

/// Moves a version to another stage.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeStage {
    stage: String,
    #[serde(default)]
    expected_stage: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

/// A wanted change of stage.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    to: StageName,
    expected: Option<StageName>,
    reason: Option<String>,
}

impl Wanted {
    /// Moves a version wherever it is.
    pub(crate) fn of(to: StageName) -> Self {
        Self {
            to,
            expected: None,
            reason: None,
        }
    }
}

/// How an edge shows a version, for the answer that goes under an idempotency key too.
pub(crate) type Show<'a> = &'a (dyn Fn(&Version) -> Value + Send + Sync);

pub(crate) async fn change(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    command: ChangeStage,
) -> Result<Outcome<Value>> {
    check_text("reason", command.reason.as_deref(), MAX_REASON)?;
    let wanted = Wanted {
        to: find_stage(&command.stage)?,
        expected: command
            .expected_stage
            .as_deref()
            .map(find_stage)
            .transpose()?,
        reason: command.reason,
    };
    move_to(app, caller, id, &wanted, &|version| {
        serde_json::to_value(VersionView::of(app, version)).unwrap_or_default()
    })
    .await
}

/// Moves a version to another stage, and answers as an edge shows it.
pub(crate) async fn move_to(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    wanted: &Wanted,
    show: Show<'_>,
) -> Result<Outcome<Value>> {
    let Wanted {
        to,
        expected,
        reason,
    } = wanted;
    // Without an expectation somebody else may move it between our read and our write; then the truth is read again.
    for _ in 0..8 {
        let version = app.registry.version(id).await?;
        let id = &version.id;
        version.require_promotable()?;
        if expected
            .as_ref()
            .is_some_and(|expected| *expected != version.stage)
        {
            return Err(moved(&version));
        }
        if version.stage == *to {
            return app.keep_unchanged(caller, 200, show(&version)).await;
        }
        let event = app
            .event(
                EventType::VersionStageChanged,
                &id.tenant,
                &caller.principal,
                &caller.request_id,
            )
            .about(&id.model)
            .of_version(id.number)
            .because(reason.clone())
            .with("from", version.stage.as_str())
            .with("to", to.as_str());
        let after = Version {
            stage: to.clone(),
            updated_at: event.time,
            ..version.clone()
        };
        let view = show(&after);
        let answer = caller.answer(200, &view, event.time)?;
        let change = VersionChange::MoveTo {
            from: version.stage.clone(),
            to: to.clone(),
        };
        match app
            .registry
            .change_version(id, &change, &event, answer)
            .await?
        {
            Ok(outcome) => {
                tracing::info!(
                    model.name = id.model.as_str(),
                    version.number = id.number.get(),
                    "Moved {id} to stage `{to}`"
                );
                return Ok(outcome.map(|()| view));
            }
            Err(None) => return Err(version_not_found(id)),
            Err(Some(current)) => {
                current.require_promotable()?;
                if expected.is_some() {
                    return Err(moved(&current));
                }
            }
        }
    }
    Err(Error::new(
        ErrorCode::Throttled,
        format!("{id} changes stage too often at once; try again after a moment"),
    ))
}

fn moved(current: &Version) -> Error {
    Error::new(
        ErrorCode::Conflict,
        format!(
            "{} is in stage `{}`; read it again and decide anew",
            current.id, current.stage
        ),
    )
    .with("current", json!({"stage": current.stage.as_str()}))
}
