//! Experiments: named groups of runs, numbered from 0, which is `Default`.

use super::Lifecycle;
use crate::domain::Timestamp;
use crate::error::{Error, ErrorCode, Result};
use std::collections::BTreeMap;
use std::fmt;

/// Name of the experiment 0, which every tenant has.
pub const DEFAULT_EXPERIMENT_NAME: &str = "Default";

/// Number of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ExperimentId(u64);

impl ExperimentId {
    /// The experiment that every tenant has without creating it.
    pub const DEFAULT: Self = Self(0);

    /// An experiment by its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Reads a number as MLflow does; an empty text is no number.
    pub fn parse(text: &str) -> Result<Self> {
        let number: i128 = text.trim().parse().map_err(|_| {
            Error::invalid(
                "experiment_id",
                format!("Invalid experiment ID '{text}'. Experiment ID must be a valid integer."),
            )
        })?;
        // A negative number, and one that no experiment will ever have, is well formed and not there.
        Ok(Self(u64::try_from(number).unwrap_or(u64::MAX)))
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ExperimentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A named group of runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experiment {
    /// Its number.
    pub id: ExperimentId,
    /// Its name, unique in the tenant, also among deleted ones.
    pub name: String,
    /// Root of the artifacts of its runs and logged models, if it has one of its own.
    pub artifact_location: Option<String>,
    /// Free key/value pairs.
    pub tags: BTreeMap<String, String>,
    /// Whether it is there.
    pub lifecycle: Lifecycle,
    /// How often it was deleted or restored; each time decides the lifecycle of all its runs.
    pub lives: u64,
    /// When it was created; 0 for a `Default` that nobody wrote to yet.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
    /// Optimistic-lock counter; 0 for a `Default` that nobody wrote to yet.
    pub revision: u64,
}

impl Experiment {
    /// The experiment 0 before anybody wrote to it.
    pub fn default_of_tenant() -> Self {
        Self {
            id: ExperimentId::DEFAULT,
            name: DEFAULT_EXPERIMENT_NAME.to_owned(),
            artifact_location: None,
            tags: BTreeMap::new(),
            lifecycle: Lifecycle::Active,
            lives: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
            revision: 0,
        }
    }

    /// Root of its artifacts; `root` is the deployment's.
    pub fn artifact_root(&self, root: &str) -> String {
        match &self.artifact_location {
            Some(location) => location.clone(),
            None => append_to_uri(root, &[&self.id.to_string()]),
        }
    }

    /// Refuses a change of what is in a deleted experiment.
    pub fn require_active(&self) -> Result<()> {
        match self.lifecycle {
            Lifecycle::Active => Ok(()),
            Lifecycle::Deleted => Err(Error::invalid(
                "experiment_id",
                format!(
                    "The experiment {} must be in the 'active' state. Current state is deleted.",
                    self.id
                ),
            )),
        }
    }

    /// Deletes or restores it, with all its runs.
    pub fn set_lifecycle(&mut self, lifecycle: Lifecycle, at: Timestamp) -> Result<()> {
        if self.lifecycle == lifecycle {
            return Err(experiment_not_found(self.id));
        }
        self.lifecycle = lifecycle;
        self.lives += 1;
        self.updated_at = at;
        Ok(())
    }
}

/// Appends parts to the path of a URI, before its query.
pub fn append_to_uri(uri: &str, parts: &[&str]) -> String {
    let (path, query) = match uri.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (uri, String::new()),
    };
    let mut whole = path.to_owned();
    for part in parts {
        if !whole.ends_with('/') {
            whole.push('/');
        }
        whole.push_str(part);
    }
    whole + &query
}

/// The error for an experiment that is not there.
pub fn experiment_not_found(id: impl fmt::Display) -> Error {
    Error::new(
        ErrorCode::ExperimentNotFound,
        format!("No Experiment with id={id} exists"),
    )
}

/// The error for a name that no experiment has.
pub fn experiment_name_not_found(name: &str) -> Error {
    Error::new(
        ErrorCode::ExperimentNotFound,
        format!("Could not find experiment with name '{name}'"),
    )
}

/// The error for a name that an experiment has already.
pub fn experiment_exists(name: &str) -> Error {
    Error::new(
        ErrorCode::ExperimentExists,
        format!("Experiment(name={name}) already exists."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_end_where_their_query_begins() {
        for (uri, expected) in [
            ("mlflow-artifacts:/", "mlflow-artifacts:/3/a"),
            ("s3://bucket/root/", "s3://bucket/root/3/a"),
            ("s3://bucket", "s3://bucket/3/a"),
            ("s3://bucket/root?x=1", "s3://bucket/root/3/a?x=1"),
        ] {
            assert_eq!(append_to_uri(uri, &["3", "a"]), expected);
        }
    }

    #[test]
    fn numbers_of_experiments_are_integers() {
        assert_eq!(ExperimentId::parse("12").unwrap().get(), 12);
        for text in ["", "abc", "1.5"] {
            assert!(ExperimentId::parse(text).is_err(), "{text}");
        }
        assert_eq!(ExperimentId::parse("-1").unwrap().get(), u64::MAX);
    }
}
