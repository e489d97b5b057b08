//! Uploads: presigned requests bound to length and checksum, and the finalization that closes them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::domain::artifact::{PartPlan, media_type_of};
use shared::domain::model::{MAX_REASON, check_text};
use shared::domain::version::version_not_found;
use shared::domain::{
    ArtifactPath, DeclaredArtifact, Digest, EventType, Status, Version, VersionId,
};
use shared::dynamodb::{Idempotency, Outcome, StoredResponse, VersionChange};
use shared::http::Caller;
use shared::http::views::VersionView;
use shared::s3::{CompletedPart, PresignedRequest, keys};
use shared::{App, Error, ErrorCode, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Most presigned URLs in one answer, so that it stays within what Lambda returns.
const MAX_URLS: usize = 1_000;
/// Most missing artifacts or parts that an error names.
const MAX_NAMED: usize = 100;

/// Asks for presigned uploads, of all declared artifacts or of some.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UploadArtifacts {
    /// Which; all if absent.
    #[serde(default)]
    artifacts: Option<Vec<WantedUpload>>,
    /// Go on after this path, from `next_after` of the answer before.
    #[serde(default)]
    after: Option<ArtifactPath>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedUpload {
    path: ArtifactPath,
    /// A multipart upload that was begun before.
    #[serde(default)]
    upload_id: Option<String>,
    /// The first part to presign, from `next_part` of the answer before.
    #[serde(default)]
    first_part: Option<u64>,
    /// SHA-256 of every part, in order, which S3 then checks part by part.
    #[serde(default)]
    part_digests: Option<Vec<Digest>>,
}

#[derive(Debug, Serialize)]
struct PartView {
    number: u64,
    size_bytes: u64,
    #[serde(flatten)]
    request: RequestView,
}

#[derive(Debug, Serialize)]
struct RequestView {
    method: &'static str,
    url: String,
    headers: BTreeMap<String, String>,
}

impl From<PresignedRequest> for RequestView {
    fn from(request: PresignedRequest) -> Self {
        Self {
            method: request.method,
            url: request.url,
            headers: request.headers,
        }
    }
}

/// Presigns uploads. Nothing is stored but, under an idempotency key, the ids of begun multipart uploads.
pub(crate) async fn upload_artifacts(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    command: UploadArtifacts,
) -> Result<Value> {
    let version = app.registry.version(id).await?;
    let id = &version.id;
    require_pending(&version)?;
    let declared = declared_artifacts(app, &version).await?;
    let wanted = choose(id, &declared, &command)?;
    let known = match &caller.idempotency {
        Some(idempotency) => known_upload_ids(app, caller, idempotency).await?,
        None => None,
    };
    let mut begun = known.clone().unwrap_or_default();
    let mut plans = Vec::new();
    let mut urls = 0;
    let mut next_after = None;
    for (index, (artifact, want)) in wanted.iter().enumerate() {
        if urls >= MAX_URLS {
            next_after = index
                .checked_sub(1)
                .and_then(|last| wanted.get(last))
                .map(|(artifact, _)| artifact.path.clone());
            break;
        }
        match PartPlan::of(artifact.size_bytes) {
            None => urls += 1,
            Some(plan) => {
                let path = artifact.path.as_str().to_owned();
                if let Some(upload_id) = want.and_then(|want| want.upload_id.clone()) {
                    begun.insert(path, upload_id);
                } else if let std::collections::btree_map::Entry::Vacant(e) = begun.entry(path) {
                    let bind = want.is_some_and(|want| want.part_digests.is_some());
                    let key = keys::incoming(id, &artifact.path)?;
                    let upload = app
                        .bucket
                        .begin_multipart(&key, media_type(artifact), bind)
                        .await?;
                    e.insert(upload.upload_id);
                }
                urls += usize::try_from(plan.part_count)
                    .unwrap_or(usize::MAX)
                    .min(MAX_URLS);
            }
        }
        plans.push((*artifact, *want));
    }
    if let (Some(idempotency), None) = (&caller.idempotency, &known) {
        begun = keep_upload_ids(app, caller, idempotency, begun).await?;
    }
    let mut uploads = Vec::with_capacity(plans.len());
    for (artifact, want) in plans {
        uploads.push(presign(app, id, artifact, want, begun.get(artifact.path.as_str())).await?);
    }
    let mut answer =
        json!({"uploads": uploads, "expires_in_seconds": app.bucket.presign_seconds()});
    if let Some(path) = next_after {
        answer["next_after"] = path.as_str().into();
    }
    Ok(answer)
}

fn require_pending(version: &Version) -> Result<()> {
    version.require_live()?;
    match version.status {
        Status::PendingRegistration => Ok(()),
        status => Err(Error::new(
            ErrorCode::Conflict,
            format!(
                "{} is {status} and takes no more uploads; register a new version",
                version.id
            ),
        )
        .with("status", status.as_str())),
    }
}

async fn declared_artifacts(app: &App, version: &Version) -> Result<Vec<DeclaredArtifact>> {
    Ok(app
        .load_document(&version.id, "artifacts", &version.artifacts)
        .await?
        .unwrap_or_default())
}

fn media_type(artifact: &DeclaredArtifact) -> &str {
    artifact
        .media_type
        .as_deref()
        .unwrap_or_else(|| media_type_of(&artifact.path))
}

type Wanted<'a> = Vec<(&'a DeclaredArtifact, Option<&'a WantedUpload>)>;

/// Matches what is wanted with what is declared.
fn choose<'a>(
    id: &VersionId,
    declared: &'a [DeclaredArtifact],
    command: &'a UploadArtifacts,
) -> Result<Wanted<'a>> {
    match &command.artifacts {
        None => Ok(declared
            .iter()
            // What came through the drop zone lies there already.
            .filter(|artifact| artifact.key.is_none())
            .filter(|artifact| {
                command
                    .after
                    .as_ref()
                    .is_none_or(|after| artifact.path > *after)
            })
            .map(|artifact| (artifact, None))
            .collect()),
        Some(wants) => wants
            .iter()
            .map(|want| {
                let artifact = declared
                    .iter()
                    .find(|artifact| artifact.path == want.path)
                    .ok_or_else(|| {
                        Error::invalid(
                            "artifacts",
                            format!(
                                "{id} declares no artifact `{}`; register a new version that does",
                                want.path
                            ),
                        )
                        .with("path", want.path.as_str())
                    })?;
                check_want(artifact, want)?;
                Ok((artifact, Some(want)))
            })
            .collect(),
    }
}

fn check_want(artifact: &DeclaredArtifact, want: &WantedUpload) -> Result<()> {
    let path = &artifact.path;
    if artifact.key.is_some() {
        return Err(Error::new(
            ErrorCode::Conflict,
            format!("artifact `{path}` came through the drop zone and lies there already"),
        ));
    }
    let Some(plan) = PartPlan::of(artifact.size_bytes) else {
        if want.upload_id.is_some() || want.first_part.is_some() || want.part_digests.is_some() {
            return Err(Error::invalid(
                "artifacts",
                format!(
                    "artifact `{path}` is small enough for one PUT; leave out parts and upload id"
                ),
            ));
        }
        return Ok(());
    };
    if want
        .first_part
        .is_some_and(|first| !(1..=plan.part_count).contains(&first))
    {
        return Err(Error::invalid(
            "first_part",
            format!(
                "artifact `{path}` has the parts 1 to {}; begin at one of them",
                plan.part_count
            ),
        ));
    }
    if let Some(digests) = &want.part_digests
        && digests.len() as u64 != plan.part_count
    {
        return Err(Error::invalid(
            "part_digests",
            format!(
                "artifact `{path}` has {} parts of {} bytes, but {} digests were given; give one for each",
                plan.part_count,
                plan.part_size_bytes,
                digests.len()
            ),
        ));
    }
    Ok(())
}

async fn presign(
    app: &App,
    id: &VersionId,
    artifact: &DeclaredArtifact,
    want: Option<&WantedUpload>,
    upload_id: Option<&String>,
) -> Result<Value> {
    let key = keys::incoming(id, &artifact.path)?;
    let path = artifact.path.as_str();
    let (Some(plan), Some(upload_id)) = (PartPlan::of(artifact.size_bytes), upload_id) else {
        let digest = artifact.digest.as_ref().ok_or_else(|| {
            Error::new(
                ErrorCode::Conflict,
                format!("artifact `{path}` came through the drop zone and lies there already"),
            )
        })?;
        let request = app
            .bucket
            .presign_put(&key, artifact.size_bytes, digest, media_type(artifact))
            .await?;
        let mut view = serde_json::to_value(RequestView::from(request))
            .map_err(|error| Error::internal("writing an answer", error))?;
        view["path"] = path.into();
        view["size_bytes"] = artifact.size_bytes.into();
        return Ok(view);
    };
    let first = want.and_then(|want| want.first_part).unwrap_or(1);
    let last = plan.part_count.min(first + MAX_URLS as u64 - 1);
    let mut parts = Vec::new();
    for number in first..=last {
        let digest = want
            .and_then(|want| want.part_digests.as_ref())
            .and_then(|digests| digests.get(usize::try_from(number - 1).ok()?));
        let size_bytes = plan.size_of(number);
        let request = app
            .bucket
            .presign_part(&key, upload_id, number, size_bytes, digest)
            .await?;
        parts.push(PartView {
            number,
            size_bytes,
            request: request.into(),
        });
    }
    let mut view = json!({
        "path": path,
        "size_bytes": artifact.size_bytes,
        "upload_id": upload_id,
        "part_size_bytes": plan.part_size_bytes,
        "part_count": plan.part_count,
        "parts": parts,
    });
    if last < plan.part_count {
        view["next_part"] = (last + 1).into();
    }
    Ok(view)
}

/// The ids of multipart uploads that were begun under an idempotency key before.
async fn known_upload_ids(
    app: &App,
    caller: &Caller,
    idempotency: &Idempotency,
) -> Result<Option<BTreeMap<String, String>>> {
    let stored = app
        .registry
        .find_answer(&caller.tenant, idempotency)
        .await?;
    Ok(stored.and_then(|stored| serde_json::from_value(stored.body).ok()))
}

/// Stores the ids of begun multipart uploads, never the URLs; if another try was first, its ids are the ones.
async fn keep_upload_ids(
    app: &App,
    caller: &Caller,
    idempotency: &Idempotency,
    begun: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let Some(answer) = caller.answer(200, &begun, app.clock.now())? else {
        return Ok(begun);
    };
    match app.registry.keep_answer(&caller.tenant, answer).await? {
        Outcome::Done(()) => Ok(begun),
        Outcome::Replayed(StoredResponse { body, .. }) => {
            serde_json::from_value(body).map_err(|error| {
                Error::internal(
                    format!("reading the answer under `{}`", idempotency.key),
                    error,
                )
            })
        }
    }
}

/// Says that all uploads are done, and joins the parts of multipart ones.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FinalizeVersion {
    #[serde(default)]
    multipart: Vec<FinishedUpload>,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FinishedUpload {
    path: ArtifactPath,
    upload_id: String,
    /// The parts with the `ETag`s that S3 gave; S3 is asked if they are left out.
    #[serde(default)]
    parts: Option<Vec<FinishedPart>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FinishedPart {
    number: u32,
    etag: String,
    #[serde(default)]
    digest: Option<Digest>,
}

pub(crate) async fn finalize(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    command: FinalizeVersion,
) -> Result<Outcome<VersionView>> {
    check_text("reason", command.reason.as_deref(), MAX_REASON)?;
    let version = app.registry.version(id).await?;
    let id = &version.id;
    version.require_live()?;
    if version.status != Status::PendingRegistration || version.finalized_at.is_some() {
        // The upload itself may have set validation going before this call, or the call is repeated.
        return app
            .keep_unchanged(caller, 200, VersionView::of(app, &version))
            .await;
    }
    let declared = declared_artifacts(app, &version).await?;
    let mut joined = BTreeSet::new();
    for upload in &command.multipart {
        if join(app, id, &declared, upload).await? {
            joined.insert(upload.path.as_str());
        }
    }
    require_arrived(app, id, &declared, &joined).await?;
    let event = app
        .event(
            EventType::VersionFinalized,
            &id.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .about(&id.model)
        .of_version(id.number)
        .because(command.reason);
    let after = Version {
        finalized_at: Some(event.time),
        updated_at: event.time,
        ..version.clone()
    };
    let view = VersionView::of(app, &after);
    let answer = caller.answer(200, &view, event.time)?;
    match app
        .registry
        .change_version(id, &VersionChange::Finalize, &event, answer)
        .await?
    {
        Ok(outcome) => {
            tracing::info!(
                model.name = id.model.as_str(),
                version.number = id.number.get(),
                "Finalized {id}"
            );
            Ok(outcome.map(|()| view))
        }
        Err(None) => Err(version_not_found(id)),
        Err(Some(current)) => {
            current.require_live()?;
            app.keep_unchanged(caller, 200, VersionView::of(app, &current))
                .await
        }
    }
}

/// Joins the parts of one upload; `false` if there is no such upload any more, so that the object must be there.
async fn join(
    app: &App,
    id: &VersionId,
    declared: &[DeclaredArtifact],
    upload: &FinishedUpload,
) -> Result<bool> {
    let path = &upload.path;
    let plan = declared
        .iter()
        .find(|artifact| artifact.path == *path)
        .and_then(|artifact| PartPlan::of(artifact.size_bytes))
        .ok_or_else(|| {
            Error::invalid(
                "multipart",
                format!("artifact `{path}` of {id} has no parts; leave it out"),
            )
            .with("path", path.as_str())
        })?;
    let key = keys::incoming(id, path)?;
    let parts = match &upload.parts {
        Some(parts) => parts
            .iter()
            .map(|part| CompletedPart {
                number: part.number,
                etag: part.etag.clone(),
                digest: part.digest.clone(),
            })
            .collect(),
        None => match app.bucket.parts(&key, &upload.upload_id).await? {
            Some(parts) => parts,
            None => return Ok(false),
        },
    };
    let there: BTreeSet<u64> = parts.iter().map(|part| u64::from(part.number)).collect();
    let missing: Vec<u64> = (1..=plan.part_count)
        .filter(|number| !there.contains(number))
        .take(MAX_NAMED)
        .collect();
    if let Some(first) = missing.first() {
        return Err(Error::new(
            ErrorCode::UploadIncomplete,
            format!("part {first} of artifact `{path}` has not arrived; upload the missing parts and finalize again"),
        )
        .with("path", path.as_str())
        .with("missing_parts", missing));
    }
    app.bucket
        .complete_multipart(&key, &upload.upload_id, &parts)
        .await
}

/// Refuses if a declared artifact is not in the bucket; joined ones are.
async fn require_arrived(
    app: &App,
    id: &VersionId,
    declared: &[DeclaredArtifact],
    joined: &BTreeSet<&str>,
) -> Result<()> {
    let expected: Vec<&DeclaredArtifact> = declared
        .iter()
        .filter(|artifact| artifact.key.is_none() && !joined.contains(artifact.path.as_str()))
        .collect();
    if expected.is_empty() {
        return Ok(());
    }
    let prefix = keys::incoming_prefix(id);
    let objects = app.bucket.list(&prefix, usize::MAX).await?;
    let there: BTreeSet<&str> = objects
        .iter()
        .filter_map(|object| object.key.strip_prefix(&prefix))
        .collect();
    let missing: Vec<&str> = expected
        .iter()
        .map(|artifact| artifact.path.as_str())
        .filter(|path| !there.contains(path))
        .collect();
    let Some(first) = missing.first() else {
        return Ok(());
    };
    let named: Vec<&str> = missing.iter().take(MAX_NAMED).copied().collect();
    Err(Error::new(
        ErrorCode::UploadIncomplete,
        format!(
            "artifact `{first}` of {id} has not arrived ({} of {} are missing); upload it and finalize again",
            missing.len(),
            declared.len()
        ),
    )
    .with("missing", named))
}
