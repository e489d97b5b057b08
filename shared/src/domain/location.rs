//! Where artifacts of MLflow lie: what follows `mlflow-artifacts:/`.
//!
//! ```text
//! <experiment>/<run>/artifacts/<path>                   files of a run
//! <experiment>/models/<logged model>/artifacts/<path>   files of a logged model
//! versions/<registered model>/<number>/<path>           what a version holds; read only
//! ```
//!
//! An experiment may have a root of its own, which stands in the place of its number.

use super::name::escape_controls;
use super::tracking::{LoggedModelId, RunId};
use crate::domain::{ArtifactPath, ModelName, StoredPath, VersionNumber};
use crate::error::Result;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Scheme of the roots that the server keeps.
pub const SCHEME: &str = "mlflow-artifacts:/";
/// First part of what registered versions hold.
const VERSIONS: &str = "versions";
/// Last part of the root of a run or a logged model.
const ARTIFACTS: &str = "artifacts";
/// What may stand in a part of a URI as it is.
const IN_PART: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where artifacts lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The root of all artifacts.
    Root,
    /// A file or folder that clients keep.
    Stored(StoredPath),
    /// A file or folder that a registered version holds.
    Version {
        /// The registered model.
        model: ModelName,
        /// The version's number.
        number: VersionNumber,
        /// The path within it; all of it if absent.
        path: Option<ArtifactPath>,
    },
}

/// Who keeps files in a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A run.
    Run(RunId),
    /// A logged model.
    LoggedModel(LoggedModelId),
}

impl Location {
    /// Reads the decoded path of a request.
    pub fn parse(path: &str) -> Result<Self> {
        Self::read(path, false)
    }

    /// Reads what follows [`SCHEME`] in a URI, where the name of a registered model is percent-encoded.
    pub fn of_uri_path(path: &str) -> Result<Self> {
        Self::read(path, true)
    }

    fn read(path: &str, is_encoded: bool) -> Result<Self> {
        if path.is_empty() {
            return Ok(Self::Root);
        }
        // The path is checked before it is taken apart, so that no part of it hides another.
        let stored = StoredPath::parse_decoded(path)?;
        let Some((VERSIONS, rest)) = path.split_once('/') else {
            return Ok(Self::Stored(stored));
        };
        let mut parts = rest.splitn(3, '/');
        let name = parts.next().unwrap_or_default();
        let name = if is_encoded {
            percent_decode_str(name).decode_utf8_lossy()
        } else {
            name.into()
        };
        Ok(Self::Version {
            model: ModelName::parse(name)?,
            number: VersionNumber::parse(parts.next().unwrap_or_default())?,
            path: parts
                .next()
                .map(|path| ArtifactPath::parse(escape_controls(path)))
                .transpose()?,
        })
    }

    /// The URI of what a registered version holds.
    pub fn version_uri(model: &ModelName, number: VersionNumber) -> String {
        let name = utf8_percent_encode(model.as_str(), IN_PART);
        format!("{SCHEME}{VERSIONS}/{name}/{number}")
    }
}

/// Who may keep a file of this path, and the path of the owner's root; nobody if it lies in no root.
///
/// A folder within a root may be called `artifacts` too, so that there may be several candidates; the first one that
/// exists is the owner.
pub fn owners(path: &StoredPath) -> Vec<(Owner, &str)> {
    let text = path.as_str();
    let mut found = Vec::new();
    let mut before: [&str; 2] = ["", ""];
    let mut end = 0;
    for part in text.split('/') {
        end += part.len();
        if part == ARTIFACTS {
            let root = text.get(..end).unwrap_or(text);
            let owner = match before {
                ["models", id] if id.starts_with("m-") => {
                    LoggedModelId::parse(id).map(Owner::LoggedModel)
                }
                [_, id] => RunId::parse(id).map(Owner::Run),
            };
            found.extend(owner.ok().map(|owner| (owner, root)));
        }
        before = [before[1], part];
        end += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_as_drawn() {
        let stored = |text| Location::Stored(StoredPath::parse(text).unwrap());
        let version = |name: &str, path: Option<&str>| Location::Version {
            model: ModelName::parse(name).unwrap(),
            number: VersionNumber::new(3).unwrap(),
            path: path.map(|path| ArtifactPath::parse(path).unwrap()),
        };
        assert_eq!(Location::parse("").unwrap(), Location::Root);
        assert_eq!(
            Location::parse("0/r/artifacts").unwrap(),
            stored("0/r/artifacts")
        );
        assert_eq!(Location::parse("versions").unwrap(), stored("versions"));
        assert_eq!(
            Location::parse("0/r/artifacts/a%2520b%.txt").unwrap(),
            stored("0/r/artifacts/a b%.txt")
        );
        assert_eq!(
            Location::parse("versions/my iris/3/a/b").unwrap(),
            version("my iris", Some("a/b"))
        );
        assert_eq!(
            Location::parse("versions/iris/3/dog%step\u{10}0%20.png").unwrap(),
            version("iris", Some("dog%step%100%20.png"))
        );
        assert_eq!(
            Location::parse("versions/100%/3").unwrap(),
            version("100%", None)
        );
        assert_eq!(
            Location::of_uri_path("versions/100%25%20%E6%A4%9C/3").unwrap(),
            version("100% 検", None)
        );
        for model in ["100% 検", "iris", "a%20b", "a+b"] {
            let model = ModelName::parse(model).unwrap();
            let uri = Location::version_uri(&model, VersionNumber::new(3).unwrap());
            let path = uri.strip_prefix(SCHEME).unwrap();
            assert_eq!(
                Location::of_uri_path(path).unwrap(),
                version(model.as_str(), None)
            );
        }
        for bad in [
            "versions/iris",
            "versions/iris/0",
            "versions/iris/x/a",
            "versions/iris/1/../2",
            "versions/../0/r/artifacts",
            "0/r/artifacts/..%2f..%2fx",
            "0/r/artifacts/%252e%252e%252fx",
            "0/r/artifacts/a%5cb",
            "0/r/artifacts/a%00b",
            "/0/r/artifacts",
            "0/r/artifacts/",
            "0//artifacts",
            "0/r/artifacts/．．/x",
            "%2fetc/passwd",
        ] {
            assert!(Location::parse(bad).is_err(), "{bad}");
            assert!(Location::of_uri_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn owners_are_found_by_their_roots() {
        let found = |text: &str| {
            let path = StoredPath::parse(text).unwrap();
            owners(&path)
                .into_iter()
                .map(|(owner, root)| match owner {
                    Owner::Run(id) => format!("run {id} {root}"),
                    Owner::LoggedModel(id) => format!("model {id} {root}"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(found("0/r1/artifacts/a/b"), ["run r1 0/r1/artifacts"]);
        assert_eq!(found("0/r1/artifacts"), ["run r1 0/r1/artifacts"]);
        assert_eq!(
            found("0/models/m-1/artifacts/MLmodel"),
            ["model m-1 0/models/m-1/artifacts"]
        );
        assert_eq!(
            found("own/root/r1/artifacts/a"),
            ["run r1 own/root/r1/artifacts"]
        );
        assert_eq!(
            found("artifacts/x/r1/artifacts/a/artifacts/b"),
            [
                "run r1 artifacts/x/r1/artifacts",
                "run a artifacts/x/r1/artifacts/a/artifacts"
            ]
        );
        assert!(found("0/r1").is_empty() && found("artifacts/a").is_empty());
    }
}
