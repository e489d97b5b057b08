//! Examines a version's artifacts: finds them, proves their digests, and looks into them; commits nothing.

use crate::SERVICE;
use crate::allowance::Allowance;
use crate::checkpoint::{self, Checkpoint, Progress};
use crate::digest::{Proof, Proven, Prover, prove_all};
use crate::locate::{Located, locate};
use crate::report::{self, Judged, UploadFindings};
use crate::ruling::Ruling;
use crate::source::{ArtifactSource, ObjectReader, Pinned, Shelf};
use model_formats::{Bundle, BundleFile, Report as Inspection, Verdict};
use shared::domain::{Artifact, ArtifactPath, DeclaredArtifact, Version};
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Error, ErrorCode, Result};
use std::sync::Arc;

/// What to do when an inspection could not finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Ask for another try.
    Retry,
    /// Judge the version as what it is: incomplete.
    Exhausted,
}

/// What came of an examination.
#[derive(Debug)]
pub(crate) enum Examined {
    /// These artifacts are not there; none if none is declared.
    Waits(Vec<ArtifactPath>),
    /// It is not done, and goes on in another invocation.
    Continues,
    /// It was judged, and these are the artifacts that were.
    Judged(Box<Judged>, Vec<Artifact>),
}

/// Examines the declared artifacts of a version; digests that are `known` of the same objects are not proven again.
pub(crate) async fn examine(
    app: &App,
    version: &Version,
    declared: Vec<DeclaredArtifact>,
    known: &Progress,
    patience: Patience,
    allowance: &Arc<Allowance>,
) -> Result<Examined> {
    let id = &version.id;
    let started = app.clock.now();
    if declared.is_empty() {
        return Ok(Examined::Waits(Vec::new()));
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
            return Ok(Examined::Waits(missing));
        }
    };
    let reader = Arc::new(ObjectReader::new(app.bucket.clone()));
    let checkpoint = Checkpoint::load(app, id, &artifacts, known).await?;
    let prover = Prover {
        app,
        id,
        reader: &reader,
        allowance,
        progress: checkpoint.progress(),
    };
    let proofs = match prove_all(&prover, &artifacts).await? {
        // What remains of this invocation's time is too little to look into the artifacts.
        Proven::All(proofs) if allowance.is_half_over() => {
            let progress = checkpoint::done(&artifacts, &proofs);
            checkpoint.put_off(app, id, progress).await?;
            return Ok(Examined::Continues);
        }
        Proven::All(proofs) => proofs,
        Proven::Partly(progress) => {
            checkpoint.put_off(app, id, progress).await?;
            return Ok(Examined::Continues);
        }
    };
    let ruling = Ruling::of(app, &id.tenant).await?;
    let judged = judge(
        version, &reader, &artifacts, &proofs, patience, allowance, &ruling,
    )
    .await?;
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
    Ok(Examined::Judged(
        Box::new(judged),
        accept(&artifacts, &proofs),
    ))
}

/// Holds what arrived against what was declared, then looks into it.
async fn judge(
    version: &Version,
    reader: &Arc<ObjectReader>,
    artifacts: &[Pinned],
    proofs: &[Proof],
    patience: Patience,
    allowance: &Arc<Allowance>,
    ruling: &Ruling,
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
    let inspection = inspect(&shelf, artifacts, proofs, ruling).await?;
    // What took more than half of an invocation's time would take it again.
    let may_pass = patience == Patience::Retry && !shelf.is_exhausted();
    if inspection.verdict == Verdict::Incomplete && may_pass {
        return Err(Error::new(
            ErrorCode::Unavailable,
            format!("the inspection of {} could not finish", version.id),
        ));
    }
    report::inspected(version, artifacts, proofs, &inspection, ruling)
}

/// Inspects all artifacts on a thread of its own, which reads through this runtime.
async fn inspect(
    shelf: &Arc<Shelf>,
    artifacts: &[Pinned],
    proofs: &[Proof],
    ruling: &Ruling,
) -> Result<Inspection> {
    let limits = ruling.limits.clone();
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
        model_formats::inspect(&Bundle::new(files), &limits)
    })
    .await;
    if let Some(failure) = shelf.take_failure() {
        return Err(failure);
    }
    outcome.or_else(|error| {
        tracing::error!(error = %error, "An inspection broke down");
        Ok(report::crashed(artifacts, ruling))
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
