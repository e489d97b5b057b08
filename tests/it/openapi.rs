//! The OpenAPI description, held against every answer that any test gets, and against the routes.

use crate::world::{Answer, repository};
use jsonschema::Validator;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};

fn description() -> &'static Value {
    static DESCRIPTION: OnceLock<Value> = OnceLock::new();
    DESCRIPTION.get_or_init(|| {
        let path = repository().join("functions/query/openapi.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    })
}

/// Follows a local reference.
fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => description()
            .pointer(reference.trim_start_matches('#'))
            .expect("the reference is local"),
        None => value,
    }
}

/// The described path that a request's path is an instance of.
fn template_of(path: &str) -> Option<(&'static str, &'static Value)> {
    let path = path.split('?').next().unwrap_or_default();
    let path = match path
        .strip_prefix("/t/")
        .and_then(|rest| rest.split_once('/'))
    {
        Some((_, rest)) => format!("/{rest}"),
        None => path.to_owned(),
    };
    let parts: Vec<&str> = path.split('/').collect();
    let matches = |template: &str| {
        let wanted: Vec<&str> = template.split('/').collect();
        wanted.len() == parts.len()
            && wanted
                .iter()
                .zip(&parts)
                .all(|(want, part)| want.starts_with('{') || want == part)
    };
    let paths = description()["paths"].as_object().unwrap();
    // A literal part wins over a parameter.
    paths
        .iter()
        .filter(|(template, _)| matches(template))
        .min_by_key(|(template, _)| template.matches('{').count())
        .map(|(template, item)| (template.as_str(), item))
}

fn validator(key: &str, schema: &Value) -> Arc<Validator> {
    static VALIDATORS: Mutex<BTreeMap<String, Arc<Validator>>> = Mutex::new(BTreeMap::new());
    let mut validators = VALIDATORS.lock().unwrap();
    if let Some(validator) = validators.get(key) {
        return Arc::clone(validator);
    }
    let mut whole = schema.clone();
    whole["components"] = description()["components"].clone();
    whole["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    let validator = Arc::new(jsonschema::validator_for(&whole).expect("the schema is valid"));
    validators.insert(key.to_owned(), Arc::clone(&validator));
    validator
}

/// Holds an answer against the description.
#[track_caller]
pub(crate) fn check(method: &str, path: &str, answer: &Answer) {
    // What is no route, or another method of one, answers the envelope that every route shares.
    let Some((template, item)) = template_of(path) else {
        return;
    };
    let Some(operation) = item.get(method.to_lowercase()) else {
        return;
    };
    let responses = &operation["responses"];
    let status = answer.status.to_string();
    let response = responses.get(&status).or_else(|| responses.get("default"));
    let response = resolve(response.unwrap_or_else(|| {
        panic!(
            "{method} {template} does not describe {status}: {:#}",
            answer.body
        )
    }));
    let Some(schema) = response.pointer("/content/application~1json/schema") else {
        return;
    };
    let key = format!("{method} {template} {status}");
    if let Err(error) = validator(&key, schema).validate(&answer.body) {
        panic!(
            "{key}: {error} at {}\n{:#}",
            error.instance_path(),
            answer.body
        );
    }
}

#[test]
fn the_description_has_exactly_the_routes_of_the_functions() {
    let described: BTreeSet<String> = description()["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .keys()
                .filter(|method| {
                    ["get", "post", "put", "patch", "delete"].contains(&method.as_str())
                })
                .map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let served: BTreeSet<String> = [
        register::routes(),
        promote::routes(),
        query::routes(),
        packaging::routes(),
        notifications::routes(),
        oci::routes(),
        artifact_validation::routes(),
        artifacts::routes(),
        authorizer::routes(),
        tracking::routes(),
    ]
    .into_iter()
    .flatten()
    .map(|route| format!("{} {}", route.method, route.path.replace("{*", "{")))
    .collect();
    assert_eq!(described, served);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_served() {
    let world = crate::world::World::start().await;
    assert_eq!(
        &world.get("/v1/openapi.json").await.expect(200),
        description()
    );
}
