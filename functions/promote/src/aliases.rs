//! Aliases: set, remove, roll back; each is a compare-and-swap with actor, reason and history in one transaction.

use crate::gate::{self, Ask, Consent, Holder, Verdict};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use shared::domain::alias::{alias_not_found, lost};
use shared::domain::model::{MAX_REASON, check_text, deleted_model};
use shared::domain::version::version_not_found;
use shared::domain::{
    Alias, AliasName, EventType, Expectation, ModelName, PromotionTarget, TenantName, VersionId,
    VersionNumber,
};
use shared::dynamodb::{AliasChange, Committed, DECISIONS, Loaded, Outcome};
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
        held_before: Some(false),
        request: None,
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
        held_before: Some(false),
        request: None,
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
    if let Some(expected) = command.expected_version {
        Expectation::Version(expected).check(name, model, Some(&known))?;
    }
    let show = |alias: &Alias| native(app, alias);
    let back_to = |target, held_before| Move {
        kind: EventType::AliasRolledBack,
        target: Some(target),
        // What was read decides where back is, so nothing else may have moved it since.
        expectation: known
            .version
            .map_or(Expectation::Absent, Expectation::Version),
        expected_sequence: Some(known.sequence),
        reason: command.reason.clone(),
        held_before,
        request: None,
    };
    if let Some(target) = command.to_version {
        let held_before = (known.previous == Some(target)).then_some(true);
        return move_alias(
            app,
            caller,
            model,
            name,
            &back_to(target, held_before),
            &show,
        )
        .await;
    }
    let previous = known.previous.ok_or_else(|| {
        Error::new(
            ErrorCode::Conflict,
            format!(
                "alias `{name}` of `{model}` held no version before; name one with `to_version`"
            ),
        )
    })?;
    let outcome = move_alias(
        app,
        caller,
        model,
        name,
        &back_to(previous, Some(true)),
        &show,
    )
    .await;
    let Err(error) = outcome else {
        return outcome;
    };
    if !matches!(
        error.code,
        ErrorCode::VersionNotReady
            | ErrorCode::VersionRevoked
            | ErrorCode::Deleted
            | ErrorCode::VersionNotFound
    ) {
        return Err(error);
    }
    match earlier_holder(app, caller, &known).await? {
        Some(target) => {
            move_alias(
                app,
                caller,
                model,
                name,
                &back_to(target, Some(true)),
                &show,
            )
            .await
        }
        None => Err(error),
    }
}

/// The version that an alias held last of those that are still ready; looks at its newest hundred changes.
async fn earlier_holder(
    app: &App,
    caller: &Caller,
    alias: &Alias,
) -> Result<Option<VersionNumber>> {
    let held = held_versions(app, &caller.tenant, &alias.model, &alias.name).await?;
    let wanted: Vec<VersionNumber> = held
        .into_iter()
        .filter(|number| Some(*number) != alias.version)
        .collect();
    let found = app
        .registry
        .versions_by_number(&caller.tenant, &alias.model, &wanted)
        .await?;
    Ok(wanted.into_iter().find(|number| {
        found
            .iter()
            .any(|version| version.id.number == *number && version.require_promotable().is_ok())
    }))
}

/// The versions that an alias held, the last one first, as far as its newest hundred changes tell.
async fn held_versions(
    app: &App,
    tenant: &TenantName,
    model: &ModelName,
    name: &AliasName,
) -> Result<Vec<VersionNumber>> {
    let page = app
        .registry
        .alias_history(tenant, model, name, false, 100, None)
        .await?;
    let mut held = Vec::new();
    for event in &page.items {
        for field in ["to", "from"] {
            let number = event.data.get(field).and_then(serde_json::Value::as_u64);
            if let Some(number) = number.and_then(|number| VersionNumber::new(number).ok())
                && !held.contains(&number)
            {
                held.push(number);
            }
        }
    }
    Ok(held)
}

/// A wanted change of an alias.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub(crate) kind: EventType,
    pub(crate) target: Option<VersionNumber>,
    pub(crate) expectation: Expectation,
    pub(crate) expected_sequence: Option<u64>,
    pub(crate) reason: Option<String>,
    /// Whether the alias is known to have held the version before; `None` if a return must ask.
    pub(crate) held_before: Option<bool>,
    /// The promotion request that ends with it.
    pub(crate) request: Option<String>,
}

impl Move {
    /// Sets an alias to a version, or removes it, whatever it holds.
    pub(crate) fn to(target: Option<VersionNumber>) -> Self {
        Self {
            kind: if target.is_some() {
                EventType::AliasSet
            } else {
                EventType::AliasRemoved
            },
            target,
            expectation: Expectation::Unconditional,
            expected_sequence: None,
            reason: None,
            held_before: Some(false),
            request: None,
        }
    }

    /// What policies and events call it.
    pub(crate) fn action(&self) -> &'static str {
        match self.kind {
            EventType::AliasRolledBack => "roll_back",
            _ => "set_alias",
        }
    }
}

/// How an edge shows an alias, for the answer that goes under an idempotency key too.
pub(crate) type Show<'a> = &'a (dyn Fn(&Alias) -> Value + Send + Sync);

/// As the native API shows an alias.
pub(crate) fn native(app: &App, alias: &Alias) -> Value {
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
    let outcome = try_to_move(app, caller, model, name, wanted, show).await;
    let Some(target) = wanted.target else {
        return outcome;
    };
    let id = VersionId {
        tenant: caller.tenant.clone(),
        model: model.clone(),
        number: target,
    };
    let reason = wanted.reason.as_deref();
    gate::denied(app, caller, &id, wanted.action(), reason, outcome).await
}

async fn try_to_move(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    name: &AliasName,
    wanted: &Move,
    show: Show<'_>,
) -> Result<Outcome<Value>> {
    let mut use_hints = true;
    let consent = Consent::of(caller);
    for attempt in 1..=DECISIONS {
        let now = app.clock.now();
        let loaded = app
            .registry
            .load_alias(&caller.tenant, model, name, wanted.target, use_hints, now)
            .await?;
        let mut change = match decide(app, caller, model, name, wanted, &consent, &loaded).await {
            Ok(Some(change)) => change,
            // What a hint says must be confirmed before it refuses, or decides that nothing is to do.
            Ok(None) | Err(_) if !loaded.is_fresh => {
                use_hints = false;
                continue;
            }
            Ok(None) => {
                let alias = loaded.alias.ok_or_else(|| alias_not_found(name, model))?;
                return app.keep_unchanged(caller, 200, show(&alias)).await;
            }
            Err(error) => return Err(error),
        };
        change.answer = caller.answer(200, &show(&change.alias), change.alias.changed_at)?;
        match app
            .registry
            .commit_alias(&change, loaded.alias.as_ref(), attempt)
            .await?
        {
            Committed::Done => {
                let kind = wanted.kind;
                tracing::info!(
                    model.name = model.as_str(),
                    alias.name = name.as_str(),
                    alias.sequence = change.alias.sequence,
                    "{kind}: alias `{name}` of `{model}`"
                );
                return Ok(Outcome::Done(show(&change.alias)));
            }
            Committed::Replayed(response) => return Ok(Outcome::Replayed(response)),
            Committed::Lost => use_hints = false,
        }
    }
    Err(gate::too_busy(&format!("alias `{name}` of `{model}`")))
}

/// Decides what an alias becomes, without an answer; `None` if it is so already.
pub(crate) async fn decide(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    name: &AliasName,
    wanted: &Move,
    consent: &Consent,
    loaded: &Loaded,
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
    let verdict = match &loaded.version {
        Some(version) => {
            let governs =
                loaded.governing.registry.protections + loaded.governing.model.protections > 0;
            let held_before = match wanted.held_before {
                Some(known) => known,
                None if governs => held_versions(app, &caller.tenant, model, name)
                    .await?
                    .contains(&version.id.number),
                None => false,
            };
            let target = PromotionTarget::Alias(name.to_string());
            let ask = Ask {
                action: wanted.action(),
                target: &target,
                version,
                holder: Holder::Known(held),
                held_before,
                consent,
                governing: loaded.governing,
            };
            let verdict = gate::judge(app, &ask).await?;
            verdict.require(&version.id, &target)?;
            verdict
        }
        None => Verdict::default(),
    };
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
    let event = match verdict.record() {
        Some(policy) => event.with("policy", policy),
        None => event,
    };
    let event = match &wanted.request {
        Some(request) => event.with("request_id", request.as_str()),
        None => event,
    };
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
        deprecated_at: loaded
            .version
            .as_ref()
            .and_then(|version| version.standing.deprecated_at),
        end_of_life_at: loaded
            .version
            .as_ref()
            .and_then(|version| version.standing.end_of_life_at),
    };
    Ok(Some(AliasChange {
        alias,
        from: held,
        version: loaded.version.clone(),
        is_guarded: verdict.is_guarded,
        guards: verdict.guards,
        closes_request: wanted.request.is_some(),
        event,
        answer: None,
    }))
}
