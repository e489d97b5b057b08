//! `conda.yaml`, and MLflow's `python_env.yaml`.

use super::{DIRECT, Dependency, FOREIGN_INDEX, Lint, is_known_url, normalize, requirements};
use crate::cursor::{Trouble, quote};
use serde_json::Value;

/// Channels of conda that are vouched for.
const KNOWN_CHANNELS: &[&str] = &[
    "conda-forge",
    "defaults",
    "anaconda",
    "pytorch",
    "nvidia",
    "bioconda",
    "main",
    "msys2",
    "nodefaults",
    "r",
    "rapidsai",
];

fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn channel(lint: &mut Lint<'_, '_>, channel: &str) {
    let name = channel.split('/').next().unwrap_or("");
    let is_known = if channel.contains("://") {
        is_known_url(channel)
    } else {
        KNOWN_CHANNELS.contains(&name)
    };
    if !is_known {
        let place = lint.place_of(channel);
        lint.find(
            &FOREIGN_INDEX,
            place,
            format!("the channel {}", quote(channel)),
        );
    }
}

/// Looks through an environment of conda.
pub(super) fn conda(lint: &mut Lint<'_, '_>, file: &Value) -> Result<(), Trouble> {
    for name in texts(file.get("channels")) {
        channel(lint, name);
    }
    for item in file
        .get("dependencies")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        match item {
            Value::String(text) => package(lint, text),
            Value::Object(map) => {
                for line in texts(map.get("pip")) {
                    let place = lint.place_of(line);
                    requirements::line(lint, place, line)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// One package, as `[channel::]name[version[build]][[key=value,…]]`.
fn package(lint: &mut Lint<'_, '_>, text: &str) {
    // `channel::package` and URLs name where a package comes from.
    if text.contains("://") || text.starts_with(['/', '.']) {
        let place = lint.place_of(text);
        lint.find(&DIRECT, place, format!("{} names no package", quote(text)));
        return;
    }
    if let Some((name, _)) = text.split_once("::") {
        channel(lint, name);
    }
    let text = text.rsplit("::").next().unwrap_or(text);
    let (text, keys) = text.split_once('[').unwrap_or((text, ""));
    let mut version = None;
    for pair in keys.trim_end_matches(']').split(',') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = value.trim().trim_matches(['"', '\'']);
        match key.trim() {
            "channel" => channel(lint, value),
            "version" => version = exact(value).or_else(|| exact(&format!("={value}"))),
            _ => {}
        }
    }
    let end = text
        .find(['=', '<', '>', '!', ' ', '~'])
        .unwrap_or(text.len());
    let (name, constraint) = text.split_at(end);
    if name != "pip" {
        lint.declare(Dependency {
            name: normalize(name),
            version: exact(constraint.trim()).or(version),
            requirement: text.to_owned(),
        });
    }
}

/// The version of `=1.2`, `==1.2` and `=1.2=build`.
fn exact(constraint: &str) -> Option<String> {
    constraint
        .strip_prefix("==")
        .or_else(|| constraint.strip_prefix('='))
        .map(|version| version.split('=').next().unwrap_or("").to_owned())
        .filter(|version| {
            !version.is_empty() && !version.contains(['*', ',', '|', '<', '>', '!', '~'])
        })
}

/// Looks through MLflow's description of a Python environment.
pub(super) fn python_env(lint: &mut Lint<'_, '_>, file: &Value) -> Result<(), Trouble> {
    // Build tools are taken from wherever the host takes them; only what they name is looked at.
    for line in texts(file.get("build_dependencies")) {
        let place = lint.place_of(line);
        requirements::line(lint, place, line)?;
    }
    lint.dependencies.clear();
    for line in texts(file.get("dependencies")) {
        let place = lint.place_of(line);
        requirements::line(lint, place, line)?;
    }
    if let Some(python) = file.get("python").and_then(Value::as_str) {
        lint.check.fact("python_version", python);
    }
    Ok(())
}
