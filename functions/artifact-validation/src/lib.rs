//! Function card: `artifact-validation`
//!
//! Judges the artifacts of a version: complete, as declared, and free of what loading must not meet.
//!
//! - **Trigger:** HTTP (the routes below); SQS with S3 notifications of `incoming/…` (batches), and a schedule for the sweep.
//! - **Reads:** the version, its checkpoint and its declared artifacts; the validation policy and its advisories; heads, one listing and ranges of its objects; its report, to judge it again.
//! - **Writes:** the validation policy; a checkpoint, and the mark `_SLIPWAY_CONTINUE_…` that makes another invocation go on from it; the report (`reports/…`, named by its digest), then status, verdict and judged artifacts of the version.
//! - **Emits:** `version.ready`, `version.failed` or `version.rejudged`, in the transaction of the judgement; `validation_policy.changed`.
//! - **On failure:** HTTP answers the error envelope and changes nothing; the messages of that version are reported for redelivery; what is never redelivered, the sweep finishes.
//! - **Permissions:** `dynamodb:GetItem`, `Query`, `UpdateItem`, `PutItem`, `DeleteItem` on the table;
//!   `s3:ListBucket`; `s3:GetObject` on `documents/*` and `reports/*`; `s3:GetObject` and `s3:GetObjectVersion` on
//!   `advisories/*`, `incoming/*`, `dropzone/*`, `runs/*` and `models/*`;
//!   `s3:PutObject` on `reports/*`, `documents/*` and `incoming/*/_SLIPWAY_CONTINUE_*`; `s3:PutObject` and
//!   `s3:AbortMultipartUpload` on `incoming/*/_SLIPWAY_DIGEST`, by which S3 computes digests.

mod allowance;
mod checkpoint;
mod commit;
mod digest;
mod examine;
mod handler;
mod locate;
mod own_rules;
mod policies;
mod rejudge;
mod report;
mod revalidate;
mod routes;
mod ruling;
mod settle;
mod source;
mod stored;
mod sweep;

use axum::Router;
use shared::App;
use shared::domain::Action;
use shared::http::{Route, Subject, get, mount, post, put};

pub use handler::handle;
pub use sweep::sweep;

/// Every route of this function, without the tenant prefix; none of them reads an artifact.
pub fn routes() -> Vec<Route> {
    vec![
        get("/v1/validation-policy", routes::get_policy),
        put("/v1/validation-policy", routes::set_policy)
            .needs(Action::Admin)
            .touches(Subject::Everything),
        post("/v1/models/{model}/rejudge", routes::rejudge_model),
        post(
            "/v1/models/{model}/versions/{version}/rejudge",
            routes::rejudge_version,
        ),
    ]
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}

/// The function's name in metrics and events.
const SERVICE: &str = "artifact-validation";
