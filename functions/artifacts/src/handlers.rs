//! Transport: parse, call, render.

use crate::{download, list, paths, roots, upload};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header;
use http_body_util::BodyExt as _;
use serde_json::json;
use shared::domain::location::Owner;
use shared::domain::tracking::RunId;
use shared::domain::{ModelName, VersionId, VersionNumber};
use shared::http::{Caller, Reply, Target};
use shared::mlflow::fields::missing;
use shared::mlflow::{Fields, MlflowCode, refused};
use shared::{App, Error, ErrorCode, Result};

pub(crate) async fn list_folder(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let path = fields.text("path")?.unwrap_or_default();
    Reply::ok(list::by_path(&app, &caller, &path).await?)
}

pub(crate) async fn download(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Response> {
    download::by_path(&app, &caller, target.path()?).await
}

pub(crate) async fn upload(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    request: Request<Body>,
) -> Result<Reply> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|error| {
        Error::new(
            ErrorCode::MalformedBody,
            "the file did not arrive whole; send it again",
        )
        .caused_by(error)
    })?;
    let media_type = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    upload::plain(&app, &caller, target.path()?, media_type, body.to_bytes()).await?;
    Reply::ok(json!({}))
}

pub(crate) async fn delete_artifacts(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    upload::delete(&app, &caller, target.path()?).await?;
    Reply::ok(json!({}))
}

pub(crate) async fn presign_download(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    let held = download::held(&app, &caller, target.path()?).await?;
    Reply::ok(download::presigned(&app, &held).await?)
}

pub(crate) async fn create_multipart(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    fields: Fields,
) -> Result<Reply> {
    Reply::ok(upload::create(&app, &caller, target.path()?, &fields).await?)
}

pub(crate) async fn complete_multipart(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    fields: Fields,
) -> Result<Reply> {
    upload::complete(&app, &caller, target.path()?, &fields).await?;
    Reply::ok(json!({}))
}

pub(crate) async fn abort_multipart(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    fields: Fields,
) -> Result<Reply> {
    upload::abort(&app, &caller, target.path()?, &fields).await?;
    Reply::ok(json!({}))
}

pub(crate) async fn list_run_artifacts(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let owner = Owner::Run(RunId::parse(run_id(&fields)?)?);
    Reply::ok(list::of_owner(&app, &caller, &owner, fields.text("path")?).await?)
}

pub(crate) async fn list_logged_model_artifacts(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    fields: Fields,
) -> Result<Reply> {
    let owner = Owner::LoggedModel(target.logged_model()?);
    let path = fields.text("artifact_directory_path")?;
    Reply::ok(list::of_owner(&app, &caller, &owner, path).await?)
}

pub(crate) async fn presigned_upload_url(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    Reply::ok(upload::presigned(&app, &caller, &fields).await?)
}

pub(crate) async fn presigned_download_url(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    Reply::ok(download::presigned_of_run(&app, &caller, &fields).await?)
}

pub(crate) async fn get_artifact(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Response> {
    let path = fields.required("path")?;
    let root = roots::of_run(&app, &caller.tenant, &run_id(&fields)?).await?;
    download::attached_of_root(&app, &root.key, &path).await
}

pub(crate) async fn get_logged_model_artifact(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    fields: Fields,
) -> Result<Response> {
    let path = fields.text("artifact_file_path")?.unwrap_or_default();
    if path.is_empty() {
        return Err(refused(
            MlflowCode::BadRequest,
            "Request must include the \"artifact_file_path\" query parameter.",
        ));
    }
    let owner = Owner::LoggedModel(target.logged_model()?);
    let root = roots::of(&app, &caller.tenant, &owner).await?;
    download::attached_of_root(&app, &root.key, &path).await
}

pub(crate) async fn get_version_artifact(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Response> {
    let id = VersionId {
        tenant: caller.tenant.clone(),
        model: ModelName::parse(fields.required("name")?)?,
        number: VersionNumber::parse(&fields.required("version")?)?,
    };
    let path = paths::held(&fields.required("path")?)?;
    let held = crate::versions::held(&app, &caller, &id, &path).await?;
    if fields.flag("presigned")? == Some(true) {
        return Ok(axum::response::IntoResponse::into_response(Reply::ok(
            download::presigned(&app, &held).await?,
        )?));
    }
    download::attached(&app, &held, path.as_str()).await
}

/// The run that a request is about; old clients say `run_uuid`.
fn run_id(fields: &Fields) -> Result<String> {
    let present = |id: &String| !id.is_empty();
    match fields.text("run_id")?.filter(present) {
        Some(id) => Ok(id),
        None => fields
            .text("run_uuid")?
            .filter(present)
            .ok_or_else(|| missing("run_id")),
    }
}
