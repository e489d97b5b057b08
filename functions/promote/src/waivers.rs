//! Waivers: conditions that need not hold for a while, granted by someone who may, with a reason and an end.

use crate::gate;
use crate::settings::parse;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::domain::model::{MAX_REASON, check_text};
use shared::domain::waiver::{MAX_WAIVER_MILLIS, MAX_WAIVERS};
use shared::domain::{
    AliasName, Event, EventType, ModelName, PromotionTarget, Realm, SettingsKind, StageName,
    Timestamp, VersionNumber, Waiver, Waivers,
};
use shared::dynamodb::{Outcome, SettingsChange};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeSet;

/// Grants a waiver.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantWaiver {
    conditions: BTreeSet<String>,
    #[serde(default)]
    version: Option<VersionNumber>,
    #[serde(default)]
    alias: Option<AliasName>,
    #[serde(default)]
    stage: Option<StageName>,
    reason: String,
    expires_at: Timestamp,
}

/// A waiver, as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct WaiverView {
    #[serde(flatten)]
    waiver: Waiver,
    /// Whether its time is over.
    is_expired: bool,
}

/// The target that a body names, if it names one.
pub(crate) fn target(
    alias: Option<&AliasName>,
    stage: Option<&StageName>,
) -> Result<Option<PromotionTarget>> {
    match (alias, stage) {
        (Some(_), Some(_)) => Err(Error::invalid(
            "stage",
            "`alias` and `stage` contradict each other; give one of them",
        )),
        (Some(alias), None) => Ok(Some(PromotionTarget::Alias(alias.to_string()))),
        (None, Some(stage)) => Ok(Some(PromotionTarget::Stage(stage.to_string()))),
        (None, None) => Ok(None),
    }
}

async fn load(app: &App, caller: &Caller, model: &ModelName) -> Result<(Waivers, u64)> {
    let scope = Realm::Model(model.clone());
    let head = app.registry.settings_head(&caller.tenant, &scope).await?;
    if head.waivers == 0 {
        return Ok((Waivers::default(), 0));
    }
    let name = (scope, SettingsKind::Waivers, head.waivers);
    let json = app.registry.find_settings(&caller.tenant, &name).await?;
    let json =
        json.ok_or_else(|| Error::new(ErrorCode::Internal, "the waivers in force are missing"))?;
    Ok((parse(&json)?, head.waivers))
}

/// Lists the waivers of a model that were not revoked, the expired ones of the last days among them.
pub(crate) async fn list(app: &App, caller: &Caller, model: &ModelName) -> Result<Value> {
    let model = &app.registry.home_of(&caller.tenant, model).await?;
    let (waivers, _) = load(app, caller, model).await?;
    let now = app.clock.now();
    let views: Vec<WaiverView> = waivers
        .waivers
        .into_iter()
        .map(|waiver| WaiverView {
            is_expired: waiver.expires_at <= now,
            waiver,
        })
        .collect();
    Ok(json!({"waivers": views}))
}

/// Grants a waiver, if the caller is in a group that may waive every condition that it names.
pub(crate) async fn grant(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    command: GrantWaiver,
) -> Result<Outcome<Value>> {
    check_text("reason", Some(&command.reason), MAX_REASON)?;
    if command.reason.trim().is_empty() {
        return Err(Error::invalid(
            "reason",
            "a waiver needs a reason; say why the conditions need not hold",
        ));
    }
    if command.conditions.is_empty() {
        return Err(Error::invalid(
            "conditions",
            "the waiver names no condition; name them as a denial does, such as `registry/serving/clean-validation`",
        ));
    }
    let now = app.clock.now();
    if command.expires_at <= now || command.expires_at.since(now) > MAX_WAIVER_MILLIS {
        return Err(Error::invalid(
            "expires_at",
            "a waiver ends in the future, at most 90 days from now",
        ));
    }
    let target = target(command.alias.as_ref(), command.stage.as_ref())?;
    let model = &app.registry.home_of(&caller.tenant, model).await?;
    require_allowed(app, caller, model, &command.conditions).await?;
    let (mut waivers, revision) = load(app, caller, model).await?;
    // What ended long ago is in the history; the document holds what may still matter.
    waivers
        .waivers
        .retain(|waiver| now.since(waiver.expires_at) < MAX_WAIVER_MILLIS / 3);
    if waivers.waivers.len() >= MAX_WAIVERS {
        return Err(Error::new(
            ErrorCode::Conflict,
            format!("`{model}` has {MAX_WAIVERS} waivers already; revoke some first"),
        ));
    }
    let event = tell(app, caller, model, EventType::WaiverGranted);
    let waiver = Waiver {
        id: event.id.clone(),
        conditions: command.conditions,
        version: command.version,
        target,
        reason: command.reason,
        expires_at: command.expires_at,
        granted_by: caller.principal.clone(),
        granted_at: event.time,
    };
    let event = event
        .because(Some(waiver.reason.clone()))
        .with("waiver", json!(waiver));
    let event = match waiver.version {
        Some(version) => event.of_version(version),
        None => event,
    };
    let view = json!(WaiverView {
        is_expired: false,
        waiver: waiver.clone(),
    });
    waivers.waivers.push(waiver);
    commit(app, caller, model, &waivers, revision, event, view, 201).await
}

/// Refuses a caller who may not waive every one of the conditions.
async fn require_allowed(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    conditions: &BTreeSet<String>,
) -> Result<()> {
    let protections = gate::protections_of(app, caller, model).await?;
    for condition in conditions {
        let protection = protections.iter().find(|(scope, protection)| {
            protection
                .condition_ids()
                .iter()
                .any(|id| *condition == format!("{scope}/{id}"))
        });
        let Some((_, protection)) = protection else {
            return Err(Error::invalid(
                "conditions",
                format!(
                    "no protection has the condition `{}`; name it as a denial does",
                    condition
                        .chars()
                        .take(100)
                        .flat_map(char::escape_debug)
                        .collect::<String>()
                ),
            ));
        };
        if !caller
            .groups
            .iter()
            .any(|group| protection.waiver_groups.contains(group))
        {
            let groups: Vec<&str> = protection
                .waiver_groups
                .iter()
                .map(String::as_str)
                .collect();
            let who = if groups.is_empty() {
                "nobody may; its protection names no `waiver_groups`".to_owned()
            } else {
                format!("only members of {} may", groups.join(" or "))
            };
            return Err(Error::new(
                ErrorCode::PermissionDenied,
                format!("you may not waive `{condition}`: {who}"),
            ));
        }
    }
    Ok(())
}

/// Revokes a waiver; whoever may grant it may revoke it, and so may who granted it.
pub(crate) async fn revoke(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    id: &str,
) -> Result<Outcome<Value>> {
    let model = &app.registry.home_of(&caller.tenant, model).await?;
    let (mut waivers, revision) = load(app, caller, model).await?;
    let position = waivers.waivers.iter().position(|waiver| waiver.id == id);
    let Some(position) = position else {
        return Err(Error::new(
            ErrorCode::WaiverNotFound,
            format!("`{model}` has no waiver `{id}`; list its waivers"),
        ));
    };
    let waiver = waivers.waivers.remove(position);
    if waiver.granted_by != caller.principal {
        require_allowed(app, caller, model, &waiver.conditions).await?;
    }
    let event = tell(app, caller, model, EventType::WaiverRevoked).with("waiver", json!(waiver));
    let view = json!(WaiverView {
        is_expired: waiver.expires_at <= event.time,
        waiver,
    });
    commit(app, caller, model, &waivers, revision, event, view, 200).await
}

fn tell(app: &App, caller: &Caller, model: &ModelName, kind: EventType) -> Event {
    app.event(kind, &caller.tenant, &caller.principal, &caller.request_id)
        .about(model)
}

#[expect(clippy::too_many_arguments, reason = "each is a part of one commit")]
async fn commit(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    waivers: &Waivers,
    revision: u64,
    event: Event,
    view: Value,
    status: u16,
) -> Result<Outcome<Value>> {
    let json = serde_json::to_string(waivers)
        .map_err(|error| Error::internal("writing waivers", error))?;
    let change = SettingsChange {
        scope: Realm::Model(model.clone()),
        kind: SettingsKind::Waivers,
        expected: revision,
        json,
        answer: caller.answer(status, &view, event.time)?,
        event,
    };
    let outcome = app.registry.change_settings(&caller.tenant, change).await?;
    Ok(outcome.map(|()| view))
}
