//! Settings of the registry and of models: their stages and their protections, each a document with revisions.

use crate::{gate, policy};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::domain::model::{MAX_REASON, check_text};
use shared::domain::settings::MAX_SETTINGS_BYTES;
use shared::domain::{EventType, Protections, Realm, SettingsKind, StageRules, VersionId};
use shared::dynamodb::{Governing, Outcome, SettingsChange};
use shared::http::{Caller, parse_body};
use shared::{App, Error, ErrorCode, Result};

/// Replaces a document of settings: its fields, and beside them what is said of the change.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Put(Map<String, Value>);

/// What is said of a change.
#[derive(Debug, Deserialize)]
struct Change {
    /// The revision that is replaced; 0 if there is none.
    expected_revision: u64,
    #[serde(default)]
    reason: Option<String>,
}

impl Put {
    /// Takes the body apart; fields that neither side knows are refused.
    fn parse<T: Document>(self) -> Result<(Change, T)> {
        let (mut change, mut document) = (Map::new(), Map::new());
        for (name, value) in self.0 {
            match name.as_str() {
                "expected_revision" | "reason" => change.insert(name, value),
                _ => document.insert(name, value),
            };
        }
        let bytes = |fields: Map<String, Value>| Value::Object(fields).to_string().into_bytes();
        Ok((parse_body(&bytes(change))?, parse_body(&bytes(document))?))
    }
}

/// Which revision to show.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    #[serde(default)]
    revision: Option<u64>,
}

/// A document of settings, as it is kept.
pub(crate) trait Document: Serialize + serde::de::DeserializeOwned + Default {
    /// Which one it is.
    const KIND: SettingsKind;
    /// The event that tells of a change.
    const EVENT: EventType;

    /// Refuses what could not be in force.
    fn checked(self) -> Result<Self>;
}

impl Document for StageRules {
    const KIND: SettingsKind = SettingsKind::Stages;
    const EVENT: EventType = EventType::StagesChanged;

    fn checked(self) -> Result<Self> {
        Self::checked(self)
    }
}

impl Document for Protections {
    const KIND: SettingsKind = SettingsKind::Protections;
    const EVENT: EventType = EventType::ProtectionsChanged;

    fn checked(self) -> Result<Self> {
        self.check()?;
        policy::check(&self)?;
        Ok(self)
    }
}

/// Replaces a document, if the revision is the expected one.
pub(crate) async fn put<T: Document>(
    app: &App,
    caller: &Caller,
    scope: Realm,
    command: Put,
) -> Result<Outcome<Value>> {
    let (change, document) = command.parse::<T>()?;
    check_text("reason", change.reason.as_deref(), MAX_REASON)?;
    let document = document.checked()?;
    let scope = resolved(app, caller, scope).await?;
    let json = serde_json::to_string(&document)
        .map_err(|error| Error::internal("writing settings", error))?;
    if json.len() > MAX_SETTINGS_BYTES {
        return Err(Error::invalid(
            T::KIND.as_str(),
            format!(
                "the {} have {} bytes; {MAX_SETTINGS_BYTES} is the most, so shorten them",
                T::KIND.as_str(),
                json.len()
            ),
        ));
    }
    let revision = change.expected_revision.saturating_add(1);
    let mut event = app
        .event(
            T::EVENT,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .because(change.reason)
        .with("scope", gate::word(&scope))
        .with("revision", revision)
        .with("document", json!(document));
    if let Some(model) = scope.model() {
        event = event.about(model);
    }
    let view = shown(&document, &scope, revision)?;
    let change = SettingsChange {
        scope,
        kind: T::KIND,
        expected: change.expected_revision,
        json,
        answer: caller.answer(200, &view, event.time)?,
        event,
    };
    let outcome = app.registry.change_settings(&caller.tenant, change).await?;
    Ok(outcome.map(|()| view))
}

/// The realm, with where its model lies.
async fn resolved(app: &App, caller: &Caller, realm: Realm) -> Result<Realm> {
    Ok(match realm {
        Realm::Registry => Realm::Registry,
        Realm::Model(model) => Realm::Model(app.registry.home_of(&caller.tenant, &model).await?),
    })
}

fn shown(document: &impl Serialize, scope: &Realm, revision: u64) -> Result<Value> {
    let mut view = serde_json::to_value(document)
        .map_err(|error| Error::internal("writing settings", error))?;
    view["revision"] = json!(revision);
    view["scope"] = json!(gate::word(scope));
    Ok(view)
}

/// Shows a document: the one in force, or an earlier revision; without any, the default at revision 0.
pub(crate) async fn get<T: Document>(
    app: &App,
    caller: &Caller,
    scope: Realm,
    which: &Which,
) -> Result<Value> {
    let scope = resolved(app, caller, scope).await?;
    let head = app.registry.settings_head(&caller.tenant, &scope).await?;
    let revision = which.revision.unwrap_or_else(|| head.revision(T::KIND));
    if revision == 0 {
        return shown(&T::default(), &scope, 0);
    }
    let name = (scope, T::KIND, revision);
    let json = app
        .registry
        .find_settings(&caller.tenant, &name)
        .await?
        .ok_or_else(|| {
            Error::invalid(
                "revision",
                format!(
                    "the {} have no revision {revision}; the newest is {}",
                    T::KIND.as_str(),
                    head.revision(T::KIND)
                ),
            )
        })?;
    shown(&parse::<T>(&json)?, &name.0, revision)
}

/// The stages of a model: its own, else the registry's, else those of MLflow.
pub(crate) async fn rules(app: &App, id: &VersionId, governing: Governing) -> Result<StageRules> {
    let (scope, revision) = if governing.model.stages > 0 {
        (Realm::Model(id.model.clone()), governing.model.stages)
    } else {
        (Realm::Registry, governing.registry.stages)
    };
    if revision == 0 {
        return Ok(StageRules::default());
    }
    let name = (scope, SettingsKind::Stages, revision);
    let json = app.registry.find_settings(&id.tenant, &name).await?;
    let json = json.ok_or_else(|| {
        Error::new(
            ErrorCode::Internal,
            "the stages that are in force are missing",
        )
    })?;
    parse(&json)
}

/// The document as it is stored.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::internal("reading settings", error))
}
