//! What validation read out of the files, as far as it is told again.

use super::Subject;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What the report tells of licences, libraries, tasks and numbers.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) licences: BTreeSet<String>,
    /// Each once, by name; with a version where one is pinned.
    pub(super) libraries: BTreeMap<String, Option<String>>,
    pub(super) datasets: BTreeSet<String>,
    pub(super) base_models: BTreeSet<String>,
    pub(super) task: Option<String>,
    pub(crate) architecture: Option<String>,
    pub(crate) formats: BTreeSet<String>,
    /// Kinds of numbers, in the words of their formats.
    pub(crate) number_kinds: BTreeSet<String>,
    /// Numbers of parameters, by format.
    pub(crate) parameters: BTreeMap<String, u64>,
}

impl Facts {
    pub(crate) fn of(subject: &Subject<'_>) -> Self {
        let mut facts = Self::default();
        let rows = subject
            .report
            .as_ref()
            .and_then(|report| report["artifacts"].as_array())
            .map(Vec::as_slice)
            .unwrap_or_default();
        for row in rows {
            if let Some(format) = row["format"].as_str() {
                facts.formats.insert(format.to_owned());
                if let Some(count) = row["facts"]["parameter_count"].as_u64() {
                    let sum = facts.parameters.entry(format.to_owned()).or_default();
                    *sum = sum.saturating_add(count);
                }
            }
            facts.take(&row["facts"]);
        }
        if let Some(framework) = &subject.metadata.framework {
            facts.library(&framework.name, framework.version.as_deref());
        }
        facts
    }

    fn library(&mut self, name: &str, release: Option<&str>) {
        let known = self.libraries.entry(name.to_owned()).or_default();
        if known.is_none() {
            *known = release.map(ToOwned::to_owned);
        }
    }

    fn take(&mut self, facts: &Value) {
        self.licences.extend(texts(&facts["licence"]));
        self.datasets.extend(texts(&facts["datasets"]));
        match &facts["dtypes"] {
            Value::Object(counts) => self.number_kinds.extend(counts.keys().cloned()),
            kinds => self.number_kinds.extend(texts(kinds)),
        }
        self.base_models.extend(texts(&facts["base_model"]));
        for library in facts["dependencies"].as_array().into_iter().flatten() {
            if let Some(name) = library["name"].as_str() {
                self.library(name, library["version"].as_str());
            }
        }
        let first = |known: &mut Option<String>, fact: &Value| {
            if known.is_none() {
                *known = texts(fact).next();
            }
        };
        first(&mut self.task, &facts["task"]);
        first(&mut self.architecture, &facts["architecture"]);
        first(&mut self.architecture, &facts["architectures"]);
    }
}

/// A fact that is one text or a list of texts.
fn texts(fact: &Value) -> impl Iterator<Item = String> {
    let list = fact
        .as_array()
        .map_or(std::slice::from_ref(fact), Vec::as_slice);
    list.iter().filter_map(Value::as_str).map(ToOwned::to_owned)
}
