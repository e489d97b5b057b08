//! Transport of the routes: parse, call, render.

use crate::archive::{self, RequestArchive};
use crate::retention::{self, SetParams};
use axum::extract::State;
use shared::domain::retention::Rules;
use shared::http::{Body, Caller, Params, Reply, Target, respond};
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

pub(crate) async fn get_retention(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(retention::get(&app, &caller, &target.model()?).await?)
}

pub(crate) async fn set_retention(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(params): Params<SetParams>,
    Body(rules): Body<Rules>,
) -> Result<Reply> {
    let outcome = retention::set(&app, &caller, &target.model()?, &params, rules).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn remove_retention(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    let outcome = retention::remove(&app, &caller, &target.model()?).await;
    respond(&app, &caller, 200, outcome).await
}
