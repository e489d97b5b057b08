//! Advisories in OSV format (<https://ossf.github.io/osv-schema/>), and the order of versions of PEP 440.

use super::{Dependency, normalize};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::HashMap;

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

impl RangeEvent {
    /// The version that the event is at; `0` stands before all others.
    fn version(&self) -> &str {
        let version = self.introduced.as_ref().or(self.fixed.as_ref());
        version.or(self.last_affected.as_ref()).map_or("0", |it| it)
    }
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
            let mut events: Vec<&RangeEvent> = range.events.iter().collect();
            // The schema asks for no order of events.
            events.sort_by(|left, right| compare(left.version(), right.version()));
            for event in events {
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

    fn versions_hit(events: &str, versions: &[&str]) -> Vec<usize> {
        let record = format!(
            r#"[{{"id":"X-1","summary":"s","affected":[{{"package":{{"ecosystem":"PyPI","name":"Foo_Bar"}},
            "ranges":[{{"type":"ECOSYSTEM","events":{events}}}]}}]}}]"#
        );
        let advisories = Advisories::from_json(record.as_bytes()).unwrap();
        let dependency = |version: &&str| Dependency {
            name: "foo-bar".to_owned(),
            version: Some((*version).to_owned()),
            requirement: String::new(),
        };
        versions
            .iter()
            .map(|version| advisories.lookup(&[dependency(version)]).len())
            .collect()
    }

    #[test]
    fn advisories_apply_to_versions_in_their_ranges() {
        let versions = [
            "1.2.0",
            "1.10",
            "1.10.1",
            "1.1",
            "1.10.1rc1",
            "1.10.1.dev3",
            "1.10.1.post1",
            "2",
            "1!0",
            "1.10+cpu",
        ];
        let hits = [1, 1, 0, 0, 1, 1, 0, 0, 0, 1];
        for events in [
            r#"[{"introduced":"1.2"},{"fixed":"1.10.1"}]"#,
            r#"[{"fixed":"1.10.1"},{"introduced":"1.2"}]"#,
        ] {
            assert_eq!(versions_hit(events, &versions), hits, "{events}");
        }
        let twice =
            r#"[{"introduced":"0"},{"fixed":"1.0"},{"introduced":"2.0"},{"last_affected":"2.5"}]"#;
        assert_eq!(
            versions_hit(twice, &["0.9", "1.0", "1.9", "2.0", "2.5.0", "2.5.1"]),
            [1, 0, 0, 1, 1, 0]
        );
    }
}
