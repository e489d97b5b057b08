//! What the OCI distribution endpoint shares with the edge and with packaging: paths, challenges, errors, documents.
//!
//! The endpoint speaks the [OCI distribution specification](https://github.com/opencontainers/distribution-spec) 1.1 for
//! those who pull; see `docs/oci.md`.

pub mod document;
pub mod error;

pub use document::{Manifest, OciDocument};
pub use error::{OciCode, code_of, refused};

use crate::domain::{Repository, TenantName};
use http::{HeaderMap, HeaderValue};

/// Media type of an image manifest, which a manifest of a model is too.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image index.
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a configuration that says nothing.
pub const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The bytes of a configuration that says nothing.
pub const EMPTY: &[u8] = b"{}";
/// Largest manifest that is served, in bytes: what clients read at most.
pub const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// Header with the digest of the body, or of what the body would be.
pub const DIGEST_HEADER: &str = "docker-content-digest";

/// The service that challenges name.
const SERVICE: &str = "slipway";

/// What a request is about, within a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// `tags/list`.
    Tags,
    /// `manifests/<tag or digest>`.
    Manifest(&'a str),
    /// `blobs/<digest>`.
    Blob(&'a str),
    /// `referrers/<digest>`.
    Referrers(&'a str),
}

/// Whether a path, without its tenant prefix, is of this protocol, so that every error of it has its shape.
pub fn is_oci(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

/// The name of the repository and the endpoint of a path below `/v2/`; `None` if there is no such endpoint.
pub fn parse_path(path: &str) -> Option<(&str, Endpoint<'_>)> {
    if let Some(name) = path.strip_suffix("/tags/list") {
        return Some((name, Endpoint::Tags));
    }
    let (rest, reference) = path.rsplit_once('/')?;
    let (name, kind) = rest.rsplit_once('/')?;
    let endpoint = match kind {
        "manifests" => Endpoint::Manifest(reference),
        "blobs" => Endpoint::Blob(reference),
        "referrers" => Endpoint::Referrers(reference),
        _ => return None,
    };
    Some((name, endpoint))
}

/// The tenant of the repository that a path names, if it names one.
pub(crate) fn tenant_of(path: &str) -> Option<TenantName> {
    let (name, _) = parse_path(path.strip_prefix("/v2/")?)?;
    Repository::parse(name).map(|repository| repository.tenant)
}

/// How a client that brought no token, or a wrong one, is told to bring one.
///
/// The protocol's clients take their user's password to the realm, and bring what they get there. The realm itself takes
/// a token as the password, as every route does.
pub(crate) fn challenge(path: &str, headers: &HeaderMap) -> HeaderValue {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = header("x-forwarded-host")
        .or_else(|| header("host"))
        .filter(|host| {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
        });
    let scheme = header("x-forwarded-proto")
        .filter(|scheme| *scheme == "https")
        .unwrap_or("http");
    host.filter(|_| !path.ends_with("/v2/token"))
        .and_then(|host| {
            let text = format!("Bearer realm=\"{scheme}://{host}/v2/token\",service=\"{SERVICE}\"");
            HeaderValue::from_str(&text).ok()
        })
        .unwrap_or(HeaderValue::from_static("Basic realm=\"slipway\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_from_its_end() {
        for (path, expected) in [
            ("iris/tags/list", Some(("iris", Endpoint::Tags))),
            ("tags/tags/list", Some(("tags", Endpoint::Tags))),
            (
                "team-a/iris/manifests/champion",
                Some(("team-a/iris", Endpoint::Manifest("champion"))),
            ),
            (
                "manifests/manifests/manifests",
                Some(("manifests", Endpoint::Manifest("manifests"))),
            ),
            (
                "iris/blobs/sha256:0",
                Some(("iris", Endpoint::Blob("sha256:0"))),
            ),
            (
                "iris/referrers/sha256:0",
                Some(("iris", Endpoint::Referrers("sha256:0"))),
            ),
            ("iris/blobs/uploads/", None),
            ("iris", None),
            ("token", None),
            ("_catalog", None),
        ] {
            assert_eq!(parse_path(path), expected, "{path}");
        }
    }

    #[test]
    fn the_path_names_the_tenant() {
        let tenant = |path| tenant_of(path).map(|tenant| tenant.to_string());
        assert_eq!(tenant("/v2/team-a/iris/tags/list"), Some("team-a".into()));
        assert_eq!(tenant("/v2/iris/manifests/1"), Some("default".into()));
        assert_eq!(tenant("/v2/"), None);
        assert_eq!(tenant("/v2/token"), None);
    }

    #[test]
    fn a_challenge_names_the_realm_as_the_client_reaches_it() {
        let mut headers = HeaderMap::new();
        assert_eq!(challenge("/v2/", &headers), "Basic realm=\"slipway\"");
        headers.insert("host", HeaderValue::from_static("localhost:8080"));
        assert_eq!(
            challenge("/v2/", &headers),
            "Bearer realm=\"http://localhost:8080/v2/token\",service=\"slipway\""
        );
        assert_eq!(challenge("/v2/token", &headers), "Basic realm=\"slipway\"");
        headers.insert("x-forwarded-host", HeaderValue::from_static("a.example"));
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        assert_eq!(
            challenge("/v2/", &headers),
            "Bearer realm=\"https://a.example/v2/token\",service=\"slipway\""
        );
        headers.insert("x-forwarded-host", HeaderValue::from_static("\", x=\""));
        assert_eq!(challenge("/v2/", &headers), "Basic realm=\"slipway\"");
    }
}
