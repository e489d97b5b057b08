//! The name of a registered model, and the home under which all that it names lies.
//!
//! A model's items, documents and objects lie under its *home*, which never changes and is never used again.
//! The home is the name with which the model was created, or, if that was used before, that name, `:` and a ULID.
//! A name has no `:`, so no name is such a home.

use super::name::{check_characters, shown};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// Between a name that was used before and what makes a new home of it.
const SEPARATOR: char = ':';

/// The name of a registered model: 1 to 256 characters and 768 bytes, not blank, without `/`, `:` and control characters.
///
/// Unicode is welcome; `.` and `..` are refused, as in MLflow, because names become parts of paths.
/// A name may know where its model lies, which the store finds out; until then it is believed to lie under its name.
///
/// ```
/// use shared::domain::ModelName;
/// assert!(ModelName::parse("Qualitätsprüfung 検査").is_ok());
/// assert!(ModelName::parse("a/b").is_err());
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName {
    name: String,
    place: Place,
}

/// What is known of where a model lies.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Under its name, unless the store says otherwise.
    Name,
    /// Under this home; what it is called by now is not known.
    Home(String),
    /// Under this home, as its head said.
    Known {
        home: String,
        /// Whether it was deleted and its name given to another model.
        is_displaced: bool,
    },
}

impl ModelName {
    /// Parses the text, or says which rule it breaks.
    pub fn parse(text: impl Into<String>) -> Result<Self, Error> {
        let name = text.into();
        match check(&name) {
            Ok(()) => Ok(Self {
                name,
                place: Place::Name,
            }),
            Err(problem) => Err(Error::invalid("name", problem)),
        }
    }

    /// The model that lies under a home, whatever it is called by now.
    ///
    /// Until the store says otherwise, its name is the one with which the home was made.
    pub fn of_home(home: impl Into<String>) -> Result<Self, Error> {
        let home = home.into();
        let (name, rest) = match home.split_once(SEPARATOR) {
            Some((name, rest)) => (name, Some(rest)),
            None => (home.as_str(), None),
        };
        if rest.is_some_and(|rest| {
            rest.len() != 26 || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
        }) {
            return Err(Error::invalid(
                "model_id",
                format!(
                    "`{}` is no id of a model; use one that an answer showed",
                    shown(&home)
                ),
            ));
        }
        let mut model = Self::parse(name)?;
        model.place = Place::Home(home);
        Ok(model)
    }

    /// A home for a model of this name where the name was used before; `ulid` makes it unique.
    #[must_use]
    pub fn new_home(&self, ulid: &str) -> String {
        format!("{}{SEPARATOR}{ulid}", self.name)
    }

    /// This name for what lies under a home, as its head says.
    #[must_use]
    pub fn at(&self, home: impl Into<String>, is_displaced: bool) -> Self {
        Self {
            name: self.name.clone(),
            place: Place::Known {
                home: home.into(),
                is_displaced,
            },
        }
    }

    /// The plain name, with nothing known of where its model lies.
    #[must_use]
    pub fn plain(&self) -> Self {
        Self {
            name: self.name.clone(),
            place: Place::Name,
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The name under which all items, documents and objects of the model lie.
    pub fn home(&self) -> &str {
        match &self.place {
            Place::Name => &self.name,
            Place::Home(home) | Place::Known { home, .. } => home,
        }
    }

    /// Whether nothing is known of where the model lies, so that its name is believed.
    pub fn is_unresolved(&self) -> bool {
        self.place == Place::Name
    }

    /// Whether a head said that the model of this name lies under its home.
    pub fn is_known(&self) -> bool {
        matches!(self.place, Place::Known { .. })
    }

    /// Whether the model was deleted and its name given to another one.
    pub fn is_displaced(&self) -> bool {
        matches!(
            self.place,
            Place::Known {
                is_displaced: true,
                ..
            }
        )
    }
}

fn check(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("the model name is empty; give it at least one visible character".into());
    }
    if text.chars().count() > 256 {
        return Err(format!(
            "model name `{}` has {} characters; use at most 256",
            shown(text),
            text.chars().count()
        ));
    }
    // Keys of objects hold the name, and S3 takes 1,024 bytes.
    if text.len() > 768 {
        return Err(format!(
            "model name `{}` has {} bytes; use at most 768",
            shown(text),
            text.len()
        ));
    }
    if let Some(bad) = text
        .chars()
        .find(|character| matches!(*character, '/' | SEPARATOR))
    {
        return Err(format!(
            "model name `{}` contains `{bad}`; use another character",
            shown(text)
        ));
    }
    if matches!(text, "." | "..") {
        return Err(format!(
            "model name `{text}` means a folder; use another name"
        ));
    }
    check_characters("model name", text)
}

impl fmt::Display for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

impl TryFrom<String> for ModelName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        name.name
    }
}

impl AsRef<str> for ModelName {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

/// Two names are equal if they are the same text for what lies under the same home.
impl PartialEq for ModelName {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ModelName {}

impl PartialOrd for ModelName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ModelName {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.name, self.home()).cmp(&(&other.name, other.home()))
    }
}

impl Hash for ModelName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.home().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_read_back_and_is_no_name() {
        let iris = ModelName::parse("iris").unwrap();
        let home = iris.new_home("01K9ZQ4M3T8V5W2X7Y6ZABCDEF");
        assert!(ModelName::parse(home.as_str()).is_err());
        let again = ModelName::of_home(home.as_str()).unwrap();
        assert_eq!((again.as_str(), again.home()), ("iris", home.as_str()));
        assert_eq!(ModelName::of_home("iris").unwrap(), iris);
        for bad in [
            "",
            "a/b",
            "iris:",
            "iris:x",
            "iris:01K9ZQ4M3T8V5W2X7Y6ZABCDEF:1",
        ] {
            assert!(ModelName::of_home(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_different_homes_differ() {
        let iris = ModelName::parse("iris").unwrap();
        assert_ne!(iris.at("setosa", false), iris);
        assert_eq!(iris.at("iris", false), iris);
    }
}
