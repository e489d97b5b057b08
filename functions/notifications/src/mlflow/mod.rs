//! MLflow's webhooks: their REST API, their events, and their payloads.
//!
//! Source: `mlflow/server/handlers.py`, `mlflow/entities/webhook.py` and `mlflow/webhooks/` of MLflow.

pub(crate) mod events;
pub(crate) mod handlers;
pub(crate) mod payload;
