//! What an alias held, or which versions stood in a stage, in any model: now, at a time, and ever.
//!
//! The changes of aliases and stages are found by their time once they are dispatched. Asked about the last minutes, what
//! is not dispatched yet is dispatched first, so that the answer is exact just after a change, too.

use crate::dispatch::Batch;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::tenure::{Tenure, alias_tenures, stage_tenures};
use shared::domain::{AliasName, ModelName, StageName, Timestamp};
use shared::dynamodb::outbox::GRACE_MILLIS;
use shared::http::Caller;
use shared::{App, Error, Result};

/// How old a moment must be so that all that happened until then is certainly dispatched, in milliseconds.
const SETTLED_MILLIS: u64 = 5 * 60_000;

/// Which tenures.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Of the alias of this name; this or `stage`.
    #[serde(default)]
    alias: Option<AliasName>,
    /// Of this stage, in any case; this or `alias`.
    #[serde(default)]
    stage: Option<StageName>,
    /// Only those that contain this instant.
    #[serde(default)]
    at: Option<Timestamp>,
    /// Only those of the model that has this name, or had it then.
    #[serde(default)]
    model: Option<ModelName>,
}

pub(crate) async fn list(app: &App, caller: &Caller, wanted: &Wanted) -> Result<Value> {
    let now = app.clock.now();
    let until = wanted.at.unwrap_or(now).max(Timestamp::default());
    if now.since(until) < SETTLED_MILLIS {
        catch_up(app, now).await?;
    }
    // Ends of tenures may lie behind the instant, so all changes are read.
    let forever = Timestamp::from_millis(9_999_999_999_999);
    let tenant = &caller.tenant;
    let mut tenures: Vec<Tenure> = match (&wanted.alias, &wanted.stage) {
        (Some(alias), None) => alias_tenures(
            app.registry
                .alias_changes_until(tenant, alias, forever)
                .await?,
        ),
        (None, Some(stage)) => {
            let events = app
                .registry
                .stage_changes_until(tenant, stage.as_str(), forever)
                .await?;
            stage_tenures(stage.as_str(), events)
        }
        _ => {
            return Err(Error::invalid(
                "alias",
                "say which: either `alias=champion` or `stage=Production`",
            ));
        }
    };
    if let Some(at) = wanted.at {
        tenures.retain(|tenure| tenure.contains(at));
    }
    if let Some(model) = &wanted.model {
        let home = app.registry.home_at(tenant, model, wanted.at).await?;
        tenures.retain(|tenure| {
            home.as_ref()
                .is_some_and(|home| home.home() == tenure.model_id)
        });
    }
    tenures.retain(|tenure| {
        ModelName::parse(tenure.model.as_str()).is_ok_and(|model| caller.sees(&model))
    });
    let mut answer = json!({"tenures": tenures});
    if let Some(at) = wanted.at {
        answer["at"] = json!(at);
    }
    Ok(answer)
}

/// Dispatches what was committed until now and is not dispatched yet; the sweep sends it.
async fn catch_up(app: &App, now: Timestamp) -> Result<()> {
    let batch = Batch::new(app);
    for shard in app
        .registry
        .read_outbox(now.plus_millis(GRACE_MILLIS))
        .await?
    {
        for event in &shard.events {
            if !app.registry.is_dispatched(event).await? {
                batch.dispatch(event).await?;
            }
        }
    }
    Ok(())
}

/// Dispatches what a model has that is not in its chain yet; the sweep sends it.
pub(crate) async fn catch_up_model(app: &App, caller: &Caller, model: &ModelName) -> Result<()> {
    let batch = Batch::new(app);
    for event in app.registry.unchained_events(&caller.tenant, model).await? {
        batch.dispatch(&event).await?;
    }
    Ok(())
}
