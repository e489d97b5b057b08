//! Pure types and decisions: no I/O, no clock, no randomness, no SDK.

pub mod access;
pub mod alias;
pub mod artifact;
pub mod audit;
pub mod decimal;
pub mod event;
pub mod file_set;
pub mod freeze;
pub mod location;
pub mod metadata;
pub mod model;
pub mod model_name;
pub mod name;
pub mod protection;
pub mod repository;
pub mod request;
pub mod retention;
pub mod rollout;
pub mod settings;
pub mod stage;
pub mod subscription;
pub mod tenure;
pub mod time;
pub mod token;
pub mod tracking;
pub mod version;
pub mod waiver;

pub use access::{Action, Identity, Scope};
pub use alias::{Alias, Expectation};
pub use artifact::{Artifact, DeclaredArtifact};
pub use event::{Event, EventType};
pub use location::Location;
pub use metadata::Metadata;
pub use model::Model;
pub use model_name::ModelName;
pub use name::{
    AliasName, ArtifactPath, Digest, Principal, StageName, StoredPath, TenantName, VersionNumber,
};
pub use protection::{PromotionTarget, Protection, Protections};
pub use repository::Repository;
pub use settings::{Realm, SettingsHead, SettingsKind};
pub use stage::StageRules;
pub use subscription::{Delivery, Subscription};
pub use time::Timestamp;
pub use version::{Source, Standing, Status, Version, VersionId};
pub use waiver::{Waiver, Waivers};
