//! Where a version of MLflow comes from: the files behind its source, a reference to files elsewhere, or a refusal.
//!
//! What lies in this bucket is pinned by key and object version, as a drop is, so that it goes through validation like
//! everything else and later writes of the run do not matter. What lies elsewhere, or is not there, is a reference.

use crate::drops::pin;
use futures::future::try_join_all;
use shared::domain::artifact::MAX_ARTIFACTS;
use shared::domain::tracking::{LoggedModelId, RunId};
use shared::domain::version::Origin;
use shared::domain::{
    Artifact, ArtifactPath, DeclaredArtifact, Location, Source, Status, Version, VersionId,
};
use shared::http::Caller;
use shared::mlflow::limits::{self, Wanted, checked_model_name};
use shared::mlflow::{MlflowCode, invalid, refused, shapes};
use shared::s3::{ObjectInfo, keys};
use shared::{App, Error, Result};

use percent_encoding::percent_decode_str;

/// Longest source, run id and run link, in bytes.
const MAX_URI: usize = 4_096;
/// How many objects are looked at at once.
const PARALLEL_HEADS: usize = 16;
/// Sources that prompts have, for they have no files.
const PROMPT_SOURCES: [&str; 2] = ["dummy-source", "prompt-template"];

/// What a client says of where a version comes from.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) source: String,
    pub(super) run_id: Option<String>,
    pub(super) run_link: Option<String>,
    pub(super) model_id: Option<String>,
    pub(super) is_prompt: bool,
}

/// Where a version comes from, and which of our objects it consists of; none for a reference.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) artifacts: Vec<DeclaredArtifact>,
    pub(super) origin: Origin,
    /// How the artifacts come into the registry.
    pub(super) kind: Source,
}

impl Resolved {
    /// What stays where it is.
    fn reference(origin: Origin) -> Self {
        Self {
            artifacts: Vec::new(),
            origin,
            kind: Source::Reference,
        }
    }

    /// Objects of ours, or a reference if there are none.
    fn of(artifacts: Vec<DeclaredArtifact>, origin: Origin, kind: Source) -> Self {
        if artifacts.is_empty() {
            return Self::reference(origin);
        }
        Self {
            artifacts,
            origin,
            kind,
        }
    }
}

pub(super) async fn resolve(app: &App, caller: &Caller, request: Request) -> Result<Resolved> {
    for (field, text) in [
        ("source", Some(&request.source)),
        ("run_id", request.run_id.as_ref()),
        ("run_link", request.run_link.as_ref()),
        ("model_id", request.model_id.as_ref()),
    ] {
        limits::check_length(field, text.map_or("", String::as_str), MAX_URI)?;
    }
    let origin = Origin {
        source: request.source,
        run_id: request.run_id,
        run_link: request.run_link,
        model_id: request.model_id,
        location: None,
    };
    if request.is_prompt {
        if !PROMPT_SOURCES.contains(&origin.source.as_str()) {
            return Err(invalid(format!(
                "Invalid prompt source: '{}'. Prompt sources must use an MLflow placeholder.",
                origin.source
            )));
        }
        return Ok(Resolved::reference(origin));
    }
    check_path(&origin.source)?;
    let found = match scheme(&origin.source) {
        "models" => of_model(app, caller, origin).await?,
        "runs" => of_run(app, caller, origin).await?,
        _ => {
            let location = origin.source.clone();
            at(app, caller, origin, &location).await?
        }
    };
    if app.config.mlflow_lineage {
        check_lineage(app, caller, &found.origin).await?;
    }
    Ok(found)
}

/// The scheme of a URI; empty if it has none.
fn scheme(source: &str) -> &str {
    match source.split_once(':') {
        Some((scheme, _))
            if scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| {
                    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
                }) =>
        {
            scheme
        }
        _ => "",
    }
}

fn refusal(source: &str) -> Error {
    invalid(format!(
        "Invalid model version source: '{source}'. If supplying a source as an http, https, local file path, ftp, \
         objectstore, or mlflow-artifacts uri, an absolute path must be provided without relative path references \
         present. Please provide an absolute path."
    ))
}

/// Refuses local paths, and paths that leave where they begin, however often they are encoded.
fn check_path(source: &str) -> Result<()> {
    // A scheme of one letter is a drive.
    let scheme = scheme(source);
    if scheme.len() < 2 || scheme.eq_ignore_ascii_case("file") {
        return Err(invalid(format!(
            "Invalid model version source: '{source}'. To use a local path as a model version source, the run_id \
             request parameter has to be specified and the local path has to be contained within the artifact \
             directory of the run specified by the run_id."
        )));
    }
    let mut plain = source.to_owned();
    loop {
        let decoded = percent_decode_str(&plain.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned();
        if decoded == plain {
            break;
        }
        plain = decoded;
    }
    if plain.contains('\0') || plain.split(['/', '\\']).any(|part| part == "..") {
        return Err(refusal(source));
    }
    let rest = plain.split_once(':').map_or("", |(_, rest)| rest);
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.find('/').map_or("", |start| &rest[start..]),
        None => rest,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if !path.starts_with('/') || path.split('/').any(|part| part == ".") {
        return Err(refusal(source));
    }
    Ok(())
}

/// A version of a logged model, `models:/m-…`, or of another version, `models:/name/version`.
async fn of_model(app: &App, caller: &Caller, mut origin: Origin) -> Result<Resolved> {
    let source = origin.source.clone();
    let improper = || {
        invalid(format!(
            "Not a proper models:/ URI: {source}. Models URIs must be of the form 'models:/model_id', \
             'models:/model_name/suffix', or 'models:/model_name@alias' where suffix is a model version, stage, or \
             the string 'latest' and where alias is a registered model alias."
        ))
    };
    let rest = source
        .strip_prefix("models:")
        .map(|rest| rest.trim_start_matches('/'))
        .filter(|rest| !rest.is_empty())
        .ok_or_else(improper)?;
    let id = match rest.split_once('/') {
        Some((name, suffix)) if !suffix.is_empty() && !suffix.contains('/') => {
            versioned(app, caller, name, suffix).await?
        }
        Some(_) => return Err(improper()),
        None => {
            if let Some((name, alias)) = rest.rsplit_once('@') {
                aliased(app, caller, name, alias).await?
            } else {
                let id = LoggedModelId::parse(rest)?;
                let model = app.registry.logged_model(&caller.tenant, &id).await?;
                origin.model_id.get_or_insert_with(|| id.to_string());
                if origin.run_id.is_none() && !model.source_run_id.is_empty() {
                    origin.run_id = Some(model.source_run_id.clone());
                }
                return at(app, caller, origin, &model.artifact_uri).await;
            }
        }
    };
    let version = app.registry.live_version(&id).await?;
    origin.source = format!("models:/{}/{}", id.model, id.number);
    let earlier = version.origin.clone().unwrap_or_default();
    origin.run_id = origin.run_id.or(earlier.run_id);
    origin.model_id = origin.model_id.or(earlier.model_id);
    copy(app, &version, origin).await
}

async fn versioned(app: &App, caller: &Caller, name: &str, suffix: &str) -> Result<VersionId> {
    let model = checked_model_name(&decoded(name))?;
    if suffix.bytes().all(|byte| byte.is_ascii_digit()) {
        return match limits::version_number(suffix)? {
            Wanted::Number(number) => Ok(VersionId {
                tenant: caller.tenant.clone(),
                model,
                number,
            }),
            Wanted::Nothing(_) => Err(not_there(name, suffix)),
        };
    }
    let head = app.registry.model(&caller.tenant, &model).await?;
    head.require_live()?;
    let latest = app.registry.neighbours(std::slice::from_ref(&head)).await?;
    let latest = latest.into_iter().flat_map(|one| one.latest);
    let found = if suffix.eq_ignore_ascii_case("latest") {
        latest.max_by_key(|version| version.id.number)
    } else {
        let stage = limits::stage(suffix)?;
        latest.into_iter().find(|version| version.stage == stage)
    };
    found
        .map(|version| version.id)
        .ok_or_else(|| not_there(name, suffix))
}

async fn aliased(app: &App, caller: &Caller, name: &str, alias: &str) -> Result<VersionId> {
    let model = checked_model_name(&decoded(name))?;
    let found = match limits::known_alias(alias)? {
        Some(alias) => {
            app.registry
                .find_alias(&caller.tenant, &model, &alias)
                .await?
        }
        None => None,
    };
    let number = found
        .and_then(|alias| alias.version)
        .ok_or_else(|| invalid(format!("Registered model alias {alias} not found.")))?;
    Ok(VersionId {
        tenant: caller.tenant.clone(),
        model,
        number,
    })
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn not_there(name: &str, version: &str) -> Error {
    refused(
        MlflowCode::ResourceDoesNotExist,
        shared::mlflow::error::version_not_found(name, version),
    )
}

/// A copy of a version: the same pinned objects, or the same reference.
async fn copy(app: &App, version: &Version, mut origin: Origin) -> Result<Resolved> {
    if version.is_reference() {
        origin.location = Some(shapes::download_uri(version));
        return Ok(Resolved::reference(origin));
    }
    let artifacts = if version.status == Status::Ready {
        let judged: Vec<Artifact> = app
            .load_document(&version.id, "artifacts", &version.artifacts)
            .await?
            .unwrap_or_default();
        judged
            .into_iter()
            .map(|artifact| DeclaredArtifact {
                key: Some(keys::artifact(&version.id, &artifact)),
                path: artifact.path,
                size_bytes: artifact.size_bytes,
                digest: Some(artifact.digest),
                media_type: Some(artifact.media_type),
                object_version: artifact.object_version,
            })
            .collect()
    } else {
        let declared: Vec<DeclaredArtifact> = app
            .load_document(&version.id, "artifacts", &version.artifacts)
            .await?
            .unwrap_or_default();
        if declared.iter().any(|artifact| artifact.key.is_none()) {
            return Err(shared::domain::version::version_not_ready(
                &version.id,
                version.status,
            ));
        }
        declared
    };
    Ok(Resolved::of(artifacts, origin, Source::Copy))
}

/// A version of what a run logged, `runs:/<run>/<path>`; a run that is not ours is a reference.
async fn of_run(app: &App, caller: &Caller, mut origin: Origin) -> Result<Resolved> {
    let rest = origin
        .source
        .strip_prefix("runs:")
        .unwrap_or_default()
        .trim_start_matches('/');
    let (run, path) = rest.split_once('/').unwrap_or((rest, ""));
    let found = match RunId::parse(run) {
        Ok(run) => app.registry.find_run(&caller.tenant, &run).await?,
        Err(_) => None,
    };
    let Some(found) = found else {
        return Ok(Resolved::reference(origin));
    };
    let location = format!(
        "{}/{}",
        found.run.artifact_uri.trim_end_matches('/'),
        path.trim_end_matches('/')
    );
    origin.run_id.get_or_insert_with(|| run.to_owned());
    at(app, caller, origin, location.trim_end_matches('/')).await
}

/// What lies at a place: our objects, or a reference to it.
async fn at(app: &App, caller: &Caller, mut origin: Origin, location: &str) -> Result<Resolved> {
    if location != origin.source {
        origin.location = Some(location.to_owned());
    }
    if let Some(path) = location.strip_prefix("mlflow-artifacts:")
        && let Ok(Location::Version { model, number, .. }) =
            Location::of_uri_path(path.trim_matches('/'))
    {
        caller.may(shared::domain::Action::Read, &model)?;
        let id = VersionId {
            tenant: caller.tenant.clone(),
            model,
            number,
        };
        let version = app.registry.live_version(&id).await?;
        return copy(app, &version, origin).await;
    }
    let bucket = app.bucket.name();
    let artifacts = match keys::tracked_of_uri(&caller.tenant, bucket, location) {
        Some(key) => pinned(app, key.trim_end_matches('/')).await?,
        None if location
            .strip_prefix("s3://")
            .and_then(|rest| rest.split('/').next())
            == Some(bucket) =>
        {
            return Err(invalid(format!(
                "Invalid model version source: '{location}'. It lies in the registry's own bucket, but not among the \
                 artifacts of this tenant's runs."
            )));
        }
        None => Vec::new(),
    };
    Ok(Resolved::of(artifacts, origin, Source::Run))
}

/// The objects below a key, or the object at it, each pinned to the version that is there now.
async fn pinned(app: &App, key: &str) -> Result<Vec<DeclaredArtifact>> {
    let folder = format!("{key}/");
    let listed = app.bucket.list(&folder, MAX_ARTIFACTS + 1).await?;
    let objects: Vec<&ObjectInfo> = listed
        .iter()
        .filter(|object| !object.key.ends_with('/'))
        .collect();
    let mut artifacts = Vec::with_capacity(objects.len());
    for chunk in objects.chunks(PARALLEL_HEADS) {
        artifacts.extend(try_join_all(chunk.iter().map(|object| pin(app, &folder, object))).await?);
    }
    if artifacts.is_empty()
        && let Some(head) = app.bucket.head(key, None).await?
    {
        artifacts.push(DeclaredArtifact {
            path: ArtifactPath::parse(key.rsplit('/').next().unwrap_or_default())?,
            size_bytes: head.size_bytes,
            digest: head.digest,
            media_type: None,
            key: Some(key.to_owned()),
            object_version: head.object_version,
        });
    }
    Ok(artifacts)
}

/// Refuses a source whose run or logged model is not the one that the request names, as MLflow does since 3.17.
async fn check_lineage(app: &App, caller: &Caller, origin: &Origin) -> Result<()> {
    let source = &origin.source;
    let other = |field: &str| {
        invalid(format!(
            "Invalid model version source: '{source}'. The {field} request parameter must identify the resource that \
             contains the source."
        ))
    };
    if let Some(rest) = source.strip_prefix("runs:") {
        let run = rest.trim_start_matches('/').split('/').next();
        return if origin.run_id.as_deref() == run {
            Ok(())
        } else {
            Err(other("run_id"))
        };
    }
    if let Some(rest) = source.strip_prefix("models:") {
        let id = rest.trim_start_matches('/');
        return if id.contains('/') || origin.model_id.as_deref() == Some(id) {
            Ok(())
        } else {
            Err(other("model_id"))
        };
    }
    if !source.starts_with("mlflow-artifacts:") {
        return Ok(());
    }
    let (field, root) = match (&origin.model_id, &origin.run_id) {
        (Some(id), _) => {
            let id = LoggedModelId::parse(id.as_str())?;
            let model = app.registry.logged_model(&caller.tenant, &id).await?;
            ("model_id", Some(model.artifact_uri))
        }
        (None, Some(run)) => {
            let found = app
                .registry
                .find_run(&caller.tenant, &RunId::parse(run.as_str())?)
                .await?;
            ("run_id", found.map(|found| found.run.artifact_uri))
        }
        (None, None) => ("run_id", None),
    };
    let is_within = root.is_some_and(|root| {
        source
            .strip_prefix(root.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    if is_within { Ok(()) } else { Err(other(field)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_leave_their_place_are_refused() {
        for bad in [
            "",
            "path/to/model",
            "/etc/passwd",
            "file:///etc/passwd",
            "FILE:/etc",
            "C:/models",
            "s3://bucket/a/../b",
            "s3://bucket/a/%2e%2e/b",
            "s3://bucket/a/%252e%252e/b",
            "mlflow-artifacts:/0/%00",
            "mlflow-artifacts:/../x",
            "mlflow-artifacts://host/..%2f..%2f",
            "http://host/a/./b",
            "s3://bucket",
            "runs:abc",
            "s3://bucket/a\\..\\b",
        ] {
            assert!(check_path(bad).is_err(), "{bad:?} must be refused");
        }
        for good in [
            "s3://bucket/a/b",
            "mlflow-artifacts:/0/r/artifacts/model",
            "mlflow-artifacts://host:5000/0/r",
            "runs:/abc/model",
            "models:/m-123",
            "models:/iris/3",
            "dbfs:/x/y",
            "gs://bucket/a b/..c",
            "https://host/model.bin",
        ] {
            assert!(check_path(good).is_ok(), "{good:?} must be allowed");
        }
    }
}
