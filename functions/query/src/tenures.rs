//! What an alias held at a time, and every version that ever held it.

use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::alias::alias_not_found;
use shared::domain::tenure::{Tenure, alias_tenures};
use shared::domain::{AliasName, Metadata, ModelName, Timestamp, VersionId, VersionNumber};
use shared::http::Caller;
use shared::{App, ErrorCode, Result};

/// When.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct At {
    /// An instant in RFC 3339, to the millisecond; the model is that which had the name then.
    #[serde(default)]
    pub(crate) at: Option<Timestamp>,
}

/// Every version that ever held an alias.
pub(crate) async fn of_alias(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    alias: &AliasName,
    at: Option<Timestamp>,
) -> Result<Value> {
    let tenures = read(app, caller, model, alias, at).await?;
    Ok(json!({"model": model, "alias": alias, "tenures": tenures}))
}

/// What an alias held at a time, with the data that the version was trained on.
pub(crate) async fn holder_at(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    alias: &AliasName,
    at: Timestamp,
) -> Result<Value> {
    let tenures = read(app, caller, model, alias, Some(at)).await?;
    let held = tenures.into_iter().rev().find(|tenure| tenure.contains(at));
    let mut answer = json!({"model": model, "alias": alias, "at": at, "version": null});
    if let Some(tenure) = held {
        answer["version"] = tenure.version.into();
        answer["made_from"] = made_from(app, caller, &tenure).await?;
        answer["tenure"] = json!(tenure);
    }
    Ok(answer)
}

async fn read(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    alias: &AliasName,
    at: Option<Timestamp>,
) -> Result<Vec<Tenure>> {
    let events = app
        .registry
        .alias_history_of(&caller.tenant, model, alias, at)
        .await?;
    if events.is_empty() {
        return Err(alias_not_found(alias, model));
    }
    Ok(alias_tenures(events))
}

/// What a version was made from: the digest of its metadata, its run, code and datasets.
async fn made_from(app: &App, caller: &Caller, tenure: &Tenure) -> Result<Value> {
    let id = VersionId {
        tenant: caller.tenant.clone(),
        model: ModelName::of_home(tenure.model_id.as_str())?,
        number: VersionNumber::new(u64::from(tenure.version))?,
    };
    let version = match app.registry.glance_version(&id).await {
        Ok(version) => version,
        Err(error) if error.code == ErrorCode::VersionNotFound => return Ok(Value::Null),
        Err(error) => return Err(error),
    };
    let metadata: Metadata = app
        .load_document(&version.id, "metadata", &version.metadata)
        .await?
        .unwrap_or_default();
    Ok(json!({
        "metadata_digest": version.metadata_digest,
        "run": metadata.run,
        "code": metadata.code,
        "datasets": metadata.datasets,
    }))
}
