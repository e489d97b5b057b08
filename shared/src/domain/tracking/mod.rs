//! Tracking: experiments, the runs in them, what runs log, and the models that runs log before anybody registers them.
//!
//! The vocabulary, the limits and the texts of refusals are those of MLflow's tracking server, because its clients are
//! who reads them.

pub mod dataset;
pub mod experiment;
pub mod logged_model;
pub mod metric;
pub mod rules;
pub mod run;

pub use dataset::{Dataset, DatasetInput, InputTag, ModelOutput};
pub use experiment::{DEFAULT_EXPERIMENT_NAME, Experiment, ExperimentId};
pub use logged_model::{LoggedMetric, LoggedModel, LoggedModelId, LoggedModelStatus};
pub use metric::Metric;
pub use run::{Run, RunId, RunStatus};

/// Whether a thing is there, or was deleted restorably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// It is there.
    Active,
    /// It was deleted, and can be restored.
    Deleted,
}

impl Lifecycle {
    /// As MLflow writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deleted => "deleted",
        }
    }
}

/// Which things a search shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ViewType {
    /// Those that are there.
    #[default]
    ActiveOnly,
    /// Those that were deleted.
    DeletedOnly,
    /// Both.
    All,
}

impl ViewType {
    /// Reads MLflow's name or number of it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "ACTIVE_ONLY" | "1" => Some(Self::ActiveOnly),
            "DELETED_ONLY" | "2" => Some(Self::DeletedOnly),
            "ALL" | "3" => Some(Self::All),
            _ => None,
        }
    }

    /// MLflow's name of it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ActiveOnly => "ACTIVE_ONLY",
            Self::DeletedOnly => "DELETED_ONLY",
            Self::All => "ALL",
        }
    }

    /// Whether it shows things of this lifecycle.
    pub const fn shows(self, lifecycle: Lifecycle) -> bool {
        matches!(
            (self, lifecycle),
            (Self::All, _)
                | (Self::ActiveOnly, Lifecycle::Active)
                | (Self::DeletedOnly, Lifecycle::Deleted)
        )
    }
}
