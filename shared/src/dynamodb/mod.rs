//! The table: keys, items, and a store that speaks of models, versions and aliases.
//!
//! No SDK type appears in a public signature here.

pub mod idempotency;
mod items;
pub mod keys;
pub mod outbox;
mod registry;
mod table;

pub use idempotency::{Idempotency, Outcome, StoredResponse};
pub use registry::{
    AliasChange, ArtifactRoot, Chained, Decide, Dispatch, FEED_DAYS, Judgement, Lane, Listed,
    Loaded, LoggedModelChange, Moved, Naming, Neighbours, NewExperiment, Page, Place, Position,
    Registration, Registry, Rejudgement, RunChange, RunLink, RunWithExperiment, StoredPolicy,
    VersionChange, WorkItem, WorkKind,
};
