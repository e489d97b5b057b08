//! Settles a version: if all that it declares has arrived, judges it, once.
//!
//! Load, ask S3, decide, commit: the report is written first, then the judgement that names it, on the condition that
//! nobody judged the version meanwhile. Whatever stops half-way is done again from the start, with the same result.

use crate::SERVICE;
use crate::allowance::Allowance;
use crate::checkpoint::Checkpoint;
use crate::digest::{Proof, Proven, prove_all};
use crate::report::{self, Judged, UploadFindings};
use crate::source::{ArtifactSource, ObjectReader, Pinned, Shelf};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use model_formats::{Bundle, BundleFile, Limits, Report as Inspection, Verdict};
use shared::documents::{INLINE_BYTES, Placed};
use shared::domain::version::{Document, Validation};
use shared::domain::{
    Artifact, ArtifactPath, DeclaredArtifact, Digest, EventType, Principal, Status, Version,
    VersionId,
};
use shared::dynamodb::{Judgement, VersionChange};
use shared::s3::keys;
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Error, ErrorCode, Result};
use std::collections::HashSet;
use std::sync::Arc;

/// Heads that are asked for at the same time.
const PARALLEL_HEADS: usize = 16;
/// Up to this many artifacts, heads tell what has arrived; for more, one listing is cheaper.
const HEADS_INSTEAD_OF_LISTING: usize = 12;

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

/// What to do when an inspection could not finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Ask for another try.
    Retry,
    /// Judge the version as what it is: incomplete.
    Exhausted,
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
    let id = &version.id;
    let started = app.clock.now();
    let declared = declared_artifacts(app, version).await?;
    if declared.is_empty() {
        return Ok(Settled::Waits(Vec::new()));
    }
    let artifacts = match locate(app, id, declared).await? {
        Located::Whole(artifacts) => artifacts,
        Located::Misses(missing) => {
            tracing::info!(
                model.name = id.model.as_str(),
                version.number = id.number.get(),
                "{id} waits for {} artifacts",
                missing.len()
            );
            return Ok(Settled::Waits(missing));
        }
    };
    let reader = Arc::new(ObjectReader::new(app.bucket.clone()));
    let checkpoint = Checkpoint::load(app, id, &artifacts).await?;
    let proofs = match prove_all(&reader, &artifacts, allowance, checkpoint.progress()).await? {
        // What remains of this invocation's time is too little to look into the artifacts.
        Proven::All(proofs) if allowance.is_half_over() => {
            let progress = crate::checkpoint::done(&artifacts, &proofs);
            return checkpoint.put_off(app, id, progress).await;
        }
        Proven::All(proofs) => proofs,
        Proven::Partly(progress) => return checkpoint.put_off(app, id, progress).await,
    };
    let judged = judge(version, &reader, &artifacts, &proofs, patience, allowance).await?;
    let accepted = (judged.status == Status::Ready).then(|| accept(&artifacts, &proofs));
    let settled = commit(app, version, &judged, accepted).await?;
    tracing::info!(
        model.name = id.model.as_str(),
        version.number = id.number.get(),
        read.requests = reader.requests(),
        read.bytes = reader.read_bytes(),
        "The validation of {id} read {} bytes",
        reader.read_bytes()
    );
    emit(
        SERVICE,
        &[
            ("validation_bytes_read", Unit::Bytes, reader.read_bytes()),
            (
                "validation_duration_ms",
                Unit::Milliseconds,
                app.clock.now().since(started),
            ),
        ],
    );
    Ok(settled)
}

/// Fails a pending version whose uploads never came.
pub(crate) async fn fail_never_arrived(
    app: &App,
    version: &Version,
    missing: &[ArtifactPath],
) -> Result<Settled> {
    let declared = declared_artifacts(app, version).await?;
    let judged = report::never_arrived(version, &declared, missing)?;
    commit(app, version, &judged, None).await
}

async fn declared_artifacts(app: &App, version: &Version) -> Result<Vec<DeclaredArtifact>> {
    let declared = app
        .load_document(&version.id, "artifacts", &version.artifacts)
        .await?;
    Ok(declared.unwrap_or_default())
}

/// Where the declared artifacts are.
enum Located {
    /// All are there.
    Whole(Vec<Pinned>),
    /// These are not.
    Misses(Vec<ArtifactPath>),
}

/// Asks S3 for all declared artifacts, and pins each to the object that is there.
async fn locate(app: &App, id: &VersionId, declared: Vec<DeclaredArtifact>) -> Result<Located> {
    let mut wanted = Vec::with_capacity(declared.len());
    for artifact in declared {
        let key = match &artifact.key {
            Some(key) => key.clone(),
            None => keys::incoming(id, &artifact.path)?,
        };
        wanted.push((key, artifact));
    }
    let uploads = wanted
        .iter()
        .filter(|(_, artifact)| artifact.key.is_none())
        .count();
    if uploads > HEADS_INSTEAD_OF_LISTING {
        let listed: HashSet<String> = app
            .bucket
            .list(&keys::incoming_prefix(id), usize::MAX)
            .await?
            .into_iter()
            .map(|object| object.key)
            .collect();
        let missing: Vec<ArtifactPath> = wanted
            .iter()
            .filter(|(key, artifact)| artifact.key.is_none() && !listed.contains(key))
            .map(|(_, artifact)| artifact.path.clone())
            .collect();
        if !missing.is_empty() {
            return Ok(Located::Misses(missing));
        }
    }
    // Collected first: a lazy iterator of futures that borrow would not be `Send`.
    let heads: Vec<_> = wanted
        .into_iter()
        .map(|(key, artifact)| pin(app, key, artifact))
        .collect();
    let pinned: Vec<Result<Pinned, ArtifactPath>> = stream::iter(heads)
        .buffered(PARALLEL_HEADS)
        .try_collect()
        .await?;
    let mut whole = Vec::with_capacity(pinned.len());
    let mut missing = Vec::new();
    for artifact in pinned {
        match artifact {
            Ok(artifact) => whole.push(artifact),
            Err(path) => missing.push(path),
        }
    }
    Ok(if missing.is_empty() {
        Located::Whole(whole)
    } else {
        Located::Misses(missing)
    })
}

/// Pins an artifact to the object that is there; its path if there is none.
async fn pin(
    app: &App,
    key: String,
    declared: DeclaredArtifact,
) -> Result<Result<Pinned, ArtifactPath>> {
    let head = app
        .bucket
        .head(&key, declared.object_version.as_deref())
        .await?;
    Ok(match head {
        Some(mut head) => {
            // A pinned version stays pinned, whatever the answer repeats.
            head.object_version = head
                .object_version
                .or_else(|| declared.object_version.clone());
            Ok(Pinned {
                declared,
                key,
                head,
            })
        }
        None => Err(declared.path),
    })
}

/// Holds what arrived against what was declared, then looks into it.
async fn judge(
    version: &Version,
    reader: &Arc<ObjectReader>,
    artifacts: &[Pinned],
    proofs: &[Proof],
    patience: Patience,
    allowance: &Arc<Allowance>,
) -> Result<Judged> {
    let findings = UploadFindings::of(artifacts, proofs);
    if !findings.is_empty() {
        return report::rejected(version, artifacts, proofs, findings);
    }
    let shelf = Arc::new(Shelf::new(
        Arc::clone(reader),
        tokio::runtime::Handle::current(),
        Arc::clone(allowance),
    ));
    let inspection = inspect(&shelf, artifacts, proofs).await?;
    // What took more than half of an invocation's time would take it again.
    let may_pass = patience == Patience::Retry && !shelf.is_exhausted();
    if inspection.verdict == Verdict::Incomplete && may_pass {
        return Err(Error::new(
            ErrorCode::Unavailable,
            format!("the inspection of {} could not finish", version.id),
        ));
    }
    report::inspected(version, artifacts, proofs, &inspection)
}

/// Inspects all artifacts on a thread of its own, which reads through this runtime.
async fn inspect(shelf: &Arc<Shelf>, artifacts: &[Pinned], proofs: &[Proof]) -> Result<Inspection> {
    let sources: Vec<ArtifactSource> = artifacts
        .iter()
        .zip(proofs)
        .enumerate()
        .map(|(index, (artifact, proof))| {
            ArtifactSource::new(
                index,
                artifact.clone(),
                proof.seed.clone(),
                Arc::clone(shelf),
            )
        })
        .collect();
    let outcome = tokio::task::spawn_blocking(move || {
        let files = sources
            .iter()
            .map(|source| BundleFile {
                path: source.path(),
                source,
            })
            .collect();
        model_formats::inspect(&Bundle::new(files), &Limits::default())
    })
    .await;
    if let Some(failure) = shelf.take_failure() {
        return Err(failure);
    }
    outcome.or_else(|error| {
        tracing::error!(error = %error, "An inspection broke down");
        Ok(report::crashed(artifacts))
    })
}

/// The judged artifacts, pinned to the objects that were judged, in the order of their paths.
fn accept(artifacts: &[Pinned], proofs: &[Proof]) -> Vec<Artifact> {
    let mut accepted: Vec<Artifact> = artifacts
        .iter()
        .zip(proofs)
        .map(|(artifact, proof)| Artifact {
            path: artifact.declared.path.clone(),
            size_bytes: artifact.head.size_bytes,
            digest: proof.digest.clone(),
            media_type: report::media_type(&artifact.declared).to_owned(),
            key: artifact.declared.key.clone(),
            packaged: false,
            object_version: artifact.head.object_version.clone(),
            etag: artifact.head.etag.clone(),
        })
        .collect();
    accepted.sort_by(|left, right| left.path.cmp(&right.path));
    accepted
}

/// Writes the report, then the judgement that names it; a version that was judged meanwhile stays as it is.
async fn commit(
    app: &App,
    version: &Version,
    judged: &Judged,
    accepted: Option<Vec<Artifact>>,
) -> Result<Settled> {
    let id = &version.id;
    let report_digest = Digest::of(&judged.json);
    let report_key = keys::report(id, &report_digest);
    put_report(app, &report_key, &judged.json).await?;
    let size_bytes = match &accepted {
        Some(artifacts) => artifacts.iter().map(|artifact| artifact.size_bytes).sum(),
        None => version.size_bytes,
    };
    let placed = match &accepted {
        Some(artifacts) => {
            let mut room = room_for_artifacts(version);
            app.place_document(&id.tenant, &keys::documents_of(id), artifacts, &mut room)
                .await?
        }
        None => Placed::default(),
    };
    let kind = match judged.status {
        Status::Ready => EventType::VersionReady,
        Status::PendingRegistration | Status::FailedRegistration => EventType::VersionFailed,
    };
    let request_id = version.request_id.as_str();
    let event = app
        .event(kind, &id.tenant, &itself(), request_id)
        .about(&id.model)
        .of_version(id.number)
        .with("verdict", judged.verdict.as_str())
        .with("summary", judged.summary.as_str())
        .with("report_key", report_key.as_str());
    let change = VersionChange::Judge(Box::new(Judgement {
        status: judged.status,
        validation: Validation {
            verdict: judged.verdict.clone(),
            summary: judged.summary.clone(),
            report_digest,
            at: event.time,
        },
        declared_at: match (&version.artifacts, &accepted) {
            (Document::Object(key), Some(_)) => Some(key.clone()),
            _ => None,
        },
        artifacts: placed.document,
        apart: placed.apart,
        size_bytes,
    }));
    let committed = app
        .registry
        .change_version(id, &change, &event, None)
        .await?;
    if committed.is_err() {
        tracing::info!(
            model.name = id.model.as_str(),
            version.number = id.number.get(),
            request.id = request_id,
            "{id} was judged by another validation meanwhile"
        );
        return Ok(Settled::NothingToDo);
    }
    tracing::info!(
        model.name = id.model.as_str(),
        version.number = id.number.get(),
        request.id = request_id,
        verdict = judged.verdict,
        "{id} is {}: {}",
        judged.status,
        judged.summary
    );
    let is_ready = judged.status == Status::Ready;
    emit(
        SERVICE,
        &[
            ("versions_ready", Unit::Count, u64::from(is_ready)),
            ("versions_failed", Unit::Count, u64::from(!is_ready)),
        ],
    );
    Ok(Settled::Judged(judged.status))
}

/// Writes the report; one of the same name has the same bytes, unless its writer has not finished.
async fn put_report(app: &App, key: &str, json: &[u8]) -> Result<()> {
    let bytes = Bytes::copy_from_slice(json);
    let is_new = app
        .bucket
        .put_immutable(key, bytes, "application/json")
        .await?;
    if !is_new && app.bucket.head(key, None).await?.is_none() {
        return Err(Error::new(
            ErrorCode::Unavailable,
            format!("`{key}` is being written by another validation"),
        ));
    }
    Ok(())
}

/// What the version's item has room for, beside its other documents, in bytes.
fn room_for_artifacts(version: &Version) -> usize {
    [&version.metadata, &version.notes]
        .into_iter()
        .map(|document| match document {
            Document::Inline(json) => json.len(),
            Document::Absent | Document::Item | Document::Object(_) => 0,
        })
        .fold(INLINE_BYTES, usize::saturating_sub)
}

/// Who acts: the registry itself.
fn itself() -> Principal {
    Principal::parse("slipway").expect("the literal is a valid principal")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::version;

    #[test]
    fn artifacts_ride_along_only_in_the_room_that_other_documents_leave() {
        let mut version = version();
        assert_eq!(room_for_artifacts(&version), INLINE_BYTES);
        version.metadata = Document::Inline("x".repeat(100));
        version.notes = Document::Item;
        assert_eq!(room_for_artifacts(&version), INLINE_BYTES - 100);
        version.notes = Document::Inline("x".repeat(INLINE_BYTES));
        assert_eq!(room_for_artifacts(&version), 0);
    }
}
