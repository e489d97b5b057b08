//! Whose root a path lies in, and which root a run has.

use shared::domain::location::{self, Owner};
use shared::domain::tracking::run::run_not_found;
use shared::domain::tracking::{Lifecycle, RunId, logged_model::logged_model_not_found};
use shared::domain::{StoredPath, TenantName};
use shared::http::Caller;
use shared::mlflow::{MlflowCode, invalid, refused};
use shared::s3::keys;
use shared::{App, Error, Result};

/// How many candidates for an owner are looked at; more would be folders called `artifacts` in one another.
const MOST_CANDIDATES: usize = 3;

/// The root of a run's or logged model's artifacts.
pub(crate) struct Root {
    /// Its URI, as the run shows it.
    pub(crate) uri: String,
    /// Where its files lie, without a `/` at the end.
    pub(crate) key: String,
}

/// Whether a path lies where no run and no logged model has its files, such as `dir/a.txt`.
///
/// MLflow's server keeps such files too. Below a number lie the roots of an experiment, and nothing else.
pub(crate) fn is_loose(path: &StoredPath) -> bool {
    let first = path.as_str().split('/').next().unwrap_or_default();
    let is_number = first.bytes().all(|byte| byte.is_ascii_digit());
    !is_number && location::owners(path).is_empty()
}

/// Refuses to change what lies in no root, or in the root of a run that was deleted.
pub(crate) async fn require_owner(app: &App, caller: &Caller, path: &StoredPath) -> Result<()> {
    let candidates = location::owners(path);
    if candidates.is_empty() {
        return Err(invalid(format!(
            "Invalid path '{path}': it lies in the artifact root of no run and no logged model. Use the \
             artifact URI that the run or logged model has. (Clients of MLflow before 2.11 leave the root out of \
             multipart uploads; update them, or switch MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD off.)"
        )));
    }
    for (owner, root) in candidates.into_iter().take(MOST_CANDIDATES) {
        let Some(found) = app
            .registry
            .find_artifact_root(&caller.tenant, &owner)
            .await?
        else {
            continue;
        };
        let wanted = keys::tracked(&caller.tenant, &StoredPath::parse(root)?);
        if key_of(app, &caller.tenant, &found.uri).as_deref() != Some(&wanted) {
            continue;
        }
        return match found.lifecycle {
            Lifecycle::Active => Ok(()),
            Lifecycle::Deleted => Err(deleted(&owner)),
        };
    }
    Err(refused(
        MlflowCode::ResourceDoesNotExist,
        format!("No run and no logged model has the artifact root that '{path}' lies in."),
    ))
}

/// The root of a run; deleted or not, since what was deleted can be restored.
pub(crate) async fn of_run(app: &App, tenant: &TenantName, id: &str) -> Result<Root> {
    let id = RunId::parse(id)?;
    find(app, tenant, &Owner::Run(id.clone()))
        .await?
        .ok_or_else(|| run_not_found(id))
}

/// The root of a run or a logged model that may be written to.
pub(crate) async fn to_write(app: &App, tenant: &TenantName, owner: &Owner) -> Result<Root> {
    let found = app.registry.find_artifact_root(tenant, owner).await?;
    match found {
        None => Err(not_found(owner)),
        Some(found) if found.lifecycle == Lifecycle::Deleted => Err(deleted(owner)),
        Some(found) => root_at(app, tenant, found.uri),
    }
}

/// The root of a run or a logged model, deleted or not.
pub(crate) async fn of(app: &App, tenant: &TenantName, owner: &Owner) -> Result<Root> {
    find(app, tenant, owner)
        .await?
        .ok_or_else(|| not_found(owner))
}

async fn find(app: &App, tenant: &TenantName, owner: &Owner) -> Result<Option<Root>> {
    let found = app.registry.find_artifact_root(tenant, owner).await?;
    found
        .map(|found| root_at(app, tenant, found.uri))
        .transpose()
}

fn root_at(app: &App, tenant: &TenantName, uri: String) -> Result<Root> {
    match key_of(app, tenant, &uri) {
        Some(key) => Ok(Root { uri, key }),
        None => Err(refused(
            MlflowCode::NotImplemented,
            format!(
                "The artifacts lie at '{uri}', which is not this registry's. Read them from there, with the client's \
                 own credentials."
            ),
        )),
    }
}

fn key_of(app: &App, tenant: &TenantName, uri: &str) -> Option<String> {
    keys::tracked_of_uri(tenant, app.bucket.name(), uri)
}

fn not_found(owner: &Owner) -> Error {
    match owner {
        Owner::Run(id) => run_not_found(id),
        Owner::LoggedModel(id) => logged_model_not_found(id),
    }
}

fn deleted(owner: &Owner) -> Error {
    match owner {
        Owner::Run(id) => invalid(format!(
            "The run {id} must be in the 'active' state. Current state is deleted."
        )),
        Owner::LoggedModel(id) => not_found(&Owner::LoggedModel(id.clone())),
    }
}
