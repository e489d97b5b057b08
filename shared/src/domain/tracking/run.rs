//! Runs: one execution of training code, and what it logged.

use super::{DatasetInput, Experiment, ExperimentId, Lifecycle, Metric, ModelOutput, rules};
use crate::error::{Error, ErrorCode, Result};
use std::collections::BTreeMap;
use std::fmt;

/// Tag that carries a run's name.
pub const RUN_NAME_TAG: &str = "mlflow.runName";

/// Id of a run: letters, digits, `_` and `-`, at most 256.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(String);

impl RunId {
    /// Reads an id; one that no run can have is not there.
    pub fn parse(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let is_valid = text.len() <= 256
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if is_valid {
            Ok(Self(text))
        } else {
            Err(run_not_found(text))
        }
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    /// It runs.
    Running,
    /// It will run.
    Scheduled,
    /// It ended well.
    Finished,
    /// It ended badly.
    Failed,
    /// It was ended.
    Killed,
}

impl RunStatus {
    const ALL: [Self; 5] = [
        Self::Running,
        Self::Scheduled,
        Self::Finished,
        Self::Failed,
        Self::Killed,
    ];

    /// MLflow's name of it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Scheduled => "SCHEDULED",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Killed => "KILLED",
        }
    }

    /// Reads MLflow's name or number of it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .zip(["1", "2", "3", "4", "5"])
            .find(|(status, number)| status.as_str() == text || *number == text)
            .map(|(status, _)| *status)
    }
}

/// One execution of training code, and what it logged.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The experiment that it belongs to; never changes.
    pub experiment_id: ExperimentId,
    /// Its name.
    pub name: String,
    /// Who the client says that ran it.
    pub user_id: String,
    /// How far it is.
    pub status: RunStatus,
    /// When it began, in milliseconds since the epoch, as the client says; never changes.
    pub start_time: i64,
    /// When it ended.
    pub end_time: Option<i64>,
    /// Root of its artifacts.
    pub artifact_uri: String,
    /// Whether it is there.
    pub lifecycle: Lifecycle,
    /// The experiment's `lives` when the run's own lifecycle was decided.
    pub life: u64,
    /// Parameters; each is logged once.
    pub params: BTreeMap<String, String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The latest point of each metric.
    pub metrics: BTreeMap<String, Metric>,
    /// Datasets that it used.
    pub datasets: Vec<DatasetInput>,
    /// Logged models that it used, by id.
    pub model_inputs: Vec<String>,
    /// Logged models that it made.
    pub model_outputs: Vec<ModelOutput>,
    /// Optimistic-lock counter.
    pub revision: u64,
}

impl Run {
    /// Brings the lifecycle in line with the experiment's: whichever of the two was decided last holds.
    pub fn live_in(&mut self, experiment: &Experiment) {
        if self.life < experiment.lives {
            self.lifecycle = experiment.lifecycle;
            self.life = experiment.lives;
        }
    }

    /// Refuses a change of a deleted run.
    pub fn require_active(&self) -> Result<()> {
        match self.lifecycle {
            Lifecycle::Active => Ok(()),
            Lifecycle::Deleted => Err(Error::invalid(
                "run_id",
                format!(
                    "The run {} must be in the 'active' state. Current state is deleted.",
                    self.id
                ),
            )),
        }
    }

    /// Sets a tag; the tag with the run's name names the run.
    pub fn set_tag(&mut self, key: &str, value: &str) {
        // MLflow leaves name and tag alone when the name would become empty.
        if key == RUN_NAME_TAG {
            if value.is_empty() {
                return;
            }
            value.clone_into(&mut self.name);
        }
        self.tags.insert(key.to_owned(), value.to_owned());
    }

    /// Logs parameters; one that is there with another value refuses them all.
    pub fn log_params(&mut self, params: &[(String, String)]) -> Result<()> {
        let changed: Vec<String> = params
            .iter()
            .filter_map(|(key, value)| {
                let old = self.params.get(key).filter(|old| *old != value)?;
                Some(format!(
                    "{{'key': {}, 'old_value': {}, 'new_value': {}}}",
                    rules::quoted(key),
                    rules::quoted(old),
                    rules::quoted(value)
                ))
            })
            .collect();
        if !changed.is_empty() {
            return Err(Error::invalid(
                "params",
                format!(
                    "Changing param values is not allowed. Params were already logged='[{}]' for run ID='{}'.",
                    changed.join(", "),
                    self.id
                ),
            ));
        }
        self.params.extend(params.iter().cloned());
        Ok(())
    }

    /// Logs one parameter.
    pub fn log_param(&mut self, key: &str, value: &str) -> Result<()> {
        if let Some(old) = self.params.get(key).filter(|old| *old != value) {
            return Err(Error::invalid(
                "value",
                format!(
                    "Changing param values is not allowed. Param with key='{key}' was already logged with value='{old}' for run ID='{}'. Attempted logging new value '{value}'.",
                    self.id
                ),
            ));
        }
        self.params.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// Brings the latest points up to date with new ones.
    pub fn log_metrics(&mut self, points: &[Metric]) {
        for point in points {
            match self.metrics.get_mut(&point.key) {
                Some(latest) if !point.is_later_than(latest) => {}
                Some(latest) => *latest = point.clone(),
                None => {
                    self.metrics.insert(point.key.clone(), point.clone());
                }
            }
        }
    }

    /// Adds datasets that it used; one of the same name and digest is there already.
    pub fn add_datasets(&mut self, datasets: Vec<DatasetInput>) {
        for input in datasets {
            let is_there = self.datasets.iter().any(|there| {
                there.dataset.name == input.dataset.name
                    && there.dataset.digest == input.dataset.digest
            });
            if !is_there {
                self.datasets.push(input);
            }
        }
    }
}

/// The error for a run that is not there.
pub fn run_not_found(id: impl fmt::Display) -> Error {
    Error::new(
        ErrorCode::RunNotFound,
        format!("Run with id={id} not found"),
    )
}
