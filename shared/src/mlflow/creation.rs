//! Creations whose outcome the store did not tell.

use super::error::{MlflowCode, refused};
use crate::dynamodb::Outcome;
use crate::error::{ErrorCode, Result};
use serde_json::Value;

/// Looks whether a creation happened of which the store did not say whether it did.
///
/// Clients up to 3.17 repeat a creation after any 5xx, so that one may only be answered if nothing was created.
pub async fn looked_up(
    outcome: Result<Outcome<Value>>,
    find: impl Future<Output = Result<Option<Value>>>,
) -> Result<Outcome<Value>> {
    let error = match outcome {
        Err(error) if matches!(error.code, ErrorCode::Unavailable | ErrorCode::Internal) => error,
        other => return other,
    };
    match find.await {
        Ok(Some(created)) => Ok(Outcome::Done(created)),
        Ok(None) => Err(error),
        Err(second) => {
            tracing::error!(
                error = error.chain(),
                second = second.chain(),
                "A creation failed, and so did the look whether it happened"
            );
            Err(refused(
                MlflowCode::Aborted,
                "It is not known whether the creation happened: the store does not answer. Look before you try again.",
            ))
        }
    }
}
