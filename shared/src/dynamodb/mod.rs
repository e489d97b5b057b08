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
    AliasChange, Archive, ArchiveFormat, Held, Holder, Judgement, Listed, Loaded,
    LoggedModelChange, MAX_TRUSTED_KEYS, Moved, Naming, NewExperiment, Packing, Page, Position,
    Registration, Registry, RunChange, RunLink, RunWithExperiment, TrustedKey, VersionChange,
    WorkItem, WorkKind,
};
