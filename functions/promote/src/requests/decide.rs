//! Decisions on promotion requests: people approve, reject or withdraw, checks answer, and the last yes promotes.

use super::{
    AnswerCheck, Step, Target, approval_rules, consent_of, expire, id_of, is_complete, load, look,
    tell,
};
use crate::aliases::{self, Move};
use crate::gate::{self, Consent};
use crate::settings;
use crate::stages::{self, Plan};
use serde_json::json;
use shared::domain::alias::lost;
use shared::domain::protection::ApprovalRule;
use shared::domain::request::{
    CheckStatus, Comment, Decided, Decision, PromotionRequest, RequestStatus,
};
use shared::domain::{Event, EventType, Expectation, ModelName};
use shared::dynamodb::{Committed, DECISIONS, Outcome, Promotion, RequestChange};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result, check_token};
use std::collections::BTreeSet;

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
        let decided = Box::pin(decide(app, caller, &before, step))
            .await
            .map_err(|error| {
                if error.code == ErrorCode::PermissionDenied {
                    return error
                        .with("request_id", id)
                        .with("target", json!(before.target));
                }
                error
            });
        let version = id_of(caller, &before);
        let change = gate::denied(app, caller, &version, step.action(), None, decided).await?;
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
                let denial = gate::denial(app, caller, &id.model, "promote_request", &error);
                events.push(denial.of_version(id.number));
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
pub(super) fn plain(
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
pub(super) fn answered(
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
