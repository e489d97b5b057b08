//! Transport: parse, call, render.

use crate::aliases::{self, RemoveAlias, RollBack, SetAlias};
use crate::gate;
use crate::lifecycle::{self, SetLifecycle};
use crate::requests::{self, AnswerCheck, RequestPromotion, Step};
use crate::rollouts::{self, ListRollouts, PutRollout, RollRolloutBack};
use crate::settings::{self, Document, Put, Which};
use crate::simulate::{self, Simulate};
use crate::stages::{self, Archiving, ChangeStage, Wish};
use crate::waivers::{self, GrantWaiver};
use axum::extract::State;
use serde_json::{Value, json};
use shared::domain::Version;
use shared::domain::request::{Comment, Decision};
use shared::domain::rollout::{Rollout, check_name};
use shared::dynamodb::Page;
use shared::http::{Body, Caller, Pages, Paging, Params, Reply, Target, respond};
use shared::{App, Error, Result};

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
    state: State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<ChangeStage>,
) -> Result<Reply> {
    move_stage(state, caller, target, Wish::To(command)).await
}

pub(crate) async fn archive(
    state: State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<Archiving>,
) -> Result<Reply> {
    move_stage(state, caller, target, Wish::Archive(command)).await
}

pub(crate) async fn unarchive(
    state: State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<Archiving>,
) -> Result<Reply> {
    move_stage(state, caller, target, Wish::Unarchive(command)).await
}

async fn move_stage(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    wish: Wish,
) -> Result<Reply> {
    let id = target.version_id(&caller.tenant)?;
    let show = |version: &Version| stages::native(&app, version);
    let outcome = stages::change(&app, &caller, &id, &wish, &show).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn set_lifecycle(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<SetLifecycle>,
) -> Result<Reply> {
    let id = target.version_id(&caller.tenant)?;
    let outcome = lifecycle::set(&app, &caller, &id, &command).await;
    respond(&app, &caller, 200, outcome).await
}

/// Shows a document of settings: of the registry, or of the model that the route names.
pub(crate) async fn get_settings<T: Document>(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(which): Params<Which>,
) -> Result<Reply> {
    Reply::ok(settings::get::<T>(&app, &caller, target.realm()?, &which).await?)
}

/// Replaces a document of settings: of the registry, or of the model that the route names.
pub(crate) async fn put_settings<T: Document>(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<Put>,
) -> Result<Reply> {
    let outcome = settings::put::<T>(&app, &caller, target.realm()?, command).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn list_waivers(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(waivers::list(&app, &caller, &target.model()?).await?)
}

pub(crate) async fn grant_waiver(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<GrantWaiver>,
) -> Result<Reply> {
    let model = target.model()?;
    let outcome = waivers::grant(&app, &caller, &model, command).await;
    let outcome = gate::denied_person(&app, &caller, &model, "grant_waiver", outcome).await;
    respond(&app, &caller, 201, outcome).await
}

pub(crate) async fn revoke_waiver(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    let model = target.model()?;
    let outcome = waivers::revoke(&app, &caller, &model, &target.id()?).await;
    let outcome = gate::denied_person(&app, &caller, &model, "revoke_waiver", outcome).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn simulate(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<Simulate>,
) -> Result<Reply> {
    Reply::ok(simulate::simulate(&app, &caller, &target.model()?, &command).await?)
}

pub(crate) async fn request_promotion(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<RequestPromotion>,
) -> Result<Reply> {
    let outcome = requests::open(&app, &caller, &target.model()?, &command).await;
    respond(&app, &caller, 201, outcome).await
}

pub(crate) async fn approve(
    state: State<App>,
    caller: Caller,
    target: Target,
    Body(said): Body<Comment>,
) -> Result<Reply> {
    step(state, caller, target, Step::Decide(Decision::Approve, said)).await
}

pub(crate) async fn reject(
    state: State<App>,
    caller: Caller,
    target: Target,
    Body(said): Body<Comment>,
) -> Result<Reply> {
    step(state, caller, target, Step::Decide(Decision::Reject, said)).await
}

pub(crate) async fn withdraw(
    state: State<App>,
    caller: Caller,
    target: Target,
    Body(said): Body<Comment>,
) -> Result<Reply> {
    step(
        state,
        caller,
        target,
        Step::Decide(Decision::Withdraw, said),
    )
    .await
}

pub(crate) async fn answer_check(
    state: State<App>,
    caller: Caller,
    target: Target,
    Body(answer): Body<AnswerCheck>,
) -> Result<Reply> {
    step(state, caller, target, Step::Answer(answer)).await
}

pub(crate) async fn promote_request(
    state: State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    step(state, caller, target, Step::Promote).await
}

async fn step(State(app): State<App>, caller: Caller, target: Target, step: Step) -> Result<Reply> {
    let (model, id) = (target.model()?, target.id()?);
    let outcome = requests::step(&app, &caller, &model, &id, &step).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn get_request(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(requests::get(&app, &caller, &target.model()?, &target.id()?).await?)
}

pub(crate) async fn list_requests(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(paging): Params<Paging>,
) -> Result<Reply> {
    let model = target.model()?;
    let pages = Pages::new(&app, &caller, &["requests", model.as_str()]);
    let (limit, after) = page(&pages, &paging)?;
    let is_first = after.is_none();
    let found = app
        .registry
        .requests(&caller.tenant, &model, limit, after)
        .await?;
    if found.items.is_empty() && is_first {
        app.registry.model(&caller.tenant, &model).await?;
    }
    let items = found.items.iter().map(|request| json!(request)).collect();
    Reply::ok(pages.render("requests", items, found.after.as_deref()))
}

pub(crate) async fn list_inbox(
    State(app): State<App>,
    caller: Caller,
    Params(paging): Params<Paging>,
) -> Result<Reply> {
    let pages = Pages::new(&app, &caller, &["inbox"]);
    let (limit, after) = page(&pages, &paging)?;
    let found = app.registry.inbox(&caller.tenant, limit, after).await?;
    let items = found
        .items
        .iter()
        .filter(|request| caller.sees(&request.model))
        .map(|request| json!(request))
        .collect();
    Reply::ok(pages.render("requests", items, found.after.as_deref()))
}

/// The size and the beginning of a page whose order nobody may choose.
fn page(pages: &Pages, paging: &Paging) -> Result<(usize, Option<String>)> {
    if paging.order.is_some() {
        return Err(Error::invalid(
            "order",
            "the order is fixed; leave `order` out",
        ));
    }
    Ok((paging.limit()?, pages.after(paging.cursor.as_deref())?))
}

pub(crate) async fn get_rollout(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(rollouts::get(&app, &caller, &target.place()?).await?)
}

pub(crate) async fn put_rollout(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<PutRollout>,
) -> Result<Reply> {
    let place = target.place()?;
    let outcome = rollouts::put(&app, &caller, &place, &command).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn roll_rollout_back(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Body(command): Body<RollRolloutBack>,
) -> Result<Reply> {
    let place = target.place()?;
    let outcome = rollouts::roll_back(&app, &caller, &place, &command).await;
    respond(&app, &caller, 200, outcome).await
}

pub(crate) async fn list_rollout_history(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(paging): Params<Paging>,
) -> Result<Reply> {
    let place = target.place()?;
    let pages = Pages::new(&app, &caller, &["rollout", &place.to_string()]);
    let (limit, after) = page(&pages, &paging)?;
    let found = app
        .registry
        .rollout_history(&caller.tenant, &place, limit, after)
        .await?;
    Reply::ok(rollout_page(&caller, &pages, &found))
}

pub(crate) async fn list_rollouts(
    State(app): State<App>,
    caller: Caller,
    Params(wanted): Params<ListRollouts>,
) -> Result<Reply> {
    let environment = wanted.environment.as_deref();
    if let Some(name) = environment {
        check_name("environment", name)?;
    }
    let paging = Paging {
        limit: wanted.limit,
        cursor: wanted.cursor.clone(),
        order: None,
    };
    let pages = Pages::new(
        &app,
        &caller,
        &["rollouts", environment.unwrap_or_default()],
    );
    let (limit, after) = page(&pages, &paging)?;
    let found = app
        .registry
        .rollouts(&caller.tenant, environment, limit, after)
        .await?;
    Reply::ok(rollout_page(&caller, &pages, &found))
}

pub(crate) async fn list_rollouts_of_model(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(paging): Params<Paging>,
) -> Result<Reply> {
    let model = target.model()?;
    let pages = Pages::new(&app, &caller, &["rollouts of", model.as_str()]);
    let (limit, after) = page(&pages, &paging)?;
    let is_first = after.is_none();
    let found = app
        .registry
        .rollouts_of_model(&caller.tenant, &model, limit, after)
        .await?;
    if found.items.is_empty() && is_first {
        app.registry.model(&caller.tenant, &model).await?;
    }
    Reply::ok(rollout_page(&caller, &pages, &found))
}

fn rollout_page(caller: &Caller, pages: &Pages, found: &Page<Rollout>) -> Value {
    let items = found
        .items
        .iter()
        .filter(|rollout| caller.sees(&rollout.model))
        .map(|rollout| json!(rollout))
        .collect();
    pages.render("rollouts", items, found.after.as_deref())
}
