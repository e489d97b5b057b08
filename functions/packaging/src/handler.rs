//! Events in, answers out: which versions a batch tells of, and which messages are to come again.

use crate::allowance::Allowance;
use crate::archive;
use crate::package::package;
use crate::sweep::sweep;
use serde_json::Value;
use shared::domain::VersionId;
use shared::dynamodb::ArchiveFormat;
use shared::events::{ByVersion, Incoming, Message, batch_failures};
use shared::s3::keys;
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeSet;

/// Handles a batch of queue messages, or the schedule.
pub async fn handle(app: App, event: Value) -> Result<Value> {
    match Incoming::parse(&event)? {
        Incoming::Messages(messages) => Ok(handle_batch(&app, &messages).await),
        Incoming::Schedule => Box::pin(sweep(&app)).await,
        Incoming::Records(_) => Err(Error::new(
            ErrorCode::InvalidArgument,
            "this function takes no stream records; see its card",
        )),
    }
}

/// Packages each version that the batch tells of once, and makes the archives that are wanted; reports the messages of
/// what failed.
async fn handle_batch(app: &App, messages: &[Message]) -> Value {
    let allowance = Allowance::of(app);
    let marks = ArchiveFormat::ALL.map(|format| (format, keys::archive_mark(format.as_str())));
    let batch = ByVersion::group_where(messages, "reports", |rest| {
        marks.iter().all(|(_, mark)| !rest.starts_with(mark))
    });
    let mut failed = BTreeSet::new();
    for (message_id, error) in batch.malformed {
        tracing::warn!(
            message.id = message_id,
            error = error.chain(),
            "A message is no S3 notification and is reported"
        );
        failed.insert(message_id);
    }
    for (id, message_ids) in batch.versions {
        // Boxed, as the sweep is: the future is large, and its type deep.
        if let Err(error) = Box::pin(package(app, &id, &allowance)).await {
            warn(&id, "packaging", &error);
            failed.extend(message_ids);
        }
    }
    for (format, mark) in &marks {
        let wanted = ByVersion::group_where(messages, "reports", |rest| rest.starts_with(mark));
        for (id, message_ids) in wanted.versions {
            if let Err(error) = Box::pin(archive::make(app, &id, *format, &allowance)).await {
                warn(&id, "archiving", &error);
                failed.extend(message_ids);
            }
        }
    }
    batch_failures(&failed)
}

fn warn(id: &VersionId, doing: &str, error: &Error) {
    tracing::warn!(
        model.name = id.model.as_str(),
        version.number = id.number.get(),
        error = error.chain(),
        code = error.code.as_str(),
        "The {doing} of {id} did not finish and will be tried again"
    );
}
