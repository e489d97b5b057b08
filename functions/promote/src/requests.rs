//! Promotion requests: asked for, approved, rejected, withdrawn, answered by checks, expired; the last yes promotes.

use crate::aliases::{self, Move};
use crate::gate::{self, Ask, Consent, Verdict};
use crate::stages::{self, Plan};
use crate::{settings, waivers};
use serde::Deserialize;
use serde_json::json;
use shared::domain::alias::lost;
use shared::domain::model::{MAX_REASON, check_text};
use shared::domain::protection::ApprovalRule;
use shared::domain::request::{
    Check, CheckStatus, Comment, Decided, Decision, PromotionRequest, RequestStatus,
};
use shared::domain::version::version_not_found;
use shared::domain::{
    AliasName, Event, EventType, Expectation, ModelName, PromotionTarget, StageName, VersionId,
    VersionNumber,
};
use shared::dynamodb::{
    Committed, DECISIONS, Loaded, NewRequest, Outcome, Promotion, RequestChange, Requested,
    StageLoaded,
};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result, check_token};
use std::collections::BTreeSet;

/// Asks for a promotion.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestPromotion {
    version: VersionNumber,
    #[serde(default)]
    alias: Option<AliasName>,
    #[serde(default)]
    stage: Option<StageName>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    evidence: Vec<String>,
}

/// The answer of an automatic check.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnswerCheck {
    check: String,
    token: String,
    passed: bool,
    #[serde(default)]
    details: Option<String>,
    #[serde(default)]
    evidence: Vec<String>,
}

/// What somebody does to a request.
#[derive(Debug)]
pub(crate) enum Step {
    /// A person decides.
    Decide(Decision, Comment),
    /// An automatic check answers.
    Answer(AnswerCheck),
    /// Everything is there; promote.
    Promote,
}

/// What guards the target of a request: what was loaded, and the verdict with the consent so far.
#[derive(Debug)]
struct Standing {
    loaded: Target,
    verdict: Verdict,
}

/// The target of a request, as it is.
#[derive(Debug)]
enum Target {
    Alias(AliasName, Box<Loaded>),
    Stage(StageName, Box<StageLoaded>),
}

fn id_of(caller: &Caller, request: &PromotionRequest) -> VersionId {
    VersionId {
        tenant: caller.tenant.clone(),
        model: request.model.clone(),
        number: request.version,
    }
}

fn not_found(model: &ModelName, id: &str) -> Error {
    Error::new(
        ErrorCode::RequestNotFound,
        format!("`{model}` has no promotion request `{id}`; list its requests"),
    )
}

async fn load(app: &App, caller: &Caller, model: &ModelName, id: &str) -> Result<PromotionRequest> {
    let model = app.registry.home_of(&caller.tenant, model).await?;
    app.registry
        .find_request(&caller.tenant, &model, id)
        .await?
        .ok_or_else(|| not_found(&model, id))
}

pub(crate) async fn get(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    id: &str,
) -> Result<PromotionRequest> {
    load(app, caller, model, id).await
}

/// Loads the target of a request with everything that guards it.
async fn look(
    app: &App,
    caller: &Caller,
    request: &PromotionRequest,
    consent: &Consent,
) -> Result<Standing> {
    let id = id_of(caller, request);
    let now = app.clock.now();
    let (loaded, version, holder, governing) = match &request.target {
        PromotionTarget::Alias(name) => {
            let name = AliasName::parse(name.as_str())?;
            let loaded = app
                .registry
                .load_alias(&id.tenant, &id.model, &name, Some(id.number), false, now)
                .await?;
            let version = loaded.version.clone();
            let version = version.ok_or_else(|| version_not_found(&id))?;
            let holder = loaded.alias.as_ref().and_then(|alias| alias.version);
            let governing = loaded.governing;
            let loaded = Target::Alias(name, Box::new(loaded));
            (loaded, version, holder, governing)
        }
        PromotionTarget::Stage(name) => {
            let loaded = app.registry.load_stage(&id, now).await?;
            let rules = settings::rules(app, &id, loaded.governing).await?;
            let to = rules.find(name)?;
            let mut holder = None;
            if rules.is_exclusive(&to) {
                let seen = app
                    .registry
                    .stage_holder(&id.tenant, &id.model, &to)
                    .await?;
                holder = seen.and_then(|seen| seen.version);
            }
            let (version, governing) = (loaded.version.clone(), loaded.governing);
            let loaded = Target::Stage(to, Box::new(loaded));
            (loaded, version, holder, governing)
        }
    };
    let ask = Ask {
        action: match &request.target {
            PromotionTarget::Alias(_) => "set_alias",
            PromotionTarget::Stage(_) => "change_stage",
        },
        target: &request.target,
        version: &version,
        holder,
        held_before: false,
        consent,
        governing,
    };
    let verdict = gate::judge(app, &ask).await?;
    Ok(Standing { loaded, verdict })
}

fn consent_of(request: &PromotionRequest) -> Consent {
    Consent {
        requester: request.requested_by.clone(),
        groups: request.requester_groups.clone(),
        approvals: request.approvals(),
        checks_passed: request.checks_passed(),
    }
}

/// The rules of approval of a target; one approval by somebody else where nothing says otherwise.
fn approval_rules(verdict: &Verdict) -> Vec<ApprovalRule> {
    let mut rules: Vec<ApprovalRule> = verdict
        .protections
        .iter()
        .filter_map(|(_, protection)| protection.approval.clone())
        .collect();
    if rules.is_empty() {
        rules.push(ApprovalRule::default());
    }
    rules
}

/// Whether every approval and every check that is asked for is there.
fn is_complete(request: &PromotionRequest, rules: &[ApprovalRule]) -> bool {
    let approvals = request.approvals();
    let has_approvals = rules.iter().all(|rule| {
        let needed = usize::try_from(rule.needed).unwrap_or(usize::MAX);
        rule.eligible(&request.requested_by, &approvals) >= needed
    });
    has_approvals
        && request
            .checks
            .iter()
            .all(|check| check.status == CheckStatus::Passed)
}

fn tell(app: &App, caller: &Caller, kind: EventType, request: &PromotionRequest) -> Event {
    app.event(kind, &caller.tenant, &caller.principal, &caller.request_id)
        .about(&request.model)
        .of_version(request.version)
        .with("request_id", request.id.as_str())
        .with("target", json!(request.target))
}

/// Opens a request and asks its checks.
pub(crate) async fn open(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    command: &RequestPromotion,
) -> Result<Outcome<PromotionRequest>> {
    check_text("reason", command.reason.as_deref(), MAX_REASON)?;
    let said = Comment {
        comment: None,
        evidence: command.evidence.clone(),
    };
    said.check()?;
    let target = waivers::target(command.alias.as_ref(), command.stage.as_ref())?;
    let Some(target) = target else {
        return Err(Error::invalid(
            "alias",
            "name the `alias` or the `stage` that the version shall get to",
        ));
    };
    for _ in 1..=DECISIONS {
        let new = draft(app, caller, model, command, &target).await?;
        match app.registry.open_request(&new).await? {
            Requested::Done(outcome) => {
                tracing::info!(
                    model.name = model.as_str(),
                    version.number = new.request.version.get(),
                    "Opened promotion request {}",
                    new.request.id
                );
                return Ok(outcome.map(|()| new.request));
            }
            Requested::Taken(other, expires_at) if expires_at <= app.clock.now() => {
                expire(app, &caller.tenant, &new.request.model, &other).await?;
            }
            Requested::Taken(other, _) => {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    format!(
                        "promotion request `{other}` is open for {target} of `{model}`; decide on it or withdraw it first"
                    ),
                )
                .with("current", json!({"request_id": other})));
            }
            Requested::Lost => {}
        }
    }
    Err(gate::too_busy(&format!("`{model}`")))
}

async fn draft(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    command: &RequestPromotion,
    target: &PromotionTarget,
) -> Result<NewRequest> {
    let now = app.clock.now();
    let model = &app.registry.home_of(&caller.tenant, model).await?;
    let mut request = PromotionRequest {
        id: app.ids.next(),
        model: model.clone(),
        version: command.version,
        target: target.clone(),
        status: RequestStatus::Open,
        requested_by: caller.principal.clone(),
        requester_groups: caller.groups.clone(),
        reason: command.reason.clone(),
        evidence: command.evidence.clone(),
        created_at: now,
        expires_at: now,
        closed_at: None,
        expected_sequence: None,
        expected_stage: None,
        decisions: Vec::new(),
        checks: Vec::new(),
        revision: 1,
    };
    let standing = look(app, caller, &request, &consent_of(&request)).await?;
    let holds_already = |what: String| {
        Error::new(
            ErrorCode::Conflict,
            format!("{what} already; nothing is to be asked for"),
        )
    };
    let version = match &standing.loaded {
        Target::Alias(name, loaded) => {
            if let Some(at) = loaded.model_deleted_at {
                return Err(shared::domain::model::deleted_model(model, at));
            }
            let alias = loaded.alias.as_ref();
            if alias.and_then(|alias| alias.version) == Some(request.version) {
                return Err(holds_already(format!(
                    "alias `{name}` of `{model}` holds version {}",
                    request.version
                )));
            }
            request.expected_sequence = Some(alias.map_or(0, |alias| alias.sequence));
            let version = loaded.version.clone();
            version.ok_or_else(|| version_not_found(&id_of(caller, &request)))?
        }
        Target::Stage(to, loaded) => {
            let version = loaded.version.clone();
            let rules = settings::rules(app, &version.id, loaded.governing).await?;
            if version.stage == *to {
                return Err(holds_already(format!("{} is in stage `{to}`", version.id)));
            }
            rules.check_transition(&version.stage, to)?;
            request.target = PromotionTarget::Stage(to.to_string());
            request.expected_stage = Some(version.stage.to_string());
            version
        }
    };
    version.require_promotable()?;
    let hours = approval_rules(&standing.verdict)
        .iter()
        .map(|rule| rule.expires_after_hours)
        .min();
    let hours = u64::from(hours.unwrap_or(168));
    request.expires_at = now.plus_millis(hours * 3_600_000);
    for (_, protection) in &standing.verdict.protections {
        for rule in &protection.checks {
            let is_new = !request.checks.iter().any(|check| check.name == rule.name);
            if is_new {
                let due = now.plus_millis(u64::from(rule.timeout_minutes) * 60_000);
                request.checks.push(Check {
                    name: rule.name.clone(),
                    status: CheckStatus::Pending,
                    due_at: due.min(request.expires_at),
                    said: Comment::default(),
                    answered_at: None,
                });
            }
        }
    }
    let opened = tell(app, caller, EventType::PromotionRequested, &request)
        .because(request.reason.clone())
        .with("request", json!(request));
    let mut events = vec![opened];
    for check in &request.checks {
        let asked = tell(app, caller, EventType::CheckRequested, &request)
            .with("check", check.name.as_str())
            .with("due_at", json!(check.due_at));
        events.push(asked);
    }
    Ok(NewRequest {
        tenant: caller.tenant.clone(),
        answer: caller.answer(201, &request, now)?,
        version,
        events,
        request,
    })
}

/// Takes a step on a request; the last one that is needed promotes in the same transaction.
pub(crate) async fn step(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    id: &str,
    step: &Step,
) -> Result<Outcome<PromotionRequest>> {
    if let Step::Decide(_, said) = step {
        said.check()?;
    }
    for attempt in 1..=DECISIONS {
        let before = load(app, caller, model, id).await?;
        if before.status == RequestStatus::Open && before.expires_at <= app.clock.now() {
            expire(app, &caller.tenant, &before.model, id).await?;
        }
        before.require_open(app.clock.now())?;
        let decided = decide(app, caller, &before, step).await;
        let version = id_of(caller, &before);
        let change = gate::denied(app, caller, &version, "promote_request", None, decided).await?;
        match app.registry.change_request(&change, attempt).await? {
            Committed::Done => {
                tracing::info!(
                    model.name = model.as_str(),
                    version.number = change.after.version.get(),
                    "Promotion request {id} is {}",
                    change.after.status
                );
                return Ok(Outcome::Done(change.after));
            }
            Committed::Replayed(response) => return Ok(Outcome::Replayed(response)),
            Committed::Lost => {}
        }
    }
    Err(gate::too_busy(&format!("promotion request `{id}`")))
}

async fn decide(
    app: &App,
    caller: &Caller,
    before: &PromotionRequest,
    step: &Step,
) -> Result<RequestChange> {
    let now = app.clock.now();
    let mut after = before.clone();
    after.revision += 1;
    let mut events = Vec::new();
    match step {
        Step::Decide(Decision::Withdraw, said) => {
            if before.requested_by != caller.principal {
                return Err(Error::new(
                    ErrorCode::PermissionDenied,
                    format!(
                        "only `{}`, who asked, may withdraw the request; reject it instead",
                        before.requested_by
                    ),
                ));
            }
            after.decide(decided(caller, Decision::Withdraw, said, now))?;
            events.push(said_in(
                tell(app, caller, EventType::PromotionWithdrawn, before),
                said,
            ));
            return plain(caller, before, after, events);
        }
        Step::Answer(answer) => {
            let said = Comment {
                comment: answer.details.clone(),
                evidence: answer.evidence.clone(),
            };
            said.check()?;
            require_token(app, caller, before, answer)?;
            let status = match answer.passed {
                _ if before.checks.iter().any(|check| {
                    check.name == answer.check
                        && check.status == CheckStatus::Pending
                        && check.due_at <= now
                }) =>
                {
                    CheckStatus::TimedOut
                }
                true => CheckStatus::Passed,
                false => CheckStatus::Failed,
            };
            after.answer(&answer.check, status, said, now)?;
            events.extend(answered(app, caller, before, &after, &answer.check));
        }
        Step::Decide(..) | Step::Promote => {}
    }
    if after.status != RequestStatus::Open {
        return plain(caller, before, after, events);
    }
    let seen = look(app, caller, before, &consent_of(before)).await?;
    let rules = approval_rules(&seen.verdict);
    if let Step::Decide(decision, said) = step {
        require_approver(caller, before, &rules)?;
        after.decide(decided(caller, *decision, said, now))?;
        if *decision == Decision::Reject {
            events.push(said_in(
                tell(app, caller, EventType::PromotionRejected, before),
                said,
            ));
            return plain(caller, before, after, events);
        }
        events.push(said_in(
            tell(app, caller, EventType::PromotionApproved, before),
            said,
        ));
    }
    let is_complete = is_complete(&after, &rules);
    if matches!(step, Step::Promote) && !is_complete {
        return Err(Error::new(
            ErrorCode::Conflict,
            format!(
                "promotion request `{}` still waits for approvals or checks; let them come first",
                before.id
            ),
        ));
    }
    let promotes = rules.iter().all(|rule| rule.auto_promote) || matches!(step, Step::Promote);
    if !is_complete || !promotes {
        return plain(caller, before, after, events);
    }
    let consent = consent_of(&after);
    let standing = look(app, caller, before, &consent).await?;
    if !standing.verdict.is_allowed() {
        let id = id_of(caller, before);
        let denial = standing.verdict.require(&id, &before.target);
        // A yes counts though something else still stands in the way; to promote comes afterwards.
        return match (step, denial) {
            (Step::Promote, Err(error)) => Err(error),
            (_, Err(error)) => {
                events.push(gate::denial(app, caller, &id, "promote_request", &error));
                plain(caller, before, after, events)
            }
            (_, Ok(())) => plain(caller, before, after, events),
        };
    }
    after.close(RequestStatus::Promoted, now);
    let promotion = promotion(app, caller, before, &standing.loaded, &consent).await?;
    let mut change = plain(caller, before, after, events)?;
    change.promotion = Some(promotion);
    Ok(change)
}

fn decided(
    caller: &Caller,
    decision: Decision,
    said: &Comment,
    at: shared::domain::Timestamp,
) -> Decided {
    Decided {
        by: caller.principal.clone(),
        groups: caller.groups.iter().cloned().collect(),
        decision,
        said: said.clone(),
        at,
    }
}

fn said_in(event: Event, said: &Comment) -> Event {
    event
        .with("comment", json!(said.comment))
        .with("evidence", json!(said.evidence))
}

/// A change of a request that promotes nothing.
fn plain(
    caller: &Caller,
    before: &PromotionRequest,
    after: PromotionRequest,
    events: Vec<Event>,
) -> Result<RequestChange> {
    let at = events.first().map_or(before.created_at, |event| event.time);
    Ok(RequestChange {
        tenant: caller.tenant.clone(),
        before: before.clone(),
        answer: caller.answer(200, &after, at)?,
        after,
        events,
        promotion: None,
    })
}

/// Refuses who may not decide on a request.
fn require_approver(
    caller: &Caller,
    request: &PromotionRequest,
    rules: &[ApprovalRule],
) -> Result<()> {
    let groups: BTreeSet<String> = caller.groups.iter().cloned().collect();
    let may = rules
        .iter()
        .any(|rule| rule.may_approve(&request.requested_by, &caller.principal, &groups));
    if may {
        return Ok(());
    }
    let advice = if caller.principal == request.requested_by {
        "who asked may not decide; somebody else must".to_owned()
    } else {
        let groups: BTreeSet<&str> = rules
            .iter()
            .flat_map(|rule| &rule.groups)
            .map(String::as_str)
            .collect();
        let groups: Vec<&str> = groups.into_iter().collect();
        format!("only members of {} decide", groups.join(" or "))
    };
    Err(Error::new(
        ErrorCode::PermissionDenied,
        format!(
            "you may not decide on promotion request `{}`: {advice}",
            request.id
        ),
    ))
}

fn require_token(
    app: &App,
    caller: &Caller,
    request: &PromotionRequest,
    answer: &AnswerCheck,
) -> Result<()> {
    let what = (request.id.as_str(), answer.check.as_str());
    if check_token::is_genuine(
        &app.config,
        &caller.tenant,
        &request.model,
        what,
        &answer.token,
    ) {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::PermissionDenied,
        "the token is not the one that `check.requested` brought for this check of this request; use that one",
    ))
}

/// The events of a check's answer.
fn answered(
    app: &App,
    caller: &Caller,
    before: &PromotionRequest,
    after: &PromotionRequest,
    name: &str,
) -> Vec<Event> {
    let Some(check) = after.checks.iter().find(|check| check.name == name) else {
        return Vec::new();
    };
    let event = tell(app, caller, EventType::CheckAnswered, before)
        .with("check", name)
        .with("status", json!(check.status))
        .with("details", json!(check.said.comment))
        .with("evidence", json!(check.said.evidence));
    let mut events = vec![event];
    if after.status == RequestStatus::Rejected {
        let rejected = tell(app, caller, EventType::PromotionRejected, before)
            .with("comment", format!("check `{name}` did not pass"));
        events.push(rejected);
    }
    events
}

/// The promotion that ends a request: compare-and-swap on what the request saw.
async fn promotion(
    app: &App,
    caller: &Caller,
    request: &PromotionRequest,
    loaded: &Target,
    consent: &Consent,
) -> Result<Promotion> {
    match loaded {
        Target::Alias(name, loaded) => {
            let current = loaded.alias.as_ref();
            let sequence = current.map_or(0, |alias| alias.sequence);
            if request.expected_sequence != Some(sequence) {
                return Err(lost(name, &request.model, current));
            }
            let wanted = Move {
                kind: EventType::AliasSet,
                target: Some(request.version),
                expectation: Expectation::Unconditional,
                expected_sequence: Some(sequence),
                reason: request.reason.clone(),
                held_before: Some(false),
                request: Some(request.id.clone()),
            };
            let change =
                aliases::decide(app, caller, &request.model, name, &wanted, consent, loaded)
                    .await?;
            let change = change.ok_or_else(|| lost(name, &request.model, current))?;
            let seen = loaded.alias.clone().map(Box::new);
            Ok(Promotion::Alias(Box::new(change), seen))
        }
        Target::Stage(to, loaded) => {
            let version = &loaded.version;
            version.require_promotable()?;
            if request.expected_stage.as_deref() != Some(version.stage.as_str()) {
                return Err(stages::moved(version));
            }
            let rules = settings::rules(app, &version.id, loaded.governing).await?;
            rules.check_transition(&version.stage, to)?;
            let plan = Plan {
                to: to.clone(),
                archives_existing: false,
                reason: request.reason.clone(),
                consent,
                request: Some(request.id.clone()),
            };
            let change = stages::stage_change(app, caller, &rules, &plan, loaded).await?;
            Ok(Promotion::Stage(Box::new(change)))
        }
    }
}

/// Ends a request whose time is over, or fails its checks whose time is over; nothing happens if neither is so.
pub(crate) async fn expire(
    app: &App,
    tenant: &shared::domain::TenantName,
    model: &ModelName,
    id: &str,
) -> Result<()> {
    // The sweep knows the home alone; the head of the model counts its requests under the name that it has by now.
    let model = &app.registry.home_of(tenant, model).await?;
    let Some(before) = app.registry.find_request(tenant, model, id).await? else {
        return Ok(());
    };
    let now = app.clock.now();
    if before.status != RequestStatus::Open || before.due_at() > now {
        return Ok(());
    }
    let caller = Caller {
        tenant: tenant.clone(),
        principal: shared::domain::Principal::parse("slipway")?,
        groups: Vec::new(),
        scope: None,
        request_id: app.ids.next(),
        idempotency: None,
    };
    let mut after = before.clone();
    after.revision += 1;
    let mut events = Vec::new();
    if before.expires_at <= now {
        after.close(RequestStatus::Expired, now);
        events.push(tell(app, &caller, EventType::PromotionExpired, &before));
    } else if let Some(late) = before
        .checks
        .iter()
        .find(|check| check.status == CheckStatus::Pending && check.due_at <= now)
    {
        let said = Comment {
            comment: Some("it gave no answer in time".into()),
            evidence: Vec::new(),
        };
        after.answer(&late.name, CheckStatus::TimedOut, said, now)?;
        events.extend(answered(app, &caller, &before, &after, &late.name));
    }
    let change = plain(&caller, &before, after, events)?;
    // Whoever was faster decided on it.
    app.registry.change_request(&change, 1).await.map(drop)
}

/// What a piece of work about a request is about.
#[derive(Debug, Deserialize)]
struct Subject {
    tenant: shared::domain::TenantName,
    /// The home of the model, so that a renaming does not lose the work.
    model: String,
    request: String,
}

/// Looks after a request that is due.
pub(crate) async fn look_after(app: &App, work: &shared::dynamodb::WorkItem) -> Result<()> {
    let subject: Subject = serde_json::from_str(&work.subject).map_err(|error| {
        Error::new(
            ErrorCode::InvalidArgument,
            "the subject of a work item is no promotion request",
        )
        .caused_by(error)
    })?;
    let model = ModelName::of_home(subject.model)?;
    expire(app, &subject.tenant, &model, &subject.request).await?;
    let found = app
        .registry
        .find_request(&subject.tenant, &model, &subject.request)
        .await?;
    match found {
        // Somebody was faster, and it is open still: it is due again under another row, or under this one.
        Some(request) if request.status == RequestStatus::Open && request.due_at() == work.due => {
            Ok(())
        }
        _ => app.registry.finish_work(work).await,
    }
}
