//! What MLflow sends for its events: `{"entity", "action", "timestamp", "data"}`.
//!
//! Shapes: `mlflow/webhooks/types.py`.

use super::events::{self, PROMPT_TAG, Tag, actions_of, entity_of, is_wanted};
use crate::facts::{model_notes, version_notes};
use crate::payload::{JSON, Message};
use serde_json::{Map, Value, json};
use shared::domain::model::Notes;
use shared::domain::{Event, EventType, Subscription, Timestamp};
use shared::{App, Result};
use std::collections::BTreeMap;

/// The tag in which MLflow keeps the text of a prompt's version.
const PROMPT_TEXT_TAG: &str = "mlflow.prompt.text";
/// Tags by which MLflow tells prompts, and which it leaves out of what it sends of them.
const PROMPT_TAGS: [&str; 3] = [PROMPT_TAG, "_mlflow_prompt_type", PROMPT_TEXT_TAG];

/// The messages of MLflow's for an event, one for each tag; the first has the event's own id.
pub(crate) async fn messages_of(
    app: &App,
    subscription: &Subscription,
    event: &Event,
) -> Result<Vec<Message>> {
    if event.kind == EventType::SubscriptionTested {
        let name = subscription.filter.mlflow_events.first();
        let name = name.map_or("registered_model.created", String::as_str);
        return Ok(vec![example(name, &event.id, event.time)]);
    }
    let model = model_notes(app, event).await?;
    let is_prompt = events::is_prompt(&model.tags);
    let Some(entity) = entity_of(event, is_prompt) else {
        return Ok(Vec::new());
    };
    let notes = match event.kind {
        EventType::ModelCreated => model,
        EventType::VersionRegistered => version_notes(app, event).await?,
        _ => Notes::default(),
    };
    let wanted = actions_of(event)
        .into_iter()
        .enumerate()
        .filter(|(_, (action, _))| is_wanted(&subscription.filter, entity, action));
    Ok(wanted
        .map(|(index, (action, tag))| {
            let id = match index {
                0 => event.id.clone(),
                index => format!("{}-{}", event.id, index + 1),
            };
            let data = data_of(event, entity, &notes, tag);
            message(id, entity, action, event.time, &data)
        })
        .collect())
}

fn message(id: String, entity: &str, action: &str, at: Timestamp, data: &Value) -> Message {
    let body = json!({
        "entity": entity,
        "action": action,
        "timestamp": python_time(at),
        "data": data,
    });
    Message {
        media_type: JSON,
        id,
        subject: String::new(),
        body: body.to_string(),
    }
}

/// A time as Python's `isoformat` writes it.
fn python_time(at: Timestamp) -> String {
    at.to_string().replace('Z', "000+00:00")
}

fn data_of(event: &Event, entity: &str, notes: &Notes, tag: Option<Tag>) -> Value {
    let mut data = Map::new();
    let name = event.model.as_ref().map_or("", |model| model.as_str());
    data.insert("name".into(), name.into());
    let fact = |field: &str| event.data.get(field).cloned().unwrap_or(Value::Null);
    let is_prompt = entity.starts_with("prompt");
    let shown = |(key, _): &(&String, &String)| !(is_prompt && PROMPT_TAGS.contains(&key.as_str()));
    let tags: BTreeMap<&String, &String> = notes.tags.iter().filter(shown).collect();
    match event.kind {
        EventType::ModelCreated => {
            data.insert("tags".into(), json!(tags));
            data.insert("description".into(), json!(notes.description));
        }
        EventType::VersionRegistered => {
            data.insert("version".into(), version_of(event));
            if entity == "prompt_version" {
                let text = notes.tags.get(PROMPT_TEXT_TAG);
                data.insert("template".into(), json!(text.map_or("", String::as_str)));
            } else {
                let source = event.data.get("source").and_then(Value::as_str);
                data.insert("source".into(), source.unwrap_or_default().into());
                data.insert("run_id".into(), fact("run_id"));
            }
            data.insert("tags".into(), json!(tags));
            data.insert("description".into(), json!(notes.description));
        }
        EventType::AliasSet | EventType::AliasRolledBack => {
            let alias = event.alias.as_ref().map_or("", |alias| alias.as_str());
            data.insert("alias".into(), alias.into());
            let held = event.data.get("to").and_then(Value::as_u64);
            let version = held.map_or_else(|| version_of(event), |held| held.to_string().into());
            data.insert("version".into(), version);
        }
        EventType::AliasRemoved => {
            let alias = event.alias.as_ref().map_or("", |alias| alias.as_str());
            data.insert("alias".into(), alias.into());
        }
        _ => {
            if event.version.is_some() {
                data.insert("version".into(), version_of(event));
            }
            if let Some((key, value)) = tag {
                data.insert("key".into(), key.into());
                if let Some(value) = value {
                    data.insert("value".into(), value.into());
                }
            }
        }
    }
    Value::Object(data)
}

fn version_of(event: &Event) -> Value {
    event
        .version
        .map_or(Value::Null, |version| version.get().to_string().into())
}

/// The message with which MLflow tests a webhook for one of its events.
pub(crate) fn example(event: &str, id: &str, at: Timestamp) -> Message {
    let (entity, action) = event.split_once('.').unwrap_or((event, "created"));
    let name = if entity.starts_with("prompt") {
        "example_prompt"
    } else {
        "example_model"
    };
    let tags = json!({"example_key": "example_value"});
    let mut data = match entity {
        "registered_model" => json!({"tags": tags, "description": "An example registered model"}),
        "model_version" => json!({
            "version": "1", "source": "models:/123", "run_id": "abcd1234abcd5678", "tags": tags,
            "description": "An example model version",
        }),
        "prompt" => json!({"tags": tags, "description": "An example prompt"}),
        "prompt_version" => json!({
            "version": "1", "template": "Hello {{name}}!", "tags": tags,
            "description": "An example prompt version",
        }),
        "model_version_tag" | "prompt_version_tag" if action == "set" => {
            json!({"version": "1", "key": "example_key", "value": "example_value"})
        }
        "model_version_tag" | "prompt_version_tag" => json!({"version": "1", "key": "example_key"}),
        "prompt_tag" if action == "set" => json!({"key": "example_key", "value": "example_value"}),
        "prompt_tag" => json!({"key": "example_key"}),
        "budget_policy" => json!({}),
        _ if action == "created" => json!({"alias": "example_alias", "version": "1"}),
        _ => json!({"alias": "example_alias"}),
    };
    if entity != "budget_policy" {
        data["name"] = name.into();
    }
    message(id.to_owned(), entity, action, at, &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::tests::event;

    #[test]
    fn times_are_as_python_writes_them() {
        assert_eq!(
            python_time(Timestamp::from_millis(1_700_000_000_123)),
            "2023-11-14T22:13:20.123000+00:00"
        );
    }

    #[test]
    fn data_is_of_mlflows_shape() {
        let notes = Notes {
            description: Some("d".into()),
            tags: [("k".to_owned(), "v".to_owned())].into(),
        };
        let registered = event(EventType::VersionRegistered, Some("iris"))
            .with("source", "s3://b/x")
            .with("run_id", "r1");
        assert_eq!(
            data_of(&registered, "model_version", &notes, None),
            json!({"name": "iris", "version": "1", "source": "s3://b/x", "run_id": "r1",
                "tags": {"k": "v"}, "description": "d"})
        );
        let text = ("mlflow.prompt.text".to_owned(), "Hello".to_owned());
        let prompt = Notes {
            description: None,
            tags: [
                text,
                ("mlflow.prompt.is_prompt".into(), "true".into()),
                ("k".into(), "v".into()),
            ]
            .into(),
        };
        assert_eq!(
            data_of(&registered, "prompt_version", &prompt, None),
            json!({"name": "iris", "version": "1", "template": "Hello", "tags": {"k": "v"}, "description": null})
        );
        let set = event(EventType::AliasSet, Some("iris")).with("to", 7);
        assert_eq!(
            data_of(&set, "model_version_alias", &notes, None)["version"],
            "7"
        );
        let tagged = event(EventType::VersionUpdated, Some("iris"));
        let tag = Some(("k".to_owned(), Some("v".to_owned())));
        assert_eq!(
            data_of(&tagged, "model_version_tag", &notes, tag),
            json!({"name": "iris", "version": "1", "key": "k", "value": "v"})
        );
    }
}
