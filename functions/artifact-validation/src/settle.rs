//! Settles a version: if all that it declares has arrived, judges it, once.
//!
//! Load, ask S3, decide, commit: the report is written first, then the judgement that names it, on the condition that
//! nobody judged the version meanwhile. Whatever stops half-way is done again from the start, with the same result.

use crate::allowance::Allowance;
use crate::checkpoint::Progress;
use crate::commit::commit;
use crate::examine::{Examined, Patience, examine};
use crate::report::{self, Judged};
use shared::domain::{ArtifactPath, DeclaredArtifact, Status, Version, VersionId};
use shared::{App, ErrorCode, Result};
use std::sync::Arc;

/// What became of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It is unknown, deleted, or judged already.
    NothingToDo,
    /// It waits for these artifacts; none if it declares none.
    Waits(Vec<ArtifactPath>),
    /// It is not done, and goes on in another invocation.
    Continues,
    /// It was judged now.
    Judged(Status),
}

/// Settles a version.
pub(crate) async fn settle(
    app: &App,
    id: &VersionId,
    allowance: &Arc<Allowance>,
) -> Result<Settled> {
    match find_pending(app, id).await? {
        Some(version) if version.deleted_at.is_none() => {
            judge_if_whole(app, &version, Patience::Retry, allowance).await
        }
        _ => {
            tracing::debug!(
                model.name = id.model.as_str(),
                version.number = id.number.get(),
                "There is nothing to validate in {id}"
            );
            Ok(Settled::NothingToDo)
        }
    }
}

/// Reads a version; `None` if it is unknown or judged already.
pub(crate) async fn find_pending(app: &App, id: &VersionId) -> Result<Option<Version>> {
    match app.registry.version(id).await {
        Ok(version) if version.status == Status::PendingRegistration => Ok(Some(version)),
        Ok(_) => Ok(None),
        Err(error) if error.code == ErrorCode::VersionNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Judges a pending version if all that it declares has arrived.
pub(crate) async fn judge_if_whole(
    app: &App,
    version: &Version,
    patience: Patience,
    allowance: &Arc<Allowance>,
) -> Result<Settled> {
    let declared = declared_artifacts(app, version).await?;
    let known = Progress::default();
    match examine(app, version, declared, &known, patience, allowance).await? {
        Examined::Waits(missing) => Ok(Settled::Waits(missing)),
        Examined::Continues => Ok(Settled::Continues),
        Examined::Judged(judged, artifacts) => {
            let accepted = (judged.status == Status::Ready).then_some(artifacts);
            let is_committed = commit(app, version, &judged, accepted).await?;
            Ok(settled(is_committed, &judged))
        }
    }
}

/// Fails a pending version whose uploads never came.
pub(crate) async fn fail_never_arrived(
    app: &App,
    version: &Version,
    missing: &[ArtifactPath],
) -> Result<Settled> {
    let declared = declared_artifacts(app, version).await?;
    let judged = report::never_arrived(version, &declared, missing)?;
    let is_committed = commit(app, version, &judged, None).await?;
    Ok(settled(is_committed, &judged))
}

fn settled(is_committed: bool, judged: &Judged) -> Settled {
    if is_committed {
        Settled::Judged(judged.status)
    } else {
        Settled::NothingToDo
    }
}

pub(crate) async fn declared_artifacts(
    app: &App,
    version: &Version,
) -> Result<Vec<DeclaredArtifact>> {
    let declared = app
        .load_document(&version.id, "artifacts", &version.artifacts)
        .await?;
    Ok(declared.unwrap_or_default())
}
