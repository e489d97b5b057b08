//! What clients ask before they log in: is it there, which version does it speak, what does it offer.

use axum::response::{IntoResponse as _, Response};
use http::header;
use serde_json::json;
use shared::Result;
use shared::http::Reply;

/// The version of MLflow whose API this is; clients show it, and warn of a server that is older than they are.
const MLFLOW_VERSION: &str = "3.18.0";

pub(crate) async fn health() -> Response {
    text("OK")
}

pub(crate) async fn version() -> Response {
    text(MLFLOW_VERSION)
}

fn text(text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// What a client may rely on: every byte goes straight to and from S3.
pub(crate) async fn server_info() -> Result<Reply> {
    Reply::ok(json!({
        // Clients of MLflow know two kinds of store, and treat any other than files as this one.
        "store_type": "SqlStore",
        "workspaces_enabled": false,
        "trace_archival_enabled": false,
        "artifact_serving_enabled": true,
        "artifacts_presigned_only": true,
        "multipart_uploads_enabled": true,
        "multipart_downloads_enabled": true,
        "presigned_upload_run_id_supported": true,
        "presigned_upload_model_id_supported": true,
        "features_enabled": {},
    }))
}
