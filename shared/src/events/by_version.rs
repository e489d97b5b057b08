//! Queue messages with S3 notifications, grouped by the version that they are about.
//!
//! A version of many artifacts sends as many notifications; whoever handles a batch looks at each version once.

use super::{Message, ObjectCreated};
use crate::domain::VersionId;
use crate::error::Error;
use crate::s3::keys;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The messages of one batch, by the version that they are about.
#[derive(Debug, Default)]
pub struct ByVersion {
    /// Each version once, with the ids of all messages that tell of it.
    pub versions: BTreeMap<VersionId, BTreeSet<String>>,
    /// Messages that are no S3 notification, and why.
    pub malformed: Vec<(String, Error)>,
}

impl ByVersion {
    /// Groups the objects under `prefix`, such as `incoming`; keys of any other shape are about nothing.
    pub fn group(messages: &[Message], prefix: &str) -> Self {
        Self::group_where(messages, prefix, |_| true)
    }

    /// The same, of objects only whose key has a wanted rest after the version.
    pub fn group_where(
        messages: &[Message],
        prefix: &str,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Self {
        let mut grouped = Self::default();
        for message in messages {
            let objects = match ObjectCreated::from_message(&message.body) {
                Ok(objects) => objects,
                Err(error) => {
                    grouped.malformed.push((message.id.clone(), error));
                    continue;
                }
            };
            for object in objects {
                if let Some((id, rest)) = keys::version_of(prefix, &object.key) {
                    if !is_wanted(rest) {
                        continue;
                    }
                    grouped
                        .versions
                        .entry(id)
                        .or_default()
                        .insert(message.id.clone());
                } else {
                    tracing::debug!(message.id, "An object's key is about no version");
                }
            }
        }
        grouped
    }
}

/// The answer that asks for another delivery of these messages.
pub fn batch_failures(message_ids: &BTreeSet<String>) -> Value {
    let failures: Vec<Value> = message_ids
        .iter()
        .map(|id| json!({"itemIdentifier": id}))
        .collect();
    json!({"batchItemFailures": failures})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, keys: &[&str]) -> Message {
        let records: Vec<Value> = keys
            .iter()
            .map(|key| json!({"eventName": "ObjectCreated:Put", "s3": {"object": {"key": key}}}))
            .collect();
        Message {
            id: id.into(),
            body: json!({"Records": records}).to_string(),
        }
    }

    #[test]
    fn a_version_is_looked_at_once_for_all_its_messages() {
        let grouped = ByVersion::group(
            &[
                message("a", &["incoming/default/iris/1/x"]),
                message(
                    "b",
                    &["incoming/default/iris/1/y", "incoming/default/my+iris/2/y"],
                ),
                message("a", &["incoming/default/iris/1/x"]),
            ],
            "incoming",
        );
        let shown: Vec<String> = grouped
            .versions
            .iter()
            .map(|(id, messages)| format!("{id}: {messages:?}"))
            .collect();
        assert_eq!(
            shown,
            [
                r#"version 1 of `iris`: {"a", "b"}"#,
                r#"version 2 of `my iris`: {"b"}"#
            ]
        );
        assert!(grouped.malformed.is_empty());
    }

    #[test]
    fn hostile_keys_are_about_nothing_and_malformed_messages_are_kept_apart() {
        let grouped = ByVersion::group(
            &[
                message(
                    "a",
                    &[
                        "",
                        "/",
                        "incoming",
                        "incoming/default/iris/1",
                        "incoming/default/iris/0/x",
                        "incoming/default/iris/99999999999999999999/x",
                        "incoming/Team+A/iris/1/x",
                        "incoming/default/../1/x",
                        "incoming/default/a%00b/1/x",
                        "reports/default/iris/1/x",
                    ],
                ),
                message("b", &["incoming/default/iris/1/%FF"]),
                Message {
                    id: "c".into(),
                    body: "no json".into(),
                },
            ],
            "incoming",
        );
        assert!(grouped.versions.is_empty());
        let malformed: Vec<&str> = grouped
            .malformed
            .iter()
            .map(|(id, _)| id.as_str())
            .collect();
        assert_eq!(malformed, ["b", "c"]);
    }
}
