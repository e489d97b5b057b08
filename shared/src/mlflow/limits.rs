//! Names, tags and page sizes as MLflow checks them; from `mlflow/utils/validation.py`.

use super::error::{MlflowCode, invalid, refused, version_not_found};
use super::fields::{Fields, invalid_value, mistyped};
use crate::domain::stage::DEFAULT_STAGES;
use crate::domain::{AliasName, ModelName, StageName, TenantName, VersionId, VersionNumber};
use crate::error::Result;
use serde_json::Value;

/// Longest key of a tag, in characters.
pub const MAX_TAG_KEY: usize = 250;
/// Longest value of a tag of a model or a version, in characters.
pub const MAX_TAG_VALUE: usize = 100_000;
/// Longest alias, in characters.
pub const MAX_ALIAS: usize = 255;

/// A registered model's name from the field `name`.
pub fn model_name(fields: &Fields) -> Result<ModelName> {
    checked_model_name(&fields.required("name")?)
}

/// A registered model's name; of a name that no model can have, none is found.
pub fn checked_model_name(name: &str) -> Result<ModelName> {
    check_model_name(name)?;
    ModelName::parse(name).map_err(|error| {
        let message = format!("Registered Model with name={name} not found");
        refused(MlflowCode::ResourceDoesNotExist, message).caused_by(error)
    })
}

/// The name that a registered model shall have.
pub fn new_model_name(name: &str) -> Result<ModelName> {
    check_model_name(name)?;
    ModelName::parse(name)
        .map_err(|error| invalid(format!("Invalid model name '{name}'. {}.", error.message)))
}

/// Checks a name as MLflow's server does.
fn check_model_name(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(invalid("Missing value for required parameter 'name'."));
    }
    if name.contains(['/', ':']) {
        return Err(invalid(format!(
            "Invalid model name '{name}'. Names cannot contain '/' or ':'."
        )));
    }
    check_path(name, "name")
}

/// Refuses a name that means another one where names are parts of paths.
fn check_path(name: &str, field: &str) -> Result<()> {
    let normal = normal_path(name);
    if normal != name || normal == "." || normal.starts_with("..") || normal.starts_with('/') {
        return Err(invalid(format!(
            "{}Names may be treated as files in certain cases, and must not resolve to other names when treated as such. \
             This name would resolve to '{normal}'",
            invalid_value(field, &Value::from(name))
        )));
    }
    Ok(())
}

/// A path as POSIX normalises it: Python's `posixpath.normpath`.
fn normal_path(path: &str) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    // POSIX leaves two leading slashes to the system, and makes one of three.
    let slashes = path.bytes().take_while(|byte| *byte == b'/').count();
    let root = match slashes {
        0 => "",
        2 => "//",
        _ => "/",
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if !root.is_empty() && parts.is_empty() => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let joined = format!("{root}{}", parts.join("/"));
    if joined.is_empty() {
        ".".to_owned()
    } else {
        joined
    }
}

/// Whether a character is one of Python's `\w`.
fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Checks a key of a tag, of a parameter or of a metric.
pub fn check_key(key: &str, field: &str) -> Result<()> {
    let allowed =
        |character: char| is_word(character) || matches!(character, '/' | '.' | '-' | ' ' | ':');
    if !key.chars().all(allowed) {
        return Err(invalid(format!(
            "{}Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/).",
            invalid_value(field, &Value::from(key))
        )));
    }
    check_path(key, field)
}

/// Checks a tag of a model or of a version.
pub fn check_tag(key: &str, value: &str) -> Result<()> {
    check_key(key, "key")?;
    check_length("key", key, MAX_TAG_KEY)?;
    check_length("value", value, MAX_TAG_VALUE)
}

/// Refuses a text that is too long.
pub fn check_length(what: &str, text: &str, limit: usize) -> Result<()> {
    if text.chars().count() > limit {
        return Err(invalid(format!(
            "'{what}' exceeds the maximum length of {limit} characters"
        )));
    }
    Ok(())
}

/// An alias that is to be set.
pub fn new_alias(alias: &str) -> Result<AliasName> {
    check_alias(alias)?;
    if alias.eq_ignore_ascii_case("latest") {
        return Err(invalid(
            "'latest' alias name (case insensitive) is reserved.",
        ));
    }
    AliasName::parse(alias)
        .map_err(|_| invalid(format!("Version alias name '{alias}' is reserved.")))
}

/// An alias that is to be read or removed; `None` if no alias can have this name.
pub fn known_alias(alias: &str) -> Result<Option<AliasName>> {
    check_alias(alias)?;
    Ok(AliasName::parse(alias).ok())
}

fn check_alias(alias: &str) -> Result<()> {
    if alias.is_empty() {
        return Err(invalid("Registered model alias name cannot be empty."));
    }
    if !alias
        .chars()
        .all(|character| is_word(character) || character == '-')
    {
        return Err(invalid(format!(
            "Invalid alias name: '{alias}'. Names may only contain alphanumerics, underscores (_), and dashes (-)."
        )));
    }
    check_length("Registered model alias name", alias, MAX_ALIAS)
}

/// What the field `version` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A number that a version may have.
    Number(VersionNumber),
    /// A number that no version has, such as 0.
    Nothing(i64),
}

/// A version's number from the field `version`, a text that holds a whole number.
pub fn version(fields: &Fields) -> Result<Wanted> {
    version_number(&fields.required("version")?)
}

/// A version's number.
pub fn version_number(text: &str) -> Result<Wanted> {
    // Python's `int` takes spaces around, a sign, and `_` between digits.
    let digits: String = text.trim().replace('_', "");
    let number: i64 = digits.parse().map_err(|_| {
        invalid(format!(
            "Parameter 'version' must be an integer, got '{text}'."
        ))
    })?;
    let known = u64::try_from(number)
        .ok()
        .and_then(|number| VersionNumber::new(number).ok());
    Ok(known.map_or(Wanted::Nothing(number), Wanted::Number))
}

/// The version that a request names; a number that none can have is not there.
pub fn version_id(tenant: &TenantName, model: ModelName, version: &str) -> Result<VersionId> {
    match version_number(version)? {
        Wanted::Number(number) => Ok(VersionId {
            tenant: tenant.clone(),
            model,
            number,
        }),
        Wanted::Nothing(number) => Err(refused(
            MlflowCode::ResourceDoesNotExist,
            version_not_found(model.as_str(), &number.to_string()),
        )),
    }
}

/// A stage in its canonical spelling.
pub fn stage(name: &str) -> Result<StageName> {
    let known = DEFAULT_STAGES
        .iter()
        .find(|stage| stage.eq_ignore_ascii_case(name));
    match known {
        Some(stage) => StageName::parse(*stage),
        None => Err(invalid(format!(
            "Invalid Model Version stage: {name}. Value must be one of {}.",
            DEFAULT_STAGES.join(", ")
        ))),
    }
}

/// The page size from the field `max_results`.
pub fn max_results(fields: &Fields, default: usize, most: usize) -> Result<usize> {
    let Some(given) = fields.int("max_results")? else {
        return Ok(default);
    };
    match usize::try_from(given) {
        Ok(size) if size >= 1 && size <= most => Ok(size),
        Ok(size) if size > most => Err(mistyped(
            "max_results",
            fields.value("max_results").unwrap_or(&Value::Null),
        )),
        _ => Err(invalid(format!(
            "Invalid value for max_results. It must be a positive integer, but got {given}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_mean_other_names_are_refused() {
        for bad in ["", " ", "a/b", "a:b", ".", "..", "..a"] {
            assert!(checked_model_name(bad).is_err(), "{bad:?}");
        }
        for good in ["iris", "a b", "Qualitätsprüfung", ".a", "a..b"] {
            assert!(checked_model_name(good).is_ok(), "{good:?}");
        }
        let long = "a".repeat(300);
        let new = new_model_name(&long).unwrap_err();
        assert!(new.message.starts_with("Invalid model name"), "{new}");
        let sought = checked_model_name(&long).unwrap_err();
        assert!(sought.message.ends_with("not found"), "{sought}");
        for bad in ["", "a//b", "/a", "../a", "a/./b", "a/", "ä?"] {
            assert!(check_key(bad, "key").is_err(), "{bad:?}");
        }
        for good in ["a/b", "mlflow.prompt.is_prompt", "schlüssel: x", "a/..b"] {
            assert!(check_key(good, "key").is_ok(), "{good:?}");
        }
    }

    #[test]
    fn paths_are_normalised_as_posix_does() {
        for (path, normal) in [
            ("", "."),
            ("a", "a"),
            ("a/../b", "b"),
            ("../../a", "../../a"),
            ("/../a", "/a"),
            ("//a", "//a"),
            ("///a", "/a"),
            ("a/..", "."),
        ] {
            assert_eq!(normal_path(path), normal, "{path:?}");
        }
    }

    #[test]
    fn versions_are_texts_that_hold_numbers() {
        assert!(matches!(version_number(" 7 ").unwrap(), Wanted::Number(_)));
        assert_eq!(version_number("0").unwrap(), Wanted::Nothing(0));
        assert_eq!(version_number("-1").unwrap(), Wanted::Nothing(-1));
        assert!(version_number("abc").is_err());
        assert!(version_number("1.5").is_err());
    }

    proptest! {
        #[test]
        fn a_normal_path_stays_as_it_is(path in "[a./]{0,12}") {
            let normal = normal_path(&path);
            prop_assert_eq!(normal_path(&normal), normal);
        }
    }
}
