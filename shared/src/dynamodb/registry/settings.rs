//! Settings: heads and their immutable documents; what governs a promotion, and what a gate must read of it.

use super::identity::named_as_read;
use super::{Registry, put_event};
use crate::domain::settings::HEAD_BELIEVED_MILLIS;
use crate::domain::{
    Event, ModelName, Realm, SettingsHead, SettingsKind, TenantName, Timestamp, Version, VersionId,
    VersionNumber,
};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader, as_number, version_from_item};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::table::{Expression, Item, Write, sort_key};
use crate::error::{Error, ErrorCode, Result};
use lru::LruCache;
use serde_json::json;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// What governs a model: which revisions of the registry's and of its own settings are in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Governing {
    /// Of the registry.
    pub registry: SettingsHead,
    /// Of the model.
    pub model: SettingsHead,
}

impl Governing {
    /// The heads that exist, with what they are those of.
    pub fn heads(&self, model: &ModelName) -> Vec<(Realm, SettingsHead)> {
        let mut heads = self.all_heads(model);
        heads.retain(|(_, head)| !head.is_empty());
        heads
    }

    /// The heads, those that do not exist among them: a decision may rest on there being none.
    pub fn all_heads(&self, model: &ModelName) -> Vec<(Realm, SettingsHead)> {
        vec![
            (Realm::Registry, self.registry),
            (Realm::Model(model.clone()), self.model),
        ]
    }
}

/// One revision of one document.
pub type SettingsName = (Realm, SettingsKind, u64);

/// What a gate wants to read in one call.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Documents of settings.
    pub settings: Vec<SettingsName>,
    /// Versions.
    pub versions: Vec<VersionNumber>,
    /// Documents of versions that have items of their own, if they have.
    pub documents: Vec<(VersionNumber, &'static str)>,
}

/// What a gate has read.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// JSON of documents of settings.
    pub settings: BTreeMap<SettingsName, Arc<str>>,
    /// Versions.
    pub versions: BTreeMap<VersionNumber, Version>,
    /// JSON of documents of versions.
    pub documents: BTreeMap<(VersionNumber, &'static str), String>,
}

/// A decided change of settings.
#[derive(Debug, Clone)]
pub struct SettingsChange {
    /// Whose.
    pub scope: Realm,
    /// Which document.
    pub kind: SettingsKind,
    /// The revision that it replaces.
    pub expected: u64,
    /// JSON of the new document.
    pub json: String,
    /// The event that tells it.
    pub event: Event,
    /// The answer to store under an idempotency key.
    pub answer: Option<Answer>,
}

/// What this process knows of settings: heads for a moment, documents for good, because they never change.
#[derive(Debug, Clone)]
pub(super) struct SettingsCache {
    heads: Arc<Mutex<LruCache<Key, (SettingsHead, Timestamp)>>>,
    documents: Arc<Mutex<LruCache<Key, Arc<str>>>>,
}

impl SettingsCache {
    pub(super) fn new() -> Self {
        let room = |count| NonZeroUsize::new(count).expect("the literal is not zero");
        Self {
            heads: Arc::new(Mutex::new(LruCache::new(room(1024)))),
            documents: Arc::new(Mutex::new(LruCache::new(room(64)))),
        }
    }

    fn head(&self, key: &Key, now: Timestamp) -> Option<SettingsHead> {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let (head, seen_at) = heads.get(key)?;
        (now.since(*seen_at) < HEAD_BELIEVED_MILLIS && *seen_at <= now).then_some(*head)
    }

    fn keep_head(&self, key: Key, head: SettingsHead, now: Timestamp) {
        self.heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(key, (head, now));
    }

    fn forget_head(&self, key: &Key) {
        self.heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop(key);
    }

    fn document(&self, key: &Key) -> Option<Arc<str>> {
        self.documents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    fn keep_document(&self, key: Key, json: Arc<str>) {
        self.documents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(key, json);
    }
}

/// What a process believes of the heads that govern a model; `None` is to be read.
#[derive(Debug)]
pub(super) struct BelievedHeads {
    registry: (Key, Option<SettingsHead>),
    model: (Key, Option<SettingsHead>),
}

impl BelievedHeads {
    /// The keys of the heads that must be read.
    pub(super) fn unknown(&self) -> Vec<Key> {
        [&self.registry, &self.model]
            .into_iter()
            .filter(|(_, head)| head.is_none())
            .map(|(key, _)| key.clone())
            .collect()
    }
}

fn head_of(item: &Item) -> SettingsHead {
    let revision = |kind: SettingsKind| Reader(item).maybe_number(kind.as_str()).unwrap_or(0);
    SettingsHead {
        stages: revision(SettingsKind::Stages),
        protections: revision(SettingsKind::Protections),
        waivers: revision(SettingsKind::Waivers),
    }
}

fn at_revision(kind: SettingsKind, revision: u64) -> String {
    let word = kind.as_str();
    if revision == 0 {
        format!("attribute_not_exists(#{word})")
    } else {
        format!("#{word} = :{word}")
    }
}

/// The write that refuses a transaction if a head is not as it was seen.
pub(super) fn guard(tenant: &TenantName, scope: &Realm, head: SettingsHead) -> Write {
    // Waivers are granted for a model.
    let kinds: &[SettingsKind] = match scope {
        Realm::Registry => &[SettingsKind::Stages, SettingsKind::Protections],
        Realm::Model(_) => &[
            SettingsKind::Stages,
            SettingsKind::Protections,
            SettingsKind::Waivers,
        ],
    };
    let words: Vec<String> = kinds
        .iter()
        .map(|kind| at_revision(*kind, head.revision(*kind)))
        .collect();
    let condition = kinds
        .iter()
        .filter(|kind| head.revision(**kind) > 0)
        .fold(Expression::new(words.join(" AND ")), |expression, kind| {
            expression.value(kind.as_str(), as_number(head.revision(*kind)))
        });
    Write::Check {
        key: keys::settings_head(tenant, scope),
        condition,
    }
}

impl Registry {
    /// What this process believes of the heads that govern a model, taken once, so that nothing changes under a decision.
    pub(super) fn believed_heads(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        now: Timestamp,
    ) -> BelievedHeads {
        let of = |realm: Realm| {
            let key = keys::settings_head(tenant, &realm);
            let head = self.settings.head(&key, now);
            (key, head)
        };
        BelievedHeads {
            registry: of(Realm::Registry),
            model: of(Realm::Model(model.clone())),
        }
    }

    /// Puts what is believed of the heads together with what was read of the others.
    pub(super) fn take_heads(
        &self,
        believed: BelievedHeads,
        items: &[Item],
        now: Timestamp,
    ) -> Governing {
        let of = |(key, head): (Key, Option<SettingsHead>)| {
            if let Some(head) = head {
                return head;
            }
            let head = items
                .iter()
                .find(|item| {
                    sort_key(item) == key.sk && Reader(item).maybe_text("pk") == Some(&key.pk)
                })
                .map(head_of)
                .unwrap_or_default();
            self.settings.keep_head(key, head, now);
            head
        };
        Governing {
            registry: of(believed.registry),
            model: of(believed.model),
        }
    }

    /// Forgets what was seen of the heads that govern a model, after it proved wrong.
    pub(super) fn forget_heads(&self, tenant: &TenantName, model: &ModelName) {
        for scope in [Realm::Registry, Realm::Model(model.clone())] {
            self.settings
                .forget_head(&keys::settings_head(tenant, &scope));
        }
    }

    /// What governs a model: one `BatchGetItem`, unless it was seen a moment ago.
    pub async fn governing(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        now: Timestamp,
    ) -> Result<Governing> {
        let believed = self.believed_heads(tenant, model, now);
        let items = self.table.batch_get(&believed.unknown(), true).await?;
        Ok(self.take_heads(believed, &items, now))
    }

    /// Which revisions of a registry's or a model's settings are in force; one consistent read.
    pub async fn settings_head(&self, tenant: &TenantName, scope: &Realm) -> Result<SettingsHead> {
        let item = self
            .table
            .get(&keys::settings_head(tenant, scope), true)
            .await?;
        Ok(item.as_ref().map(head_of).unwrap_or_default())
    }

    /// Whether this process knows all of these documents.
    pub fn knows_settings(&self, tenant: &TenantName, names: &[SettingsName]) -> bool {
        names.iter().all(|(scope, kind, revision)| {
            self.settings
                .document(&keys::settings(tenant, scope, *kind, *revision))
                .is_some()
        })
    }

    /// Reads all that a gate wants in one `BatchGetItem`, without what this process knows.
    pub async fn read_evidence(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        wanted: &Evidence,
    ) -> Result<Found> {
        let mut found = Found::default();
        let mut unread = Vec::new();
        let mut names = BTreeMap::new();
        for name in &wanted.settings {
            let key = keys::settings(tenant, &name.0, name.1, name.2);
            match self.settings.document(&key) {
                Some(json) => drop(found.settings.insert(name.clone(), json)),
                None => drop(names.insert((key.pk, key.sk), name.clone())),
            }
        }
        let id = |number| VersionId {
            tenant: tenant.clone(),
            model: model.clone(),
            number,
        };
        unread.extend(names.keys().map(|(pk, sk)| Key {
            pk: pk.clone(),
            sk: sk.clone(),
        }));
        unread.extend(
            wanted
                .versions
                .iter()
                .map(|number| keys::version(&id(*number))),
        );
        let documents: BTreeMap<(String, String), (VersionNumber, &'static str)> = wanted
            .documents
            .iter()
            .map(|(number, document)| {
                let key = keys::version_document(&id(*number), document);
                ((key.pk, key.sk), (*number, *document))
            })
            .collect();
        unread.extend(documents.keys().map(|(pk, sk)| Key {
            pk: pk.clone(),
            sk: sk.clone(),
        }));
        for item in self.table.batch_get(&unread, true).await? {
            let key = (Reader(&item).text("pk")?.to_owned(), sort_key(&item));
            if let Some(name) = names.get(&key) {
                let json: Arc<str> = Reader(&item).text("json")?.into();
                let (pk, sk) = key;
                self.settings
                    .keep_document(Key { pk, sk }, Arc::clone(&json));
                found.settings.insert(name.clone(), json);
            } else if let Some(document) = documents.get(&key) {
                let json = Reader(&item).text("json")?.to_owned();
                found.documents.insert(*document, json);
            } else {
                let version = version_from_item(tenant, model, &item)?;
                found.versions.insert(version.id.number, version);
            }
        }
        if let Some(missing) = wanted
            .settings
            .iter()
            .find(|name| !found.settings.contains_key(*name))
        {
            return Err(Error::internal(
                "reading settings",
                format!(
                    "revision {} of `{}` is missing",
                    missing.2,
                    missing.1.as_str()
                ),
            ));
        }
        Ok(found)
    }

    /// Reads one revision of one document of settings, if there is one.
    pub async fn find_settings(
        &self,
        tenant: &TenantName,
        (scope, kind, revision): &SettingsName,
    ) -> Result<Option<Arc<str>>> {
        let key = keys::settings(tenant, scope, *kind, *revision);
        if let Some(json) = self.settings.document(&key) {
            return Ok(Some(json));
        }
        let Some(item) = self.table.get(&key, true).await? else {
            return Ok(None);
        };
        let json: Arc<str> = Reader(&item).text("json")?.into();
        self.settings.keep_document(key, Arc::clone(&json));
        Ok(Some(json))
    }

    /// Puts the next revision of a document with its event, if the one that it replaces is in force.
    pub async fn change_settings(
        &self,
        tenant: &TenantName,
        change: SettingsChange,
    ) -> Result<Outcome<()>> {
        let SettingsChange {
            scope,
            kind,
            expected,
            json,
            event,
            answer,
        } = change;
        let word = kind.as_str();
        let head_key = keys::settings_head(tenant, &scope);
        let update = Expression::new(format!("SET #{word} = :next"))
            .value("next", as_number(expected.saturating_add(1)));
        let mut condition = Expression::new(at_revision(kind, expected));
        if expected > 0 {
            condition = condition.value(word, as_number(expected));
        }
        let document = Builder::at(&keys::settings(
            tenant,
            &scope,
            kind,
            expected.saturating_add(1),
        ))
        .text("json", json)
        .build();
        let mut writes = vec![
            Write::Update {
                key: head_key.clone(),
                update,
                condition,
            },
            Write::Put {
                item: document,
                condition: Some(Expression::new("attribute_not_exists(#pk)")),
            },
            put_event(&event)?,
        ];
        if let Realm::Model(model) = &scope {
            writes.push(Write::Check {
                key: keys::model(tenant, model),
                condition: named_as_read(model).and("attribute_not_exists(#deleted)"),
            });
        }
        let outcome = self
            .commit(writes, tenant, answer, |refusals| {
                if refusals.first().is_some_and(|refusal| refusal.refused) {
                    let current = refusals
                        .first()
                        .and_then(|refusal| refusal.item.as_ref())
                        .map_or(0, |item| head_of(item).revision(kind));
                    return Error::new(
                        ErrorCode::Conflict,
                        format!(
                            "the {word} are at revision {current}; read them again and decide anew"
                        ),
                    )
                    .with("current", json!({"revision": current}));
                }
                match &scope {
                    Realm::Model(model) => crate::domain::model::model_not_found(model),
                    Realm::Registry => {
                        Error::internal("changing settings", "the revision exists already")
                    }
                }
            })
            .await;
        // Afterwards, so that nobody in this process goes on with what was read before.
        self.settings.forget_head(&head_key);
        let governs = matches!(kind, SettingsKind::Stages | SettingsKind::Protections);
        if governs && expected == 0 && outcome.is_ok() {
            // Other processes may still believe that nothing governs; by the answer, none does any more.
            self.table.wait(HEAD_BELIEVED_MILLIS).await;
        }
        outcome
    }
}
