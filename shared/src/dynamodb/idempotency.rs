//! Idempotency keys: the same key and request get the same answer, the same key with another request is refused.
//!
//! The answer is stored in the transaction of the change, so that a change without its stored answer cannot exist.
//! Answers live for 24 hours. Errors are not stored: a refused request changed nothing, and is decided anew.

use crate::domain::Timestamp;
use crate::error::{Error, ErrorCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long an answer is kept, in seconds.
pub const KEPT_SECONDS: u64 = 24 * 3_600;

/// A key and what it was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key, 1 to 255 visible ASCII characters.
    pub key: String,
    /// Digest of method, path and body.
    pub fingerprint: String,
}

/// An answer that was given once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredResponse {
    /// HTTP status.
    pub status: u16,
    /// JSON body.
    pub body: Value,
}

/// What became of a write: done now, or done before under the same key.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<T> {
    /// It was done now.
    Done(T),
    /// It was done before; this is what was answered.
    Replayed(StoredResponse),
}

impl<T> Outcome<T> {
    /// Maps what was done now.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Done(value) => Outcome::Done(change(value)),
            Self::Replayed(response) => Outcome::Replayed(response),
        }
    }
}

/// A key with the answer to store under it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The key.
    pub idempotency: Idempotency,
    /// What will have been answered.
    pub response: StoredResponse,
    /// When it is stored.
    pub at: Timestamp,
}

/// The error for a key that was used with another request.
pub fn reused(key: &str) -> Error {
    Error::new(
        ErrorCode::IdempotencyKeyReused,
        format!(
            "idempotency key `{key}` was used with another request; use a new key for a new request"
        ),
    )
}
