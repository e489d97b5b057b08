//! Function card: `tracking`
//!
//! - **Trigger:** HTTP (the routes below; through the gateway also every route of MLflow's that no function has).
//! - **Reads:** experiments, runs, logged models and the history of metrics.
//! - **Writes:** the same, and idempotency answers.
//! - **Emits:** nothing; who wants to hear of a result subscribes to the version that is registered from it.
//! - **On failure:** answers MLflow's error body and changes nothing; a race that stays lost answers 429.
//! - **Permissions:** table read and write; nothing in the bucket.

mod experiments;
mod history;
mod info;
mod logged_models;
mod logging;
mod runs;
mod search;
mod views;

use axum::Router;
use shared::App;
use shared::http::{Route, delete, get, mount, patch, post};

/// Every route of this function, without the tenant prefix.
pub fn routes() -> Vec<Route> {
    let mut routes = vec![
        get("/health", info::health).open(),
        get("/version", info::version).open(),
        get("/{api}/3.0/mlflow/server-info", info::server_info).open(),
    ];
    routes.extend(experiment_routes());
    routes.extend(run_routes());
    routes.extend(logged_model_routes());
    routes
}

fn experiment_routes() -> Vec<Route> {
    vec![
        post("/{api}/2.0/mlflow/experiments/create", experiments::create),
        get("/{api}/2.0/mlflow/experiments/get", experiments::get),
        get(
            "/{api}/2.0/mlflow/experiments/get-by-name",
            experiments::get_by_name,
        ),
        get(
            "/{api}/2.0/mlflow/experiments/search",
            search::experiments::search,
        ),
        post(
            "/{api}/2.0/mlflow/experiments/search",
            search::experiments::search,
        ),
        post(
            "/{api}/2.0/mlflow/experiments/search-datasets",
            search::datasets::search,
        ),
        post("/{api}/2.0/mlflow/experiments/delete", experiments::delete),
        post(
            "/{api}/2.0/mlflow/experiments/restore",
            experiments::restore,
        ),
        post("/{api}/2.0/mlflow/experiments/update", experiments::update),
        post(
            "/{api}/2.0/mlflow/experiments/set-experiment-tag",
            experiments::set_tag,
        ),
        post(
            "/{api}/2.0/mlflow/experiments/delete-experiment-tag",
            experiments::delete_tag,
        ),
    ]
}

fn run_routes() -> Vec<Route> {
    vec![
        post("/{api}/2.0/mlflow/runs/create", runs::create),
        get("/{api}/2.0/mlflow/runs/get", runs::get),
        post("/{api}/2.0/mlflow/runs/update", runs::update),
        post("/{api}/2.0/mlflow/runs/delete", runs::delete),
        post("/{api}/2.0/mlflow/runs/restore", runs::restore),
        post("/{api}/2.0/mlflow/runs/search", search::runs::search),
        post("/{api}/2.0/mlflow/runs/log-metric", logging::log_metric),
        post("/{api}/2.0/mlflow/runs/log-parameter", logging::log_param),
        post("/{api}/2.0/mlflow/runs/log-batch", logging::log_batch),
        post("/{api}/2.0/mlflow/runs/log-inputs", logging::log_inputs),
        post("/{api}/2.0/mlflow/runs/outputs", logging::log_outputs),
        post("/{api}/2.0/mlflow/runs/log-model", logging::log_model),
        post("/{api}/2.0/mlflow/runs/set-tag", logging::set_tag),
        post("/{api}/2.0/mlflow/runs/delete-tag", logging::delete_tag),
        get("/{api}/2.0/mlflow/metrics/get-history", history::get),
        get(
            "/{api}/2.0/mlflow/metrics/get-history-bulk",
            history::get_bulk,
        ),
        get(
            "/{api}/2.0/mlflow/metrics/get-history-bulk-interval",
            history::get_sampled,
        ),
    ]
}

fn logged_model_routes() -> Vec<Route> {
    vec![
        post("/{api}/2.0/mlflow/logged-models", logged_models::create),
        post(
            "/{api}/2.0/mlflow/logged-models/search",
            search::logged_models::search,
        ),
        get(
            "/{api}/2.0/mlflow/logged-models/{model_id}",
            logged_models::get,
        ),
        patch(
            "/{api}/2.0/mlflow/logged-models/{model_id}",
            logged_models::finalize,
        ),
        delete(
            "/{api}/2.0/mlflow/logged-models/{model_id}",
            logged_models::delete,
        ),
        patch(
            "/{api}/2.0/mlflow/logged-models/{model_id}/tags",
            logged_models::set_tags,
        ),
        delete(
            "/{api}/2.0/mlflow/logged-models/{model_id}/tags/{tag}",
            logged_models::delete_tag,
        ),
        post(
            "/{api}/2.0/mlflow/logged-models/{model_id}/params",
            logged_models::log_params,
        ),
    ]
}

/// The function's HTTP side.
pub fn router(app: App) -> Router {
    mount(app, routes())
}
