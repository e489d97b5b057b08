//! Names, lengths and counts that tracking takes, with MLflow's limits and MLflow's words.
//!
//! Source: `mlflow/utils/validation.py` of MLflow 3.17; lengths are counted in characters.

use super::{DatasetInput, Metric};
use crate::error::{Error, Result};

/// Longest name of a parameter, a metric or a tag.
pub const MAX_KEY: usize = 250;
/// Longest value of a parameter.
pub const MAX_PARAM_VALUE: usize = 6_000;
/// Longest value of a run's tag.
pub const MAX_TAG_VALUE: usize = 8_000;
/// Longest value of an experiment's tag.
pub const MAX_EXPERIMENT_TAG_VALUE: usize = 20_000;
/// Longest name of an experiment.
pub const MAX_EXPERIMENT_NAME: usize = 500;
/// Longest root of an experiment's artifacts.
pub const MAX_ARTIFACT_LOCATION: usize = 2_048;
/// Most metrics of a batch, and most things of a batch altogether.
pub const MAX_BATCH: usize = 1_000;
/// Most parameters, and most tags, of a batch.
pub const MAX_BATCH_PARAMS: usize = 100;
/// Largest body of a batch, in bytes.
pub const MAX_BATCH_BYTES: usize = 1_000_000;

const BAD_CHARACTERS: &str = "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/).";

/// The refusal of a value, as MLflow words it.
pub fn invalid_value(path: &str, value: &str, reason: Option<&str>) -> Error {
    let shown = serde_json::Value::from(value);
    let message = match reason {
        Some(reason) => format!("Invalid value {shown} for parameter '{path}' supplied: {reason}"),
        None => format!("Invalid value {shown} for parameter '{path}' supplied."),
    };
    Error::invalid(path, message)
}

/// A text as Python shows it.
pub fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    let escaped = if quote == '\'' {
        escaped.replace('\'', "\\'")
    } else {
        escaped
    };
    format!("{quote}{escaped}{quote}")
}

/// The refusal of a text that is too long.
pub fn too_long(what: &str, most: usize) -> Error {
    Error::invalid(
        what,
        format!("'{what}' exceeds the maximum length of {most} characters"),
    )
}

/// Refuses a text of more than `most` characters.
pub fn check_length(what: &str, text: &str, most: usize) -> Result<()> {
    // A text has at least as many bytes as characters.
    if text.len() > most && text.chars().count() > most {
        return Err(too_long(what, most));
    }
    Ok(())
}

/// Refuses a name of a parameter, metric or tag that its rules do not allow; `path` says where it stands.
pub fn check_name(path: &str, name: &str) -> Result<()> {
    let is_allowed = |character: char| {
        character.is_alphanumeric() || matches!(character, '/' | '_' | '.' | '-' | ' ' | ':')
    };
    if !name.chars().all(is_allowed) {
        return Err(invalid_value(path, name, Some(BAD_CHARACTERS)));
    }
    let resolved = normal_path(name);
    let is_unique = resolved == name
        && resolved != "."
        && !resolved.starts_with("..")
        && !resolved.starts_with('/');
    if is_unique {
        return Ok(());
    }
    let reason = format!(
        "Names may be treated as files in certain cases, and must not resolve to other names when treated as such. This name would resolve to {}",
        quoted(&resolved)
    );
    Err(invalid_value(path, name, Some(&reason)))
}

/// What a path is when `.`, `..` and doubled slashes are resolved, as POSIX does.
fn normal_path(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (is_absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

fn within(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Checks a metric point; `path` is empty where it stands alone.
pub fn check_metric(path: &str, metric: &Metric) -> Result<()> {
    check_name(&within(path, "name"), &metric.key)?;
    if metric.timestamp < 0 {
        return Err(Error::invalid(
            "timestamp",
            format!(
                "Invalid value {} for parameter '{}' supplied: metric '{}' (value={}). Timestamp must be a nonnegative long (64-bit integer) ",
                metric.timestamp,
                within(path, "timestamp"),
                metric.key,
                metric.value
            ),
        ));
    }
    check_length("Metric name", &metric.key, MAX_KEY)
}

/// Checks a parameter, and shortens its value to [`MAX_PARAM_VALUE`] as MLflow's server does unless it is told otherwise.
pub fn check_param(path: &str, key: &str, value: &mut String) -> Result<()> {
    check_name(&within(path, "key"), key)?;
    check_length("Param key", key, MAX_KEY)?;
    shorten(value, MAX_PARAM_VALUE);
    Ok(())
}

/// Checks a tag of a run, and shortens its value to [`MAX_TAG_VALUE`] as MLflow's server does unless it is told otherwise.
pub fn check_tag(path: &str, key: &str, value: &mut String) -> Result<()> {
    check_name(&within(path, "key"), key)?;
    check_length(&within(path, "key"), key, MAX_KEY)?;
    shorten(value, MAX_TAG_VALUE);
    Ok(())
}

/// Keeps the first characters of a text.
fn shorten(text: &mut String, most: usize) {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
    }
}

/// Checks a tag of an experiment.
pub fn check_experiment_tag(key: &str, value: &str) -> Result<()> {
    check_name("key", key)?;
    check_length("key", key, MAX_KEY)?;
    check_length("value", value, MAX_EXPERIMENT_TAG_VALUE)
}

/// Checks the name of an experiment.
pub fn check_experiment_name(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(Error::invalid(
            "name",
            format!("Invalid experiment name: '{name}'"),
        ));
    }
    check_length("name", name, MAX_EXPERIMENT_NAME)
}

/// Checks the root that an experiment's artifacts shall have.
pub fn check_artifact_location(location: &str) -> Result<()> {
    if location.chars().count() > MAX_ARTIFACT_LOCATION {
        return Err(Error::invalid(
            "artifact_location",
            format!(
                "Invalid artifact path length. The length of the artifact path cannot be greater than {MAX_ARTIFACT_LOCATION} characters."
            ),
        ));
    }
    let refused = |reason: &str| {
        Err(Error::invalid(
            "artifact_location",
            format!("'artifact_location' URL can't include {reason}"),
        ))
    };
    if location.contains('#') || location.contains(';') {
        return refused("fragments or params.");
    }
    let (path, query) = location.split_once('?').unwrap_or((location, ""));
    if path.split('/').any(|part| part == "..") || query.contains("..") {
        return refused("'..'.");
    }
    if location.contains('\0') {
        return refused("the character NUL.");
    }
    Ok(())
}

/// Checks the name of a logged model; none at all is one that the server chooses.
pub fn check_logged_model_name(name: &str) -> Result<()> {
    if name.contains(['/', ':', '.', '%', '"', '\'']) {
        return Err(Error::invalid(
            "name",
            format!(
                "Invalid model name ({}) provided. Model name must be a non-empty string and cannot contain the following characters: ('/', ':', '.', '%', '\"', \"'\")",
                quoted(name)
            ),
        ));
    }
    check_length("name", name, MAX_EXPERIMENT_NAME)
}

/// Checks how much a batch holds.
pub fn check_batch(metrics: usize, params: usize, tags: usize) -> Result<()> {
    for (what, count, most) in [
        ("metrics", metrics, MAX_BATCH),
        ("params", params, MAX_BATCH_PARAMS),
        ("tags", tags, MAX_BATCH_PARAMS),
        (
            "metrics, params, and tags",
            metrics + params + tags,
            MAX_BATCH,
        ),
    ] {
        if count > most {
            return Err(Error::invalid(
                what,
                format!(
                    "A batch logging request can contain at most {most} {what}. Got {count} {what}. Please split up {what} across multiple requests and try again."
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses a batch that names a parameter twice.
pub fn check_params_unique(params: &[(String, String)]) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    let twice: Vec<String> = params
        .iter()
        .filter(|(key, _)| !seen.insert(key.as_str()))
        .map(|(key, _)| quoted(key))
        .collect();
    if twice.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(
        "params",
        format!(
            "Duplicate parameter keys have been submitted: [{}]. Please ensure the request contains only one param value per param key.",
            twice.join(", ")
        ),
    ))
}

/// Checks datasets that a run used.
pub fn check_datasets(inputs: &[DatasetInput]) -> Result<()> {
    for input in inputs {
        let dataset = &input.dataset;
        check_length("name", &dataset.name, 500)?;
        check_length("digest", &dataset.digest, 36)?;
        check_length("source", &dataset.source, 65_535)?;
        check_length(
            "schema",
            dataset.schema.as_deref().unwrap_or_default(),
            1_048_575,
        )?;
        check_length(
            "profile",
            dataset.profile.as_deref().unwrap_or_default(),
            16_777_215,
        )?;
        for tag in &input.tags {
            check_length("key", &tag.key, 255)?;
            check_length("value", &tag.value, 500)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_of_word_characters() {
        for name in ["a", "a/b", "größe", "a b:c-d_e.f", "検査", "..."] {
            let taken = check_name("key", name).is_ok();
            assert_eq!(taken, name != "...", "{name}");
        }
        for name in [
            "", ".", "..", "a//b", "a/", "/a", "a/../b", "./a", "a\"", "a\n",
        ] {
            assert!(check_name("key", name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        for (given, kept) in [(6_000, 6_000), (6_001, 6_000)] {
            let mut value = "é".repeat(given);
            check_param("", "k", &mut value).unwrap();
            assert_eq!(value, "é".repeat(kept));
        }
    }
}
