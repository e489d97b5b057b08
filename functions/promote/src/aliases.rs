//! Aliases: set, remove, roll back; each is a compare-and-swap with actor, reason and history in one transaction.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use shared::domain::alias::{alias_not_found, lost};
use shared::domain::model::{MAX_REASON, check_text, deleted_model};
use shared::domain::version::version_not_found;
use shared::domain::{
    Alias, AliasName, EventType, Expectation, ModelName, VersionId, VersionNumber,
};
use shared::dynamodb::{AliasChange, Loaded, Moved, Outcome};
use shared::http::Caller;
use shared::http::views::AliasView;
use shared::{App, Error, ErrorCode, Result};

/// Sets an alias to a version.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetAlias {
    version: VersionNumber,
    #[serde(default)]
    expected_version: Expected,
    #[serde(default)]
    unconditional: bool,
    #[serde(default)]
    expected_sequence: Option<u64>,
    #[serde(default)]
    reason: Option<String>,
}

/// Removes an alias; its history stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveAlias {
    #[serde(default)]
    expected_version: Expected,
    #[serde(default)]
    unconditional: bool,
    #[serde(default)]
    expected_sequence: Option<u64>,
    #[serde(default)]
    reason: Option<String>,
}

/// Returns an alias to the version that it held before, or to a named one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollBack {
    #[serde(default)]
    to_version: Option<VersionNumber>,
    #[serde(default)]
    expected_version: Option<VersionNumber>,
    #[serde(default)]
    expected_sequence: Option<u64>,
    #[serde(default)]
    reason: Option<String>,
}

/// What a body says in `expected_version`: an explicit `null` is not the same as nothing.
#[derive(Debug, Clone, Copy, Default)]
enum Expected {
    /// The field is absent.
    #[default]
    Unsaid,
    /// The alias holds nothing.
    Nothing,
    /// The alias holds this version.
    Version(VersionNumber),
}

impl<'de> Deserialize<'de> for Expected {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Option::deserialize(deserializer)?;
        Ok(given.map_or(Self::Nothing, Self::Version))
    }
}

fn expectation(expected: Expected, unconditional: bool) -> Result<Expectation> {
    match (expected, unconditional) {
        (Expected::Version(version), false) => Ok(Expectation::Version(version)),
        (Expected::Nothing, false) => Ok(Expectation::Absent),
        (Expected::Unsaid, true) => Ok(Expectation::Unconditional),
        (Expected::Unsaid, false) => Err(Error::invalid(
            "expected_version",
            "say what you expect: `expected_version` is the version that the alias holds, or null if it holds none; \
             `unconditional: true` overwrites whatever is there",
        )),
        (_, true) => Err(Error::invalid(
            "unconditional",
            "`expected_version` and `unconditional` contradict each other; give one of them",
        )),
    }
}

pub(crate) async fn set(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    name: &AliasName,
    command: &SetAlias,
) -> Result<Outcome<Value>> {
    let move_to = Move {
        kind: EventType::AliasSet,
        target: Some(command.version),
        expectation: expectation(command.expected_version, command.unconditional)?,
        expected_sequence: command.expected_sequence,
        reason: command.reason.clone(),
    };
    move_alias(app, caller, model, name, &move_to, &|alias| {
        native(app, alias)
    })
    .await
}

pub(crate) async fn remove(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    name: &AliasName,
    command: &RemoveAlias,
) -> Result<Outcome<Value>> {
    let move_to = Move {
        kind: EventType::AliasRemoved,
        target: None,
        expectation: expectation(command.expected_version, command.unconditional)?,
        expected_sequence: command.expected_sequence,
        reason: command.reason.clone(),
    };
    move_alias(app, caller, model, name, &move_to, &|alias| {
        native(app, alias)
    })
    .await
}

pub(crate) async fn roll_back(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    name: &AliasName,
    command: &RollBack,
) -> Result<Outcome<Value>> {
    let known = app
        .registry
        .current_alias(&caller.tenant, model, name, command.expected_sequence)
        .await?
        .ok_or_else(|| alias_not_found(name, model))?;
    if command
        .expected_sequence
        .is_some_and(|expected| expected != known.sequence)
    {
        return Err(lost(name, model, Some(&known)));
    }
    let target = command.to_version.or(known.previous).ok_or_else(|| {
        Error::new(
            ErrorCode::Conflict,
            format!(
                "alias `{name}` of `{model}` held no version before; name one with `to_version`"
            ),
        )
    })?;
    if let Some(expected) = command.expected_version {
        Expectation::Version(expected).check(name, model, Some(&known))?;
    }
    let move_to = Move {
        kind: EventType::AliasRolledBack,
        target: Some(target),
        // What was read decides where back is, so nothing else may have moved it since.
        expectation: known
            .version
            .map_or(Expectation::Absent, Expectation::Version),
        expected_sequence: Some(known.sequence),
        reason: command.reason.clone(),
    };
    move_alias(app, caller, model, name, &move_to, &|alias| {
        native(app, alias)
    })
    .await
}

/// A wanted change of an alias.
pub(crate) struct Move {
    kind: EventType,
    target: Option<VersionNumber>,
    expectation: Expectation,
    expected_sequence: Option<u64>,
    reason: Option<String>,
}

impl Move {
    /// Sets an alias to a version, or removes it.
    pub(crate) fn to(target: Option<VersionNumber>, expectation: Expectation) -> Self {
        Self {
            kind: if target.is_some() {
                EventType::AliasSet
            } else {
                EventType::AliasRemoved
            },
            target,
            expectation,
            expected_sequence: None,
            reason: None,
        }
    }
}

/// How an edge shows an alias, for the answer that goes under an idempotency key too.
pub(crate) type Show<'a> = &'a (dyn Fn(&Alias) -> Value + Send + Sync);

/// As the native API shows an alias.
fn native(app: &App, alias: &Alias) -> Value {
    serde_json::to_value(AliasView::of(app, alias)).unwrap_or_default()
}

pub(crate) async fn move_alias(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    name: &AliasName,
    wanted: &Move,
    show: Show<'_>,
) -> Result<Outcome<Value>> {
    check_text("reason", wanted.reason.as_deref(), MAX_REASON)?;
    let outcome = app
        .registry
        .change_alias(&caller.tenant, model, name, wanted.target, |loaded| {
            decide(app, caller, model, name, wanted, loaded, show)
        })
        .await?;
    match outcome {
        Outcome::Replayed(stored) => Ok(Outcome::Replayed(stored)),
        Outcome::Done(Moved::Unchanged(None)) => Err(alias_not_found(name, model)),
        Outcome::Done(Moved::Unchanged(Some(alias))) => {
            app.keep_unchanged(caller, 200, show(&alias)).await
        }
        Outcome::Done(Moved::Changed(alias)) => {
            let kind = wanted.kind;
            tracing::info!(
                model.name = model.as_str(),
                alias.name = name.as_str(),
                alias.sequence = alias.sequence,
                "{kind}: alias `{name}` of `{model}`"
            );
            Ok(Outcome::Done(show(&alias)))
        }
    }
}

/// Decides what an alias becomes; `None` if it is so already.
fn decide(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    name: &AliasName,
    wanted: &Move,
    loaded: &Loaded,
    show: Show<'_>,
) -> Result<Option<AliasChange>> {
    if let Some(at) = loaded.model_deleted_at {
        return Err(deleted_model(model, at));
    }
    let current = loaded.alias.as_ref();
    let sequence = current.map_or(0, |alias| alias.sequence);
    let held = current.and_then(|alias| alias.version);
    if let Some(target) = wanted.target {
        let id = VersionId {
            tenant: caller.tenant.clone(),
            model: model.clone(),
            number: target,
        };
        loaded
            .version
            .as_ref()
            .ok_or_else(|| version_not_found(&id))?
            .require_promotable()?;
    }
    if wanted
        .expected_sequence
        .is_some_and(|expected| expected != sequence)
    {
        return Err(lost(name, model, current));
    }
    wanted.expectation.check(name, model, current)?;
    if held == wanted.target {
        return Ok(None);
    }
    let event = app
        .event(
            wanted.kind,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .about(&loaded.model)
        .of_alias(name, sequence + 1)
        .because(wanted.reason.clone())
        .with("from", held.map(VersionNumber::get))
        .with("to", wanted.target.map(VersionNumber::get));
    // Clocks of two environments may differ; within one alias, time never runs backwards.
    let changed_at = current.map_or(event.time, |alias| event.time.max(alias.changed_at));
    let mut event = wanted
        .target
        .map_or(event.clone(), |target| event.of_version(target));
    event.time = changed_at;
    let alias = Alias {
        tenant: caller.tenant.clone(),
        model: loaded.model.clone(),
        name: name.clone(),
        version: wanted.target,
        previous: held.or_else(|| current.and_then(|alias| alias.previous)),
        sequence: sequence + 1,
        manifest_digest: loaded
            .version
            .as_ref()
            .and_then(|version| version.package.as_ref())
            .map(|package| package.manifest_digest.clone()),
        changed_by: caller.principal.clone(),
        changed_at,
    };
    let answer = caller.answer(200, &show(&alias), changed_at)?;
    Ok(Some(AliasChange {
        alias,
        from: held,
        event,
        answer,
    }))
}
