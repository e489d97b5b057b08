//! Files that declare what a model needs to run: `requirements.txt` (pip's format), `conda.yaml`, `python_env.yaml` and
//! `pyproject.toml` (PEP 621).
//!
//! Installing what they name runs the packages' code on the host that serves the model, so where packages come from is
//! looked at like code. Known vulnerabilities come from advisories in OSV format (<https://ossf.github.io/osv-schema/>)
//! that the deployment supplies.

use crate::check::Check;
use crate::cursor::{Trouble, quote, read_small, settle};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::ReadError;
use crate::yaml;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::HashMap;

/// The rules of this format.
pub const RULES: &[Rule] = &[
    MALFORMED,
    TOO_LARGE,
    YAML,
    FOREIGN_INDEX,
    DIRECT,
    KNOWN_INDEX,
    UNPINNED,
    ESCAPE,
];

const MALFORMED: Rule = Rule {
    id: "environment.malformed",
    verdict: Verdict::Malformed,
    why: "An environment that cannot be read cannot be rebuilt, nor looked up in advisories.",
    fix: "Write the file in the format that its name stands for.",
};
const TOO_LARGE: Rule = Rule {
    id: "environment.too-large",
    verdict: Verdict::Malformed,
    why: "No environment needs a file of this size, and installers read it whole.",
    fix: "Declare direct dependencies only.",
};
const YAML: Rule = Rule {
    id: "environment.yaml-feature",
    verdict: Verdict::Unsafe,
    why: "Tags construct objects while the file is read; anchors and depth exhaust the reader.",
    fix: "Write plain mappings, lists and texts.",
};
const FOREIGN_INDEX: Rule = Rule {
    id: "environment.foreign-index",
    verdict: Verdict::ContainsCode,
    why: "Packages from an index that nobody vouches for run their code when they are installed.",
    fix: "Install from the registry's own index, and leave index options out of the model.",
};
const DIRECT: Rule = Rule {
    id: "environment.direct-reference",
    verdict: Verdict::ContainsCode,
    why: "A package from a URL, a repository or a local path runs code that no index vouches for.",
    fix: "Publish the package on an index and depend on a version of it.",
};
const KNOWN_INDEX: Rule = Rule {
    id: "environment.additional-index",
    verdict: Verdict::Clean,
    why: "With more than one index, the same name may come from either.",
    fix: "Pin by hash, or mirror the packages on one index.",
};
const UNPINNED: Rule = Rule {
    id: "environment.unpinned",
    verdict: Verdict::Clean,
    why: "Without an exact version, two installations differ.",
    fix: "Pin with `==`.",
};
const ESCAPE: Rule = Rule {
    id: "environment.path-escape",
    verdict: Verdict::Unsafe,
    why: "The file includes another from outside of the model's directory.",
    fix: "Include only files of the model itself.",
};

const MAX_BYTES: u64 = 1024 * 1024;
const MAX_DEPENDENCIES: usize = 10_000;

/// Hosts whose packages are vouched for as much as those of `PyPI` or conda-forge's.
const KNOWN_HOSTS: &[&str] = &[
    "pypi.org",
    "pypi.python.org",
    "files.pythonhosted.org",
    "download.pytorch.org",
    "pypi.nvidia.com",
    "data.pyg.org",
    "conda.anaconda.org",
    "repo.anaconda.com",
];

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

/// One declared dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Name, normalized as `PyPI` does.
    pub name: String,
    /// The exact version, if it is pinned.
    pub version: Option<String>,
    /// The requirement as it was written.
    pub requirement: String,
}

/// What a file of dependencies is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Requirements,
    Conda,
    PythonEnv,
    Pyproject,
}

fn kind(path: &str) -> Option<Kind> {
    let name = path.rsplit('/').next()?.to_ascii_lowercase();
    match name.as_str() {
        "conda.yaml" | "conda.yml" | "environment.yaml" | "environment.yml" => Some(Kind::Conda),
        "python_env.yaml" | "python_env.yml" => Some(Kind::PythonEnv),
        "pyproject.toml" => Some(Kind::Pyproject),
        "constraints.txt" => Some(Kind::Requirements),
        name if name.starts_with("requirements") && name.rsplit('.').next() == Some("txt") => {
            Some(Kind::Requirements)
        }
        _ => None,
    }
}

/// Tells whether this is text under a name that declares dependencies.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    kind(path).is_some() && is_text(head)
}

/// Whether bytes are UTF-8 text without control characters; the last character may be cut.
pub(crate) fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(head.get(..error.valid_up_to()).unwrap_or(&[])).unwrap_or("\0")
        }
        Err(_) => return false,
    };
    !valid.chars().any(|character| {
        character.is_control() && !matches!(character, '\n' | '\r' | '\t' | '\u{c}')
    })
}

/// Inspects one file of dependencies.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = inspect(check);
    settle(check, outcome, &MALFORMED, &TOO_LARGE)?;
    Ok(())
}

fn inspect(check: &mut Check<'_>) -> Result<(), Trouble> {
    let bytes = read_small(check.source, MAX_BYTES)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| Trouble::malformed(error.valid_up_to() as u64, "not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut dependencies = Vec::new();
    match kind(check.path) {
        Some(Kind::Requirements) | None => requirements(check, text, &mut dependencies),
        Some(Kind::Conda) => conda(check, &read_yaml(text)?, &mut dependencies),
        Some(Kind::PythonEnv) => python_env(check, &read_yaml(text)?, &mut dependencies),
        Some(Kind::Pyproject) => pyproject(check, text, &mut dependencies),
    }
    let unpinned: Vec<&str> = dependencies
        .iter()
        .filter(|dependency| dependency.version.is_none())
        .map(|dependency| dependency.name.as_str())
        .collect();
    if !unpinned.is_empty() {
        check.find(
            &UNPINNED,
            None,
            format!("without an exact version: {}", quote(&unpinned.join(", "))),
        );
    }
    check.fact("dependencies", json!(dependencies));
    Ok(())
}

fn read_yaml(text: &str) -> Result<Value, Trouble> {
    yaml::parse(text).map_err(|error| {
        if error.is_dangerous {
            Trouble::rule(&YAML, error.offset, error.detail)
        } else {
            Trouble::malformed(error.offset, error.detail)
        }
    })
}

fn requirements(check: &mut Check<'_>, text: &str, dependencies: &mut Vec<Dependency>) {
    // A backslash at the end of a line continues it, as hashes do.
    let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
    for line in joined.lines() {
        requirement(check, line, dependencies);
    }
}

/// One line in pip's format: an option or a requirement.
fn requirement(check: &mut Check<'_>, line: &str, dependencies: &mut Vec<Dependency>) {
    let line = line.trim();
    let line = match line.find(" #") {
        Some(end) => line.get(..end).unwrap_or("").trim_end(),
        None if line.starts_with('#') => "",
        None => line,
    };
    if line.is_empty() {
        return;
    }
    if line.starts_with('-') {
        option(check, line);
        return;
    }
    // Options may follow a requirement: hashes are harmless.
    let (specifier, options) = line.split_once(" --").unwrap_or((line, ""));
    if !options.is_empty()
        && options
            .split(" --")
            .any(|option| !option.trim_start().starts_with("hash"))
    {
        option(check, &format!("--{options}"));
    }
    if let Some(dependency) = parse_requirement(specifier) {
        if dependencies.len() < MAX_DEPENDENCIES {
            dependencies.push(dependency);
        }
    } else {
        check.find(
            &DIRECT,
            None,
            format!("{} names no package of an index", quote(line)),
        );
    }
}

fn option(check: &mut Check<'_>, line: &str) {
    let end = line.find(['=', ' ']).unwrap_or(line.len());
    let (mut name, mut value) = line.split_at(end);
    if !name.starts_with("--") && name.len() > 2 && name.is_char_boundary(2) {
        // A short option may be glued to its value.
        value = line.get(2..).unwrap_or("");
        name = line.get(..2).unwrap_or("");
    }
    let value = value.trim_start_matches(['=', ' ']).trim();
    match name {
        "-i" | "--index-url" | "--pypi-url" | "--extra-index-url" | "-f" | "--find-links"
        | "--trusted-host" => {
            let rule = if is_known_url(value) {
                &KNOWN_INDEX
            } else {
                &FOREIGN_INDEX
            };
            check.find(rule, None, format!("{name} {}", quote(value)));
        }
        "-r" | "--requirement" | "-c" | "--constraint" => {
            if value.contains("://") {
                check.find(&DIRECT, None, format!("{name} {}", quote(value)));
            } else if !is_inside(value) {
                check.find(&ESCAPE, None, format!("{name} {}", quote(value)));
            }
        }
        "--pre" | "--prefer-binary" | "--only-binary" | "--require-hashes" | "--no-index"
        | "--no-deps" | "--hash" => {}
        _ => check.find(&DIRECT, None, format!("the option {}", quote(line))),
    }
}

/// Whether a path stays within the directory that it is relative to.
pub(crate) fn is_inside(path: &str) -> bool {
    crate::zip::is_safe_path(
        path.strip_prefix("./")
            .unwrap_or(path)
            .trim_end_matches('/'),
    )
}

fn is_known_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    KNOWN_HOSTS.contains(&authority)
}

/// Reads a requirement of PEP 508 without a URL; `None` if it is none.
fn parse_requirement(text: &str) -> Option<Dependency> {
    let requirement = text.trim();
    let text = requirement.split(';').next()?.trim();
    let end = text
        .find(|character: char| !(character.is_ascii_alphanumeric() || "-_.".contains(character)))
        .unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    let is_name = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.ends_with(|last: char| last.is_ascii_alphanumeric());
    let is_file = [".whl", ".zip", ".gz", ".egg"]
        .iter()
        .any(|ending| name.to_ascii_lowercase().ends_with(ending));
    if !is_name || is_file {
        return None;
    }
    rest = rest.trim_start();
    if let Some(extras) = rest.strip_prefix('[') {
        rest = extras.split_once(']')?.1.trim_start();
    }
    let rest = rest
        .strip_prefix('(')
        .map_or(rest, |rest| rest.trim_end_matches(')'));
    let mut version = None;
    for specifier in rest
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let operator = ["===", "==", "~=", "!=", "<=", ">=", "<", ">"]
            .into_iter()
            .find(|operator| specifier.starts_with(operator))?;
        let value = specifier.get(operator.len()..)?.trim();
        let is_version = !value.is_empty()
            && value
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || ".+!*-_".contains(character));
        if !is_version {
            return None;
        }
        if operator.starts_with("==") && !value.contains('*') {
            version = Some(value.to_owned());
        }
    }
    Some(Dependency {
        name: normalize(name),
        version,
        requirement: requirement.to_owned(),
    })
}

/// Normalizes a name as PEP 503 does.
fn normalize(name: &str) -> String {
    let mut normal = String::new();
    for character in name.chars() {
        if matches!(character, '-' | '_' | '.') {
            if !normal.ends_with('-') {
                normal.push('-');
            }
        } else {
            normal.push(character.to_ascii_lowercase());
        }
    }
    normal
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn conda(check: &mut Check<'_>, file: &Value, dependencies: &mut Vec<Dependency>) {
    for channel in texts(file.get("channels")) {
        let name = channel.split('/').next().unwrap_or("");
        let is_known = if channel.contains("://") {
            is_known_url(channel)
        } else {
            KNOWN_CHANNELS.contains(&name)
        };
        if !is_known {
            check.find(
                &FOREIGN_INDEX,
                None,
                format!("the channel {}", quote(channel)),
            );
        }
    }
    for item in file
        .get("dependencies")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        match item {
            Value::String(text) => {
                // `channel::package` and URLs name where a package comes from.
                if text.contains("://") || text.starts_with(['/', '.']) {
                    check.find(&DIRECT, None, format!("{} names no package", quote(text)));
                    continue;
                }
                if let Some((channel, _)) = text.split_once("::")
                    && !KNOWN_CHANNELS.contains(&channel)
                {
                    check.find(
                        &FOREIGN_INDEX,
                        None,
                        format!("the channel {}", quote(channel)),
                    );
                }
                let text = text.rsplit("::").next().unwrap_or(text);
                let end = text
                    .find(['=', '<', '>', '!', ' ', '~'])
                    .unwrap_or(text.len());
                let (name, version) = text.split_at(end);
                let version = version
                    .strip_prefix("==")
                    .or_else(|| version.strip_prefix('='))
                    .map(|version| version.split('=').next().unwrap_or("").to_owned())
                    .filter(|version| !version.is_empty() && !version.contains('*'));
                if dependencies.len() < MAX_DEPENDENCIES && name != "pip" {
                    dependencies.push(Dependency {
                        name: normalize(name),
                        version,
                        requirement: text.to_owned(),
                    });
                }
            }
            Value::Object(map) => {
                for line in texts(map.get("pip")) {
                    requirement(check, line, dependencies);
                }
            }
            _ => {}
        }
    }
}

fn python_env(check: &mut Check<'_>, file: &Value, dependencies: &mut Vec<Dependency>) {
    // Build tools are taken from wherever the host takes them; only what they name is looked at.
    let mut build = Vec::new();
    for line in texts(file.get("build_dependencies")) {
        requirement(check, line, &mut build);
    }
    for line in texts(file.get("dependencies")) {
        requirement(check, line, dependencies);
    }
    if let Some(python) = file.get("python").and_then(Value::as_str) {
        check.fact("python_version", python);
    }
}

/// Reads the lists of dependencies out of a `pyproject.toml`, line by line.
///
/// Nothing else of TOML matters here: every quoted text in a list that follows `dependencies` is a requirement.
fn pyproject(check: &mut Check<'_>, text: &str, dependencies: &mut Vec<Dependency>) {
    let mut section = String::new();
    let mut is_in_list = false;
    for line in text.lines() {
        let line = line.trim();
        let mut values = line;
        if !is_in_list {
            if line.starts_with('[') {
                line.trim_matches(['[', ']', ' ']).clone_into(&mut section);
                if matches!(
                    section.as_str(),
                    "tool.uv.index" | "tool.poetry.source" | "tool.pdm.source"
                ) {
                    check.find(
                        &KNOWN_INDEX,
                        None,
                        format!("the section {}", quote(&section)),
                    );
                }
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let key = key.trim();
            let value = value.trim();
            let is_url = matches!(
                key,
                "url" | "index-url" | "extra-index-url" | "find-links" | "git" | "index"
            ) && section.starts_with("tool.");
            if is_url && !is_known_url(value.trim_matches(['"', '\'', '[', ']', ' '])) {
                check.find(&FOREIGN_INDEX, None, format!("{key} = {}", quote(value)));
                continue;
            }
            let is_list_of_dependencies = key == "dependencies"
                || (key == "requires" && section == "build-system")
                || section == "project.optional-dependencies"
                || section == "dependency-groups";
            if !is_list_of_dependencies || !value.starts_with('[') {
                if value.contains("git =") || value.contains("git=") || value.contains("url =") {
                    check.find(&DIRECT, None, format!("{key} = {}", quote(value)));
                }
                continue;
            }
            is_in_list = true;
            values = value.strip_prefix('[').unwrap_or(value);
        }
        let mut rest = values;
        while let Some(start) = rest.find(['"', '\'', '#', ']']) {
            let tail = rest.get(start..).unwrap_or("");
            let mark = tail.chars().next().unwrap_or('#');
            let inner = tail.get(1..).unwrap_or("");
            match mark {
                '#' => break,
                ']' => {
                    is_in_list = false;
                    break;
                }
                _ => {
                    let Some((item, after)) = inner.split_once(mark) else {
                        break;
                    };
                    requirement(check, item, dependencies);
                    rest = after;
                }
            }
        }
    }
}

/// One advisory that applies to a dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vulnerability {
    /// Id of the advisory.
    pub id: String,
    /// Name of the package.
    pub package: String,
    /// The declared version.
    pub version: String,
    /// What the advisory says in one line.
    pub summary: String,
    /// The first version without it, if there is one.
    pub fixed: Option<String>,
}

/// Advisories in OSV format, as a deployment supplies them.
#[derive(Debug, Clone, Default)]
pub struct Advisories {
    records: Vec<Advisory>,
    /// Places in `records` by the normalized name of the package that they are about.
    by_package: HashMap<String, Vec<usize>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Advisory {
    id: String,
    #[serde(default)]
    summary: String,
    #[serde(default)]
    withdrawn: Option<String>,
    #[serde(default)]
    affected: Vec<Affected>,
}

#[derive(Debug, Clone, Deserialize)]
struct Affected {
    package: Package,
    #[serde(default)]
    ranges: Vec<AffectedRange>,
    #[serde(default)]
    versions: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Package {
    ecosystem: String,
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct AffectedRange {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    events: Vec<RangeEvent>,
}

#[derive(Debug, Clone, Deserialize)]
struct RangeEvent {
    introduced: Option<String>,
    fixed: Option<String>,
    last_affected: Option<String>,
}

impl Advisories {
    /// Reads a list of OSV records, or an object that has it as `vulns`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct File {
            vulns: Vec<Advisory>,
        }
        let records: Vec<Advisory> = match bytes.trim_ascii_start().first() {
            Some(b'[') => serde_json::from_slice(bytes)?,
            _ => match serde_json::from_slice::<Advisory>(bytes) {
                Ok(record) => vec![record],
                Err(_) => serde_json::from_slice::<File>(bytes)?.vulns,
            },
        };
        let mut by_package: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, record) in records.iter().enumerate() {
            if record.withdrawn.is_some() {
                continue;
            }
            for affected in &record.affected {
                if affected.package.ecosystem == "PyPI" {
                    let places = by_package
                        .entry(normalize(&affected.package.name))
                        .or_default();
                    if places.last() != Some(&place) {
                        places.push(place);
                    }
                }
            }
        }
        Ok(Self {
            records,
            by_package,
        })
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The advisories that apply to these dependencies; those without a version are passed over.
    pub fn lookup(&self, dependencies: &[Dependency]) -> Vec<Vulnerability> {
        let mut found = Vec::new();
        for dependency in dependencies {
            let Some(version) = &dependency.version else {
                continue;
            };
            let places = self.by_package.get(&dependency.name).into_iter().flatten();
            for record in places.filter_map(|place| self.records.get(*place)) {
                let hit = record.affected.iter().find(|affected| {
                    affected.package.ecosystem == "PyPI"
                        && normalize(&affected.package.name) == dependency.name
                        && affects(affected, version)
                });
                if let Some(affected) = hit {
                    found.push(Vulnerability {
                        id: record.id.clone(),
                        package: dependency.name.clone(),
                        version: version.clone(),
                        summary: record.summary.clone(),
                        fixed: affected
                            .ranges
                            .iter()
                            .flat_map(|range| &range.events)
                            .filter_map(|event| event.fixed.clone())
                            .find(|fixed| compare(fixed, version) == Ordering::Greater),
                    });
                }
            }
        }
        found
    }
}

fn affects(affected: &Affected, version: &str) -> bool {
    let is_listed = affected
        .versions
        .iter()
        .any(|listed| compare(listed, version) == Ordering::Equal);
    let is_in_range = affected
        .ranges
        .iter()
        .filter(|range| range.kind == "ECOSYSTEM" || range.kind == "SEMVER")
        .any(|range| {
            let mut is_affected = false;
            for event in &range.events {
                if let Some(introduced) = &event.introduced
                    && (introduced == "0" || compare(version, introduced) != Ordering::Less)
                {
                    is_affected = true;
                }
                if let Some(fixed) = &event.fixed
                    && compare(version, fixed) != Ordering::Less
                {
                    is_affected = false;
                }
                if let Some(last) = &event.last_affected
                    && compare(version, last) == Ordering::Greater
                {
                    is_affected = false;
                }
            }
            is_affected
        });
    is_listed || is_in_range
}

/// Compares versions in the order of PEP 440, without its local versions.
fn compare(left: &str, right: &str) -> Ordering {
    let left = version_key(left);
    let right = version_key(right);
    left.cmp(&right)
}

/// An epoch, the release without trailing zeros, and where pre-, post- and development releases sort.
fn version_key(version: &str) -> (u64, Vec<u64>, Vec<(i8, u64)>) {
    let version = version.trim().to_ascii_lowercase();
    let version = version.split('+').next().unwrap_or("");
    let version = version.strip_prefix('v').unwrap_or(version);
    let (epoch, rest) = version.split_once('!').unwrap_or(("0", version));
    let end = rest
        .find(|character: char| !(character.is_ascii_digit() || character == '.'))
        .unwrap_or(rest.len());
    let (release, suffix) = rest.split_at(end);
    let mut numbers: Vec<u64> = release
        .split('.')
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().unwrap_or(u64::MAX))
        .collect();
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    let mut suffixes = Vec::new();
    let mut rest = suffix.trim_start_matches(['.', '-', '_']);
    while !rest.is_empty() {
        let word_end = rest
            .find(|character: char| !character.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let (word, tail) = rest.split_at(word_end);
        let tail = tail.trim_start_matches(['.', '-', '_']);
        let number_end = tail
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(tail.len());
        let (number, after) = tail.split_at(number_end);
        let rank = match word {
            "dev" => -4,
            "a" | "alpha" => -3,
            "b" | "beta" => -2,
            "c" | "rc" | "pre" | "preview" => -1,
            _ => 1,
        };
        suffixes.push((rank, number.parse().unwrap_or(0)));
        let next = after.trim_start_matches(['.', '-', '_']);
        if next.len() == rest.len() {
            break;
        }
        rest = next;
    }
    // A release without a suffix sorts after its previews and before its post-releases.
    suffixes.push((0, 0));
    (epoch.parse().unwrap_or(0), numbers, suffixes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Bundle;
    use crate::inspect::Limits;
    use bytes::Bytes;

    fn run(path: &str, text: &str) -> (Verdict, Vec<String>) {
        let source = Bytes::copy_from_slice(text.as_bytes());
        let bundle = Bundle::new(Vec::new());
        let limits = Limits::default();
        let mut check = Check::new(&bundle, path, &source, &limits, 0);
        super::check(&mut check).unwrap();
        let (verdict, findings, _) = check.finish();
        (
            verdict,
            findings.into_iter().map(|finding| finding.rule).collect(),
        )
    }

    #[test]
    fn requirements_from_elsewhere_need_an_approval() {
        let cases = [
            (
                "numpy==1.0\npandas==2 # x\nfoo[bar]==1 ; python_version < '3.9'\n",
                Verdict::Clean,
            ),
            (
                "numpy==1 --hash=sha256:00 \\\n --hash=sha256:11",
                Verdict::Clean,
            ),
            (
                "--extra-index-url https://download.pytorch.org/whl/cpu\ntorch==2.0+cpu",
                Verdict::Clean,
            ),
            (
                "--extra-index-url=https://evil.example/simple\nx==1",
                Verdict::ContainsCode,
            ),
            ("-ihttps://evil.example/simple", Verdict::ContainsCode),
            ("-i https://pypi.org@evil.example/", Verdict::ContainsCode),
            ("git+https://github.com/a/b", Verdict::ContainsCode),
            ("b @ https://evil.example/b.whl", Verdict::ContainsCode),
            ("-e .", Verdict::ContainsCode),
            ("./local.whl", Verdict::ContainsCode),
            ("b.whl", Verdict::ContainsCode),
            ("-r ../../x.txt", Verdict::Unsafe),
        ];
        for (text, verdict) in cases {
            assert_eq!(run("requirements.txt", text).0, verdict, "{text}");
        }
        assert_eq!(run("requirements.txt", "numpy").1, ["environment.unpinned"]);
    }

    #[test]
    fn pip_lists_within_conda_are_looked_at() {
        let clean =
            "channels:\n- conda-forge\ndependencies:\n- python=3.11\n- pip:\n  - numpy==1\n";
        assert_eq!(run("m/conda.yaml", clean).0, Verdict::Clean);
        let index = "dependencies:\n- pip:\n  - --index-url http://evil\n";
        assert_eq!(run("m/conda.yaml", index).0, Verdict::ContainsCode);
        assert_eq!(
            run("conda.yaml", "channels:\n- https://evil/x\n").0,
            Verdict::ContainsCode
        );
        assert_eq!(
            run("conda.yaml", "a: !!python/name:os.system ''").0,
            Verdict::Unsafe
        );
    }

    #[test]
    fn lists_in_pyproject_are_looked_at() {
        let text = "[project]\nname = \"x\"\ndependencies = [\n  \"numpy==1\", # y\n  'b @ git+https://x/y',\n]\n";
        assert_eq!(run("pyproject.toml", text).0, Verdict::ContainsCode);
        assert_eq!(
            run(
                "pyproject.toml",
                "[project]\ndependencies = [\"numpy==1\"]\n"
            )
            .0,
            Verdict::Clean
        );
    }

    #[test]
    fn advisories_apply_to_versions_in_their_ranges() {
        let advisories = Advisories::from_json(
            br#"[{"id":"X-1","summary":"s","affected":[{"package":{"ecosystem":"PyPI","name":"Foo_Bar"},
            "ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"1.2"},{"fixed":"1.10.1"}]}]}]}]"#,
        )
        .unwrap();
        for (version, count) in [
            ("1.2.0", 1),
            ("1.10", 1),
            ("1.10.1", 0),
            ("1.1", 0),
            ("1.10.1rc1", 1),
            ("2", 0),
        ] {
            let dependency = parse_requirement(&format!("foo-bar=={version}")).unwrap();
            assert_eq!(advisories.lookup(&[dependency]).len(), count, "{version}");
        }
    }
}
