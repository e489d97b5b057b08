//! Logged models: what a run made, before anybody registers it.

use super::{ExperimentId, Lifecycle};
use crate::domain::Timestamp;
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Id of a logged model: `m-` and 32 hexadecimal digits where the server made it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoggedModelId(String);

impl LoggedModelId {
    /// Reads an id; one that no logged model can have is not there.
    pub fn parse(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let is_valid = text.len() <= 64
            && text.strip_prefix("m-").is_some_and(|rest| {
                !rest.is_empty()
                    && rest
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
            });
        if is_valid {
            Ok(Self(text))
        } else {
            Err(logged_model_not_found(text))
        }
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LoggedModelId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Whether the files of a logged model are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoggedModelStatus {
    /// Nothing is known.
    Unspecified,
    /// They are on their way.
    Pending,
    /// They are there.
    Ready,
    /// They did not arrive.
    UploadFailed,
}

impl LoggedModelStatus {
    const ALL: [Self; 4] = [
        Self::Unspecified,
        Self::Pending,
        Self::Ready,
        Self::UploadFailed,
    ];

    /// MLflow's name of it on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "LOGGED_MODEL_STATUS_UNSPECIFIED",
            Self::Pending => "LOGGED_MODEL_PENDING",
            Self::Ready => "LOGGED_MODEL_READY",
            Self::UploadFailed => "LOGGED_MODEL_UPLOAD_FAILED",
        }
    }

    /// MLflow's number of it.
    pub const fn number(self) -> u64 {
        match self {
            Self::Unspecified => 0,
            Self::Pending => 1,
            Self::Ready => 2,
            Self::UploadFailed => 3,
        }
    }

    /// Reads MLflow's name or number of it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text || status.number().to_string() == text)
    }
}

/// A value of a metric of a logged model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoggedMetric {
    /// Name of the metric.
    pub key: String,
    /// The value; MLflow's store holds 0 for NaN here.
    pub value: f64,
    /// When it was measured, in milliseconds since the epoch.
    pub timestamp: i64,
    /// The step at which it was measured.
    pub step: i64,
    /// The run that measured it.
    pub run_id: String,
    /// Name of the dataset that it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_name: Option<String>,
    /// Digest of the dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_digest: Option<String>,
}

/// What a run made, before anybody registers it.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedModel {
    /// Its id.
    pub id: LoggedModelId,
    /// The experiment that it belongs to; never changes.
    pub experiment_id: ExperimentId,
    /// Its name; others may have it too.
    pub name: String,
    /// Kind of model, such as `Agent`; may be empty.
    pub model_type: String,
    /// The run that made it; may be empty.
    pub source_run_id: String,
    /// Root of its artifacts.
    pub artifact_uri: String,
    /// Whether its files are there.
    pub status: LoggedModelStatus,
    /// Whether it is there.
    pub lifecycle: Lifecycle,
    /// When it was created; never changes.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
    /// Parameters.
    pub params: BTreeMap<String, String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Every value of its metrics.
    pub metrics: Vec<LoggedMetric>,
    /// Optimistic-lock counter.
    pub revision: u64,
}

/// The tag in which MLflow keeps the versions that were registered from a logged model, as a JSON list.
pub const VERSIONS_TAG: &str = "mlflow.modelVersions";

impl LoggedModel {
    /// Leaves versions of models that must not be shown out of [`VERSIONS_TAG`]; models are given by name.
    pub fn hide_versions(&mut self, may_show: impl Fn(&str) -> bool) {
        let Some(tag) = self.tags.get(VERSIONS_TAG) else {
            return;
        };
        let Ok(mut versions) = serde_json::from_str::<Vec<Value>>(tag) else {
            // It is no list, so it is the client's own.
            return;
        };
        let before = versions.len();
        versions.retain(|version| version["name"].as_str().is_none_or(&may_show));
        if versions.is_empty() {
            self.tags.remove(VERSIONS_TAG);
        } else if versions.len() < before {
            let shown = Value::Array(versions).to_string();
            self.tags.insert(VERSIONS_TAG.to_owned(), shown);
        }
    }
}

/// The error for a logged model that is not there.
pub fn logged_model_not_found(id: impl fmt::Display) -> Error {
    Error::new(
        ErrorCode::LoggedModelNotFound,
        format!("Logged model with ID '{id}' not found"),
    )
}
