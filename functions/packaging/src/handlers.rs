//! Transport of the routes: parse, call, render.

use crate::archive::{self, RequestArchive};
use axum::extract::State;
use shared::http::{Body, Caller, Reply, Target, respond};
use shared::{App, Result};

pub(crate) async fn request_archive(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<RequestArchive>,
) -> Result<Reply> {
    let id = target.version_id(&caller.tenant)?;
    let outcome = archive::request(&app, &caller, &id, command).await;
    respond(&app, &caller, 202, outcome).await
}

pub(crate) async fn list_archives(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(archive::list(&app, &target.version_id(&caller.tenant)?).await?)
}
