//! Judges versions again after the policy or the rules have changed, from the facts in their reports.

use crate::commit::{Asked, Recommitted, recommit};
use crate::ruling::Ruling;
use crate::stored::{Rejudged, StoredReport, not_rejudgeable};
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::domain::model::{MAX_REASON, check_text};
use shared::domain::{Artifact, ModelName, Status, Version, VersionId};
use shared::dynamodb::{Outcome, WorkItem, WorkKind};
use shared::http::views::VersionView;
use shared::http::{Caller, Pages};
use shared::s3::keys;
use shared::{App, Error, ErrorCode, Result};

/// Versions that one call judges again unless it says how many.
const DEFAULT_LIMIT: usize = 10;
/// Most versions that one call judges again.
const MAX_LIMIT: usize = 20;
/// How often a lost race is run again.
const RACE_ATTEMPTS: u32 = 4;
/// Most objects of a failed version that are looked for before it becomes ready; beyond, it is read again.
const MAX_LOOKED_FOR: usize = 200;
/// Objects that are looked for at the same time.
const PARALLEL_HEADS: usize = 16;

/// Judges one version again.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RejudgeVersion {
    #[serde(default)]
    reason: Option<String>,
    /// Whether the artifacts are to be read again, which takes its time.
    #[serde(default)]
    read_artifacts: bool,
}

/// Judges versions of a model again, a page at a time.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RejudgeModel {
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    read_artifacts: bool,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
}

/// What came of judging a version again.
#[derive(Debug, Serialize)]
pub(crate) struct RejudgedView {
    /// The version as it is.
    #[serde(flatten)]
    version: VersionView,
    /// Whether the report is another one than before.
    rejudged: bool,
    /// The verdict before.
    previous_verdict: Option<String>,
    /// Files whose stored facts do not decide: their old refusals stand.
    needs_reading: Vec<String>,
    /// Whether the artifacts are going to be read again.
    reads_artifacts: bool,
}

impl RejudgedView {
    fn of(app: &App, before: &Version, after: &Version, rejudged: bool, paths: &[String]) -> Self {
        Self {
            version: VersionView::of(app, after),
            rejudged,
            previous_verdict: before
                .validation
                .as_ref()
                .map(|validation| validation.verdict.clone()),
            needs_reading: paths.to_vec(),
            reads_artifacts: false,
        }
    }
}

/// Judges a version again; the status of the answer, and the answer.
pub(crate) async fn version(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    command: &RejudgeVersion,
) -> Result<(u16, Outcome<RejudgedView>)> {
    check_text("reason", command.reason.as_deref(), MAX_REASON)?;
    if command.read_artifacts {
        let version = app.registry.version(id).await?;
        let view = read_again(app, &version).await?;
        return Ok((202, app.keep_unchanged(caller, 202, view).await?));
    }
    let asked = asked(caller, command.reason.clone());
    let outcome = again(app, caller, id, &asked, true).await?;
    Ok((200, outcome))
}

/// Judges a page of a model's versions again; what one of them does not allow is told beside it.
pub(crate) async fn model(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    command: &RejudgeModel,
) -> Result<Outcome<Value>> {
    check_text("reason", command.reason.as_deref(), MAX_REASON)?;
    let limit = match command.limit {
        None => DEFAULT_LIMIT,
        Some(limit) if (1..=MAX_LIMIT).contains(&limit) => limit,
        Some(limit) => {
            return Err(Error::invalid(
                "limit",
                format!("limit `{limit}` is out of bounds; use 1 to {MAX_LIMIT}"),
            ));
        }
    };
    let mode = if command.read_artifacts {
        "read"
    } else {
        "facts"
    };
    let pages = Pages::new(app, caller, &["rejudge", mode, model.as_str()]);
    let after = pages.after(command.cursor.as_deref())?;
    app.registry.model(&caller.tenant, model).await?;
    let page = app
        .registry
        .versions(&caller.tenant, model, true, limit, after)
        .await?;
    let asked = asked(caller, command.reason.clone());
    let mut views = Vec::with_capacity(page.items.len());
    for version in &page.items {
        let judged = if command.read_artifacts {
            read_again(app, version).await.map(Outcome::Done)
        } else {
            again(app, caller, &version.id, &asked, false).await
        };
        views.push(match judged {
            Ok(Outcome::Done(view)) => serde_json::to_value(view)
                .map_err(|error| Error::internal("writing an answer", error))?,
            Ok(Outcome::Replayed(stored)) => stored.body,
            Err(error) if error.code.status() < 500 => json!({
                "model": model, "version": version.id.number, "rejudged": false,
                "error": {"code": error.code.as_str(), "message": error.public_message()},
            }),
            Err(error) => return Err(error),
        });
    }
    let answer = pages.render("versions", views, page.after.as_deref());
    app.keep_unchanged(caller, 200, answer).await
}

fn asked(caller: &Caller, reason: Option<String>) -> Asked {
    Asked {
        actor: caller.principal.clone(),
        request_id: caller.request_id.clone(),
        reason,
    }
}

/// Judges a version again by its stored facts; `keeps_answer` stores the answer under the caller's key.
async fn again(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    asked: &Asked,
    keeps_answer: bool,
) -> Result<Outcome<RejudgedView>> {
    for _ in 0..RACE_ATTEMPTS {
        let version = app.registry.version(id).await?;
        require_judged(&version)?;
        let stored = StoredReport::of(app, &version).await?;
        stored.require_inspected(&version)?;
        let ruling = Ruling::of(app, &id.tenant).await?;
        let pinned = stored.pinned_artifacts(&version);
        let Rejudged {
            judged,
            needs_reading,
        } = stored.rejudge(&version, &ruling)?;
        let becomes_ready = version.status != Status::Ready && judged.status == Status::Ready;
        let accepted = if becomes_ready {
            let artifacts = pinned?;
            require_there(app, &version, &artifacts).await?;
            Some(artifacts)
        } else {
            None
        };
        let view_of = |after: &Version, rejudged| {
            RejudgedView::of(app, &version, after, rejudged, &needs_reading)
        };
        let recommitted = recommit(app, &version, &judged, accepted, asked, |after, at| {
            if keeps_answer {
                caller.answer(200, &view_of(after, true), at)
            } else {
                Ok(None)
            }
        })
        .await?;
        match recommitted {
            Recommitted::Committed(outcome) => {
                return Ok(outcome.map(|after| view_of(&after, true)));
            }
            Recommitted::Unchanged if keeps_answer => {
                return app
                    .keep_unchanged(caller, 200, view_of(&version, false))
                    .await;
            }
            Recommitted::Unchanged => return Ok(Outcome::Done(view_of(&version, false))),
            Recommitted::Raced => {}
        }
    }
    Err(Error::new(
        ErrorCode::Throttled,
        format!("{id} is judged again too often at once; try again after a moment"),
    ))
}

fn require_judged(version: &Version) -> Result<()> {
    if version.status == Status::PendingRegistration {
        return Err(Error::new(
            ErrorCode::VersionNotReady,
            format!(
                "{} was not validated yet; it will be judged by the policy as it is then",
                version.id
            ),
        )
        .with("status", version.status.as_str()));
    }
    Ok(())
}

/// Refuses to make a version ready whose judged objects are not all there any more.
async fn require_there(app: &App, version: &Version, artifacts: &[Artifact]) -> Result<()> {
    if artifacts.len() > MAX_LOOKED_FOR {
        return Err(not_rejudgeable(
            version,
            "it has too many artifacts to look for at once; have them read again with `read_artifacts: true`",
        )
        .with("read_artifacts", true));
    }
    // Collected first: a lazy iterator of futures that borrow would not be `Send`.
    let heads: Vec<_> = artifacts
        .iter()
        .map(|artifact| async move {
            let key = keys::artifact(&version.id, artifact);
            let head = app
                .bucket
                .head(&key, artifact.object_version.as_deref())
                .await?;
            Ok::<_, Error>(head.is_some_and(|head| head.etag == artifact.etag))
        })
        .collect();
    let found: Vec<Result<bool>> = stream::iter(heads).buffered(PARALLEL_HEADS).collect().await;
    for (artifact, is_there) in artifacts.iter().zip(found) {
        if !is_there? {
            return Err(not_rejudgeable(
                version,
                &format!(
                    "the object that was judged as `{}` is gone; register a new version",
                    artifact.path
                ),
            ));
        }
    }
    Ok(())
}

/// Has the artifacts of a version read and judged again by the next sweep.
async fn read_again(app: &App, version: &Version) -> Result<RejudgedView> {
    require_judged(version)?;
    StoredReport::of(app, version)
        .await?
        .require_inspected(version)?;
    // Due at the same time for the same judgement, so that asking twice is one piece of work.
    let judged_at = version
        .validation
        .as_ref()
        .map_or(version.updated_at, |validation| validation.at);
    let work = WorkItem::about_version(WorkKind::Revalidate, judged_at, &version.id)?;
    app.registry.add_work(&work).await?;
    tracing::info!(
        model.name = version.id.model.as_str(),
        version.number = version.id.number.get(),
        "The artifacts of {} are going to be read again",
        version.id
    );
    let mut view = RejudgedView::of(app, version, version, false, &[]);
    view.reads_artifacts = true;
    Ok(view)
}
