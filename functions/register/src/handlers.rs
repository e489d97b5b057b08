//! Transport: parse, call, render.

use crate::models::{self, CreateModel, UpdateModel};
use crate::names::{self, RenameModel, RestoreModel};
use crate::trusted_keys::{self, TrustKey};
use crate::uploads::{self, FinalizeVersion, UploadArtifacts};
use crate::versions::{self, RegisterVersion};
use axum::extract::State;
use serde::Deserialize;
use shared::domain::model::NotesChange;
use shared::http::{Body, Caller, Params, Reply, Target, respond};
use shared::{App, Result};

/// A change that needs nothing but a reason, as `?reason=…`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Because {
    /// Why.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

pub(crate) async fn create_model(
    State(app): State<App>,
    caller: Caller,
    Body(command): Body<CreateModel>,
) -> Result<Reply> {
    let outcome = models::create_native(&app, &caller, command).await;
    respond(&app, &caller, 201, outcome).await
}

pub(crate) async fn update_model(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<UpdateModel>,
) -> Result<Reply> {
    let outcome = models::update(&app, &caller, &target.model()?, command).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn delete_model(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(because): Params<Because>,
) -> Result<Reply> {
    let outcome = models::delete(&app, &caller, &target.model()?, because.reason).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn restore_model(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(command): Params<RestoreModel>,
) -> Result<Reply> {
    let outcome = names::restore(&app, &caller, &target.model()?, command).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn rename_model(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<RenameModel>,
) -> Result<Reply> {
    let outcome = names::rename(&app, &caller, &target.model()?, command).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn register_version(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<RegisterVersion>,
) -> Result<Reply> {
    let outcome = versions::register(&app, &caller, &target.model()?, command).await;
    respond(&app, &caller, 201, outcome).await
}

pub(crate) async fn update_version(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(change): Body<NotesChange>,
) -> Result<Reply> {
    let id = target.version_id(&caller.tenant)?;
    let outcome = versions::annotate(&app, &caller, &id, &change).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn delete_version(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(because): Params<Because>,
) -> Result<Reply> {
    let id = target.version_id(&caller.tenant)?;
    let outcome = versions::delete(&app, &caller, &id, because.reason).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn restore_version(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(because): Params<Because>,
) -> Result<Reply> {
    let id = target.version_id(&caller.tenant)?;
    let outcome = versions::restore(&app, &caller, &id, because.reason).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn upload_artifacts(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<UploadArtifacts>,
) -> Result<Reply> {
    let id = target.version_id(&caller.tenant)?;
    Reply::ok(uploads::upload_artifacts(&app, &caller, &id, command).await?)
}

pub(crate) async fn finalize_version(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<FinalizeVersion>,
) -> Result<Reply> {
    let id = target.version_id(&caller.tenant)?;
    let outcome = uploads::finalize(&app, &caller, &id, command).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn add_trusted_key(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<TrustKey>,
) -> Result<Reply> {
    let outcome = trusted_keys::add(&app, &caller, target.name()?, command).await;
    respond(&app, &caller, 201, outcome).await
}

pub(crate) async fn remove_trusted_key(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    let outcome = trusted_keys::remove(&app, &caller, target.name()?).await;
    respond(&app, &caller, 200, outcome).await
}
