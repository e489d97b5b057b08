//! The gate: what guards an alias or a stage, held against a version that shall go there.
//!
//! Nothing is read for a target that nothing guards; else everything that is missing is read in one call.
//! The decision rests on revisions that the transaction of the promotion holds against the truth.

use crate::policy::{self, Facts, Needs};
use serde::Serialize;
use serde_json::{Value, json};
use shared::domain::model::Notes;
use shared::domain::version::Document;
use shared::domain::{
    Event, EventType, Metadata, ModelName, Principal, PromotionTarget, Protection, Protections,
    Realm, SettingsHead, SettingsKind, StageName, Version, VersionId, VersionNumber, Waiver,
    Waivers,
};
use shared::dynamodb::{Evidence, Found, Governing, SettingsName};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeSet;

/// Who wants it, and who agreed.
#[derive(Debug, Clone)]
pub(crate) struct Consent {
    /// Who asked.
    pub(crate) requester: Principal,
    /// The groups of who asked.
    pub(crate) groups: Vec<String>,
    /// Who approved, with their groups.
    pub(crate) approvals: Vec<(Principal, BTreeSet<String>)>,
    /// The automatic checks that passed.
    pub(crate) checks_passed: BTreeSet<String>,
}

impl Consent {
    /// Nobody but the caller.
    pub(crate) fn of(caller: &Caller) -> Self {
        Self {
            requester: caller.principal.clone(),
            groups: caller.groups.clone(),
            approvals: Vec::new(),
            checks_passed: BTreeSet::new(),
        }
    }
}

/// What the alias or the stage holds before the promotion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// This version, or none: of an alias, or of an exclusive stage.
    Known(Option<VersionNumber>),
    /// The latest version that stands in a shared stage, which is looked for only if a condition asks.
    LatestIn(StageName),
}

impl Holder {
    fn known(&self) -> Option<VersionNumber> {
        match self {
            Self::Known(number) => *number,
            Self::LatestIn(_) => None,
        }
    }
}

/// A promotion that is held against what guards its target.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) action: &'static str,
    pub(crate) target: &'a PromotionTarget,
    pub(crate) version: &'a Version,
    pub(crate) holder: Holder,
    /// Whether the version is known to have held the alias before.
    pub(crate) held_before: bool,
    pub(crate) consent: &'a Consent,
    pub(crate) governing: Governing,
}

/// One condition, and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// `registry` or `model`, the protection, and its condition.
    pub(crate) id: String,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// Whether it holds, or is waived.
    pub(crate) satisfied: bool,
    /// What would satisfy it.
    pub(crate) satisfied_by: String,
    /// The groups whose members may waive it.
    pub(crate) waivable_by: BTreeSet<String>,
    /// The waiver by which it need not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waived_by: Option<String>,
    /// Why it cannot be told whether it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// What the gate says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict {
    /// Every condition that guards the target.
    pub(crate) findings: Vec<Finding>,
    /// The settings that the verdict rests on; empty if there are none.
    pub(crate) guards: Vec<(Realm, SettingsHead)>,
    /// The protections that guard the target, with the scope of each.
    pub(crate) protections: Vec<(&'static str, Protection)>,
    /// Whether anything guards the target.
    pub(crate) is_guarded: bool,
    /// The revisions of the protections and waivers that made it.
    pub(crate) policy: Value,
    /// The version that the target holds, as far as it was looked for.
    pub(crate) holder: Option<VersionNumber>,
    /// The top of a shared stage whose latest version was looked for.
    pub(crate) judged_top: Option<u32>,
}

impl Verdict {
    /// Whether the version may go there.
    pub(crate) fn is_allowed(&self) -> bool {
        self.findings.iter().all(|finding| finding.satisfied)
    }

    /// What an event tells of the decision, if anything guards the target.
    pub(crate) fn record(&self) -> Option<Value> {
        let waived: Vec<Value> = self
            .findings
            .iter()
            .filter_map(|finding| {
                let waiver = finding.waived_by.as_ref()?;
                Some(json!({"condition": finding.id, "waiver": waiver}))
            })
            .collect();
        self.is_guarded.then(|| {
            let mut policy = self.policy.clone();
            if !waived.is_empty() {
                policy["waived"] = json!(waived);
            }
            policy
        })
    }

    /// Refuses unless every condition holds; the error names each that does not, and what would satisfy it.
    pub(crate) fn require(&self, id: &VersionId, target: &PromotionTarget) -> Result<()> {
        let failed: Vec<&Finding> = self
            .findings
            .iter()
            .filter(|finding| !finding.satisfied)
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        let advice: Vec<String> = failed
            .iter()
            .map(|finding| format!("`{}`: {}", finding.id, finding.satisfied_by))
            .collect();
        Err(Error::new(
            ErrorCode::PromotionDenied,
            format!(
                "{id} may not get to {target} by {} of its conditions: {}",
                failed.len(),
                advice.join("; ")
            ),
        )
        .with("conditions", json!(failed))
        .with("policy", self.policy.clone())
        .with("target", json!(target))
        .with("model", id.model.as_str())
        .with("version", id.number.get()))
    }
}

/// Holds a promotion against everything that guards its target.
pub(crate) async fn judge(app: &App, ask: &Ask<'_>) -> Result<Verdict> {
    let id = &ask.version.id;
    let heads = ask.governing.heads(&id.model);
    let names = names_of(&heads);
    // Where anything is governed, what is not guarded rests on that: a protection may come at the same moment.
    let unguarded = Verdict {
        guards: if heads.is_empty() {
            Vec::new()
        } else {
            ask.governing.all_heads(&id.model)
        },
        ..Verdict::default()
    };
    if !names
        .iter()
        .any(|(_, kind, _)| *kind == SettingsKind::Protections)
    {
        return Ok(unguarded);
    }
    let mut wanted = Evidence {
        settings: names.clone(),
        ..Evidence::default()
    };
    let mut needs = Needs::ALL;
    if app.registry.knows_settings(&id.tenant, &names) {
        let known = app
            .registry
            .read_evidence(&id.tenant, &id.model, &wanted)
            .await?;
        let guarding = guarding(&names, &known, ask.target)?;
        if guarding.is_empty() {
            return Ok(unguarded);
        }
        needs = Needs::of(guarding.iter().map(|(_, protection)| protection));
    }
    if needs.holder
        && let Some(holder) = ask.holder.known().filter(|holder| *holder != id.number)
    {
        wanted.versions.push(holder);
        if needs.metadata {
            wanted.documents.push((holder, "metadata"));
        }
    }
    let apart = |document: &Document| *document == Document::Item;
    if needs.metadata && apart(&ask.version.metadata) {
        wanted.documents.push((id.number, "metadata"));
    }
    if needs.notes && apart(&ask.version.notes) {
        wanted.documents.push((id.number, "notes"));
    }
    let found = app
        .registry
        .read_evidence(&id.tenant, &id.model, &wanted)
        .await?;
    let protections = guarding(&names, &found, ask.target)?;
    if protections.is_empty() {
        return Ok(unguarded);
    }
    let needs = Needs::of(protections.iter().map(|(_, protection)| protection));
    let metadata: Metadata = document(app, ask.version, "metadata", needs.metadata, &found).await?;
    let notes: Notes = document(app, ask.version, "notes", needs.notes, &found).await?;
    let (holder, judged_top) = holder_of(app, ask, needs, &metadata, &found).await?;
    let waivers = waivers_of(&names, &found)?;
    let facts = Facts {
        action: ask.action,
        target: ask.target,
        version: ask.version,
        metadata: &metadata,
        notes: &notes,
        holder: holder
            .as_ref()
            .map(|(version, metadata)| (version, metadata)),
        held_before: ask.held_before,
        requester: (&ask.consent.requester, &ask.consent.groups),
        approvers: &ask.consent.approvals,
        checks_passed: &ask.consent.checks_passed,
        now: app.clock.now(),
    };
    let mut findings = Vec::new();
    for (scope, protection) in &protections {
        findings.extend(findings_of(scope, protection, ask, &facts)?);
    }
    for finding in findings.iter_mut().filter(|finding| !finding.satisfied) {
        if let Some(waiver) = waivers
            .iter()
            .find(|waiver| waiver.allows(&finding.id, id.number, ask.target, facts.now))
        {
            finding.satisfied = true;
            finding.waived_by = Some(waiver.id.clone());
        }
    }
    Ok(Verdict {
        findings,
        policy: policy_of(&heads),
        protections,
        is_guarded: true,
        guards: unguarded.guards,
        holder: holder.map(|(version, _)| version.id.number),
        judged_top,
    })
}

/// The version that the target holds, with its metadata; and the top of a shared stage that was looked at for it.
async fn holder_of(
    app: &App,
    ask: &Ask<'_>,
    needs: Needs,
    metadata: &Metadata,
    found: &Found,
) -> Result<(Option<(Version, Metadata)>, Option<u32>)> {
    let id = &ask.version.id;
    let (held, judged_top) = match &ask.holder {
        Holder::Known(Some(number)) if *number == id.number => {
            return Ok((Some((ask.version.clone(), metadata.clone())), None));
        }
        Holder::Known(number) => {
            let held = number.and_then(|number| found.versions.get(&number));
            (held.cloned(), None)
        }
        Holder::LatestIn(stage) if needs.holder => {
            let (latest, top) = app
                .registry
                .latest_in_stage(&id.tenant, &id.model, stage)
                .await?;
            (latest, Some(top))
        }
        Holder::LatestIn(_) => (None, None),
    };
    let Some(version) = held else {
        return Ok((None, judged_top));
    };
    let wanted = needs.holder && needs.metadata;
    let metadata = document(app, &version, "metadata", wanted, found).await?;
    Ok((Some((version, metadata)), judged_top))
}

/// The revisions that a decision rests on, as events and answers show them.
fn policy_of(heads: &[(Realm, SettingsHead)]) -> Value {
    let mut policy = json!({});
    for (scope, head) in heads {
        policy[word(scope)] = json!({"protections": head.protections, "waivers": head.waivers});
    }
    policy
}

pub(crate) fn word(scope: &Realm) -> &'static str {
    match scope {
        Realm::Registry => "registry",
        Realm::Model(_) => "model",
    }
}

fn names_of(heads: &[(Realm, SettingsHead)]) -> Vec<SettingsName> {
    let mut names = Vec::new();
    for (scope, head) in heads {
        for kind in [SettingsKind::Protections, SettingsKind::Waivers] {
            if head.revision(kind) > 0 {
                names.push((scope.clone(), kind, head.revision(kind)));
            }
        }
    }
    names
}

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::internal("reading settings", error))
}

/// The protections that guard a target.
fn guarding(
    names: &[SettingsName],
    found: &Found,
    target: &PromotionTarget,
) -> Result<Vec<(&'static str, Protection)>> {
    let mut guarding = Vec::new();
    for name in names {
        if name.1 == SettingsKind::Protections
            && let Some(json) = found.settings.get(name)
        {
            let all: Protections = parse(json)?;
            let matching = all
                .protections
                .into_iter()
                .filter(|protection| protection.guards(target));
            guarding.extend(matching.map(|protection| (word(&name.0), protection)));
        }
    }
    Ok(guarding)
}

fn waivers_of(names: &[SettingsName], found: &Found) -> Result<Vec<Waiver>> {
    let mut waivers = Vec::new();
    for name in names {
        if name.1 == SettingsKind::Waivers
            && let Some(json) = found.settings.get(name)
        {
            waivers.extend(parse::<Waivers>(json)?.waivers);
        }
    }
    Ok(waivers)
}

/// Every protection of a registry and of a model, whatever they guard.
pub(crate) async fn protections_of(
    app: &App,
    caller: &Caller,
    model: &ModelName,
) -> Result<Vec<(&'static str, Protection)>> {
    let governing = app
        .registry
        .governing(&caller.tenant, model, app.clock.now())
        .await?;
    let mut all = Vec::new();
    for (scope, head) in governing.heads(model) {
        let name = (scope, SettingsKind::Protections, head.protections);
        if head.protections > 0
            && let Some(json) = app.registry.find_settings(&caller.tenant, &name).await?
        {
            let parsed: Protections = parse(&json)?;
            all.extend(
                parsed
                    .protections
                    .into_iter()
                    .map(|one| (word(&name.0), one)),
            );
        }
    }
    Ok(all)
}

/// A document of a version, from what was read; what lies in the bucket is read here, if it is needed.
async fn document<T: serde::de::DeserializeOwned + Default>(
    app: &App,
    version: &Version,
    name: &'static str,
    is_needed: bool,
    found: &Found,
) -> Result<T> {
    let place = match name {
        "metadata" => &version.metadata,
        _ => &version.notes,
    };
    if !is_needed {
        return Ok(T::default());
    }
    match (place, found.documents.get(&(version.id.number, name))) {
        (Document::Item, Some(json)) => parse(json),
        _ => Ok(app
            .load_document(&version.id, name, place)
            .await?
            .unwrap_or_default()),
    }
}

/// Every condition of one protection: expressions, freezes, checks and approvals.
fn findings_of(
    scope: &str,
    protection: &Protection,
    ask: &Ask<'_>,
    facts: &Facts<'_>,
) -> Result<Vec<Finding>> {
    let finding = |id: String, satisfied: bool, satisfied_by: String| Finding {
        id: format!("{scope}/{}/{id}", protection.id),
        description: None,
        satisfied,
        satisfied_by,
        waivable_by: protection.waiver_groups.clone(),
        waived_by: None,
        error: None,
    };
    let context = policy::context(facts, &protection.metrics)?;
    let mut findings = Vec::new();
    for condition in protection.all_conditions() {
        let answer = policy::holds(&condition, &context);
        let mut found = finding(
            condition.id.clone(),
            answer == Ok(true),
            condition.satisfied_by.clone(),
        );
        found.description.clone_from(&condition.description);
        found.error = answer.err();
        findings.push(found);
    }
    for freeze in &protection.freezes {
        let mut found = finding(
            format!("freeze:{}", freeze.id),
            !freeze.is_in_force(facts.now),
            freeze.satisfied_by(),
        );
        found.description.clone_from(&freeze.reason);
        findings.push(found);
    }
    // Who held the alias before was let in then; going back must not wait for people or machines.
    let is_return = ask.action == "roll_back"
        && ask.held_before
        && !protection
            .approval
            .as_ref()
            .is_some_and(|rule| rule.rollback_needs_approval);
    for check in &protection.checks {
        let passed = ask.consent.checks_passed.contains(&check.name);
        findings.push(finding(
            format!("check:{}", check.name),
            passed || is_return,
            format!("let check `{}` pass on a promotion request", check.name),
        ));
    }
    if let Some(rule) = &protection.approval {
        let count = rule.eligible(&ask.consent.requester, &ask.consent.approvals);
        let needed = usize::try_from(rule.needed).unwrap_or(usize::MAX);
        let by = if rule.groups.is_empty() {
            String::new()
        } else {
            let groups: Vec<&str> = rule.groups.iter().map(String::as_str).collect();
            format!(" from {}", groups.join(" or "))
        };
        findings.push(finding(
            "approval".into(),
            count >= needed || is_return,
            format!("let {needed} people{by} approve a promotion request; {count} of them did"),
        ));
    }
    Ok(findings)
}

/// Records that a promotion, or whoever tried to decide on one, was denied.
///
/// A fault in this is answered instead, so that no denial goes unrecorded.
pub(crate) async fn denied<T>(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    action: &'static str,
    reason: Option<&str>,
    outcome: Result<T>,
) -> Result<T> {
    let error = match outcome {
        Err(error)
            if matches!(
                error.code,
                ErrorCode::PromotionDenied | ErrorCode::PermissionDenied
            ) =>
        {
            error
        }
        other => return other,
    };
    let model = app.registry.home_of(&caller.tenant, &id.model).await?;
    let event = denial(app, caller, &model, action, &error)
        .of_version(id.number)
        .because(reason.map(str::to_owned));
    app.registry.record_event(&event, None).await?;
    tracing::info!(
        model.name = id.model.as_str(),
        version.number = id.number.get(),
        "Denied: {}",
        error.message
    );
    Err(error)
}

/// Records that somebody may not do something about all versions of a model.
pub(crate) async fn denied_person<T>(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    action: &'static str,
    outcome: Result<T>,
) -> Result<T> {
    if let Err(error) = &outcome
        && error.code == ErrorCode::PermissionDenied
    {
        let model = app.registry.home_of(&caller.tenant, model).await?;
        let event = denial(app, caller, &model, action, error);
        app.registry.record_event(&event, None).await?;
    }
    outcome
}

/// The event that tells of a denial.
pub(crate) fn denial(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    action: &'static str,
    error: &Error,
) -> Event {
    let detail = |name: &str| error.details.get(name).cloned().unwrap_or_default();
    let event = app
        .event(
            EventType::PromotionDenied,
            &caller.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .about(model)
        .with("action", action)
        .with("target", detail("target"))
        .with("conditions", detail("conditions"))
        .with("policy", detail("policy"));
    // Who may not is denied by no condition.
    if error.code == ErrorCode::PermissionDenied {
        event
            .with("message", error.message.as_str())
            .with("request_id", detail("request_id"))
    } else {
        event
    }
}

/// The error for a race that was lost too often.
pub(crate) fn too_busy(what: &str) -> Error {
    Error::new(
        ErrorCode::Throttled,
        format!("{what} changes too often at once; try again after a moment"),
    )
}
