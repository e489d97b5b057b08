//! Transport: parse, call, render.

use crate::aliases::{self, RemoveAlias, RollBack, SetAlias};
use crate::stages::{self, ChangeStage};
use axum::extract::State;
use shared::http::{Body, Caller, Reply, Target, respond};
use shared::{App, Result};

pub(crate) async fn set_alias(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<SetAlias>,
) -> Result<Reply> {
    let outcome = aliases::set(&app, &caller, &target.model()?, &target.alias()?, &command).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn remove_alias(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<RemoveAlias>,
) -> Result<Reply> {
    let outcome =
        aliases::remove(&app, &caller, &target.model()?, &target.alias()?, &command).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn roll_alias_back(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<RollBack>,
) -> Result<Reply> {
    let outcome =
        aliases::roll_back(&app, &caller, &target.model()?, &target.alias()?, &command).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn change_stage(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<ChangeStage>,
) -> Result<Reply> {
    let id = target.version_id(&caller.tenant)?;
    let outcome = stages::change(&app, &caller, &id, command).await;
    respond(&app, &caller, 200, outcome).await
}
