//! Judges the artifacts of a version: complete, as declared, and free of what loading must not meet.
//!
//! - **Trigger:** SQS with S3 notifications of `incoming/…` (batches), and a schedule for the sweep.
//! - **Reads:** the version, its checkpoint and its declared artifacts; heads, one listing and ranges of its objects.
//! - **Writes:** a checkpoint, and the mark `_SLIPWAY_CONTINUE_…` that makes another invocation go on from it; the report (`reports/…`, named by its digest), then status, verdict and judged artifacts of the version.
//! - **Emits:** `version.ready` or `version.failed`, in the transaction of the judgement.
//! - **On failure:** the messages of that version are reported for redelivery; what is never redelivered, the sweep finishes.
//! - **Permissions:** `dynamodb:GetItem`, `Query`, `UpdateItem`, `PutItem`, `DeleteItem` on the table;
//!   `s3:ListBucket`; `s3:GetObject` on `documents/*` and `reports/*`; `s3:GetObject` and `s3:GetObjectVersion` on
//!   `incoming/*` and `dropzone/*`;
//!   `s3:PutObject` on `reports/*`, `documents/*` and `incoming/*/_SLIPWAY_CONTINUE_*`.

mod allowance;
mod checkpoint;
mod digest;
mod handler;
mod report;
mod settle;
mod source;
mod sweep;

pub use handler::handle;
pub use sweep::sweep;

/// The function's name in metrics and events.
const SERVICE: &str = "artifact-validation";
