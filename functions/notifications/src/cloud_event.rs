//! Events as `CloudEvents`, in structured and in batched mode.
//!
//! Names of attributes there have lower-case letters and digits only, and their values are no objects: what has another
//! name elsewhere is renamed, and the place in the chain is three attributes.
//! Format: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>.

use serde_json::Value;
use shared::domain::Event;
use shared::{App, check_token};

/// The media type of one event.
pub(crate) const MEDIA_TYPE: &str = "application/cloudevents+json; charset=utf-8";
/// The media type of several.
pub(crate) const BATCH_MEDIA_TYPE: &str = "application/cloudevents-batch+json; charset=utf-8";

/// Attributes that are named otherwise in the feed.
const RENAMED: [(&str, &str); 3] = [
    ("model_id", "modelid"),
    ("request_id", "requestid"),
    ("schema_version", "schemaversion"),
];

/// One event as a body.
pub(crate) fn one(app: &App, event: &Event) -> String {
    of_wire(check_token::to_delivered_wire(&app.config, event)).to_string()
}

/// Several events as one body: an array.
pub(crate) fn batch(app: &App, events: &[&Event]) -> String {
    let all = events
        .iter()
        .map(|event| of_wire(check_token::to_delivered_wire(&app.config, event)));
    Value::Array(all.collect()).to_string()
}

fn of_wire(mut wire: Value) -> Value {
    if let Value::Object(fields) = &mut wire {
        for (from, to) in RENAMED {
            if let Some(value) = fields.remove(from) {
                fields.insert(to.into(), value);
            }
        }
        if let Some(Value::Object(chain)) = fields.remove("chain") {
            for (name, value) in chain {
                fields.insert(format!("chain{}", name.replace('_', "")), value);
            }
        }
        fields.insert("datacontenttype".into(), "application/json".into());
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn attributes_have_names_and_values_that_cloud_events_allow() {
        let wire = json!({
            "id": "01J", "source": "/t/default", "specversion": "1.0", "type": "alias.set", "time": "2026-03-01T12:00:00.000Z",
            "schema_version": 1, "model": "iris", "model_id": "iris", "request_id": "r", "version": 7,
            "chain": {"sequence": 3, "hash": "h", "previous_hash": "p"}, "data": {"from": {"a_b": 1}},
        });
        let event = of_wire(wire);
        for (name, value) in event.as_object().unwrap() {
            let is_allowed = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
            assert!(name.len() <= 20 && name.chars().all(is_allowed), "{name}");
            assert!(
                name == "data" || !(value.is_object() || value.is_array()),
                "{name}"
            );
        }
        assert_eq!(event["data"], json!({"from": {"a_b": 1}}));
        assert_eq!(
            (&event["modelid"], &event["requestid"]),
            (&json!("iris"), &json!("r"))
        );
        assert_eq!(
            (
                &event["chainsequence"],
                &event["chainhash"],
                &event["chainprevioushash"]
            ),
            (&json!(3), &json!("h"), &json!("p"))
        );
    }
}
