//! The bill of materials of a version: `CycloneDX` 1.6 with a model card.
//!
//! Schema: <https://cyclonedx.org/docs/1.6/json/>.

use super::Subject;
use super::facts::Facts;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use shared::domain::{Metadata, file_set};

/// The bill.
pub(super) fn write(subject: &Subject<'_>) -> Value {
    let version = subject.version;
    let set = file_set::digest(subject.artifacts);
    let name = version.id.model.as_str();
    let number = version.id.number.to_string();
    let facts = Facts::of(subject);
    let mut components: Vec<Value> = subject
        .artifacts
        .iter()
        .map(|artifact| {
            json!({
                "type": "file",
                "bom-ref": format!("file:{}", artifact.path),
                "name": artifact.path,
                "mime-type": mime_type(&artifact.media_type),
                "hashes": [{"alg": "SHA-256", "content": artifact.digest.hex()}],
            })
        })
        .collect();
    components.extend(facts.libraries.iter().map(|(library, release)| {
        let mut component = json!({
            "type": "library",
            "bom-ref": format!("library:{library}"),
            "name": library,
            "purl": purl(library, release.as_deref()),
        });
        if let Some(release) = release {
            component["version"] = release.as_str().into();
        }
        component
    }));
    components.extend(datasets(&subject.metadata, &facts));
    let depends_on: Vec<Value> = components
        .iter()
        .map(|component| component["bom-ref"].clone())
        .collect();
    let mut model = json!({
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "version": number,
        "hashes": [{"alg": "SHA-256", "content": set.hex()}],
        "modelCard": card(&subject.metadata, &facts),
        "properties": [
            {"name": "slipway:tenant", "value": version.id.tenant},
            {"name": "slipway:verdict", "value": version.validation.as_ref().map_or("", |validation| validation.verdict.as_str())},
        ],
    });
    if !facts.licences.is_empty() {
        model["licenses"] = facts
            .licences
            .iter()
            .map(|licence| json!({"license": {"name": licence}}))
            .collect();
    }
    if let Some(author) = &subject.metadata.author {
        model["authors"] = json!([{"name": author}]);
    }
    let timestamp = version
        .validation
        .as_ref()
        .map_or(version.created_at, |validation| validation.at);
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", uuid_of(&format!("{}\n{name}\n{number}\n{set}", version.id.tenant))),
        "version": 1,
        "metadata": {
            "timestamp": timestamp,
            "tools": {"components": [{
                "type": "application",
                "name": "slipway",
                "version": env!("CARGO_PKG_VERSION"),
            }]},
            "component": model,
        },
        "components": components,
        "dependencies": [{"ref": "model", "dependsOn": depends_on}],
    })
}

/// The model card: parameters, datasets, metrics.
fn card(metadata: &Metadata, facts: &Facts) -> Value {
    let mut parameters = Map::new();
    if let Some(task) = &facts.task {
        parameters.insert("task".into(), task.as_str().into());
    }
    if let Some(architecture) = &facts.architecture {
        parameters.insert("modelArchitecture".into(), architecture.as_str().into());
    }
    let dataset_count = metadata.datasets.len() + facts.datasets.len();
    if dataset_count > 0 {
        let references: Vec<Value> = (0..dataset_count)
            .map(|index| json!({"ref": format!("dataset:{index}")}))
            .collect();
        parameters.insert("datasets".into(), references.into());
    }
    let mut card = Map::new();
    card.insert("modelParameters".into(), parameters.into());
    if !metadata.metrics.is_empty() {
        let metrics: Vec<Value> = metadata
            .metrics
            .iter()
            .map(|(name, value)| json!({"type": name, "value": value.to_string()}))
            .collect();
        card.insert(
            "quantitativeAnalysis".into(),
            json!({ "performanceMetrics": metrics }),
        );
    }
    let mut properties: Vec<Value> = metadata
        .hyper_parameters
        .iter()
        .map(|(name, value)| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), ToOwned::to_owned);
            json!({"name": format!("slipway:hyper_parameter:{name}"), "value": text})
        })
        .collect();
    properties.extend(
        facts
            .base_models
            .iter()
            .map(|name| json!({"name": "slipway:base_model", "value": name})),
    );
    properties.extend(
        facts
            .formats
            .iter()
            .map(|format| json!({"name": "slipway:format", "value": format})),
    );
    if !properties.is_empty() {
        card.insert("properties".into(), properties.into());
    }
    card.into()
}

/// The datasets as components.
fn datasets(metadata: &Metadata, facts: &Facts) -> Vec<Value> {
    let declared = metadata
        .datasets
        .iter()
        .enumerate()
        .map(|(index, dataset)| {
            let mut component = json!({
                "type": "data",
                "bom-ref": format!("dataset:{index}"),
                "name": dataset.name,
                "data": [{"type": "dataset", "name": dataset.name}],
            });
            if let Some(version) = &dataset.version {
                component["version"] = version.as_str().into();
            }
            let properties: Vec<Value> = [
                ("uri", &dataset.uri),
                ("digest", &dataset.digest),
                ("source", &dataset.source),
                ("context", &dataset.context),
            ]
            .into_iter()
            .filter_map(|(name, value)| {
                Some(json!({"name": format!("slipway:dataset:{name}"), "value": value.as_deref()?}))
            })
            .collect();
            if !properties.is_empty() {
                component["properties"] = properties.into();
            }
            component
        });
    // Those that the model's card names.
    let named = (metadata.datasets.len()..)
        .zip(&facts.datasets)
        .map(|(index, name)| {
            json!({
                "type": "data",
                "bom-ref": format!("dataset:{index}"),
                "name": name,
                "data": [{"type": "dataset", "name": name}],
            })
        });
    declared.chain(named).collect()
}

/// A media type as `CycloneDX` takes it: type and subtype alone.
fn mime_type(media_type: &str) -> &str {
    let bare = media_type.split(';').next().unwrap_or_default().trim();
    let is_plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-+.".contains(&byte))
    };
    match bare.split_once('/') {
        Some((kind, subtype)) if is_plain(kind) && is_plain(subtype) => bare,
        _ => "application/octet-stream",
    }
}

/// The package URL of a library of the Python Package Index.
fn purl(name: &str, release: Option<&str>) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    const PLAIN: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    let name = name.to_lowercase().replace('_', "-");
    let name = utf8_percent_encode(&name, PLAIN);
    match release {
        Some(release) => format!("pkg:pypi/{name}@{}", utf8_percent_encode(release, PLAIN)),
        None => format!("pkg:pypi/{name}"),
    }
}

/// A UUID that is always the same for the same text: version 8 of RFC 9562.
fn uuid_of(text: &str) -> String {
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&Sha256::digest(text.as_bytes())[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let digits = hex::encode(bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    )
}
