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
    AliasChange, Committed, DECISIONS, Evidence, Found, Governing, Judgement, LifecycleChange, Loaded, Page,
    Registration, Registry, SettingsChange, SettingsName, StageChange, StageHolder, StageLoaded, VersionChange,
    WorkItem, WorkKind,
};
