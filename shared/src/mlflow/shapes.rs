//! Registered models and versions as MLflow shows them.
//!
//! Empty lists and absent fields are left out, versions are texts, times are numbers of milliseconds.

use crate::domain::model::Notes;
use crate::domain::version::Origin;
use crate::domain::{AliasName, Location, Model, Status, Version, VersionNumber};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Where the files of a version of ours are served, for clients that read artifacts by URI.
pub fn artifact_uri(version: &Version) -> String {
    Location::version_uri(&version.id.model, version.id.number)
}

/// Where a client finds the files of a version: with us, or where its source says.
pub fn download_uri(version: &Version) -> String {
    match &version.origin {
        Some(origin) if version.is_reference() => origin
            .location
            .clone()
            .unwrap_or_else(|| origin.source.clone()),
        _ => artifact_uri(version),
    }
}

fn tags(notes: &Notes) -> Value {
    notes
        .tags
        .iter()
        .map(|(key, value)| json!({"key": key, "value": value}))
        .collect()
}

/// Puts a list into an object, unless it is empty.
fn put_list(fields: &mut Map<String, Value>, name: &str, list: Value) {
    if list.as_array().is_some_and(|items| !items.is_empty()) {
        fields.insert(name.to_owned(), list);
    }
}

/// A version.
pub fn model_version(version: &Version, notes: &Notes) -> Value {
    let none = Origin::default();
    let origin = version.origin.as_ref().unwrap_or(&none);
    let source = match &version.origin {
        Some(origin) => origin.source.clone(),
        None => artifact_uri(version),
    };
    let mut shown = json!({
        "name": version.id.model,
        "version": version.id.number.to_string(),
        "creation_timestamp": version.created_at.millis(),
        "last_updated_timestamp": version.updated_at.millis(),
        "user_id": version.registered_by,
        "current_stage": version.stage,
        "description": notes.description.as_deref().unwrap_or_default(),
        "source": source,
        "run_id": origin.run_id.as_deref().unwrap_or_default(),
        "run_link": origin.run_link.as_deref().unwrap_or_default(),
        "status": version.status.as_str(),
    });
    if let Value::Object(fields) = &mut shown {
        if version.status == Status::FailedRegistration
            && let Some(validation) = &version.validation
        {
            fields.insert("status_message".into(), validation.summary.clone().into());
        }
        if let Some(model_id) = &origin.model_id {
            fields.insert("model_id".into(), model_id.clone().into());
        }
        put_list(fields, "tags", tags(notes));
        let aliases = version.aliases.iter().map(AliasName::as_str).collect();
        put_list(fields, "aliases", aliases);
    }
    shown
}

/// A registered model with the latest version of each stage, which are shown already, and its aliases.
pub fn registered_model(
    model: &Model,
    latest: &[Value],
    aliases: &BTreeMap<AliasName, VersionNumber>,
) -> Value {
    let mut shown = json!({
        "name": model.name,
        "creation_timestamp": model.created_at.millis(),
        "last_updated_timestamp": model.updated_at.millis(),
        "user_id": model.owner,
    });
    if let Value::Object(fields) = &mut shown {
        if let Some(description) = &model.notes.description {
            fields.insert("description".into(), description.clone().into());
        }
        put_list(fields, "latest_versions", latest.into());
        put_list(fields, "tags", tags(&model.notes));
        let aliases = aliases
            .iter()
            .map(|(alias, version)| json!({"alias": alias, "version": version.to_string()}))
            .collect();
        put_list(fields, "aliases", aliases);
    }
    shown
}
