//! S3 notifications, as far as we read them.
//!
//! An own small struct: full models of the notification reject records that lack fields which are never read here.
//! Format: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>

use crate::error::{Error, ErrorCode, Result};
use serde::Deserialize;

/// An object that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectCreated {
    /// Its key, decoded.
    pub key: String,
    /// Its version id, in a versioned bucket.
    pub object_version: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Notification {
    #[serde(rename = "Records", default)]
    records: Vec<Record>,
}

#[derive(Debug, Deserialize)]
struct Record {
    #[serde(rename = "eventName", default)]
    event_name: String,
    s3: Option<Entity>,
}

#[derive(Debug, Deserialize)]
struct Entity {
    object: Object,
}

#[derive(Debug, Deserialize)]
struct Object {
    key: String,
    #[serde(rename = "versionId")]
    version_id: Option<String>,
}

impl ObjectCreated {
    /// The created objects that a queue message tells of; `s3:TestEvent` and removals tell of none.
    pub fn from_message(body: &str) -> Result<Vec<Self>> {
        let notification: Notification = serde_json::from_str(body).map_err(|error| {
            Error::new(
                ErrorCode::InvalidArgument,
                "a queue message is no S3 notification",
            )
            .caused_by(error)
        })?;
        notification
            .records
            .into_iter()
            .filter(|record| {
                record
                    .event_name
                    .trim_start_matches("s3:")
                    .starts_with("ObjectCreated:")
            })
            .filter_map(|record| record.s3)
            .map(|entity| {
                Ok(Self {
                    key: decode(&entity.object.key)?,
                    object_version: entity.object.version_id,
                })
            })
            .collect()
    }
}

/// Decodes a key: S3 form-encodes keys in notifications, so `+` is a space.
fn decode(key: &str) -> Result<String> {
    percent_encoding::percent_decode_str(&key.replace('+', " "))
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|error| {
            Error::new(
                ErrorCode::InvalidArgument,
                "the key in an S3 notification is not UTF-8",
            )
            .caused_by(error)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_form_decoded() {
        let body = r#"{"Records":[{"eventName":"ObjectCreated:Put","s3":{"object":{"key":"incoming/default/my+model%2Bv1/1/%E6%A4%9C.bin"}}}]}"#;
        assert_eq!(
            ObjectCreated::from_message(body).unwrap()[0].key,
            "incoming/default/my model+v1/1/検.bin"
        );
    }

    #[test]
    fn test_events_and_removals_tell_of_nothing() {
        for body in [
            r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"b"}"#,
            r#"{"Records":[{"eventName":"ObjectRemoved:Delete","s3":{"object":{"key":"x"}}}]}"#,
        ] {
            assert_eq!(ObjectCreated::from_message(body).unwrap(), vec![]);
        }
        assert!(ObjectCreated::from_message("no json").is_err());
    }
}
