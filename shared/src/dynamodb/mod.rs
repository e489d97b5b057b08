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
    AliasChange, Archive, ArchiveFormat, ArtifactRoot, Blob, Chained, Committed, Contents,
    DECISIONS, Decide, Deleted, Dispatch, Evidence, FEED_DAYS, Found, Governing, Held, Holder,
    Holding, Judgement, Lane, LifecycleChange, Listed, Loaded, LoggedModelChange, MAX_TRUSTED_KEYS,
    Naming, Neighbours, NewExperiment, NewRequest, Packing, Page, Place, Position, Promotion,
    Registration, Registry, Rejudgement, RequestChange, Requested, RolloutChange, RunChange,
    RunLink, RunWithExperiment, SettingsChange, SettingsName, StageChange, StageHolder,
    StageLoaded, StoredPolicy, TrustedKey, VersionChange, WorkItem, WorkKind,
};
