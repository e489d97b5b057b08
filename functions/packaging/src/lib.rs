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
mod archive;
mod attest;
mod collect;
mod files;
mod handler;
mod handlers;
mod manifest;
mod package;
mod sweep;

use axum::Router;
use shared::App;
use shared::http::{Route, get, mount, post};

pub use handler::handle;
pub use sweep::sweep;

/// Every route of this function, without the tenant prefix.
pub fn routes() -> Vec<Route> {
    vec![
        post(
            "/v1/models/{model}/versions/{version}/archives",
            handlers::request_archive,
        ),
        get(
            "/v1/models/{model}/versions/{version}/archives",
            handlers::list_archives,
        ),
    ]
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}

/// The function's name in metrics.
const SERVICE: &str = "packaging";
