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

use crate::http::Edge;
use http::Uri;

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

/// A URI without the empty parts of its path, if it has any and is MLflow's then: its server redirects there.
pub(crate) fn without_empty_parts(uri: &Uri) -> Option<String> {
    let path = uri.path();
    if !path.contains("//") {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let tidy = format!("/{}", parts.join("/"));
    (Edge::of(&tidy) == Edge::Mlflow).then(|| match uri.query() {
        Some(query) => format!("{tidy}?{query}"),
        None => tidy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_parts_of_mlflows_paths_are_left_out() {
        for (uri, expected) in [
            (
                "//model-versions/get-artifact?path=..%2Fx",
                Some("/model-versions/get-artifact?path=..%2Fx"),
            ),
            ("/t/a//health", Some("/t/a/health")),
            (
                "/api//2.0/mlflow/runs/get",
                Some("/api/2.0/mlflow/runs/get"),
            ),
            ("//example.com/", None),
            ("/v1//models", None),
            ("/health", None),
        ] {
            let found = without_empty_parts(&uri.parse().unwrap());
            assert_eq!(found.as_deref(), expected, "{uri}");
        }
    }
}
