//! Reads the artifacts of judged versions again, where somebody asked for it, and judges them anew.
//!
//! A ready version stays what it is while this goes on. What cannot be finished is tried again for a while, and then
//! left as it was judged before, which the log tells.

use crate::allowance::Allowance;
use crate::checkpoint::Progress;
use crate::commit::{Asked, Recommitted, itself, recommit};
use crate::examine::{Examined, Patience, examine};
use crate::settle::declared_artifacts;
use shared::domain::{Artifact, DeclaredArtifact, Status, Timestamp, Version, VersionId};
use shared::dynamodb::{WorkItem, WorkKind};
use shared::s3::keys;
use shared::{App, ErrorCode, Result};
use std::sync::Arc;

/// Most versions that one sweep reads again.
const MOST_ITEMS: usize = 20;
/// How long it is tried, in milliseconds, before it is given up.
const PATIENCE_MILLIS: u64 = 24 * 3_600 * 1000;
/// The wait before the next try, in milliseconds.
const WAIT_MILLIS: u64 = 5 * 60 * 1000;

/// Reads every version again for which it is asked; how many, and how many of these failed.
pub(crate) async fn sweep(app: &App, allowance: &Arc<Allowance>) -> Result<(usize, usize)> {
    let now = app.clock.now();
    let due = app
        .registry
        .due_work(WorkKind::Revalidate, now, MOST_ITEMS)
        .await?;
    let (mut looked_at, mut failed) = (0, 0);
    for work in due {
        if allowance.is_half_over() {
            break;
        }
        looked_at += 1;
        if let Err(error) = look(app, &work, now, allowance).await {
            failed += 1;
            tracing::warn!(
                work.subject = work.subject,
                error = error.chain(),
                code = error.code.as_str(),
                "A version could not be read again; it will be tried once more"
            );
        }
    }
    Ok((looked_at, failed))
}

/// Reads one version again, and finishes or postpones its work whatever came of it.
async fn look(
    app: &App,
    work: &WorkItem,
    now: Timestamp,
    allowance: &Arc<Allowance>,
) -> Result<()> {
    let version = match work.version() {
        Ok(id) => match app.registry.version(&id).await {
            Ok(version) => version,
            Err(error) if error.code == ErrorCode::VersionNotFound => {
                return app.registry.finish_work(work).await;
            }
            Err(error) => {
                app.registry
                    .postpone_work(work, now.plus_millis(WAIT_MILLIS))
                    .await?;
                return Err(error);
            }
        },
        Err(_) => return app.registry.finish_work(work).await,
    };
    let outcome = read_again(app, &version, allowance).await;
    let judged_at = version
        .validation
        .as_ref()
        .map_or(version.updated_at, |validation| validation.at);
    let is_given_up = now.since(judged_at.max(version.updated_at)) >= PATIENCE_MILLIS;
    if matches!(outcome, Ok(true)) || is_given_up {
        app.registry.finish_work(work).await?;
    } else {
        app.registry
            .postpone_work(work, now.plus_millis(WAIT_MILLIS))
            .await?;
    }
    outcome.map(drop)
}

/// Examines the artifacts that were judged, and commits what is found now; whether that is done.
async fn read_again(app: &App, version: &Version, allowance: &Arc<Allowance>) -> Result<bool> {
    let id = &version.id;
    let (declared, known) = match version.status {
        Status::PendingRegistration => return Ok(true),
        Status::FailedRegistration => {
            (declared_artifacts(app, version).await?, Progress::default())
        }
        Status::Ready => {
            let judged: Vec<Artifact> = app
                .load_document(id, "artifacts", &version.artifacts)
                .await?
                .unwrap_or_default();
            let known = Progress::of_judged(&judged);
            (
                judged
                    .into_iter()
                    .map(|artifact| declared_again(id, artifact))
                    .collect(),
                known,
            )
        }
    };
    let (judged, artifacts) =
        match examine(app, version, declared, &known, Patience::Retry, allowance).await? {
            Examined::Judged(judged, artifacts) => (judged, artifacts),
            Examined::Continues => return Ok(false),
            Examined::Waits(missing) => {
                tracing::warn!(
                    model.name = id.model.as_str(),
                    version.number = id.number.get(),
                    "{} artifacts of {id} are gone; its judgement stays as it was",
                    missing.len()
                );
                return Ok(true);
            }
        };
    let asked = Asked {
        actor: itself(),
        request_id: version.request_id.clone(),
        reason: Some("its artifacts were read again".to_owned()),
    };
    let accepted = (judged.status == Status::Ready).then_some(artifacts);
    let recommitted = recommit(app, version, &judged, accepted, &asked, |_, _| Ok(None)).await?;
    Ok(!matches!(recommitted, Recommitted::Raced))
}

/// The declaration of an artifact that was judged: the very object, wherever it lies.
fn declared_again(id: &VersionId, artifact: Artifact) -> DeclaredArtifact {
    DeclaredArtifact {
        key: Some(keys::artifact(id, &artifact)),
        path: artifact.path,
        size_bytes: artifact.size_bytes,
        digest: Some(artifact.digest),
        media_type: Some(artifact.media_type),
        object_version: artifact.object_version,
    }
}
