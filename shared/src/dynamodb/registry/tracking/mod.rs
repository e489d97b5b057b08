//! Tracking in the table: experiments, runs, logged models, and the points of metrics.
//!
//! A run is one item that is written whole on the condition of its `rev`; what is large of it lies in items beside it.
//! Points of metrics are never read to log more of them: each batch is an item of its own.

mod experiments;
mod links;
mod listing;
mod logged_models;
mod points;
mod roots;
mod runs;
mod sections;

pub use experiments::NewExperiment;
pub use listing::{Listed, Position};
pub use logged_models::LoggedModelChange;
pub use roots::ArtifactRoot;
pub(super) use runs::link_to_run;
pub use runs::{RunChange, RunLink, RunWithExperiment};
