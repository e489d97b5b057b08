//! Stages: a version's place in the life cycle; to archive it, and to bring it back.

use crate::gate::{self, Ask, Consent, Holder, Verdict};
use crate::settings;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::domain::model::{MAX_REASON, check_text};
use shared::domain::{
    Event, EventType, PromotionTarget, StageName, StageRules, Version, VersionId,
};
use shared::dynamodb::{
    Committed, DECISIONS, Governing, Outcome, StageChange, StageHolder, StageLoaded,
};
use shared::http::Caller;
use shared::http::views::VersionView;
use shared::{App, Error, ErrorCode, Result};

/// Most versions that are archived together: each is two writes of a transaction of a hundred.
const MOST_ARCHIVED: usize = 40;

/// Moves a version to another stage.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeStage {
    pub(crate) stage: String,
    #[serde(default)]
    pub(crate) expected_stage: Option<String>,
    /// Whether all other versions in the stage are archived, in the same transaction.
    #[serde(default)]
    pub(crate) archive_existing: bool,
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// Archives a version, or brings it back.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Archiving {
    #[serde(default)]
    reason: Option<String>,
}

/// Where a version shall go.
#[derive(Debug)]
pub(crate) enum Wish {
    /// To a stage.
    To(ChangeStage),
    /// To where versions are archived.
    Archive(Archiving),
    /// Back to the stage that it was archived from.
    Unarchive(Archiving),
}

impl Wish {
    fn reason(&self) -> Option<&str> {
        match self {
            Self::To(command) => command.reason.as_deref(),
            Self::Archive(command) | Self::Unarchive(command) => command.reason.as_deref(),
        }
    }

    fn archives_existing(&self) -> bool {
        matches!(self, Self::To(command) if command.archive_existing)
    }
}

/// How an edge shows a version, for the answer that goes under an idempotency key too.
pub(crate) type Show<'a> = &'a (dyn Fn(&Version) -> Value + Send + Sync);

/// As the native API shows a version.
pub(crate) fn native(app: &App, version: &Version) -> Value {
    serde_json::to_value(VersionView::of(app, version)).unwrap_or_default()
}

/// Moves a version to another stage, and answers as an edge shows it.
pub(crate) async fn change(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    wish: &Wish,
    show: Show<'_>,
) -> Result<Outcome<Value>> {
    check_text("reason", wish.reason(), MAX_REASON)?;
    let outcome = try_to_change(app, caller, id, wish, show).await;
    gate::denied(app, caller, id, "change_stage", wish.reason(), outcome).await
}

async fn try_to_change(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    wish: &Wish,
    show: Show<'_>,
) -> Result<Outcome<Value>> {
    let consent = Consent::of(caller);
    // Without an expectation somebody else may move it between our read and our write; then the truth is read again.
    for attempt in 1..=DECISIONS {
        let loaded = app.registry.load_stage(id, app.clock.now()).await?;
        let Some(mut change) = decide(app, caller, wish, &consent, &loaded).await? else {
            return app.keep_unchanged(caller, 200, show(&loaded.version)).await;
        };
        let view = show(&after(&change));
        change.answer = caller.answer(200, &view, change.event.time)?;
        match app.registry.commit_stage(&change, attempt).await? {
            Committed::Done => {
                tracing::info!(
                    model.name = id.model.as_str(),
                    version.number = id.number.get(),
                    "Moved {id} to stage `{}`",
                    change.to
                );
                return Ok(Outcome::Done(view));
            }
            Committed::Replayed(response) => return Ok(Outcome::Replayed(response)),
            Committed::Lost => {}
        }
    }
    Err(gate::too_busy(&id.to_string()))
}

/// The version as it will be.
fn after(change: &StageChange) -> Version {
    let mut after = change.before.clone();
    after.standing.past_stages = after.standing.after_leaving(&after.stage);
    after.stage = change.to.clone();
    after.updated_at = change.event.time;
    after
}

/// Where a version stands and where it shall go, by the rules of its model.
fn destination(rules: &StageRules, version: &Version, wish: &Wish) -> Result<StageName> {
    let no_archive = || {
        Error::new(
            ErrorCode::Conflict,
            format!(
                "the stages of `{}` have no archive; name one in `archive`",
                version.id.model
            ),
        )
    };
    match wish {
        Wish::To(command) => {
            let expected = command
                .expected_stage
                .as_deref()
                .map(|name| find(rules, version, name))
                .transpose()?;
            let to = rules.find(&command.stage)?;
            if expected.is_some_and(|expected| expected != version.stage) {
                return Err(moved(version));
            }
            if version.stage != to {
                rules.check_transition(&version.stage, &to)?;
            }
            Ok(to)
        }
        Wish::Archive(_) => rules.archive_stage().ok_or_else(no_archive),
        Wish::Unarchive(_) => {
            let archive = rules.archive_stage().ok_or_else(no_archive)?;
            if version.stage != archive {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    format!(
                        "{} is not archived, it is in stage `{}`; nothing is to be brought back",
                        version.id, version.stage
                    ),
                )
                .with("current", json!({"stage": version.stage.as_str()})));
            }
            let past = version.standing.past_stages.iter().rev();
            let back = past
                .filter(|past| **past != archive)
                .find_map(|past| rules.find(past.as_str()).ok());
            back.map_or_else(|| rules.find(shared::domain::stage::NO_STAGE), Ok)
        }
    }
}

/// A stage that is expected may be one that was configured away while the version stood in it.
fn find(rules: &StageRules, version: &Version, name: &str) -> Result<StageName> {
    if version.stage.as_str().eq_ignore_ascii_case(name) {
        return Ok(version.stage.clone());
    }
    rules.find(name)
}

/// Decides what a change of stage consists of; `None` if the version stands there already.
async fn decide(
    app: &App,
    caller: &Caller,
    wish: &Wish,
    consent: &Consent,
    loaded: &StageLoaded,
) -> Result<Option<StageChange>> {
    let version = &loaded.version;
    version.require_promotable()?;
    let rules = settings::rules(app, &version.id, loaded.governing).await?;
    let to = destination(&rules, version, wish)?;
    if version.stage == to {
        return Ok(None);
    }
    stage_change(
        app,
        caller,
        &rules,
        &Plan {
            to,
            archives_existing: wish.archives_existing(),
            reason: wish.reason().map(str::to_owned),
            consent,
            request: None,
        },
        loaded,
    )
    .await
    .map(Some)
}

/// A change of stage whose destination is known.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) to: StageName,
    pub(crate) archives_existing: bool,
    pub(crate) reason: Option<String>,
    pub(crate) consent: &'a Consent,
    /// The promotion request that ends with it.
    pub(crate) request: Option<String>,
}

/// Puts a change of stage together: who is archived by it, what guards it, what tells it.
pub(crate) async fn stage_change(
    app: &App,
    caller: &Caller,
    rules: &StageRules,
    plan: &Plan<'_>,
    loaded: &StageLoaded,
) -> Result<StageChange> {
    let (version, governing) = (&loaded.version, loaded.governing);
    let Plan { to, consent, .. } = plan;
    let id = &version.id;
    let entered = entered(app, rules, governing, version, to).await?;
    let target = PromotionTarget::Stage(to.to_string());
    let ask = Ask {
        action: "change_stage",
        target: &target,
        version,
        holder: if rules.is_exclusive(to) {
            Holder::Known(entered.holder)
        } else {
            Holder::LatestIn(to.clone())
        },
        held_before: false,
        consent,
        governing,
    };
    let verdict = gate::judge(app, &ask).await?;
    verdict.require(id, &target)?;
    let mut existing = entered.existing;
    if plan.archives_existing && entered.enters.is_none() {
        let there = app
            .registry
            .versions_in_stage(&id.tenant, &id.model, to)
            .await?;
        existing = there.into_iter().filter(|other| other.id != *id).collect();
    }
    if existing.len() > MOST_ARCHIVED {
        return Err(Error::new(
            ErrorCode::Conflict,
            format!(
                "{} versions of `{}` stand in stage `{to}`, and at most {MOST_ARCHIVED} are archived together; archive some of them first",
                existing.len(),
                id.model
            ),
        ));
    }
    let archive_to = rules.archive_stage();
    if !existing.is_empty() && (archive_to.is_none() || archive_to.as_ref() == Some(to)) {
        return Err(Error::invalid(
            "archive_existing",
            format!(
                "versions in stage `{to}` cannot be archived; the stages name no other archive"
            ),
        ));
    }
    let tell = |version: &Version, to: &StageName| {
        app.event(
            EventType::VersionStageChanged,
            &id.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .about(&id.model)
        .of_version(version.id.number)
        .because(plan.reason.clone())
        .with("from", version.stage.as_str())
        .with("to", to.as_str())
    };
    let event = with_policy(tell(version, to), &verdict);
    let event = match &plan.request {
        Some(request) => event.with("request_id", request.as_str()),
        None => event,
    };
    let archived = existing
        .into_iter()
        .map(|other| {
            let archive = archive_to.as_ref().unwrap_or(to);
            let event = tell(&other, archive).with("archived_for", id.number.get());
            (other, event)
        })
        .collect();
    let leaves_exclusive = rules.is_exclusive(&version.stage)
        && app
            .registry
            .stage_holder(&id.tenant, &id.model, &version.stage)
            .await?
            .is_some_and(|holder| holder.version == Some(id.number));
    Ok(StageChange {
        before: version.clone(),
        to: to.clone(),
        event,
        archived,
        archive_to,
        enters: entered.enters,
        leaves_exclusive,
        guards: governing.all_heads(&id.model),
        is_guarded: verdict.is_guarded,
        judged_top: verdict.judged_top,
        closes_request: plan.request.is_some(),
        answer: None,
    })
}

fn with_policy(event: Event, verdict: &Verdict) -> Event {
    match verdict.record() {
        Some(policy) => event.with("policy", policy),
        None => event,
    }
}

/// What entering an exclusive stage means.
#[derive(Debug, Default)]
struct Entered {
    /// The version that it holds.
    holder: Option<shared::domain::VersionNumber>,
    /// All versions that stand there.
    existing: Vec<Version>,
    /// Who was seen there, and the rules under which the new holder gets there.
    enters: Option<(Option<StageHolder>, String)>,
}

async fn entered(
    app: &App,
    rules: &StageRules,
    governing: Governing,
    version: &Version,
    to: &StageName,
) -> Result<Entered> {
    let id = &version.id;
    if !rules.is_exclusive(to) {
        return Ok(Entered::default());
    }
    let by = format!("{}/{}", governing.registry.stages, governing.model.stages);
    let seen = app.registry.stage_holder(&id.tenant, &id.model, to).await?;
    let existing = match &seen {
        // Under these rules nobody got there but through this item.
        Some(holder) if holder.rules == by => {
            let numbers: Vec<_> = holder.version.into_iter().collect();
            app.registry
                .versions_by_number(&id.tenant, &id.model, &numbers)
                .await?
        }
        _ => {
            app.registry
                .versions_in_stage(&id.tenant, &id.model, to)
                .await?
        }
    };
    let existing: Vec<Version> = existing
        .into_iter()
        .filter(|other| other.id != *id && other.stage == *to)
        .collect();
    Ok(Entered {
        holder: existing.last().map(|other| other.id.number),
        existing,
        enters: Some((seen, by)),
    })
}

/// What a stage holds: an exclusive one its version, a shared one the latest that stands there.
pub(crate) async fn holder(
    app: &App,
    rules: &StageRules,
    id: &VersionId,
    stage: &StageName,
) -> Result<Holder> {
    if !rules.is_exclusive(stage) {
        return Ok(Holder::LatestIn(stage.clone()));
    }
    let seen = app
        .registry
        .stage_holder(&id.tenant, &id.model, stage)
        .await?;
    Ok(Holder::Known(seen.and_then(|seen| seen.version)))
}

pub(crate) fn moved(current: &Version) -> Error {
    Error::new(
        ErrorCode::Conflict,
        format!(
            "{} is in stage `{}`; read it again and decide anew",
            current.id, current.stage
        ),
    )
    .with("current", json!({"stage": current.stage.as_str()}))
}
