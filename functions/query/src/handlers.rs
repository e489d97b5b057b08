//! Transport: parse, call, render.

use crate::artifacts::{self, DownloadParams};
use crate::attestations::{self, Document};
use crate::models::ListModels;
use crate::tenures::At;
use crate::tracking::{self, HistoryParams, ListParams};
use crate::versions::ListVersions;
use crate::{history, models, tenures, versions};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use shared::http::{Caller, Paging, Params, Reply, Target};
use shared::{App, Result};

/// The OpenAPI description, kept true by a test.
const OPENAPI: &str = include_str!("../openapi.json");

pub(crate) async fn list_models(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ListModels>,
) -> Result<Reply> {
    Reply::ok(models::list(&app, &caller, &params).await?)
}

pub(crate) async fn get_model(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(models::get(&app, &caller, &target.model()?).await?)
}

pub(crate) async fn list_versions(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(params): Params<ListVersions>,
) -> Result<Reply> {
    Reply::ok(versions::list(&app, &caller, &target.model()?, &params).await?)
}

pub(crate) async fn get_version(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(versions::get(&app, &target.version_id(&caller.tenant)?).await?)
}

pub(crate) async fn list_artifacts(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(paging): Params<Paging>,
) -> Result<Reply> {
    Reply::ok(artifacts::list(&app, &caller, &target.version_id(&caller.tenant)?, &paging).await?)
}

pub(crate) async fn get_report(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(artifacts::report(&app, &target.version_id(&caller.tenant)?).await?)
}

pub(crate) async fn get_manifest(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(artifacts::manifest(&app, &target.version_id(&caller.tenant)?).await?)
}

pub(crate) async fn list_downloads(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(params): Params<DownloadParams>,
) -> Result<Reply> {
    Reply::ok(
        artifacts::downloads(&app, &caller, &target.version_id(&caller.tenant)?, &params).await?,
    )
}

pub(crate) async fn get_checksums(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Document> {
    attestations::checksums(&app, &target.version_id(&caller.tenant)?).await
}

pub(crate) async fn list_attestations(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(attestations::list(&app, &target.version_id(&caller.tenant)?).await?)
}

pub(crate) async fn get_attestation(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Document> {
    let id = target.version_id(&caller.tenant)?;
    attestations::get(&app, &id, target.name()?).await
}

pub(crate) async fn get_signing_key(State(app): State<App>) -> Result<Document> {
    attestations::signing_key(&app).await
}

pub(crate) async fn list_trusted_keys(State(app): State<App>, caller: Caller) -> Result<Reply> {
    Reply::ok(attestations::trusted_keys(&app, &caller).await?)
}

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, self.media_type)], self.bytes).into_response()
    }
}

pub(crate) async fn list_aliases(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(history::aliases(&app, &caller, &target.model()?).await?)
}

pub(crate) async fn get_alias(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(at): Params<At>,
) -> Result<Reply> {
    let (model, alias) = (target.model()?, target.alias()?);
    match at.at {
        None => Reply::ok(history::alias(&app, &caller, &model, &alias).await?),
        Some(at) => Reply::ok(tenures::holder_at(&app, &caller, &model, &alias, at).await?),
    }
}

pub(crate) async fn list_alias_tenures(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(at): Params<At>,
) -> Result<Reply> {
    let (model, alias) = (target.model()?, target.alias()?);
    Reply::ok(tenures::of_alias(&app, &caller, &model, &alias, at.at).await?)
}

pub(crate) async fn list_alias_history(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(paging): Params<Paging>,
) -> Result<Reply> {
    Reply::ok(history::of_alias(&app, &caller, &target.model()?, &target.alias()?, &paging).await?)
}

pub(crate) async fn list_model_events(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(paging): Params<Paging>,
) -> Result<Reply> {
    Reply::ok(history::of_model(&app, &caller, &target.model()?, &paging).await?)
}

pub(crate) async fn list_experiments(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Reply> {
    Reply::ok(tracking::list_experiments(&app, &caller, &params).await?)
}

pub(crate) async fn get_experiment(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(tracking::get_experiment(&app, &caller, target.experiment()?).await?)
}

pub(crate) async fn list_runs(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(params): Params<ListParams>,
) -> Result<Reply> {
    Reply::ok(tracking::list_runs(&app, &caller, target.experiment()?, &params).await?)
}

pub(crate) async fn get_run(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(tracking::get_run(&app, &caller, &target.run()?).await?)
}

pub(crate) async fn get_metric_history(
    State(app): State<App>,
    caller: Caller,
    target: Target,
    Params(params): Params<HistoryParams>,
) -> Result<Reply> {
    Reply::ok(tracking::get_history(&app, &caller, &target.run()?, &params).await?)
}

pub(crate) async fn get_logged_model(
    State(app): State<App>,
    caller: Caller,
    target: Target,
) -> Result<Reply> {
    Reply::ok(tracking::get_logged_model(&app, &caller, &target.logged_model()?).await?)
}

pub(crate) async fn get_openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
