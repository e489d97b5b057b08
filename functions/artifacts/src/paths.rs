//! Paths of requests, refused in MLflow's words where they would leave their folder.

use percent_encoding::percent_decode_str;
use shared::domain::{ArtifactPath, Location, StoredPath};
use shared::mlflow::invalid;
use shared::{Error, Result};

/// How often a path is decoded to see where it leads.
const MOST_DECODINGS: usize = 8;

/// The path of a file that a client keeps, relative to its root.
pub(crate) fn stored(text: &str) -> Result<StoredPath> {
    StoredPath::parse_decoded(text).map_err(|error| said(text, error))
}

/// The path of a file that a version holds.
pub(crate) fn held(text: &str) -> Result<ArtifactPath> {
    ArtifactPath::parse(text).map_err(|error| said(text, error))
}

/// What the path of a request means below the root of all artifacts.
pub(crate) fn location(text: &str) -> Result<Location> {
    Location::parse(text).map_err(|error| said(text, error))
}

/// The same, of a path as it stands in a URI.
pub(crate) fn location_of_uri(text: &str) -> Result<Location> {
    Location::of_uri_path(text).map_err(|error| said(text, error))
}

/// MLflow's two words for a path that leads elsewhere; what else is wrong with a path is told as it is.
fn said(text: &str, error: Error) -> Error {
    let mut spelling = text.to_owned();
    for _ in 0..MOST_DECODINGS {
        if spelling.starts_with('/')
            || spelling.contains('\\')
            || spelling.split('/').any(|part| part == "..")
        {
            return invalid("Invalid path");
        }
        spelling = percent_decode_str(&spelling)
            .decode_utf8_lossy()
            .into_owned();
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_its_folder_is_refused_in_mlflows_words() {
        for path in [
            "../path",
            "a/../../b",
            "/etc/passwd",
            "a\\b",
            "%2e%2e/x",
            "a/%252e%252e/x",
        ] {
            assert_eq!(stored(path).unwrap_err().message, "Invalid path", "{path}");
            assert_eq!(
                location(path).unwrap_err().message,
                "Invalid path",
                "{path}"
            );
        }
        assert_eq!(held("../x").unwrap_err().message, "Invalid path");
        let long = "a".repeat(2_000);
        assert!(stored(&long).unwrap_err().message.contains("bytes"));
        assert_eq!(stored("a%20b").unwrap().as_str(), "a b");
    }
}
