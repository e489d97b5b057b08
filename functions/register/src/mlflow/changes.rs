//! What MLflow's edge adds to the use cases: lost races run again, unknown outcomes looked up, aliases removed first.

use serde_json::Value;
use shared::domain::{Alias, EventType, ModelName, VersionNumber};
use shared::dynamodb::{AliasChange, Committed, DECISIONS, Loaded, Outcome};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};

/// How often a change that met another one is run again.
const ATTEMPTS: u32 = 20;

/// Runs a change again as long as somebody else's comes between: MLflow's clients expect no revision, so none is wrong.
pub(super) async fn until_won<F, Fut>(app: &App, run: F) -> Result<Outcome<Value>>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Outcome<Value>>>,
{
    for attempt in 1..ATTEMPTS {
        match run().await {
            Err(error) if error.code == ErrorCode::Conflict => {
                app.registry.wait_after_conflict(attempt).await;
            }
            other => return other,
        }
    }
    run().await
}

/// Removes the aliases of a model, or those of one version, each with its entry in the history.
pub(super) async fn remove_aliases(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    held: Option<VersionNumber>,
) -> Result<()> {
    let aliases = app.registry.aliases(&caller.tenant, model).await?;
    for alias in aliases {
        if held.is_none() || alias.version == held {
            remove_alias(app, caller, &alias, held).await?;
        }
    }
    Ok(())
}

async fn remove_alias(
    app: &App,
    caller: &Caller,
    alias: &Alias,
    held: Option<VersionNumber>,
) -> Result<()> {
    let (tenant, model, name) = (&alias.tenant, &alias.model, &alias.name);
    let mut use_hints = true;
    for attempt in 1..=DECISIONS {
        let loaded = app
            .registry
            .load_alias(tenant, model, name, None, use_hints, app.clock.now())
            .await?;
        use_hints = false;
        let Some(change) = removal(app, caller, &loaded, held) else {
            // What a hint says must be confirmed before it is believed that nothing is to do.
            if loaded.is_fresh {
                return Ok(());
            }
            continue;
        };
        let committed = app
            .registry
            .commit_alias(&change, loaded.alias.as_ref(), attempt)
            .await?;
        if committed != Committed::Lost {
            return Ok(());
        }
    }
    Err(Error::new(
        ErrorCode::Throttled,
        format!("alias `{name}` of `{model}` changes too often at once; try again after a moment"),
    ))
}

/// The removal of an alias; `None` if it does not hold what it shall let go.
fn removal(
    app: &App,
    caller: &Caller,
    loaded: &Loaded,
    held: Option<VersionNumber>,
) -> Option<AliasChange> {
    let current = loaded.alias.as_ref()?;
    let from = current
        .version
        .filter(|version| held.is_none() || held == Some(*version))?;
    let mut event = app
        .event(
            EventType::AliasRemoved,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .about(&loaded.model)
        .of_alias(&current.name, current.sequence + 1)
        .because(Some("what it held was deleted".to_owned()))
        .with("from", from.get())
        .with("to", None::<u32>);
    let after = current.moved(None, &event);
    event.time = after.changed_at;
    Some(AliasChange {
        alias: after,
        from: Some(from),
        version: None,
        guards: Vec::new(),
        is_guarded: false,
        closes_request: false,
        event,
        answer: None,
    })
}
