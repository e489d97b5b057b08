//! Transport: parse, call, render.

use crate::policies::{self, SetPolicy};
use crate::rejudge::{self, RejudgeModel, RejudgeVersion};
use axum::extract::State;
use shared::http::{Body, Caller, Reply, Target, respond};
use shared::{App, Result};

pub(crate) async fn get_policy(State(app): State<App>, caller: Caller) -> Result<Reply> {
    Reply::ok(policies::get(&app, &caller.tenant).await?)
}

pub(crate) async fn set_policy(
    State(app): State<App>,
    caller: Caller,
    Body(command): Body<SetPolicy>,
) -> Result<Reply> {
    let outcome = Box::pin(policies::set(&app, &caller, command)).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn rejudge_version(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<RejudgeVersion>,
) -> Result<Reply> {
    let id = target.version_id(&caller.tenant)?;
    let (status, outcome) = match Box::pin(rejudge::version(&app, &caller, &id, &command)).await {
        Ok((status, outcome)) => (status, Ok(outcome)),
        Err(error) => (200, Err(error)),
    };
    respond(&app, &caller, status, outcome).await
}

pub(crate) async fn rejudge_model(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<RejudgeModel>,
) -> Result<Reply> {
    let outcome = Box::pin(rejudge::model(&app, &caller, &target.model()?, &command)).await;
    respond(&app, &caller, 200, outcome).await
}
