//! Files on their way in: a small one in the body, any other by presigned requests.

use crate::download::media_type_of;
use crate::{paths, roots};
use bytes::Bytes;
use serde_json::{Value, json};
use shared::domain::location::Owner;
use shared::domain::tracking::{LoggedModelId, RunId};
use shared::domain::{Location, StoredPath};
use shared::http::Caller;
use shared::mlflow::uploads::{MAX_PLAIN_BYTES, file_too_large};
use shared::mlflow::{Fields, MlflowCode, invalid, refused};
use shared::s3::{CompletedPart, keys};
use shared::{App, Result};

/// Most parts that S3 takes for one upload.
const MAX_PARTS: i64 = 10_000;
/// Largest answer with presigned parts, in bytes; Lambda gives back 6 MB.
const MAX_ANSWER_BYTES: usize = 5_500_000;
/// How long the URL of each further part lives: as if one part took a minute.
const SECONDS_PER_PART: u64 = 60;
/// How long a part's URL lives at most; the credentials that sign it live little longer.
const MAX_PART_SECONDS: u64 = 6 * 3_600;

/// The file that a request may change.
pub(crate) fn writable(path: &str) -> Result<StoredPath> {
    match paths::location(path)? {
        Location::Stored(path) => Ok(path),
        Location::Version { model, number, .. } => Err(refused(
            MlflowCode::PermissionDenied,
            format!(
                "Version {number} of '{model}' is registered, and what it holds never changes. Register another version."
            ),
        )),
        Location::Root => Err(invalid("Invalid path: it is empty.")),
    }
}

/// The file `name` in the folder `folder`, as requests for multipart uploads name it.
fn file_in(folder: &str, fields: &Fields) -> Result<StoredPath> {
    let name = fields.required("path")?;
    // Clients send the path of the file on their machine; its last part is the file's name.
    let name = name.rsplit('/').next().unwrap_or_default();
    if name.is_empty() {
        return Err(invalid("Invalid path: it names no file."));
    }
    writable(&format!("{}/{name}", folder.trim_end_matches('/')))
}

/// Stores a file from the body.
pub(crate) async fn plain(
    app: &App,
    caller: &Caller,
    path: &str,
    media_type: Option<&str>,
    body: Bytes,
) -> Result<()> {
    if body.len() > MAX_PLAIN_BYTES {
        return Err(file_too_large());
    }
    let path = writable(path)?;
    if !roots::is_loose(&path) {
        roots::require_owner(app, caller, &path).await?;
    }
    let guessed = media_type_of(path.as_str());
    let key = keys::tracked(&caller.tenant, &path);
    app.bucket
        .put(&key, body, media_type.unwrap_or(&guessed))
        .await
}

/// Begins a multipart upload, and presigns its parts.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    folder: &str,
    fields: &Fields,
) -> Result<Value> {
    let path = file_in(folder, fields)?;
    let count = fields.int("num_parts")?.unwrap_or(1).max(1);
    if count > MAX_PARTS {
        return Err(too_many_parts(count, MAX_PARTS));
    }
    roots::require_owner(app, caller, &path).await?;
    let key = keys::tracked(&caller.tenant, &path);
    let upload = app
        .bucket
        .begin_multipart(&key, &media_type_of(path.as_str()), false)
        .await?;
    let parts = u32::try_from(count).unwrap_or(1);
    // Clients ask for all parts at once and upload them one after another.
    let seconds = app
        .bucket
        .presign_seconds()
        .max((u64::from(parts) * SECONDS_PER_PART).min(MAX_PART_SECONDS));
    let mut credentials = Vec::with_capacity(parts as usize);
    let mut size = 0;
    for number in 1..=parts {
        let part = app
            .bucket
            .presign_open_part(&key, &upload.upload_id, number, seconds)
            .await?;
        let credential = json!({
            "url": part.url, "part_number": number, "headers": part.headers,
        });
        size += credential.to_string().len() + 1;
        if size > MAX_ANSWER_BYTES {
            app.bucket.abort_multipart(&key, &upload.upload_id).await?;
            return Err(too_many_parts(count, i64::from(number - 1)));
        }
        credentials.push(credential);
    }
    Ok(json!({"upload_id": upload.upload_id, "credentials": credentials}))
}

fn too_many_parts(count: i64, most: i64) -> shared::Error {
    invalid(format!(
        "The upload has {count} parts, and may have {most}. Set MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE in the \
         environment of the client to more bytes, so that there are fewer."
    ))
}

/// Joins the parts of an upload; repeating it changes nothing.
pub(crate) async fn complete(
    app: &App,
    caller: &Caller,
    folder: &str,
    fields: &Fields,
) -> Result<()> {
    let path = file_in(folder, fields)?;
    let upload_id = fields.required("upload_id")?;
    let mut parts = Vec::new();
    for part in fields.objects("parts")? {
        let number = part.int("part_number")?.unwrap_or(0);
        parts.push(CompletedPart {
            number: u32::try_from(number)
                .map_err(|_| invalid(format!("Invalid part number: {number}")))?,
            etag: part.text("etag")?.unwrap_or_default(),
            digest: None,
        });
    }
    if parts.is_empty() {
        return Err(shared::mlflow::fields::missing("parts"));
    }
    parts.sort_by_key(|part| part.number);
    let key = keys::tracked(&caller.tenant, &path);
    if app
        .bucket
        .complete_multipart_again(&key, &upload_id, &parts)
        .await?
    {
        Ok(())
    } else {
        Err(refused(
            MlflowCode::ResourceDoesNotExist,
            format!(
                "There is no such upload of '{path}' any more: it was aborted, or took too long."
            ),
        ))
    }
}

/// Ends an upload.
pub(crate) async fn abort(app: &App, caller: &Caller, folder: &str, fields: &Fields) -> Result<()> {
    let path = file_in(folder, fields)?;
    let upload_id = fields.required("upload_id")?;
    let key = keys::tracked(&caller.tenant, &path);
    app.bucket.abort_multipart(&key, &upload_id).await
}

/// Hides a file or a folder; earlier versions that registered versions hold stay.
///
/// Outside of roots it hides one file and never a folder, because the roots of runs lie in folders.
pub(crate) async fn delete(app: &App, caller: &Caller, path: &str) -> Result<()> {
    let path = writable(path.trim_end_matches('/'))?;
    let key = keys::tracked(&caller.tenant, &path);
    if roots::is_loose(&path) {
        return app.bucket.hide_object(&key).await;
    }
    roots::require_owner(app, caller, &path).await?;
    app.bucket.hide_tree(&key).await?;
    Ok(())
}

/// Presigns one PUT of a file of a run or a logged model, as SageMaker's client asks for it.
pub(crate) async fn presigned(app: &App, caller: &Caller, fields: &Fields) -> Result<Value> {
    let (run, model) = (fields.text("run_id")?, fields.text("model_id")?);
    let present = |id: Option<String>| id.filter(|id| !id.is_empty());
    let owner = match (present(run), present(model)) {
        (Some(run), None) => Owner::Run(RunId::parse(run)?),
        (None, Some(model)) => Owner::LoggedModel(LoggedModelId::parse(model)?),
        _ => {
            return Err(invalid(
                "Exactly one of run_id and model_id must be provided.",
            ));
        }
    };
    let path = paths::stored(&fields.required("path")?)?;
    let seconds = expiration(app, fields)?;
    let root = roots::to_write(app, &caller.tenant, &owner).await?;
    let request = app
        .bucket
        .presign_open_put(&format!("{}/{path}", root.key), seconds)
        .await?;
    Ok(json!({"presigned_url": request.url, "headers": request.headers}))
}

/// How long the URL shall live that a request asks for, in seconds.
pub(crate) fn expiration(app: &App, fields: &Fields) -> Result<u64> {
    match fields.int("expiration")? {
        None => Ok(app.bucket.presign_seconds()),
        Some(seconds @ 1..=604_800) => Ok(seconds.unsigned_abs()),
        Some(seconds) => Err(invalid(format!(
            "expiration must be between 1 and 604800 seconds (got {seconds})."
        ))),
    }
}
