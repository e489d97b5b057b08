//! Makes the package of a ready version: an immutable manifest of what it consists of.
//!
//! - **Trigger:** SQS with S3 notifications of `reports/…` (batches), and a schedule for the sweep.
//! - **Reads:** the version and its judged artifacts; a manifest that is there already.
//! - **Writes:** the manifest (`packages/…`, never overwritten), then the mark on the version that names it.
//! - **Emits:** `version.packaged`, in the transaction of the mark.
//! - **On failure:** the messages of that version are reported for redelivery; what is never redelivered, the sweep finishes.
//! - **Permissions:** `dynamodb:GetItem`, `Query`, `UpdateItem`, `PutItem`, `DeleteItem` on the table;
//!   `s3:GetObject` and `s3:PutObject` on `packages/*`; `s3:GetObject` on `documents/*`; `s3:ListBucket`.

mod allowance;
mod attest;
mod collect;
mod files;
mod handler;
mod manifest;
mod package;
mod sweep;

pub use handler::handle;
pub use sweep::sweep;

/// The function's name in metrics.
const SERVICE: &str = "packaging";
