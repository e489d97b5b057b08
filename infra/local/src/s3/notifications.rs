//! Event notifications: rows that are committed with the change they tell of.
//!
//! A pump in the same process peeks, delivers and acknowledges; what it did not acknowledge is there after a restart.

use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rusqlite::params;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::S3Failure;
use super::store::{Outcome, Store, from_ms, key_at};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventName {
    /// A single upload.
    Put,
    /// A finished multipart upload.
    CompleteMultipartUpload,
    /// A server-side copy.
    Copy,
    /// A version that is gone for good.
    Delete,
    /// A key hidden behind a delete marker.
    DeleteMarkerCreated,
}

impl EventName {
    const ALL: [Self; 5] = [
        Self::Put,
        Self::CompleteMultipartUpload,
        Self::Copy,
        Self::Delete,
        Self::DeleteMarkerCreated,
    ];

    /// Answers the name in the record, without the `s3:` that only configurations carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "ObjectCreated:Put",
            Self::CompleteMultipartUpload => "ObjectCreated:CompleteMultipartUpload",
            Self::Copy => "ObjectCreated:Copy",
            Self::Delete => "ObjectRemoved:Delete",
            Self::DeleteMarkerCreated => "ObjectRemoved:DeleteMarkerCreated",
        }
    }
}

/// One committed event that waits for delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Names the row for [`Notifications::acknowledge`].
    pub id: i64,
    /// The bucket.
    pub bucket: String,
    /// The key as it is, not encoded.
    pub key: String,
    /// The version, unless the bucket keeps none.
    pub version_id: Option<String>,
    /// The size in bytes of a created object.
    pub size_bytes: Option<u64>,
    /// The entity tag of a created object, without quotes.
    pub etag: Option<String>,
    /// Orders the events of one key: hexadecimal, compared right-padded with zeros.
    pub sequencer: String,
    /// What happened.
    pub event_name: EventName,
    /// When it was committed.
    pub time: OffsetDateTime,
    /// The region of the server.
    pub region: String,
}

/// The queue of committed events.
#[derive(Debug, Clone)]
pub struct Notifications {
    pub(super) store: Arc<Store>,
    pub(super) region: Arc<str>,
}

impl Notifications {
    /// Answers the oldest events that are not acknowledged.
    pub async fn peek(&self, limit: usize) -> Result<Vec<Notification>, S3Failure> {
        let region = Arc::clone(&self.region);
        let found: Outcome<Vec<Notification>> = self
            .store
            .read(move |connection| {
                let found = connection
                    .prepare_cached(
                        "SELECT id, bucket, key, version_id, size, etag, event_name, time_ms
                         FROM notifications ORDER BY id LIMIT ?1",
                    )?
                    .query_map([limit], |row| {
                        let id: i64 = row.get(0)?;
                        let name: String = row.get(6)?;
                        Ok(Notification {
                            id,
                            bucket: row.get(1)?,
                            key: key_at(row, 2)?,
                            version_id: row.get(3)?,
                            size_bytes: row.get(4)?,
                            etag: row.get(5)?,
                            sequencer: format!("{id:016X}"),
                            event_name: EventName::ALL
                                .into_iter()
                                .find(|event| event.as_str() == name)
                                .ok_or(rusqlite::Error::InvalidQuery)?,
                            time: from_ms(row.get(7)?),
                            region: region.to_string(),
                        })
                    })?
                    .collect::<Result<_, _>>()?;
                Ok(found)
            })
            .await;
        Ok(found?)
    }

    /// Forgets delivered events.
    pub async fn acknowledge(&self, ids: Vec<i64>) -> Result<(), S3Failure> {
        self.store
            .write(move |change| {
                let mut delete = change
                    .transaction
                    .prepare_cached("DELETE FROM notifications WHERE id = ?1")?;
                for id in ids {
                    delete.execute(params![id])?;
                }
                Ok(())
            })
            .await?;
        Ok(())
    }

    /// Waits until an event was committed since the last wait.
    ///
    /// For one pump: each commit wakes one waiter, and a commit while nobody waits is remembered.
    pub async fn raised(&self) {
        self.store.raised.notified().await;
    }
}

/// What `application/x-www-form-urlencoded` leaves as it is, and the slash, which S3 does not encode.
const FORM: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'*')
    .remove(b'/')
    .remove(b' ');

/// Encodes a key as S3 does in events and in listings with `encoding-type=url`.
pub(super) fn form_encoded(key: &str) -> String {
    utf8_percent_encode(key, FORM).to_string().replace(' ', "+")
}

/// Renders a notification as one element of `Records` in the message that AWS sends.
pub fn to_event_record(notification: &Notification) -> Value {
    let time = notification
        .time
        .format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        ))
        .unwrap_or_default();
    let mut object = json!({
        "key": form_encoded(&notification.key),
        "sequencer": notification.sequencer,
    });
    if let Some(size) = notification.size_bytes {
        object["size"] = json!(size);
    }
    match (&notification.etag, notification.event_name) {
        (Some(etag), _) => object["eTag"] = json!(etag),
        // S3 gives a marker the entity tag of nothing.
        (None, EventName::DeleteMarkerCreated) => {
            object["eTag"] = json!("d41d8cd98f00b204e9800998ecf8427e");
        }
        (None, _) => {}
    }
    if let Some(version_id) = &notification.version_id {
        object["versionId"] = json!(version_id);
    }
    json!({
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": notification.region,
        "eventTime": time,
        "eventName": notification.event_name.as_str(),
        "userIdentity": { "principalId": "AWS:slipway" },
        "requestParameters": { "sourceIPAddress": "127.0.0.1" },
        "responseElements": {
            "x-amz-request-id": format!("{:016X}", notification.id),
            "x-amz-id-2": notification.sequencer,
        },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "slipway",
            "bucket": {
                "name": notification.bucket,
                "ownerIdentity": { "principalId": "slipway" },
                "arn": format!("arn:aws:s3:::{}", notification.bucket),
            },
            "object": object,
        },
    })
}
