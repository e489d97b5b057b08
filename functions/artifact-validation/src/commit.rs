//! Commits judgements: the report first, which is named by its digest, then the change that names it, with its event.

use crate::SERVICE;
use crate::report::Judged;
use bytes::Bytes;
use shared::documents::{INLINE_BYTES, Placed};
use shared::domain::version::{Document, Validation};
use shared::domain::{
    Artifact, Digest, Event, EventType, Principal, Status, Timestamp, Version, VersionId,
};
use shared::dynamodb::idempotency::Answer;
use shared::dynamodb::{Judgement, Outcome, Rejudgement, VersionChange};
use shared::s3::keys;
use shared::telemetry::metrics::{Unit, emit};
use shared::{App, Error, ErrorCode, Result};

/// Who judges again, and why.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Who asked.
    pub(crate) actor: Principal,
    /// By which request.
    pub(crate) request_id: String,
    /// Why, in their words.
    pub(crate) reason: Option<String>,
}

/// Commits the first judgement of a version; `false` if another validation judged it meanwhile.
pub(crate) async fn commit(
    app: &App,
    version: &Version,
    judged: &Judged,
    accepted: Option<Vec<Artifact>>,
) -> Result<bool> {
    let id = &version.id;
    let kind = match judged.status {
        Status::Ready => EventType::VersionReady,
        Status::PendingRegistration | Status::FailedRegistration => EventType::VersionFailed,
    };
    let request_id = version.request_id.as_str();
    let (report_digest, report_key) = put_report(app, id, judged).await?;
    let event = app
        .event(kind, &id.tenant, &itself(), request_id)
        .about(&id.model)
        .of_version(id.number)
        .with("verdict", judged.verdict.as_str())
        .with("summary", judged.summary.as_str())
        .with("report_key", report_key);
    let judgement = judgement(app, version, judged, report_digest, accepted, event.time).await?;
    let change = VersionChange::Judge(Box::new(judgement));
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
        return Ok(false);
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
    Ok(true)
}

/// What became of a further judgement.
#[derive(Debug)]
pub(crate) enum Recommitted {
    /// It says what was said before.
    Unchanged,
    /// It is committed, and the version is so now; or it was before, under the same idempotency key.
    Committed(Outcome<Box<Version>>),
    /// Somebody else judged or removed the version meanwhile.
    Raced,
}

/// Commits a further judgement of a version that was judged before.
///
/// A ready version stays `READY`, because its content does not change; what is no longer accepted is marked with the
/// time, cannot be promoted, and stays available to those who follow an alias that holds it.
pub(crate) async fn recommit(
    app: &App,
    version: &Version,
    judged: &Judged,
    accepted: Option<Vec<Artifact>>,
    asked: &Asked,
    answer: impl Fn(&Version, Timestamp) -> Result<Option<Answer>>,
) -> Result<Recommitted> {
    let id = &version.id;
    let Some(before) = &version.validation else {
        return Ok(Recommitted::Raced);
    };
    if before.report_digest == Digest::of(&judged.json) {
        return Ok(Recommitted::Unchanged);
    }
    let (report_digest, report_key) = put_report(app, id, judged).await?;
    let event = app
        .event(
            EventType::VersionRejudged,
            &id.tenant,
            &asked.actor,
            &asked.request_id,
        )
        .about(&id.model)
        .of_version(id.number)
        .because(asked.reason.clone());
    let is_revoked = judged.status == Status::Ready && !judged.is_accepted;
    let revoked_at = is_revoked.then(|| version.revoked_at.unwrap_or(event.time));
    let event =
        described(event, version, before, judged, is_revoked).with("report_key", report_key);
    let accepted = accepted.filter(|_| version.status != Status::Ready);
    let judgement = judgement(app, version, judged, report_digest, accepted, event.time).await?;
    let after = Version {
        status: judgement.status,
        validation: Some(judgement.validation.clone()),
        size_bytes: judgement.size_bytes,
        updated_at: event.time,
        revoked_at,
        ..version.clone()
    };
    let change = VersionChange::Rejudge(Box::new(Rejudgement {
        before: before.clone(),
        judgement,
        revoked_at,
    }));
    let answer = answer(&after, event.time)?;
    let committed = app
        .registry
        .change_version(id, &change, &event, answer)
        .await?;
    let Ok(outcome) = committed else {
        return Ok(Recommitted::Raced);
    };
    tracing::info!(
        model.name = id.model.as_str(),
        version.number = id.number.get(),
        request.id = asked.request_id,
        verdict = judged.verdict,
        "{id} was judged again: {}",
        judged.summary
    );
    emit(
        SERVICE,
        &[
            ("versions_rejudged", Unit::Count, 1),
            ("versions_revoked", Unit::Count, u64::from(is_revoked)),
        ],
    );
    Ok(Recommitted::Committed(outcome.map(|()| Box::new(after))))
}

/// What an event tells of a further judgement.
fn described(
    event: Event,
    version: &Version,
    before: &Validation,
    judged: &Judged,
    is_revoked: bool,
) -> Event {
    event
        .with("verdict", judged.verdict.as_str())
        .with("previous_verdict", before.verdict.as_str())
        .with("status", judged.status.as_str())
        .with("previous_status", version.status.as_str())
        .with("revoked", is_revoked)
        .with("alias_count", version.alias_count)
        .with("policy_revision", judged.policy_revision.unwrap_or(0))
        .with("summary", judged.summary.as_str())
}

async fn judgement(
    app: &App,
    version: &Version,
    judged: &Judged,
    report_digest: Digest,
    accepted: Option<Vec<Artifact>>,
    at: Timestamp,
) -> Result<Judgement> {
    let size_bytes = match &accepted {
        Some(artifacts) => artifacts.iter().map(|artifact| artifact.size_bytes).sum(),
        None => version.size_bytes,
    };
    // Once the judged artifacts take its place, an object with the declaration is not named by anything else.
    let declared_at = match (&version.artifacts, &accepted) {
        (Document::Object(key), Some(_)) => Some(key.clone()),
        _ => None,
    };
    let placed = match &accepted {
        Some(artifacts) => {
            let mut room = room_for_artifacts(version);
            app.place_document(
                &version.id.tenant,
                &keys::documents_of(&version.id),
                artifacts,
                &mut room,
            )
            .await?
        }
        None => Placed::default(),
    };
    Ok(Judgement {
        status: judged.status,
        validation: Validation {
            verdict: judged.verdict.clone(),
            summary: judged.summary.clone(),
            report_digest,
            at,
            policy_revision: judged.policy_revision,
        },
        artifacts: placed.document,
        apart: placed.apart,
        size_bytes,
        declared_at,
    })
}

/// Writes the report; one of the same name has the same bytes, unless its writer has not finished.
async fn put_report(app: &App, id: &VersionId, judged: &Judged) -> Result<(Digest, String)> {
    let digest = Digest::of(&judged.json);
    let key = keys::report(id, &digest);
    let bytes = Bytes::copy_from_slice(&judged.json);
    let is_new = app
        .bucket
        .put_immutable(&key, bytes, "application/json")
        .await?;
    if !is_new && app.bucket.head(&key, None).await?.is_none() {
        return Err(Error::new(
            ErrorCode::Unavailable,
            format!("`{key}` is being written by another validation"),
        ));
    }
    Ok((digest, key))
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
pub(crate) fn itself() -> Principal {
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
