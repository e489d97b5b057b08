//! What every MLflow route shares: its errors, how it reads requests, and its limits.
//!
//! MLflow's REST API is a second edge of the same use cases; see `docs/mlflow.md`.
//! Routes are declared as `/{api}/2.0/mlflow/…` and mounted under `/api` and `/ajax-api`, with and without a tenant.
//! Handlers take [`Fields`], answer with [`Reply`](crate::http::Reply), and fail with the one error type: errors of the
//! registry are put into MLflow's words by [`error`], and [`refused`] makes one that only MLflow knows.

pub mod creation;
pub mod error;
pub mod fields;
pub mod filter;
pub mod limits;
pub mod lookups;
pub mod shapes;
pub mod uploads;

pub use creation::looked_up;
pub use error::{MlflowCode, endpoint_not_found, invalid, refused};
pub use fields::Fields;

/// Prefix of the routes that are served under `/api` and under `/ajax-api`, the latter for browsers.
pub const API: &str = "/{api}/";

/// The two spellings of [`API`].
pub const APIS: [&str; 2] = ["/api/", "/ajax-api/"];

/// Whether a path, without its tenant prefix, is MLflow's, so that every error of it has MLflow's shape.
pub fn is_mlflow(path: &str) -> bool {
    APIS.iter().any(|api| path.starts_with(api))
        || matches!(
            path,
            "/health" | "/version" | "/get-artifact" | "/model-versions/get-artifact"
        )
}
