//! What a run used and what it made: datasets and logged models.

use serde::{Deserialize, Serialize};

/// A dataset, as the client describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// Its name, at most 500 characters.
    pub name: String,
    /// Its digest, at most 36 characters; name and digest together identify it.
    pub digest: String,
    /// Kind of its source, such as `local` or `s3`.
    pub source_type: String,
    /// Where it came from, as JSON.
    pub source: String,
    /// Its columns, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Summary statistics, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// A tag of a dataset's use, such as `mlflow.data.context`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputTag {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// A dataset that a run used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInput {
    /// Tags of the use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<InputTag>,
    /// The dataset.
    pub dataset: Dataset,
}

/// A logged model that a run made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOutput {
    /// Its id.
    pub model_id: String,
    /// The step at which it was logged.
    #[serde(default)]
    pub step: i64,
}
