//! Promotion requests: asked for, approved, rejected, withdrawn, answered by checks, expired; the last yes promotes.

mod decide;
mod expire;

pub(crate) use decide::step;
pub(crate) use expire::{expire, look_after};

use crate::gate::{self, Ask, Consent, Holder, Verdict};
use crate::{settings, stages, waivers};
use serde::Deserialize;
use serde_json::json;
use shared::domain::model::{MAX_REASON, check_text};
use shared::domain::protection::ApprovalRule;
use shared::domain::request::{
    Check, CheckStatus, Comment, Decision, PromotionRequest, RequestStatus,
};
use shared::domain::version::version_not_found;
use shared::domain::{
    AliasName, Event, EventType, ModelName, PromotionTarget, StageName, VersionId, VersionNumber,
};
use shared::dynamodb::{DECISIONS, Loaded, NewRequest, Outcome, Requested, StageLoaded};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};

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

impl Step {
    /// What events of denials call it.
    fn action(&self) -> &'static str {
        match self {
            Self::Decide(Decision::Reject, _) => "reject_request",
            Self::Decide(Decision::Withdraw, _) => "withdraw_request",
            Self::Answer(_) => "answer_check",
            // The last yes promotes.
            Self::Decide(Decision::Approve, _) | Self::Promote => "promote_request",
        }
    }
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
            let holder = Holder::Known(loaded.alias.as_ref().and_then(|alias| alias.version));
            let governing = loaded.governing;
            let loaded = Target::Alias(name, Box::new(loaded));
            (loaded, version, holder, governing)
        }
        PromotionTarget::Stage(name) => {
            let loaded = app.registry.load_stage(&id, now).await?;
            let rules = settings::rules(app, &id, loaded.governing).await?;
            let to = rules.find(name)?;
            let holder = stages::holder(app, &rules, &loaded.version.id, &to).await?;
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
