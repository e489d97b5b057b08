//! Where a version came from, as SLSA has it: <https://slsa.dev/spec/v1.0/provenance>.

use super::{Subject, in_toto, subjects};
use serde_json::{Map, Value, json};
use shared::App;
use shared::domain::Digest;
use shared::s3::keys;

/// The predicate's type.
pub(super) const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// What the parameters mean.
const BUILD_TYPE: &str =
    "https://github.com/slipway-registry/slipway/blob/main/docs/packages.md#provenance";
/// Who builds.
const BUILDER: &str = "https://github.com/slipway-registry/slipway";

/// The objects of the drop zone that became this version, exactly: they are removed once it has its own.
pub(super) fn dropped(subject: &Subject<'_>) -> Vec<Value> {
    subject
        .judged
        .iter()
        .filter_map(|artifact| artifact.key.as_ref().map(|key| (artifact, key)))
        .filter(|(_, key)| key.starts_with("dropzone/"))
        .map(|(artifact, key)| json!({"key": key, "object_version": artifact.object_version}))
        .collect()
}

/// The statement.
pub(super) fn statement(app: &App, subject: &Subject<'_>, byproducts: &[(&str, &Digest)]) -> Value {
    let version = subject.version;
    let bucket = app.bucket.name();
    let mut dependencies: Vec<Value> = subject
        .judged
        .iter()
        .map(|artifact| {
            let key = keys::artifact(&version.id, artifact);
            let uri = match &artifact.object_version {
                Some(object_version) => format!("s3://{bucket}/{key}?versionId={object_version}"),
                None => format!("s3://{bucket}/{key}"),
            };
            json!({
                "name": artifact.path,
                "uri": uri,
                "digest": {"sha256": artifact.digest.hex()},
            })
        })
        .collect();
    let metadata = &subject.metadata;
    if let Some(code) = &metadata.code {
        let mut source = Map::new();
        source.insert("name".into(), "code".into());
        if let Some(repository) = &code.repository {
            source.insert("uri".into(), repository.as_str().into());
        }
        source.insert("digest".into(), json!({"gitCommit": code.commit}));
        source.insert("annotations".into(), json!({"is_dirty": code.is_dirty}));
        dependencies.push(source.into());
    }
    for dataset in &metadata.datasets {
        let mut source = Map::new();
        source.insert("name".into(), format!("dataset {}", dataset.name).into());
        if let Some(uri) = dataset.uri.as_ref().or(dataset.source.as_ref()) {
            source.insert("uri".into(), uri.as_str().into());
        }
        let annotations: Map<String, Value> = [
            ("version", &dataset.version),
            ("digest", &dataset.digest),
            ("context", &dataset.context),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.as_deref()?.into())))
        .collect();
        if !annotations.is_empty() {
            source.insert("annotations".into(), annotations.into());
        }
        dependencies.push(source.into());
    }
    let byproducts: Vec<Value> = byproducts
        .iter()
        .map(|(name, digest)| json!({"name": name, "digest": {"sha256": digest.hex()}}))
        .collect();
    in_toto(
        &subjects(subject),
        PREDICATE_TYPE,
        &json!({
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "tenant": version.id.tenant,
                    "model": version.id.model,
                    "version": version.id.number,
                    "metadata_digest": version.metadata_digest,
                },
                "internalParameters": {"registered_by": version.registered_by, "run": metadata.run},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"slipway": env!("CARGO_PKG_VERSION")}},
                "metadata": {
                    "invocationId": version.request_id,
                    "startedOn": version.created_at,
                    "finishedOn": version.validation.as_ref().map(|validation| validation.at),
                },
                "byproducts": byproducts,
            },
        }),
    )
}
