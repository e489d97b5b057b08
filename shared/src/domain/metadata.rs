//! What a version tells of its making: run, framework, parameters, metrics, datasets, code, environment, signature.
//!
//! Metadata is written at registration and never changed; what people add later are [`Notes`](super::model::Notes).

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use std::collections::BTreeMap;

/// Largest metadata document, in bytes of JSON.
pub const MAX_METADATA_BYTES: usize = 256 * 1024;

/// Everything that a version tells of its making.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The training execution that the version came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// The library that made it, and reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework: Option<Framework>,
    /// What was chosen before training: numbers, texts, booleans or `null`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hyper_parameters: BTreeMap<String, Value>,
    /// What was measured.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, Number>,
    /// What it was trained and tested on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<Dataset>,
    /// The code that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Paths of the artifacts that describe the environment, such as `requirements.txt`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment_files: Vec<String>,
    /// Input and output schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// Who made it, if not who registered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
}

/// The training execution that a version came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Identifier in the system that ran it.
    pub id: String,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Experiment or project that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    /// Link to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// The library that made a model, and reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framework {
    /// Such as `scikit-learn`.
    pub name: String,
    /// Such as `1.9.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A dataset, by name and content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Digest of its content, in whatever form its system uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What it was used for, such as `training`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// The code that made a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Where the code lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The commit.
    pub commit: String,
    /// Whether there were uncommitted changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_dirty: bool,
}

/// Input and output schema, in the form of the framework that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// What goes in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Value>,
    /// What comes out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Value>,
    /// Parameters of inference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Value>,
}

impl Metadata {
    /// Checks sizes and the kinds of values.
    pub fn check(&self) -> Result<()> {
        if let Some((name, _)) = self
            .hyper_parameters
            .iter()
            .find(|(_, value)| value.is_array() || value.is_object())
        {
            return Err(Error::invalid(
                "hyper_parameters",
                format!(
                    "hyper-parameter `{name}` is a list or an object; use a number, a text, a boolean or null"
                ),
            ));
        }
        let blank = [
            ("run.id", self.run.as_ref().map(|run| run.id.as_str())),
            (
                "framework.name",
                self.framework
                    .as_ref()
                    .map(|framework| framework.name.as_str()),
            ),
            (
                "code.commit",
                self.code.as_ref().map(|code| code.commit.as_str()),
            ),
        ];
        if let Some((field, _)) = blank
            .iter()
            .find(|(_, text)| text.is_some_and(|text| text.trim().is_empty()))
        {
            return Err(Error::invalid(
                *field,
                format!("`{field}` is empty; fill it in or leave the object out"),
            ));
        }
        if self
            .datasets
            .iter()
            .any(|dataset| dataset.name.trim().is_empty())
        {
            return Err(Error::invalid(
                "datasets",
                "a dataset has no name; name it or leave it out",
            ));
        }
        let size = serde_json::to_vec(self).map_or(usize::MAX, |bytes| bytes.len());
        if size > MAX_METADATA_BYTES {
            return Err(Error::invalid(
                "metadata",
                format!(
                    "the metadata has {size} bytes; {MAX_METADATA_BYTES} is the most, so upload large parts as artifacts"
                ),
            ));
        }
        Ok(())
    }
}
