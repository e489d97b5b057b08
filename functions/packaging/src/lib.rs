//! Function card: `packaging`
//!
//! Puts the files of ready versions in their place for good, attests them, makes archives, and frees what nothing needs.
//!
//! - **Trigger:** SQS with S3 notifications of `reports/…` (one at a time), a schedule for the sweep, and HTTP (the routes below).
//! - **Reads:** versions, their judged artifacts and reports; who holds a set of files; trusted keys, archives, retention rules;
//!   of files only what an archive cannot copy.
//! - **Writes:** files (`models/…`), manifests, attestations and what OCI clients read (`packages/…`), archives (`archives/…`), none ever overwritten;
//!   rows of digests;
//!   then the mark on the version that names them; marks under `reports/` that make it go on. Removes object versions for good.
//! - **Emits:** `version.packaged`, `version.archived`, `version.purged`, `version.deleted` (retention), `retention.set`, `retention.removed`.
//! - **On failure:** the messages of that version are reported for redelivery; what is never redelivered, the sweep finishes.
//! - **Permissions:** `dynamodb:GetItem`, `BatchGetItem`, `BatchWriteItem`, `Query`, `UpdateItem`, `PutItem`, `DeleteItem` on the table;
//!   `s3:GetObject`, `PutObject`, `DeleteObjectVersion` and multipart uploads on the prefixes above, `s3:GetObjectVersion` where
//!   files come from; `s3:ListBucket…`; `kms:Sign` and `kms:GetPublicKey` with the signing key.

mod allowance;
mod archive;
mod attest;
mod collect;
mod collect_model;
mod files;
mod handler;
mod handlers;
mod manifest;
mod oci;
mod package;
mod retention;
mod sweep;

use axum::Router;
use shared::App;
use shared::http::{Route, delete, get, mount, post, put};

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
        get("/v1/models/{model}/retention", handlers::get_retention),
        put("/v1/models/{model}/retention", handlers::set_retention),
        delete("/v1/models/{model}/retention", handlers::remove_retention),
    ]
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}

/// The function's name in metrics.
const SERVICE: &str = "packaging";
