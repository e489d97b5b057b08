//! Model cards: the front matter of a `README.md`, with its licence by SPDX (<https://spdx.org/licenses/>) or by the names
//! that the Hugging Face Hub uses.

use crate::check::Check;
use crate::cursor::{Trouble, quote, read_small, settle};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::ReadError;
use crate::yaml;
use serde_json::{Value, json};

/// The rules of this format.
pub const RULES: &[Rule] = &[FRONT_MATTER, YAML, UNKNOWN, TOO_LARGE];

const FRONT_MATTER: Rule = Rule {
    id: "card.front-matter",
    verdict: Verdict::Clean,
    why: "The card's facts cannot be shown if they cannot be read.",
    fix: "Write plain YAML between the lines of `---`.",
};
const YAML: Rule = Rule {
    id: "card.yaml-feature",
    verdict: Verdict::Unsafe,
    why: "Tags construct objects while the card is read; aliases and depth exhaust the reader.",
    fix: "Write plain mappings, lists and texts.",
};
const UNKNOWN: Rule = Rule {
    id: "card.unknown-licence",
    verdict: Verdict::Clean,
    why: "A licence that is not recognized must be read by a person before the model is used.",
    fix: "Name the licence by its SPDX identifier.",
};
const TOO_LARGE: Rule = Rule {
    id: "card.too-large",
    verdict: Verdict::Incomplete,
    why: "The card is larger than is looked at.",
    fix: "Keep the card below four megabytes.",
};

const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Identifiers of SPDX that models and their data use.
const SPDX: &[&str] = &[
    "0BSD",
    "AFL-3.0",
    "AGPL-3.0",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-1.1",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSL-1.0",
    "CC-BY-2.0",
    "CC-BY-2.5",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-NC-2.0",
    "CC-BY-NC-3.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-ND-3.0",
    "CC-BY-NC-ND-4.0",
    "CC-BY-NC-SA-2.0",
    "CC-BY-NC-SA-3.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-ND-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0",
    "CDLA-Sharing-1.0",
    "ECL-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.1",
    "EUPL-1.2",
    "GFDL-1.3",
    "GPL-2.0",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "ISC",
    "LGPL-2.1",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "LPPL-1.3c",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "MS-PL",
    "NCSA",
    "ODbL-1.0",
    "ODC-By-1.0",
    "OFL-1.1",
    "OSL-3.0",
    "PDDL-1.0",
    "PostgreSQL",
    "Python-2.0",
    "Unlicense",
    "UPL-1.0",
    "WTFPL",
    "Zlib",
];

/// Licences of models that SPDX does not list, by their names on the Hub.
const MODEL_LICENCES: &[&str] = &[
    "apple-amlr",
    "apple-ascl",
    "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m",
    "c-uda",
    "cc",
    "creativeml-openrail-m",
    "deepfloyd-if-license",
    "gemma",
    "grok2-community",
    "intel-research",
    "lgpl-lr",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "llama4",
    "open-mdw",
    "openrail",
    "openrail++",
    "etalab-2.0",
    "fair-noncommercial-research-license",
    "h-research",
];

/// The SPDX identifier, or the Hub's name, that `name` stands for.
pub fn recognize(name: &str) -> Option<&'static str> {
    let name = name.trim();
    let alias = match name.to_ascii_lowercase().as_str() {
        "apache" | "apache 2.0" | "apache2" | "apache-2" => "Apache-2.0",
        "bsd" => "BSD-3-Clause",
        "gpl" => "GPL-3.0",
        "lgpl" => "LGPL-3.0",
        "agpl" => "AGPL-3.0",
        "cc0" => "CC0-1.0",
        "odc-by" => "ODC-By-1.0",
        "odbl" => "ODbL-1.0",
        "pddl" => "PDDL-1.0",
        _ => name,
    };
    SPDX.iter()
        .chain(MODEL_LICENCES)
        .find(|known| known.eq_ignore_ascii_case(alias))
        .copied()
}

/// Tells whether this is a model card.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    let name = path.rsplit('/').next().unwrap_or("").to_ascii_lowercase();
    matches!(
        name.as_str(),
        "readme.md" | "modelcard.md" | "model_card.md"
    ) && crate::environment::is_text(head)
}

/// Inspects one card.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = inspect(check);
    settle(check, outcome, &FRONT_MATTER, &TOO_LARGE)?;
    Ok(())
}

fn inspect(check: &mut Check<'_>) -> Result<(), Trouble> {
    let bytes = read_small(check.source, MAX_BYTES)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| Trouble::malformed(error.valid_up_to() as u64, "not UTF-8"))?;
    let Some(matter) = front_matter(text) else {
        return Ok(());
    };
    let matter = yaml::parse(matter).map_err(|error| {
        if error.is_dangerous {
            Trouble::rule(&YAML, error.offset, error.detail)
        } else {
            Trouble::malformed(error.offset, error.detail)
        }
    })?;
    match matter.get("license") {
        Some(Value::String(name)) => licence(check, &matter, name),
        Some(Value::Array(names)) => {
            for name in names.iter().filter_map(Value::as_str) {
                licence(check, &matter, name);
            }
        }
        _ => {}
    }
    for (key, fact) in [
        ("base_model", "base_model"),
        ("datasets", "datasets"),
        ("language", "language"),
        ("library_name", "library"),
        ("pipeline_tag", "task"),
        ("tags", "card_tags"),
        ("metrics", "metrics"),
    ] {
        if let Some(value) = matter.get(key).filter(|value| !value.is_null()) {
            check.fact(fact, value.clone());
        }
    }
    Ok(())
}

fn licence(check: &mut Check<'_>, matter: &Value, name: &str) {
    let known = recognize(name).map(ToOwned::to_owned);
    if known.is_none() {
        // `other` carries its own name beside it.
        let own = matter.get("license_name").and_then(Value::as_str);
        check.find(
            &UNKNOWN,
            None,
            format!("the licence {}", quote(own.unwrap_or(name))),
        );
    }
    check.fact("licence", json!(known.unwrap_or_else(|| name.to_owned())));
}

/// The text between `---` on the first line and the next `---`.
fn front_matter(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rest = text.strip_prefix("---")?;
    let rest = rest
        .strip_prefix("\r\n")
        .or_else(|| rest.strip_prefix('\n'))?;
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return rest.get(..end);
        }
        end += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_recognized_in_any_case() {
        assert_eq!(recognize("apache-2.0"), Some("Apache-2.0"));
        assert_eq!(recognize(" mit "), Some("MIT"));
        assert_eq!(recognize("llama3.1"), Some("llama3.1"));
        assert_eq!(recognize("mine"), None);
    }

    #[test]
    fn the_front_matter_ends_at_its_second_line() {
        assert_eq!(front_matter("---\na: b\n---\n# x\n---\n"), Some("a: b\n"));
        assert_eq!(front_matter("# x\n---\na\n---\n"), None);
        assert_eq!(front_matter("---\na"), None);
    }
}
