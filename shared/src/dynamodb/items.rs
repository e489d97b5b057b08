//! Items as they are stored: conversion to and from the domain, by hand.
//!
//! Attribute names are short words, because bytes are billed, and full enough to read in the console.

use super::registry::StoredPolicy;
use super::table::{Item, bytes, number, text};
use crate::domain::model::{Notes, Pointers, Span};
use crate::domain::version::{Document, FilesOf, Package, Source, Standing, Validation};
use crate::domain::{
    Alias, AliasName, Delivery, Digest, Event, Model, ModelName, Principal, StageName, Status,
    Subscription, TenantName, Timestamp, Version, VersionId, VersionNumber,
};
use crate::dynamodb::keys::{self, Key};
use crate::error::{Error, Result};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Builds an item, leaving out what is absent.
#[derive(Debug, Default)]
pub(super) struct Builder(Item);

impl Builder {
    pub(super) fn at(key: &Key) -> Self {
        Self(HashMap::from([
            ("pk".to_owned(), text(&key.pk)),
            ("sk".to_owned(), text(&key.sk)),
        ]))
    }

    pub(super) fn text(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.insert(name.to_owned(), text(value));
        self
    }

    pub(super) fn number(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.0.insert(name.to_owned(), number(value));
        self
    }

    pub(super) fn bytes(mut self, name: &str, value: Vec<u8>) -> Self {
        self.0.insert(name.to_owned(), bytes(value));
        self
    }

    pub(super) fn maybe_text(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    pub(super) fn maybe_number(self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.number(name, value),
            None => self,
        }
    }

    pub(super) fn json(self, name: &str, value: &impl serde::Serialize) -> Result<Self> {
        let json =
            serde_json::to_string(value).map_err(|error| Error::internal("writing JSON", error))?;
        Ok(self.text(name, json))
    }

    pub(super) fn document(self, name: &str, document: &Document) -> Self {
        match document {
            Document::Absent => self,
            Document::Inline(json) => self.text(name, json),
            Document::Item => self.text(&format!("{name}_at"), "item"),
            Document::Object(key) => self.text(&format!("{name}_at"), key),
        }
    }

    pub(super) fn build(self) -> Item {
        self.0
    }
}

/// Reads attributes of an item; what is missing or of a wrong type is a fault that names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a Item);

impl<'a> Reader<'a> {
    pub(super) fn broken(self, name: &str) -> Error {
        let sk = self.maybe_text("sk").unwrap_or("?");
        Error::internal(
            "reading an item",
            format!("attribute `{name}` of item `{sk}` is missing or malformed"),
        )
    }

    pub(super) fn maybe_text(self, name: &str) -> Option<&'a str> {
        self.0
            .get(name)
            .and_then(|value| value.as_s().ok())
            .map(String::as_str)
    }

    pub(super) fn text(self, name: &str) -> Result<&'a str> {
        self.maybe_text(name).ok_or_else(|| self.broken(name))
    }

    pub(super) fn maybe_bytes(self, name: &str) -> Option<&'a [u8]> {
        self.0
            .get(name)
            .and_then(|value| value.as_b().ok())
            .map(AsRef::as_ref)
    }

    /// A number that may be negative.
    pub(super) fn integer(self, name: &str) -> Option<i64> {
        self.0
            .get(name)
            .and_then(|value| value.as_n().ok())
            .and_then(|number| number.parse().ok())
    }

    pub(super) fn maybe_number(self, name: &str) -> Option<u64> {
        self.0
            .get(name)
            .and_then(|value| value.as_n().ok())
            .and_then(|number| number.parse().ok())
    }

    pub(super) fn number(self, name: &str) -> Result<u64> {
        self.maybe_number(name).ok_or_else(|| self.broken(name))
    }

    pub(super) fn time(self, name: &str) -> Result<Timestamp> {
        self.number(name).map(Timestamp::from_millis)
    }

    pub(super) fn maybe_time(self, name: &str) -> Option<Timestamp> {
        self.maybe_number(name).map(Timestamp::from_millis)
    }

    pub(super) fn json<T: DeserializeOwned>(self, name: &str) -> Result<T> {
        serde_json::from_str(self.text(name)?).map_err(|error| self.broken(name).caused_by(error))
    }

    pub(super) fn maybe_json<T: DeserializeOwned>(self, name: &str) -> Result<Option<T>> {
        if self.0.contains_key(name) {
            self.json(name).map(Some)
        } else {
            Ok(None)
        }
    }

    fn version_number(self, name: &str) -> Result<VersionNumber> {
        VersionNumber::new(self.number(name)?).map_err(|error| self.broken(name).caused_by(error))
    }

    pub(super) fn document(self, name: &str) -> Document {
        if let Some(json) = self.maybe_text(name) {
            return Document::Inline(json.to_owned());
        }
        match self.maybe_text(&format!("{name}_at")) {
            None => Document::Absent,
            Some("item") => Document::Item,
            Some(key) => Document::Object(key.to_owned()),
        }
    }
}

/// Parses a stored text into a value type; stored texts were valid when they were written.
fn stored<T, E: std::error::Error + Send + Sync + 'static>(
    parsed: std::result::Result<T, E>,
) -> Result<T> {
    parsed.map_err(|error| Error::internal("reading an item", error))
}

/// A model, and where its notes lie.
#[derive(Debug, Clone)]
pub(super) struct ModelItem {
    pub(super) model: Model,
    /// Whether the notes lie in an item of their own, so that `model.notes` is not filled yet.
    pub(super) notes_apart: bool,
}

/// Notes up to this size ride in the model's item.
pub(super) const INLINE_NOTES_BYTES: usize = 400;

pub(super) fn notes_json(notes: &Notes) -> Option<String> {
    if notes.is_empty() {
        None
    } else {
        serde_json::to_string(notes).ok()
    }
}

pub(super) fn model_to_item(model: &Model) -> Item {
    let notes = notes_json(&model.notes);
    let apart = notes
        .as_ref()
        .is_some_and(|json| json.len() > INLINE_NOTES_BYTES);
    let mut builder = Builder::at(&keys::model(&model.tenant, &model.name));
    for alias in &model.pointers.aliases {
        builder = builder.number(&held_by(alias), 1);
    }
    // A head that says where the versions of the first stage lie says so of every stage.
    if model.pointers.stages.is_empty() && model.version_count() == 0 {
        builder = builder.number(&top_of(&Version::first_stage()), 0);
    }
    for (stage, span) in &model.pointers.stages {
        builder = builder
            .number(&top_of(stage), span.top)
            .number(&floor_of(stage), span.floor);
    }
    builder
        .maybe_text("home", model.name.is_known().then(|| model.name.home()))
        .text("owner", model.owner.as_str())
        .maybe_text("notes", notes.filter(|_| !apart))
        .maybe_text("notes_at", apart.then_some("item"))
        .number("next", model.next_version.get())
        .number("held", model.held_aliases)
        .number("reqs", model.open_requests)
        .number("served", model.rollouts)
        .number("rev", model.revision)
        .number("created", model.created_at.millis())
        .number("updated", model.updated_at.millis())
        .maybe_number("deleted", model.deleted_at.map(Timestamp::millis))
        .build()
}

/// Attribute that says that an alias holds a version of the model, or this version.
pub(super) fn held_by(alias: &AliasName) -> String {
    format!("@{alias}")
}

/// Attribute of a head with the top of a stage's span.
pub(super) fn top_of(stage: &StageName) -> String {
    format!("top:{stage}")
}

/// Attribute of a head with the floor of a stage's span.
pub(super) fn floor_of(stage: &StageName) -> String {
    format!("floor:{stage}")
}

fn aliases_of(item: &Item) -> BTreeSet<AliasName> {
    item.keys()
        .filter_map(|name| AliasName::parse(name.strip_prefix('@')?).ok())
        .collect()
}

fn pointers_of(item: &Item) -> Pointers {
    let reader = Reader(item);
    let stages = item
        .keys()
        .filter_map(|name| {
            let stage = StageName::parse(name.strip_prefix("top:")?).ok()?;
            let number = |name: &str| {
                let number = reader.maybe_number(name).unwrap_or(0);
                u32::try_from(number).unwrap_or(u32::MAX)
            };
            let span = Span {
                top: number(name),
                floor: number(&floor_of(&stage)),
            };
            Some((stage, span))
        })
        .collect::<BTreeMap<_, _>>();
    Pointers {
        aliases: aliases_of(item),
        is_complete: stages.contains_key(&Version::first_stage()),
        stages,
    }
}

pub(super) fn model_from_item(tenant: &TenantName, item: &Item) -> Result<ModelItem> {
    let reader = Reader(item);
    let sk = reader.text("sk")?;
    let (name, is_displaced) = match sk.split_once(':') {
        Some((name, _)) => (name, true),
        None => (sk, false),
    };
    let mut name = stored(ModelName::parse(name))?;
    if let Some(home) = reader.maybe_text("home") {
        name = name.at(home, is_displaced);
    }
    Ok(ModelItem {
        notes_apart: reader.maybe_text("notes_at").is_some(),
        model: Model {
            tenant: tenant.clone(),
            name,
            owner: stored(Principal::parse(reader.text("owner")?))?,
            notes: reader.maybe_json("notes")?.unwrap_or_default(),
            next_version: reader.version_number("next")?,
            held_aliases: reader.number("held")?,
            open_requests: reader.number("reqs")?,
            rollouts: reader.number("served")?,
            revision: reader.number("rev")?,
            created_at: reader.time("created")?,
            updated_at: reader.time("updated")?,
            deleted_at: reader.maybe_time("deleted"),
            pointers: pointers_of(item),
        },
    })
}

/// The mark of items of a home whose name is, or may be, no longer that of its model.
fn is_away(model: &ModelName) -> Option<u8> {
    (!model.is_unresolved()).then_some(1)
}

pub(super) fn version_to_item(version: &Version) -> Result<Item> {
    let mut builder = Builder::at(&keys::version(&version.id))
        .maybe_number("away", is_away(&version.id.model))
        .text("status", version.status.as_str())
        .text("stage", version.stage.as_str())
        .number("aliases", version.alias_count)
        .text("by", version.registered_by.as_str())
        .text("req", &version.request_id)
        .number("created", version.created_at.millis())
        .number("updated", version.updated_at.millis())
        .maybe_number("finalized", version.finalized_at.map(Timestamp::millis))
        .maybe_number("deleted", version.deleted_at.map(Timestamp::millis))
        .maybe_number("purged", version.purged_at.map(Timestamp::millis))
        .number("count", version.artifact_count)
        .number("bytes", version.size_bytes)
        .document("meta", &version.metadata)
        .document("arts", &version.artifacts)
        .document("notes", &version.notes)
        .maybe_text("declared_at", version.declared_at.as_deref())
        .text("meta_digest", version.metadata_digest.hex())
        .number("rev", version.revision);
    if let Some(origin) = &version.origin {
        builder = builder.json("origin", origin)?;
    }
    for alias in &version.aliases {
        builder = builder.number(&held_by(alias), 1);
    }
    if let Some(validation) = &version.validation {
        builder = builder.json("val", validation)?;
    }
    if let Some(package) = &version.package {
        builder = builder.json("pkg", package)?;
    }
    let standing = &version.standing;
    if standing.source != Source::default() {
        builder = builder.text("src", standing.source.as_str());
    }
    if !standing.past_stages.is_empty() {
        builder = builder.json("been", &standing.past_stages)?;
    }
    if let Some(files) = &version.files_of {
        builder = builder.json("held", files)?;
    }
    Ok(builder
        .maybe_number(
            "reqs",
            Some(standing.open_requests).filter(|count| *count > 0),
        )
        .maybe_number("served", Some(standing.rollouts).filter(|count| *count > 0))
        .maybe_number("depr", standing.deprecated_at.map(Timestamp::millis))
        .maybe_number("eol", standing.end_of_life_at.map(Timestamp::millis))
        .maybe_number("revoked", version.revoked_at.map(Timestamp::millis))
        .build())
}

pub(super) fn version_from_item(
    tenant: &TenantName,
    model: &ModelName,
    item: &Item,
) -> Result<Version> {
    let reader = Reader(item);
    let sk = reader.text("sk")?;
    let digits = sk.strip_prefix("V#").unwrap_or(sk).trim_start_matches('0');
    let count =
        |name: &str| u32::try_from(reader.maybe_number(name).unwrap_or(0)).unwrap_or(u32::MAX);
    Ok(Version {
        id: VersionId {
            tenant: tenant.clone(),
            model: model.clone(),
            number: stored(VersionNumber::parse(digits))?,
        },
        status: Status::parse(reader.text("status")?).ok_or_else(|| reader.broken("status"))?,
        stage: stored(StageName::parse(reader.text("stage")?))?,
        alias_count: u32::try_from(reader.number("aliases")?).unwrap_or(u32::MAX),
        aliases: aliases_of(item),
        origin: reader.maybe_json("origin")?,
        registered_by: stored(Principal::parse(reader.text("by")?))?,
        request_id: reader.text("req")?.to_owned(),
        created_at: reader.time("created")?,
        updated_at: reader.time("updated")?,
        finalized_at: reader.maybe_time("finalized"),
        deleted_at: reader.maybe_time("deleted"),
        purged_at: reader.maybe_time("purged"),
        artifact_count: reader.number("count")?,
        size_bytes: reader.number("bytes")?,
        metadata: reader.document("meta"),
        artifacts: reader.document("arts"),
        notes: reader.document("notes"),
        metadata_digest: stored(Digest::parse(format!(
            "sha256:{}",
            reader.text("meta_digest")?
        )))?,
        revision: reader.number("rev")?,
        validation: reader.maybe_json::<Validation>("val")?,
        package: reader.maybe_json::<Package>("pkg")?,
        standing: Standing {
            source: match reader.maybe_text("src") {
                Some(text) => Source::parse(text).ok_or_else(|| reader.broken("src"))?,
                None => Source::default(),
            },
            past_stages: reader.maybe_json("been")?.unwrap_or_default(),
            open_requests: count("reqs"),
            rollouts: count("served"),
            deprecated_at: reader.maybe_time("depr"),
            end_of_life_at: reader.maybe_time("eol"),
        },
        declared_at: reader.maybe_text("declared_at").map(str::to_owned),
        files_of: reader.maybe_json::<FilesOf>("held")?,
        revoked_at: reader.maybe_time("revoked"),
    })
}

pub(super) fn policy_to_item(tenant: &TenantName, policy: &StoredPolicy) -> Item {
    Builder::at(&keys::validation_policy(tenant))
        .number("rev", policy.revision)
        .document("doc", &policy.document)
        .text("by", policy.changed_by.as_str())
        .number("at", policy.changed_at.millis())
        .build()
}

pub(super) fn policy_from_item(item: &Item) -> Result<StoredPolicy> {
    let reader = Reader(item);
    Ok(StoredPolicy {
        revision: reader.number("rev")?,
        document: reader.document("doc"),
        changed_by: stored(Principal::parse(reader.text("by")?))?,
        changed_at: reader.time("at")?,
    })
}

pub(super) fn alias_to_item(alias: &Alias) -> Item {
    Builder::at(&keys::alias(&alias.tenant, &alias.model, &alias.name))
        .maybe_number("away", is_away(&alias.model))
        .maybe_number("version", alias.version.map(VersionNumber::get))
        .maybe_number("previous", alias.previous.map(VersionNumber::get))
        .number("seq", alias.sequence)
        .maybe_text("digest", alias.manifest_digest.as_ref().map(Digest::hex))
        .text("by", alias.changed_by.as_str())
        .number("at", alias.changed_at.millis())
        .maybe_number("depr", alias.deprecated_at.map(Timestamp::millis))
        .maybe_number("eol", alias.end_of_life_at.map(Timestamp::millis))
        .build()
}

pub(super) fn alias_from_item(
    tenant: &TenantName,
    model: &ModelName,
    item: &Item,
) -> Result<Alias> {
    let reader = Reader(item);
    let sk = reader.text("sk")?;
    let held = |name: &str| match reader.maybe_number(name) {
        Some(value) => stored(VersionNumber::new(value)).map(Some),
        None => Ok(None),
    };
    Ok(Alias {
        tenant: tenant.clone(),
        model: model.clone(),
        name: stored(AliasName::parse(sk.strip_prefix("A#").unwrap_or(sk)))?,
        version: held("version")?,
        previous: held("previous")?,
        sequence: reader.number("seq")?,
        manifest_digest: match reader.maybe_text("digest") {
            Some(hex) => Some(stored(Digest::parse(format!("sha256:{hex}")))?),
            None => None,
        },
        changed_by: stored(Principal::parse(reader.text("by")?))?,
        changed_at: reader.time("at")?,
        deprecated_at: reader.maybe_time("depr"),
        end_of_life_at: reader.maybe_time("eol"),
    })
}

/// Key of an event: alias changes lie in the alias's history, others by their id.
pub(super) fn event_key(event: &Event) -> Key {
    match (&event.model_by_home(), &event.alias, event.sequence) {
        (Some(model), Some(alias), Some(sequence)) => {
            keys::history(&event.tenant, model, alias, sequence)
        }
        (Some(model), _, _) => keys::event(&event.tenant, model, &event.id),
        (None, _, _) => keys::tenant_event(&event.tenant, &event.id),
    }
}

pub(super) fn event_to_item(event: &Event) -> Result<Item> {
    Ok(Builder::at(&event_key(event)).json("event", event)?.build())
}

pub(super) fn event_from_item(item: &Item) -> Result<Event> {
    let reader = Reader(item);
    let mut event: Event = reader.json("event")?;
    if let Some(link) = reader.maybe_json("chain")? {
        event.chain = Some(link);
    }
    Ok(event)
}

pub(super) fn subscription_to_item(subscription: &Subscription) -> Result<Item> {
    Ok(
        Builder::at(&keys::subscription(&subscription.tenant, &subscription.id))
            .json("sub", subscription)?
            .json("circuit", &subscription.circuit)?
            .number("rev", subscription.revision)
            .build(),
    )
}

pub(super) fn subscription_from_item(item: &Item) -> Result<Subscription> {
    let reader = Reader(item);
    let mut subscription: Subscription = reader.json("sub")?;
    // What attempts find lies apart from what people write, so that neither overwrites the other.
    subscription.circuit = reader.maybe_json("circuit")?.unwrap_or_default();
    Ok(subscription)
}

pub(super) fn delivery_to_item(
    tenant: &TenantName,
    delivery: &Delivery,
    event: &Event,
) -> Result<Item> {
    Ok(Builder::at(&keys::delivery(
        tenant,
        &delivery.subscription_id,
        &delivery.event_id,
    ))
    .json("delivery", delivery)?
    .json("event", event)?
    .number("rev", delivery.revision)
    .number("ttl", delivery.due_at.seconds() + 90 * 24 * 3_600)
    .build())
}

pub(super) fn delivery_from_item(item: &Item) -> Result<(Delivery, Event)> {
    let reader = Reader(item);
    Ok((reader.json("delivery")?, reader.json("event")?))
}

/// A number attribute, for expressions.
pub(super) fn as_number(value: impl std::fmt::Display) -> AttributeValue {
    number(value)
}
