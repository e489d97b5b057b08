//! What would be answered to a promotion, without changing anything.

use crate::gate::{self, Ask, Consent, Holder};
use crate::waivers;
use crate::{settings, stages};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::version::version_not_found;
use shared::domain::{AliasName, ModelName, PromotionTarget, StageName, VersionId, VersionNumber};
use shared::dynamodb::StageLoaded;
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};

/// A promotion that is only thought of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Simulate {
    version: VersionNumber,
    #[serde(default)]
    alias: Option<AliasName>,
    #[serde(default)]
    stage: Option<StageName>,
}

/// Answers whether a version could get to an alias or a stage now, and every condition on its way.
pub(crate) async fn simulate(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    command: &Simulate,
) -> Result<Value> {
    let id = VersionId {
        tenant: caller.tenant.clone(),
        model: model.clone(),
        number: command.version,
    };
    let now = app.clock.now();
    let target = waivers::target(command.alias.as_ref(), command.stage.as_ref())?;
    let Some(target) = target else {
        return Err(Error::invalid(
            "alias",
            "name the `alias` or the `stage` that the version would get to",
        ));
    };
    let mut problems = Vec::new();
    let mut target = target;
    let (loaded, holder) = if let Some(alias) = &command.alias {
        let loaded = app
            .registry
            .load_alias(&id.tenant, model, alias, Some(id.number), false, now)
            .await?;
        if let Some(at) = loaded.model_deleted_at {
            problems.push(shared::domain::model::deleted_model(model, at));
        }
        let version = loaded.version.ok_or_else(|| version_not_found(&id))?;
        let holder = Holder::Known(loaded.alias.and_then(|alias| alias.version));
        let governing = loaded.governing;
        (StageLoaded { version, governing }, holder)
    } else {
        let loaded = app.registry.load_stage(&id, now).await?;
        let rules = settings::rules(app, &id, loaded.governing).await?;
        let to = rules.find(target.name())?;
        let holder = stages::holder(app, &rules, &loaded.version.id, &to).await?;
        problems.extend(rules.check_transition(&loaded.version.stage, &to).err());
        target = PromotionTarget::Stage(to.to_string());
        (loaded, holder)
    };
    problems.extend(loaded.version.require_promotable().err());
    let action = match target {
        PromotionTarget::Alias(_) => "set_alias",
        PromotionTarget::Stage(_) => "change_stage",
    };
    let consent = Consent::of(caller);
    let ask = Ask {
        action,
        target: &target,
        version: &loaded.version,
        holder: holder.clone(),
        held_before: false,
        consent: &consent,
        governing: loaded.governing,
    };
    let verdict = gate::judge(app, &ask).await?;
    let problems: Vec<Value> = problems
        .into_iter()
        .map(|error: Error| json!({"code": error.code.as_str(), "message": error.message}))
        .collect();
    Ok(json!({
        "model": model,
        "version": id.number,
        "target": target,
        "holder": verdict.holder.or(match holder {
            Holder::Known(number) => number,
            Holder::LatestIn(_) => None,
        }),
        "allowed": problems.is_empty() && verdict.is_allowed(),
        "guarded": verdict.is_guarded,
        "problems": problems,
        "conditions": verdict.findings,
        "policy": verdict.policy,
        "denial": verdict.require(&id, &target).err().map(|_| ErrorCode::PromotionDenied.as_str()),
    }))
}
