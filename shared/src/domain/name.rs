//! Names, numbers and digests: parsed once at the edge, trusted everywhere else.

use crate::error::Error;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt::{self, Write as _};
use unicode_normalization::UnicodeNormalization as _;

/// Declares a string newtype with a private field, a parser, and serialization as a string.
macro_rules! text_type {
    ($(#[$meta:meta])* $name:ident, $field:literal, $check:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses the text, or says which rule it breaks.
            pub fn parse(text: impl Into<String>) -> Result<Self, Error> {
                let text = text.into();
                let check: fn(&str) -> Result<(), String> = $check;
                match check(&text) {
                    Ok(()) => Ok(Self(text)),
                    Err(problem) => Err(Error::invalid($field, problem)),
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

/// Shortens a text for a message, so that a hostile name does not flood it.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        format!("{short}…")
    } else {
        short
    }
}

/// Characters that are invisible or change the direction of text, and so make two names look alike.
///
/// The joiners U+200C and U+200D are allowed: Persian, Indic scripts and emoji need them.
fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}'
            | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

pub(super) fn check_characters(what: &str, text: &str) -> Result<(), String> {
    match text.chars().find(|character| is_deceptive(*character)) {
        Some(character) => Err(format!(
            "{what} `{}` contains the character U+{:04X}, which is invisible or a control; remove it",
            shown(text),
            character as u32
        )),
        None => Ok(()),
    }
}

text_type!(
    /// The name of a tenant: 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit.
    ///
    /// ```
    /// use shared::domain::TenantName;
    /// assert!(TenantName::parse("team-a").is_ok());
    /// assert!(TenantName::parse("Team A").is_err());
    /// ```
    TenantName, "tenant", |text| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=63).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-')
        {
            Ok(())
        } else {
            Err(format!(
                "tenant `{}` is not valid; use 1 to 63 of a-z, 0-9 and `-`, not at the ends",
                shown(text)
            ))
        }
    }
);

impl TenantName {
    /// The tenant of requests without a tenant prefix: `default`.
    pub fn default_tenant() -> Self {
        Self("default".to_owned())
    }
}

text_type!(
    /// The name of an alias: 1 to 255 word characters or `-`; `latest` and `v1`-like names are reserved.
    ///
    /// ```
    /// use shared::domain::AliasName;
    /// assert!(AliasName::parse("champion").is_ok());
    /// assert!(AliasName::parse("v12").is_err());
    /// ```
    AliasName, "alias", |text| {
        let reserved_number = text
            .strip_prefix(['v', 'V'])
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()));
        if text.is_empty() || text.chars().count() > 255 {
            Err(format!("alias `{}` is not valid; use 1 to 255 characters", shown(text)))
        } else if let Some(bad) =
            text.chars().find(|character| !(character.is_alphanumeric() || matches!(character, '_' | '-')))
        {
            Err(format!(
                "alias `{}` contains `{}`; use letters, digits, `_` and `-`",
                shown(text),
                bad.escape_debug()
            ))
        } else if text.eq_ignore_ascii_case("latest") || reserved_number {
            Err(format!("alias `{text}` is reserved; `latest` and names like `v1` mean versions"))
        } else {
            Ok(())
        }
    }
);

text_type!(
    /// The name of a stage: 1 to 64 characters of letters, digits, space, `_` and `-`.
    StageName, "stage", |text| {
        let allowed = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-' | ' ');
        if text.trim().is_empty() || text.chars().count() > 64 || !text.chars().all(allowed) {
            Err(format!(
                "stage `{}` is not valid; use 1 to 64 letters, digits, spaces, `_` and `-`",
                shown(text)
            ))
        } else {
            Ok(())
        }
    }
);

text_type!(
    /// Who does something: an IAM ARN, the subject of a token, or a name given on the embedded default; 1 to 256 characters.
    Principal, "actor", |text| {
        if text.trim().is_empty() || text.chars().count() > 256 {
            return Err("the actor is empty or longer than 256 characters; name who does this".into());
        }
        check_characters("actor", text)
    }
);

text_type!(
    /// The path of an artifact within its version: relative, `/` between parts, at most 512 bytes and 32 parts.
    ///
    /// `..`, absolute paths, backslashes, empty parts, NUL and look-alike tricks are refused.
    ///
    /// ```
    /// use shared::domain::ArtifactPath;
    /// assert!(ArtifactPath::parse("data/model.onnx").is_ok());
    /// assert!(ArtifactPath::parse("../model.onnx").is_err());
    /// ```
    ArtifactPath, "path", |text| check_path(text, 512, 32)
);

text_type!(
    /// The path of a file that a client keeps with a run or a logged model: rules of [`ArtifactPath`], at most 900 bytes.
    ///
    /// It begins at the root of all artifacts, and no spelling of it leaves its folder, however often it is decoded.
    ///
    /// ```
    /// use shared::domain::StoredPath;
    /// assert!(StoredPath::parse("0/8a1f/artifacts/plot.png").is_ok());
    /// assert!(StoredPath::parse("0/8a1f/artifacts/%252e%252e/x").is_err());
    /// ```
    StoredPath, "path", |text| {
        let mut spelling = text.to_owned();
        for _ in 0..MOST_DECODINGS {
            check_path(&spelling, 900, 40)?;
            let decoded = decode_characters(&spelling);
            if decoded == spelling {
                return Ok(());
            }
            spelling = decoded;
        }
        Err(format!("artifact path `{}` is percent-encoded again and again; send the plain path", shown(text)))
    }
);

impl StoredPath {
    /// Parses a path however often it was encoded or decoded on its way: one file has one name.
    ///
    /// As in MLflow's server every escape is decoded, a control stays one, and bytes that are no character become
    /// U+FFFD. Its clients up to 3.10 name images such as `dog%step%100%timestamp%17%c4.png`, where `%10` and `%c4` are
    /// no escapes, and decode alike what a listing shows; gateways differ in what they decode.
    ///
    /// ```
    /// use shared::domain::StoredPath;
    /// let path = StoredPath::parse_decoded("a%2520b/dog%step%100%25c4.png").unwrap();
    /// assert_eq!(path.as_str(), "a b/dog%step%100\u{FFFD}.png");
    /// ```
    pub fn parse_decoded(text: &str) -> Result<Self, Error> {
        let mut spelling = text.to_owned();
        for _ in 0..MOST_DECODINGS {
            let decoded = decode_characters(&spelling);
            if decoded == spelling {
                break;
            }
            // What one spelling hides, another must not undo.
            if let Err(problem) = check_path(&decoded, 900, 40) {
                return Err(Error::invalid("path", problem));
            }
            spelling = decoded;
        }
        Self::parse(spelling)
    }
}

/// How often a path is decoded to see what it means.
const MOST_DECODINGS: usize = 8;

/// Decodes escapes once, and writes controls as escapes.
fn decode_characters(text: &str) -> String {
    escape_controls(&percent_decode_str(text).decode_utf8_lossy())
}

/// Writes controls as escapes; NUL alone is left as it is, because no path may have it.
pub(super) fn escape_controls(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_control() && character != '\0' {
            let _ = write!(escaped, "%{:02x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Checks a path of parts between `/`.
fn check_path(text: &str, most_bytes: usize, most_parts: usize) -> Result<(), String> {
    if text.is_empty() || text.len() > most_bytes {
        return Err(format!(
            "artifact path `{}` has {} bytes; use 1 to {most_bytes}",
            shown(text),
            text.len()
        ));
    }
    check_characters("artifact path", text)?;
    if text.contains('\\') {
        return Err(format!(
            "artifact path `{}` contains a backslash; use `/`",
            shown(text)
        ));
    }
    // Full-width and other look-alikes of `.`, `/` and `\` would become path syntax on a system that normalizes names.
    let normalized: String = text.nfkc().collect();
    for (spelling, name) in [
        (text, "as given"),
        (normalized.as_str(), "after Unicode normalization"),
    ] {
        if spelling.starts_with('/') || spelling.contains('\\') {
            return Err(format!(
                "artifact path `{}` is absolute or leaves its folder {name}; use a relative path",
                shown(text)
            ));
        }
        if spelling
            .split('/')
            .any(|part| part.is_empty() || matches!(part.trim(), "" | "." | ".."))
        {
            return Err(format!(
                "artifact path `{}` has an empty part, `.` or `..` {name}; use plain names between `/`",
                shown(text)
            ));
        }
    }
    if normalized.matches('/').count() != text.matches('/').count() {
        return Err(format!(
            "artifact path `{}` contains a look-alike of `/`; use `/`",
            shown(text)
        ));
    }
    let drive = text.as_bytes();
    if drive.len() >= 2 && drive[0].is_ascii_alphabetic() && drive[1] == b':' {
        return Err(format!(
            "artifact path `{}` names a drive; use a relative path",
            shown(text)
        ));
    }
    if text.split('/').count() > most_parts {
        return Err(format!(
            "artifact path `{}` has more than {most_parts} parts; use fewer folders",
            shown(text)
        ));
    }
    Ok(())
}

impl ArtifactPath {
    /// The spelling under which two paths collide on a file system that folds case or normalizes Unicode.
    pub fn collision_key(&self) -> String {
        self.0
            .nfkc()
            .flat_map(char::to_lowercase)
            .collect::<String>()
            .nfkc()
            .collect()
    }
}

text_type!(
    /// A SHA-256 digest, written `sha256:` and 64 lower-case hexadecimal digits.
    Digest, "digest", |text| {
        let valid = text.strip_prefix("sha256:").is_some_and(|rest| {
            rest.len() == 64 && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        if valid {
            Ok(())
        } else {
            Err(format!(
                "digest `{}` is not valid; write `sha256:` and 64 lower-case hexadecimal digits",
                shown(text)
            ))
        }
    }
);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(&Sha256::digest(bytes))
    }

    /// The digest with this raw SHA-256 value.
    pub fn from_hash(hash: &[u8]) -> Self {
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    /// The 64 hexadecimal digits without the prefix.
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }

    /// The raw 32 bytes in base64, as S3's checksum headers carry them.
    pub fn base64(&self) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD
            .encode(hex::decode(self.hex()).unwrap_or_default())
    }

    /// The digest whose raw bytes are this base64 text; `None` for anything that is not 32 bytes.
    pub fn from_base64(text: &str) -> Option<Self> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .ok()?;
        (bytes.len() == 32).then(|| Self::from_hash(&bytes))
    }
}

/// The number of a model version, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct VersionNumber(u32);

impl VersionNumber {
    /// The first version of a model.
    pub const FIRST: Self = Self(1);

    /// The number, or an error if it is 0 or above 4,294,967,295.
    pub fn new(number: u64) -> Result<Self, Error> {
        match u32::try_from(number) {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Err(Error::invalid(
                "version",
                format!("version `{number}` is not valid; versions are counted from 1"),
            )),
        }
    }

    /// Parses a number as it stands in a path: decimal digits without sign or leading zero.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        match text.parse::<u64>() {
            Ok(number) if plain => Self::new(number),
            _ => Err(Error::invalid(
                "version",
                format!(
                    "version `{}` is not a number; versions are counted from 1",
                    shown(text)
                ),
            )),
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl TryFrom<u64> for VersionNumber {
    type Error = Error;
    fn try_from(number: u64) -> Result<Self, Error> {
        Self::new(number)
    }
}

impl From<VersionNumber> for u64 {
    fn from(number: VersionNumber) -> Self {
        Self::from(number.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_tricks_are_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            ".",
            "a/./b",
            "a\\b",
            "C:/x",
            "a\0b",
            "a\u{202E}b",
            "\u{FF0E}\u{FF0E}/x",
            "a\u{FF0F}b",
            "a/ ../b",
            "a\u{200B}b",
        ] {
            assert!(ArtifactPath::parse(bad).is_err(), "{bad:?} must be refused");
        }
        for good in [
            "model.pkl",
            "data/model.onnx",
            "Prüfung/検査.bin",
            "a b/c+d.txt",
            "..hidden/x",
            "a/...",
            "x%2Fy",
        ] {
            assert!(
                ArtifactPath::parse(good).is_ok(),
                "{good:?} must be allowed"
            );
        }
    }

    #[test]
    fn paths_that_collide_have_one_key() {
        let key = |text: &str| ArtifactPath::parse(text).unwrap().collision_key();
        assert_eq!(key("Model.bin"), key("model.BIN"));
        assert_eq!(key("caf\u{e9}"), key("cafe\u{301}"));
        assert_ne!(key("a"), key("b"));
    }

    #[test]
    fn a_version_number_is_plain_decimal() {
        for bad in ["0", "01", "-1", "+1", "1.0", "", "4294967296", "١"] {
            assert!(VersionNumber::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(VersionNumber::parse("7").unwrap().get(), 7);
    }
}
