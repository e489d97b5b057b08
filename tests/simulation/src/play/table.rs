//! The table of a run, as the functions are configured for it.

use super::TABLE;
use serde_json::Value;
use shared::config::Config;
use std::collections::BTreeMap;

/// The keys that a write touches.
pub(super) fn keys_of(body: &Value) -> Vec<(String, String)> {
    let key_of = |write: &Value| {
        let key = write.get("Item").or_else(|| write.get("Key"))?;
        Some((
            key["pk"]["S"].as_str()?.to_owned(),
            key["sk"]["S"].as_str()?.to_owned(),
        ))
    };
    match body["TransactItems"].as_array() {
        Some(writes) => writes
            .iter()
            .filter_map(|write| {
                ["Put", "Update", "Delete"]
                    .iter()
                    .find_map(|verb| write.get(verb))
            })
            .filter_map(key_of)
            .collect(),
        None => key_of(body).into_iter().collect(),
    }
}

pub(super) fn config() -> Config {
    let variables = BTreeMap::from([
        ("SLIPWAY_FUNCTION", "simulation"),
        ("TABLE_NAME", TABLE),
        ("BUCKET_NAME", "simulation"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"),
        ("AWS_ACCESS_KEY_ID", "simulation"),
        ("AWS_SECRET_ACCESS_KEY", "simulation"),
        ("CURSOR_SECRET", "simulation"),
        ("TRUST_ACTOR_HEADER", "true"),
    ]);
    Config::from_lookup(&|name| variables.get(name).map(|text| (*text).to_owned()))
        .expect("the settings are complete")
}
