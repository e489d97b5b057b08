//! The event: what happened, to what, by whom, why and when; history, audit and outbox in one item.
//!
//! Events are written in the transaction of the change and are self-contained: a reader needs nothing else.
//! The wire form is documented, with its JSON schema, in `docs/events.md`.

use crate::domain::audit::Link;
use crate::domain::{AliasName, ModelName, Principal, TenantName, Timestamp, VersionNumber};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;

/// Version of the event schema.
pub const SCHEMA_VERSION: u32 = 1;

macro_rules! event_types {
    ($($(#[$meta:meta])* $variant:ident => $text:literal,)*) => {
        /// What happened; the text is stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum EventType {
            $($(#[$meta])* #[serde(rename = $text)] $variant,)*
        }

        impl EventType {
            /// Every type, in the order of the table in `docs/events.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

event_types! {
    /// A registered model was created.
    ModelCreated => "model.created",
    /// Description, tags or owner of a registered model changed.
    ModelUpdated => "model.updated",
    /// A registered model was deleted, restorably.
    ModelDeleted => "model.deleted",
    /// A registered model was restored.
    ModelRestored => "model.restored",
    /// A registered model got another name.
    ModelRenamed => "model.renamed",
    /// The name of a deleted model was given to another one.
    ModelDisplaced => "model.displaced",
    /// A version was registered.
    VersionRegistered => "version.registered",
    /// The client said that all uploads of a version are done.
    VersionFinalized => "version.finalized",
    /// A version passed every check.
    VersionReady => "version.ready",
    /// A version failed a check, or its uploads never came.
    VersionFailed => "version.failed",
    /// A version was judged again, by another policy or other rules.
    VersionRejudged => "version.rejudged",
    /// A version was packaged.
    VersionPackaged => "version.packaged",
    /// An archive of a version was made.
    VersionArchived => "version.archived",
    /// Description or tags of a version changed.
    VersionUpdated => "version.updated",
    /// A version moved to another stage.
    VersionStageChanged => "version.stage_changed",
    /// The days of a version's deprecation and end of life were set.
    VersionLifecycleSet => "version.lifecycle_set",
    /// The day of a version's deprecation has come.
    VersionDeprecated => "version.deprecated",
    /// The day has come on which a version's life ends.
    VersionEndOfLife => "version.end_of_life",
    /// A version was deleted, restorably.
    VersionDeleted => "version.deleted",
    /// A version was restored.
    VersionRestored => "version.restored",
    /// The files of a deleted version were given up for good.
    VersionPurged => "version.purged",
    /// An alias was set to a version.
    AliasSet => "alias.set",
    /// An alias was rolled back to an earlier version.
    AliasRolledBack => "alias.rolled_back",
    /// An alias was removed.
    AliasRemoved => "alias.removed",
    /// A protection kept a version from an alias or a stage.
    PromotionDenied => "promotion.denied",
    /// Somebody asked for a promotion.
    PromotionRequested => "promotion.requested",
    /// Somebody approved a promotion request.
    PromotionApproved => "promotion.approved",
    /// Somebody rejected a promotion request.
    PromotionRejected => "promotion.rejected",
    /// A promotion request was withdrawn.
    PromotionWithdrawn => "promotion.withdrawn",
    /// A promotion request stayed open for too long.
    PromotionExpired => "promotion.expired",
    /// An automatic check is asked for its verdict.
    CheckRequested => "check.requested",
    /// An automatic check gave its verdict, or gave none in time.
    CheckAnswered => "check.answered",
    /// A condition was waived.
    WaiverGranted => "waiver.granted",
    /// A waiver was revoked.
    WaiverRevoked => "waiver.revoked",
    /// The stages of a registry or a model were configured.
    StagesChanged => "stages.changed",
    /// The protections of a registry or a model were configured.
    ProtectionsChanged => "protections.changed",
    /// What is served at a place changed.
    RolloutChanged => "rollout.changed",
    /// The retention rules of a model were set.
    RetentionSet => "retention.set",
    /// The retention rules of a model were removed.
    RetentionRemoved => "retention.removed",
    /// A public key is trusted from now on.
    TrustedKeyAdded => "trusted_key.added",
    /// A public key is not trusted any more.
    TrustedKeyRemoved => "trusted_key.removed",
    /// What lay in a drop zone could not become a version.
    DropRefused => "drop.refused",
    /// The validation policy of the tenant changed.
    ValidationPolicyChanged => "validation_policy.changed",
    /// A token was created.
    TokenCreated => "token.created",
    /// A token was revoked.
    TokenRevoked => "token.revoked",
    /// A subscription was tested.
    SubscriptionTested => "subscription.tested",
    /// An endpoint failed too often in a row; its deliveries wait.
    SubscriptionPaused => "subscription.paused",
    /// A paused endpoint answers again.
    SubscriptionResumed => "subscription.resumed",
}

impl EventType {
    /// Reads the stable text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What happened, to what, by whom, why and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unique id, a ULID; also the deduplication id of deliveries.
    pub id: String,
    /// Version of this schema.
    pub schema_version: u32,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The tenant.
    pub tenant: TenantName,
    /// The registered model, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// The home of the model, if that is not its name at the time: what it keeps when it is renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// The version, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionNumber>,
    /// The alias, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<AliasName>,
    /// Position in the alias's history, counted from 1 without a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Who did it.
    pub actor: Principal,
    /// Why, in the actor's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub time: Timestamp,
    /// The request, or the upload, that set it going.
    pub request_id: String,
    /// What changed, by type.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
    /// Its place in the chain of its model, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Link>,
}

impl Event {
    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.data.insert(name.to_owned(), value.into());
        self
    }

    /// Says which registered model.
    #[must_use]
    pub fn about(mut self, model: &ModelName) -> Self {
        self.model_id = Some(model.home().to_owned()).filter(|home| home != model.as_str());
        self.model = Some(model.clone());
        self
    }

    /// Says which version.
    #[must_use]
    pub fn of_version(mut self, number: VersionNumber) -> Self {
        self.version = Some(number);
        self
    }

    /// Says why.
    #[must_use]
    pub fn because(mut self, reason: Option<String>) -> Self {
        self.reason = reason;
        self
    }

    /// Says which alias, and where in its history this stands.
    #[must_use]
    pub fn of_alias(mut self, alias: &AliasName, sequence: u64) -> Self {
        self.alias = Some(alias.clone());
        self.sequence = Some(sequence);
        self
    }

    /// The home of the model that it is about: its id.
    pub fn home(&self) -> Option<&str> {
        self.model_id
            .as_deref()
            .or_else(|| self.model.as_ref().map(ModelName::as_str))
    }

    /// The model that it is about, by its home; what it is called by now is not known.
    pub fn model_by_home(&self) -> Option<ModelName> {
        self.home().and_then(|home| ModelName::of_home(home).ok())
    }

    /// The event as it is sent and shown, with `CloudEvents` 1.0 attribute names beside our own.
    pub fn to_wire(&self) -> Value {
        let mut wire = serde_json::to_value(self).unwrap_or_else(|_| json!({}));
        if let Value::Object(fields) = &mut wire {
            fields.insert("specversion".into(), "1.0".into());
            fields.insert("source".into(), format!("/t/{}", self.tenant).into());
            if let Some(home) = self.home() {
                fields.insert("model_id".into(), home.into());
            }
            fields.entry("data").or_insert_with(|| json!({}));
        }
        wire
    }
}
