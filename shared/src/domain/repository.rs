//! What a registered model is called where names must be those of OCI repositories.
//!
//! The grammar is that of the OCI distribution specification 1.1: lower case, parts between `/`, and within a part
//! letters and digits between `.`, `_`, `__` or any number of `-`.
//! A repository is the model's name for the default tenant, and `<tenant>/<name>` for any other.
//! A name that is a part of that grammar stands for itself; whatever else a name may hold is escaped, so that every
//! model has a repository, and every repository is that of one model:
//!
//! ```text
//! an upper-case ASCII letter     -- and the letter in lower case     Llama-3-8B   x--llama-3-8--b
//! any other byte of its UTF-8    __ and two hexadecimal digits       a b          a__20b
//! where an escape would begin    x before it                         Iris         x--iris
//! ```

use crate::domain::{ModelName, TenantName};
use std::fmt::{self, Write as _};

/// An OCI repository: a registered model of a tenant.
///
/// ```
/// use shared::domain::Repository;
/// let repository = Repository::parse("team-a/x--llama-3-8--b").unwrap();
/// assert_eq!(repository.tenant.as_str(), "team-a");
/// assert_eq!(repository.model.as_str(), "Llama-3-8B");
/// assert_eq!(repository.to_string(), "team-a/x--llama-3-8--b");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The tenant.
    pub tenant: TenantName,
    /// The registered model.
    pub model: ModelName,
}

impl Repository {
    /// Reads a repository's name; `None` if it is that of no model.
    pub fn parse(text: &str) -> Option<Self> {
        let (tenant, name) = match text.split_once('/') {
            Some((tenant, name)) => (TenantName::parse(tenant).ok()?, name),
            None => (TenantName::default_tenant(), text),
        };
        let model = ModelName::parse(decode(name)?).ok()?;
        // One spelling for each name: what decodes to a name without being its encoding is nobody's repository.
        (encode(model.as_str()) == name).then_some(Self { tenant, model })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tenant != TenantName::default_tenant() {
            write!(formatter, "{}/", self.tenant)?;
        }
        formatter.write_str(&encode(self.model.as_str()))
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// A model's name as a part of a repository's.
fn encode(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut text = String::with_capacity(bytes.len() * 2);
    for (index, &byte) in bytes.iter().enumerate() {
        let next = bytes.get(index + 1).copied();
        let is_between = text.bytes().last().is_some_and(is_plain)
            && next.is_some_and(|next| is_plain(next) || byte == b'-' && next.is_ascii_uppercase());
        if is_plain(byte) || is_between && matches!(byte, b'.' | b'_' | b'-') {
            text.push(char::from(byte));
        } else if byte.is_ascii_uppercase() {
            text.push_str("--");
            text.push(char::from(byte.to_ascii_lowercase()));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "__{byte:02x}");
        }
    }
    if text.starts_with(['-', '_']) {
        text.insert(0, 'x');
    } else if begins_with_escape(&text).is_some() {
        // This `x` is the name's own, and is not to be taken for the one above.
        text.replace_range(..1, "x__78");
    }
    text
}

/// What follows the `x` that stands before an escape, if a text begins so.
fn begins_with_escape(text: &str) -> Option<&str> {
    text.strip_prefix('x')
        .filter(|rest| rest.starts_with("--") || rest.starts_with("__"))
}

/// The name that a part of a repository's name stands for; some texts that no name is encoded as are read, too.
fn decode(text: &str) -> Option<String> {
    let mut rest = begins_with_escape(text).unwrap_or(text).as_bytes();
    let mut name = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        let run = rest.iter().take_while(|other| **other == byte).count();
        rest = match (byte, run) {
            (b'-', 2 | 3) => {
                let (letter, after) = rest[run..].split_first()?;
                name.extend(std::iter::repeat_n(b'-', run - 2));
                name.push(letter.to_ascii_uppercase());
                after
            }
            (b'_', 2) => {
                name.push(u8::from_str_radix(std::str::from_utf8(rest.get(2..4)?).ok()?, 16).ok()?);
                &rest[4..]
            }
            _ => {
                name.push(byte);
                after
            }
        };
    }
    String::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether a text is a name of the specification's grammar.
    fn is_repository_name(text: &str) -> bool {
        text.split('/').all(|part| {
            let mut separators = part.split(is_alphanumeric).filter(|run| !run.is_empty());
            part.starts_with(is_alphanumeric)
                && part.ends_with(is_alphanumeric)
                && separators.all(|run| {
                    matches!(run, "." | "_" | "__") || run.bytes().all(|byte| byte == b'-')
                })
        })
    }

    fn is_alphanumeric(character: char) -> bool {
        u8::try_from(character).is_ok_and(is_plain)
    }

    fn check(tenant: &str, name: &str) -> String {
        let repository = Repository {
            tenant: TenantName::parse(tenant).unwrap(),
            model: ModelName::parse(name).unwrap(),
        };
        let text = repository.to_string();
        assert!(is_repository_name(&text), "{name:?} became {text:?}");
        assert_eq!(Repository::parse(&text), Some(repository), "{name:?}");
        text
    }

    #[test]
    fn names_of_the_grammar_stand_for_themselves_and_others_are_escaped() {
        for (name, expected) in [
            ("iris", "iris"),
            ("resnet-50_v1.5", "resnet-50_v1.5"),
            ("Iris", "x--iris"),
            ("Llama-3-8B-Instruct", "x--llama-3-8--b---instruct"),
            ("BERT", "x--b--e--r--t"),
            ("my model", "my__20model"),
            ("x", "x"),
            ("xB", "x__78--b"),
            ("x B", "x__78__20--b"),
            ("x-B", "x__78---b"),
            ("xB ", "x__78--b__20"),
            ("x b", "x__78__20b"),
            ("a--b", "a__2d-b"),
            ("a__b", "a__5f_b"),
            ("a.-b", "a__2e-b"),
            (".hidden", "x__2ehidden"),
            ("ends-", "ends__2d"),
            ("検査", "x__e6__a4__9c__e6__9f__bb"),
        ] {
            assert_eq!(check("default", name), expected);
            assert_eq!(check("team-a", name), format!("team-a/{expected}"));
        }
        assert_eq!(
            Repository::parse("default/iris"),
            Repository::parse("iris"),
            "the default tenant may be named"
        );
    }

    #[test]
    fn what_no_name_is_encoded_as_is_no_repository() {
        for text in [
            "",
            "/",
            "iris/",
            "/iris",
            "a/b/c",
            "Iris",
            "x--",
            "x__",
            "x__zz",
            "x__4",
            "a__62",
            "x__69ris",
            "x--1",
            "a----b",
            "a___b",
            "-a",
            "a-",
            "x__ff",
            "x__41",
            "team_a/iris",
            "a__+1b",
            "a b",
        ] {
            assert_eq!(Repository::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_has_one_repository(name in "[a-zA-Z0-9._x -]{1,12}|\\PC{1,40}", tenant in "[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?") {
            if ModelName::parse(name.as_str()).is_ok() {
                check(&tenant, &name);
            }
        }

        #[test]
        fn every_text_is_one_repository_or_none(text in "[a-z0-9x._/-]{1,20}|\\PC{0,20}") {
            if let Some(repository) = Repository::parse(&text) {
                let canonical = repository.to_string();
                let is_canonical = canonical == text || format!("default/{canonical}") == text;
                prop_assert!(is_canonical, "{}", canonical);
            }
        }
    }
}
