//! The allow-list: which names a pickle may import, and what it may do with each.
//!
//! The list is exact and closed under composition: whatever is called with whatever the other entries can make, no
//! file is touched, no process started, nothing imported by a name from the pickle.
//! The entries are data, in `allow-list.txt`; a deployment can add its own.

use super::never;
use crate::rules::written;
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, OnceLock};

/// The list that comes with the crate.
pub const ALLOW_LIST: &str = include_str!("allow-list.txt");

/// What a pickle may do with an imported name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Make an instance without running its initializer, and set its state.
    Class,
    /// The same, and fill it like a dictionary.
    DictClass,
    /// The same, and fill it like a list.
    ListClass,
    /// Call it with any arguments.
    Call,
    /// Call it, and fill the result like a dictionary.
    DictCall,
    /// Call it, and fill the result like a list.
    ListCall,
    /// Mention it, but not call it.
    Data,
    /// Mention it in code that the pickle carries by value, but never call it; counts as the author's code.
    Mention,
    /// Call it if its arguments pass a check of their own.
    Check,
    /// A storage of a tensor: mention it in a persistent id.
    Storage,
    /// Carries the author's code.
    Code,
}

impl Use {
    /// The word for it in a list.
    pub fn word(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::DictClass => "class-dict",
            Self::ListClass => "class-list",
            Self::Call => "call",
            Self::DictCall => "call-dict",
            Self::ListCall => "call-list",
            Self::Data => "data",
            Self::Mention => "mention",
            Self::Check => "check",
            Self::Storage => "storage",
            Self::Code => "code",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "class" => Self::Class,
            "class-dict" => Self::DictClass,
            "class-list" => Self::ListClass,
            "call" => Self::Call,
            "call-dict" => Self::DictCall,
            "call-list" => Self::ListCall,
            "data" => Self::Data,
            "mention" => Self::Mention,
            "check" => Self::Check,
            "storage" => Self::Storage,
            "code" => Self::Code,
            _ => return None,
        })
    }
}

/// A line that cannot be added to an allow-list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowListError {
    /// It is none.
    #[error("line {line} of the allow-list is not `<use> <module> <name>…`: `{text}`")]
    Malformed {
        /// Number of the line, from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// It names what no deployment can allow.
    #[error("line {line} of the allow-list names `{name}`, which can never be allowed: {reason}")]
    Never {
        /// Number of the line, from 1.
        line: usize,
        /// Module and name.
        name: String,
        /// Why not.
        reason: String,
    },
}

/// Names that a pickle may import.
#[derive(Debug, Clone, Default)]
pub struct AllowList {
    modules: HashMap<String, HashMap<String, Use>>,
    /// Every module and name, so that the machine knows which texts to keep.
    words: HashSet<String>,
    /// Digest of the entries, once it was asked for.
    digest: OnceLock<String>,
}

static BUILT_IN: LazyLock<AllowList> = LazyLock::new(|| {
    let mut list = AllowList::default();
    // A test reads the whole list; a line that is none would be one name less.
    let _ = list.add(ALLOW_LIST, false, |_, _, _, _| Ok(()));
    list
});

impl AllowList {
    /// The list that comes with the crate.
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// Adds the lines of `text`, each `<use> <module> <name>…`; `#` begins a comment.
    ///
    /// Names that run code, open files or import others are refused, and so is a wider use of what the built-in list has.
    ///
    /// ```
    /// let mut list = model_formats::pickle::AllowList::built_in().clone();
    /// list.extend("class our_models.scoring Scorer Calibrator").unwrap();
    /// assert!(list.find("our_models.scoring", "Scorer").is_some());
    /// assert!(list.extend("call os system").is_err());
    /// ```
    pub fn extend(&mut self, text: &str) -> Result<(), AllowListError> {
        self.add(text, true, |line, granted, module, name| {
            never::reason(granted, module, name).map_or(Ok(()), |reason| {
                Err(AllowListError::Never {
                    line,
                    name: format!("{module}.{name}"),
                    reason,
                })
            })
        })
    }

    /// Adds lines whose names `check` takes.
    fn add(
        &mut self,
        text: &str,
        keeps_known: bool,
        check: impl Fn(usize, Use, &str, &str) -> Result<(), AllowListError>,
    ) -> Result<(), AllowListError> {
        self.digest = OnceLock::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let error = || AllowListError::Malformed {
                line: index + 1,
                text: line.chars().take(200).collect(),
            };
            let mut words = line.split_whitespace();
            let granted = words.next().and_then(Use::parse).ok_or_else(error)?;
            let module = words.next().ok_or_else(error)?;
            if !module.split('.').all(is_identifier) {
                return Err(error());
            }
            let names: Vec<&str> = words.collect();
            if names.is_empty() || !names.iter().all(|name| is_identifier(name)) {
                return Err(error());
            }
            for name in &names {
                check(index + 1, granted, module, name)?;
            }
            self.words.insert(module.to_owned());
            let known = self.modules.entry(module.to_owned()).or_default();
            for name in names {
                self.words.insert(name.to_owned());
                // What is there already permits as much: `check` saw to it.
                if !keeps_known || !known.contains_key(name) {
                    known.insert(name.to_owned(), granted);
                }
            }
        }
        Ok(())
    }

    /// What may be done with `module.name`, if it may be imported at all.
    pub fn find(&self, module: &str, name: &str) -> Option<Use> {
        let names = match module {
            // Python 2 names, which every unpickler translates.
            "__builtin__" => self.modules.get("builtins"),
            "copy_reg" => self.modules.get("copyreg"),
            // NumPy 2 renamed its core; the old names are the same objects.
            _ => match module.strip_prefix("numpy.core.") {
                Some(rest) => self.modules.get(&format!("numpy._core.{rest}")),
                None => self.modules.get(module),
            },
        };
        names?.get(name).copied()
    }

    /// Whether `text` occurs in the list as a module or a name.
    pub(crate) fn is_word(&self, text: &str) -> bool {
        self.words.contains(text)
            || text
                .strip_prefix("numpy.core.")
                .is_some_and(|rest| self.words.contains(&format!("numpy._core.{rest}")))
            || matches!(
                text,
                "__builtin__"
                    | "copy_reg"
                    | "storage"
                    | "subclass"
                    | "__doc__"
                    | "__name__"
                    | "__qualname__"
                    | "__module__"
            )
    }

    /// Digest of every entry, in whatever order and form they were written.
    pub fn digest(&self) -> String {
        let digest = self.digest.get_or_init(|| {
            let mut hash = Sha256::new();
            hash.update(self.listing());
            written(hash)
        });
        digest.clone()
    }

    /// Every entry in a fixed order, one a line.
    fn listing(&self) -> String {
        let mut lines: Vec<String> = self
            .modules
            .iter()
            .flat_map(|(module, names)| {
                names
                    .iter()
                    .map(move |(name, granted)| format!("{granted:?} {module} {name}\n"))
            })
            .collect();
        lines.sort_unstable();
        lines.concat()
    }

    /// How many names the list has.
    pub fn len(&self) -> usize {
        self.modules.values().map(HashMap::len).sum()
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }
}

/// Whether `text` is what Python takes as a name.
fn is_identifier(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text
            .chars()
            .all(|letter| letter.is_alphanumeric() || letter == '_')
}
