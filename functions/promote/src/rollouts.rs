//! Rollouts: what is served where, changed by compare-and-swap, with every revision kept to return to.

use crate::gate;
use serde::Deserialize;
use serde_json::json;
use shared::domain::model::{MAX_REASON, check_text, deleted_model};
use shared::domain::rollout::{Deployment, DeploymentStatus, Place, Role, Rollout, Strategy};
use shared::domain::version::version_not_found;
use shared::domain::{Action, EventType, ModelName, VersionId, VersionNumber};
use shared::dynamodb::{DECISIONS, Outcome, RolloutChange};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};

/// Says what is served at a place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutRollout {
    model: ModelName,
    strategy: Strategy,
    deployments: Vec<WantedDeployment>,
    /// The revision that is replaced; 0 if there is none.
    expected_revision: u64,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedDeployment {
    version: VersionNumber,
    role: Role,
    weight: u32,
    #[serde(default)]
    status: DeploymentStatus,
    #[serde(default)]
    name: Option<String>,
}

/// Returns to an earlier revision: to the one before, or to a named one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollRolloutBack {
    #[serde(default)]
    to_revision: Option<u64>,
    #[serde(default)]
    expected_revision: Option<u64>,
    #[serde(default)]
    reason: Option<String>,
}

/// Which rollouts, and which page of them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListRollouts {
    #[serde(default)]
    pub(crate) environment: Option<String>,
    #[serde(default)]
    pub(crate) limit: Option<usize>,
    #[serde(default)]
    pub(crate) cursor: Option<String>,
}

fn not_found(place: &Place) -> Error {
    Error::new(
        ErrorCode::RolloutNotFound,
        format!("nothing was ever served at `{place}`; set it first, or check the names"),
    )
}

fn lost(place: &Place, current: Option<&Rollout>) -> Error {
    let revision = current.map_or(0, |rollout| rollout.revision);
    Error::new(
        ErrorCode::Conflict,
        format!(
            "the rollout at `{place}` is at revision {revision}; read it again and decide anew"
        ),
    )
    .with(
        "current",
        json!({
            "revision": revision,
            "changed_by": current.map(|rollout| &rollout.changed_by),
            "changed_at": current.map(|rollout| rollout.changed_at),
        }),
    )
}

/// What a router reads: one read, however much there is.
pub(crate) async fn get(app: &App, caller: &Caller, place: &Place) -> Result<Rollout> {
    let found = app
        .registry
        .find_rollout(&caller.tenant, place, false)
        .await?
        .ok_or_else(|| not_found(place))?;
    if caller.sees(&found.model) {
        Ok(found)
    } else {
        Err(not_found(place))
    }
}

pub(crate) async fn put(
    app: &App,
    caller: &Caller,
    place: &Place,
    command: &PutRollout,
) -> Result<Outcome<Rollout>> {
    check_text("reason", command.reason.as_deref(), MAX_REASON)?;
    caller.may(Action::Promote, &command.model)?;
    let before = app
        .registry
        .find_rollout(&caller.tenant, place, true)
        .await?;
    if let Some(before) = &before {
        caller.may(Action::Promote, &before.model)?;
    }
    if before.as_ref().map_or(0, |rollout| rollout.revision) != command.expected_revision {
        return Err(lost(place, before.as_ref()));
    }
    let now = app.clock.now();
    let model = app.registry.home_of(&caller.tenant, &command.model).await?;
    let deployments = command
        .deployments
        .iter()
        .map(|wanted| {
            let known = before
                .as_ref()
                .filter(|before| before.model.home() == model.home())
                .and_then(|before| {
                    let all = &before.deployments;
                    all.iter().find(|one| one.version == wanted.version)
                });
            Deployment {
                version: wanted.version,
                role: wanted.role,
                weight: wanted.weight,
                status: wanted.status,
                since: known.map_or(now, |known| known.since),
                by: known.map_or_else(|| caller.principal.clone(), |known| known.by.clone()),
                name: wanted.name.clone(),
            }
        })
        .collect();
    let after = Rollout {
        environment: place.environment().to_owned(),
        endpoint: place.endpoint().to_owned(),
        model,
        strategy: command.strategy,
        deployments,
        revision: command.expected_revision.saturating_add(1),
        rolled_back_to: None,
        changed_by: caller.principal.clone(),
        changed_at: now,
        reason: command.reason.clone(),
    };
    commit(app, caller, place, before, after).await
}

pub(crate) async fn roll_back(
    app: &App,
    caller: &Caller,
    place: &Place,
    command: &RollRolloutBack,
) -> Result<Outcome<Rollout>> {
    check_text("reason", command.reason.as_deref(), MAX_REASON)?;
    for _ in 1..=DECISIONS {
        let before = app
            .registry
            .find_rollout(&caller.tenant, place, true)
            .await?
            .ok_or_else(|| not_found(place))?;
        caller.may(Action::Promote, &before.model)?;
        if command
            .expected_revision
            .is_some_and(|expected| expected != before.revision)
        {
            return Err(lost(place, Some(&before)));
        }
        // After a rollback the one before is the one before that to which it returned.
        let from = before.rolled_back_to.unwrap_or(before.revision);
        let to = command.to_revision.unwrap_or(from.saturating_sub(1));
        let earlier = app
            .registry
            .find_rollout_revision(&caller.tenant, place, to)
            .await?
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::RolloutNotFound,
                    format!(
                        "the rollout at `{place}` has no revision {to}; name one with `to_revision`"
                    ),
                )
            })?;
        // It may have been renamed since.
        let model = ModelName::of_home(earlier.model.home())?;
        let model = app.registry.home_of(&caller.tenant, &model).await?;
        caller.may(Action::Promote, &model)?;
        let now = app.clock.now();
        let mut after = Rollout {
            revision: before.revision + 1,
            rolled_back_to: Some(earlier.rolled_back_to.unwrap_or(to)),
            model,
            changed_by: caller.principal.clone(),
            changed_at: now,
            reason: command.reason.clone(),
            ..earlier
        };
        for one in &mut after.deployments {
            let stays = before.model.home() == after.model.home()
                && before
                    .deployments
                    .iter()
                    .any(|old| old.version == one.version);
            if !stays {
                one.since = now;
                one.by = caller.principal.clone();
                one.status = DeploymentStatus::Pending;
            }
        }
        match commit(app, caller, place, Some(before), after).await {
            // Without an expectation, somebody else's change in between is no reason to refuse.
            Err(error)
                if error.code == ErrorCode::Conflict && command.expected_revision.is_none() => {}
            outcome => return outcome,
        }
    }
    Err(gate::too_busy(&format!("the rollout at `{place}`")))
}

async fn commit(
    app: &App,
    caller: &Caller,
    place: &Place,
    before: Option<Rollout>,
    after: Rollout,
) -> Result<Outcome<Rollout>> {
    after.check()?;
    let mut event = app
        .event(
            EventType::RolloutChanged,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .about(&after.model)
        .because(after.reason.clone())
        .with("environment", place.environment())
        .with("endpoint", place.endpoint())
        .with("revision", after.revision)
        .with("rollout", json!(after));
    event.time = after.changed_at;
    let change = RolloutChange {
        tenant: caller.tenant.clone(),
        place: place.clone(),
        answer: caller.answer(200, &after, event.time)?,
        before,
        after,
        event,
    };
    if let Ok(outcome) = app.registry.change_rollout(&change).await? {
        tracing::info!(
            model.name = change.after.model.as_str(),
            "The rollout at `{place}` is at revision {}",
            change.after.revision
        );
        return Ok(outcome.map(|()| change.after));
    }
    Err(why_refused(app, caller, place, &change).await?)
}

/// Looks for what refused a change: the rollout itself, the model, or one of the versions.
async fn why_refused(
    app: &App,
    caller: &Caller,
    place: &Place,
    change: &RolloutChange,
) -> Result<Error> {
    let current = app
        .registry
        .find_rollout(&caller.tenant, place, true)
        .await?;
    let seen = change.before.as_ref().map_or(0, |rollout| rollout.revision);
    if current.as_ref().map_or(0, |rollout| rollout.revision) != seen {
        return Ok(lost(place, current.as_ref()));
    }
    let model = app
        .registry
        .model(&caller.tenant, &change.after.model)
        .await?;
    if let Some(at) = model.deleted_at {
        return Ok(deleted_model(&model.name, at));
    }
    let wanted = change.after.versions();
    let found = app
        .registry
        .versions_by_number(&caller.tenant, &model.name, &wanted)
        .await?;
    for number in wanted {
        match found.iter().find(|version| version.id.number == number) {
            None => {
                return Ok(version_not_found(&VersionId {
                    tenant: caller.tenant.clone(),
                    model: model.name,
                    number,
                }));
            }
            Some(version) => {
                if let Err(error) = version.require_promotable() {
                    return Ok(error);
                }
            }
        }
    }
    Ok(gate::too_busy(&format!("the rollout at `{place}`")))
}
