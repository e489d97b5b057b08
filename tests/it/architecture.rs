//! The rules of the tree that a compiler does not hold: who may import whom, routes in the template, tables in the docs.

use crate::world::repository;
use local::definition;
use shared::ErrorCode;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![repository().join(folder)];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has sources");
    found
}

#[track_caller]
fn nothing_says(folder: &str, words: &[&str]) {
    for (path, text) in sources(folder) {
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in words {
                assert!(
                    !code.contains(word),
                    "{}:{}: `{word}` must not be used here",
                    path.display(),
                    index + 1
                );
            }
        }
    }
}

const FUNCTIONS: [&str; 10] = [
    "artifact-validation",
    "artifacts",
    "authorizer",
    "notifications",
    "oci",
    "packaging",
    "promote",
    "query",
    "register",
    "tracking",
];

#[test]
fn functions_know_no_sdk_no_environment_and_no_other_function() {
    for function in FUNCTIONS {
        let mut words = vec!["aws_sdk_", "aws_config", "std::env::", "SystemTime"];
        let others: Vec<String> = FUNCTIONS
            .iter()
            .filter(|other| **other != function)
            .map(|other| format!("use {}::", other.replace('-', "_")))
            .collect();
        words.extend(others.iter().map(String::as_str));
        nothing_says(&format!("functions/{function}/src"), &words);
        let manifest =
            std::fs::read_to_string(repository().join(format!("functions/{function}/Cargo.toml")))
                .unwrap();
        assert!(!manifest.contains("aws-"), "{function} lists an SDK");
    }
}

#[test]
fn the_domain_is_pure() {
    nothing_says(
        "shared/src/domain",
        &[
            "async ",
            "tokio",
            "aws_",
            "std::env",
            "SystemTime",
            "getrandom",
            "crate::dynamodb",
            "crate::http",
        ],
    );
}

#[test]
fn adapters_do_not_know_each_other_nor_the_edge() {
    nothing_says("shared/src/s3", &["crate::dynamodb", "crate::http"]);
    nothing_says("shared/src/dynamodb", &["crate::s3", "crate::http"]);
    nothing_says(
        "shared/src/events",
        &["crate::dynamodb", "crate::s3::Bucket", "crate::http"],
    );
}

#[test]
fn nothing_scans_the_table() {
    for folder in ["shared/src", "functions"] {
        nothing_says(folder, &[".scan("]);
    }
}

#[test]
fn every_function_opens_with_its_card() {
    for function in FUNCTIONS {
        let text =
            std::fs::read_to_string(repository().join(format!("functions/{function}/src/lib.rs")))
                .unwrap();
        let labels: Vec<&str> = text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .filter_map(|line| line.strip_prefix("//! - **"))
            .filter_map(|line| line.split_once(":**").map(|(label, _)| label))
            .collect();
        assert_eq!(
            labels,
            [
                "Trigger",
                "Reads",
                "Writes",
                "Emits",
                "On failure",
                "Permissions"
            ],
            "{function}"
        );
    }
}

#[test]
fn the_table_of_errors_is_that_of_the_code() {
    let text = std::fs::read_to_string(repository().join("docs/errors.md")).unwrap();
    let documented: Vec<(String, u16, bool)> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let code = cells.next()?.trim_end_matches('`').to_owned();
            Some((code, cells.next()?.parse().ok()?, cells.next()? == "yes"))
        })
        .collect();
    let real: Vec<(String, u16, bool)> = ErrorCode::ALL
        .iter()
        .map(|code| (code.as_str().to_owned(), code.status(), code.retryable()))
        .collect();
    assert_eq!(documented, real);
}

#[test]
fn every_event_type_is_documented() {
    let text = std::fs::read_to_string(repository().join("docs/events.md")).unwrap();
    for kind in shared::domain::EventType::ALL {
        assert!(
            text.contains(&format!("`{kind}`")),
            "docs/events.md does not tell of `{kind}`"
        );
    }
}

/// Every route of the functions, as `function METHOD /path`.
fn routes() -> BTreeSet<String> {
    [
        ("register", register::routes()),
        ("promote", promote::routes()),
        ("query", query::routes()),
        ("packaging", packaging::routes()),
        ("notifications", notifications::routes()),
        ("oci", oci::routes()),
        ("artifactvalidation", artifact_validation::routes()),
        ("artifacts", artifacts::routes()),
        ("authorizer", authorizer::routes()),
        ("tracking", tracking::routes()),
    ]
    .into_iter()
    .flat_map(|(function, routes)| {
        routes.into_iter().map(move |route| {
            let path = route.path.replace("{*path}", "{path+}");
            format!("{function} {} {path}", route.method)
        })
    })
    .collect()
}

/// Every route of the template, without and with the tenant prefix: a `RouteKey` and the `Target` after it.
fn template_routes(template: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut plain, mut tenant) = (BTreeSet::new(), BTreeSet::new());
    let mut route = None::<(String, String)>;
    for line in template.lines().map(str::trim) {
        if let Some((method, path)) = line
            .strip_prefix("RouteKey: ")
            .and_then(|key| key.split_once(' '))
        {
            route = Some((method.to_owned(), path.to_owned()));
        }
        let target = line
            .strip_prefix("Target: !Sub integrations/${")
            .and_then(|rest| rest.strip_suffix("Integration}"));
        if let (Some(target), Some((method, path))) = (target, route.take_if(|_| target.is_some()))
        {
            let function = target.to_lowercase();
            match path.strip_prefix("/t/{tenant}") {
                Some(rest) => tenant.insert(format!("{function} {method} {rest}")),
                None => plain.insert(format!("{function} {method} {path}")),
            };
        }
    }
    (plain, tenant)
}

#[test]
fn routes_of_the_template_are_those_of_the_functions() {
    let template = std::fs::read_to_string(repository().join("template.yaml")).unwrap();
    let (plain, tenant) = template_routes(&template);
    assert_eq!(
        plain, tenant,
        "every route stands under the tenant prefix too"
    );
    let (families, single): (BTreeSet<String>, BTreeSet<String>) = plain
        .into_iter()
        .partition(|route| route.ends_with("/{proxy+}"));
    let mut unused = families.clone();
    let alone: BTreeSet<String> = routes()
        .into_iter()
        .filter(|route| {
            let family = families.iter().find(|family| is_in_family(route, family));
            family.is_none_or(|family| {
                unused.remove(family);
                // What stands there by itself too wins over its family.
                single.contains(route)
            })
        })
        .collect();
    assert_eq!(single, alone);
    assert_eq!(
        unused,
        BTreeSet::new(),
        "every family has routes of its function"
    );
}

/// Whether a route of the template with `{proxy+}` stands for a function's route; both are `function METHOD /path`.
fn is_in_family(route: &str, family: &str) -> bool {
    let parts = |text: &str| -> Vec<String> { text.splitn(3, ' ').map(str::to_owned).collect() };
    let (route, family) = (parts(route), parts(family));
    let begins = family[2].trim_end_matches("{proxy+}");
    route[0] == family[0]
        && (family[1] == "ANY" || family[1] == route[1])
        && route[2].starts_with(begins)
}

#[test]
fn the_embedded_table_is_that_of_the_template() {
    let template = std::fs::read_to_string(repository().join("template.yaml")).unwrap();
    let table = definition::table().to_string();
    for word in ["\"pk\"", "\"sk\"", "NEW_IMAGE", "\"ttl\""] {
        assert!(table.contains(word), "{table}");
        assert!(
            template.contains(word.trim_matches('"')),
            "the template's table has {word}"
        );
    }
}

#[test]
fn abandoned_uploads_end_as_the_template_says() {
    let template = std::fs::read_to_string(repository().join("template.yaml")).unwrap();
    let days = number(&resource(&template, "Bucket"), "DaysAfterInitiation");
    assert_eq!(definition::ABANDONED_UPLOADS.as_secs(), days * 24 * 3_600);
}

/// The lines of one resource of the template.
fn resource<'a>(template: &'a str, name: &str) -> Vec<&'a str> {
    let opening = format!("  {name}:");
    let lines: Vec<&str> = template
        .lines()
        .skip_while(|line| *line != opening)
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with("    "))
        .map(str::trim)
        .collect();
    assert!(!lines.is_empty(), "the template has a `{name}`");
    lines
}

/// The only value that a resource has under a key; nothing if it has none.
fn value<'a>(lines: &[&'a str], key: &str) -> Option<&'a str> {
    let mut values = lines
        .iter()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    let value = values.next();
    assert!(values.next().is_none(), "`{key}` stands there once");
    value
}

fn number(lines: &[&str], key: &str) -> u64 {
    let value = value(lines, key).unwrap_or_else(|| panic!("`{key}` is there"));
    value
        .parse()
        .unwrap_or_else(|_| panic!("`{key}` is a number: {value}"))
}

/// The lines of one event source of a function, up to the next one.
fn event_source<'a>(function: &[&'a str], name: &str) -> Vec<&'a str> {
    let names = ["Objects:", "Deliveries:", "Changes:", "Sweep:"];
    let opening = format!("{name}:");
    let lines: Vec<&str> = function
        .iter()
        .copied()
        .skip_while(|line| *line != opening)
        .skip(1)
        .take_while(|line| !names.contains(line))
        .collect();
    assert!(
        !lines.is_empty(),
        "the function has an event source `{name}`"
    );
    lines
}

/// What the template calls a function: `artifact-validation` is `ArtifactValidation`.
fn template_name(function: definition::Function) -> String {
    function
        .name()
        .split('-')
        .flat_map(|word| {
            let (first, rest) = word.split_at(1);
            [first.to_uppercase(), rest.to_owned()]
        })
        .collect()
}

#[test]
fn the_embedded_queues_stream_and_schedules_are_those_of_the_template() {
    let template = std::fs::read_to_string(repository().join("template.yaml")).unwrap();
    for function in definition::Function::ALL {
        let lines = resource(&template, &template_name(function));
        assert_eq!(
            number(&lines, "Timeout"),
            function.timeout().as_secs(),
            "{function}"
        );
    }
    let prefixes: BTreeSet<&str> = resource(&template, "Bucket")
        .windows(2)
        .filter(|pair| pair[0] == "- Name: prefix")
        .filter_map(|pair| pair[1].strip_prefix("Value: "))
        .collect();
    let embedded: BTreeSet<&str> = definition::QUEUES
        .iter()
        .map(|queue| queue.prefix)
        .collect();
    assert_eq!(prefixes, embedded);
    for queue in &definition::QUEUES {
        let function = template_name(queue.function);
        let source = event_source(&resource(&template, &function), "Objects");
        assert_eq!(
            number(&source, "BatchSize"),
            queue.batch_size as u64,
            "{function}"
        );
        let lines = resource(&template, &format!("{function}Queue"));
        assert_eq!(
            number(&lines, "VisibilityTimeout"),
            queue.visibility_timeout().as_secs(),
            "{function}"
        );
        assert_eq!(
            number(&lines, "maxReceiveCount"),
            u64::from(queue.max_receive_count),
            "{function}"
        );
        let delay = value(&lines, "DelaySeconds").map_or(0, |text| text.parse().unwrap());
        assert_eq!(delay, queue.delay.as_secs(), "{function}");
    }
    let deliveries = definition::DELIVERIES;
    let source = event_source(
        &resource(&template, &template_name(deliveries.function)),
        "Deliveries",
    );
    assert_eq!(number(&source, "BatchSize"), deliveries.batch_size as u64);
    assert_eq!(
        number(&source, "MaximumConcurrency"),
        deliveries.local_concurrency as u64
    );
    let lines = resource(&template, "DeliveriesQueue");
    assert_eq!(value(&lines, "FifoQueue"), Some("true"));
    assert_eq!(
        number(&lines, "VisibilityTimeout"),
        deliveries.visibility_timeout.as_secs()
    );
    assert_eq!(
        number(&lines, "maxReceiveCount"),
        u64::from(deliveries.max_receive_count)
    );
    let stream = definition::STREAM;
    let source = event_source(
        &resource(&template, &template_name(stream.function)),
        "Changes",
    );
    assert_eq!(number(&source, "BatchSize"), stream.batch_size as u64);
    assert_eq!(
        number(&source, "MaximumRetryAttempts") + 1,
        u64::from(stream.max_attempts)
    );
    for schedule in &definition::SCHEDULES {
        let function = template_name(schedule.function);
        let source = event_source(&resource(&template, &function), "Sweep");
        let rate = match schedule.every.as_secs() / 60 {
            1 => "rate(1 minute)".to_owned(),
            minutes => format!("rate({minutes} minutes)"),
        };
        assert_eq!(
            value(&source, "Schedule"),
            Some(rate.as_str()),
            "{function}"
        );
        assert!(schedule.locally_every <= schedule.every, "{function}");
    }
}

#[test]
fn the_deployment_trusts_nothing_that_only_one_machine_may_trust() {
    let template = std::fs::read_to_string(repository().join("template.yaml")).unwrap();
    for variable in [
        "ALLOW_LOOPBACK_WEBHOOKS",
        "TRUST_ACTOR_HEADER",
        "AWS_ENDPOINT_URL",
    ] {
        assert!(!template.contains(variable), "the template sets {variable}");
    }
}

#[test]
fn the_filter_of_the_embedded_stream_is_that_of_the_template() {
    let template = std::fs::read_to_string(repository().join("template.yaml")).unwrap();
    let line = template
        .lines()
        .find(|line| line.contains("{\"prefix\": \"E#\"}"))
        .expect("the stream has a filter");
    let pattern = line
        .trim()
        .trim_start_matches("- Pattern: '")
        .trim_end_matches('\'');
    let pattern: serde_json::Value = serde_json::from_str(pattern).unwrap();
    let prefixes: Vec<&str> = pattern["dynamodb"]["Keys"]["sk"]["S"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| condition["prefix"].as_str().unwrap())
        .collect();
    assert_eq!(prefixes, definition::STREAM.sort_keys);
}

#[test]
fn top_level_folders_are_the_agreed_ones() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "clients",
        "functions",
        "shared",
        "infra",
        "tests",
        "samconfig.toml",
        "template.yaml",
        "README.md",
        "ARCHITECTURE.md",
        "docs",
        "LICENSE",
        "CHANGELOG.md",
        "clippy.toml",
        "rustfmt.toml",
        "deny.toml",
        "target",
    ];
    for entry in std::fs::read_dir(Path::new(repository())).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(
            name.starts_with('.') || name.starts_with("target") || allowed.contains(&name.as_str()),
            "`{name}` lies at the top"
        );
    }
}
