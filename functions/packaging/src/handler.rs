//! Events in, answers out: which versions a batch tells of, and which messages are to come again.

use crate::allowance::Allowance;
use crate::package::package;
use crate::sweep::sweep;
use serde_json::Value;
use shared::events::{ByVersion, Incoming, Message, batch_failures};
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeSet;

/// Handles a batch of queue messages, or the schedule.
pub async fn handle(app: App, event: Value) -> Result<Value> {
    match Incoming::parse(&event)? {
        Incoming::Messages(messages) => Ok(package_batch(&app, &messages).await),
        Incoming::Schedule => Box::pin(sweep(&app)).await,
        Incoming::Records(_) => Err(Error::new(
            ErrorCode::InvalidArgument,
            "this function takes no stream records; see its card",
        )),
    }
}

/// Packages each version that the batch tells of once; reports the messages of those that failed.
async fn package_batch(app: &App, messages: &[Message]) -> Value {
    let allowance = Allowance::of(app);
    let batch = ByVersion::group(messages, "reports");
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
            tracing::warn!(
                model.name = id.model.as_str(),
                version.number = id.number.get(),
                error = error.chain(),
                code = error.code.as_str(),
                "The packaging of {id} did not finish and will be tried again"
            );
            failed.extend(message_ids);
        }
    }
    batch_failures(&failed)
}
