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
    AliasChange, Archive, ArchiveFormat, ArtifactRoot, Blob, Chained, Contents, Decide, Dispatch,
    FEED_DAYS, Held, Holder, Holding, Judgement, Lane, Listed, Loaded, LoggedModelChange,
    MAX_TRUSTED_KEYS, Moved, Naming, Neighbours, NewExperiment, Packing, Page, Place, Position,
    Registration, Registry, Rejudgement, RunChange, RunLink, RunWithExperiment, StoredPolicy,
    TrustedKey, VersionChange, WorkItem, WorkKind,
};
