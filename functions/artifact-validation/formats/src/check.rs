//! One file under inspection: its bytes, its neighbours, and what was found so far.
//!
//! A format's module has three public parts: `RULES`, `detect` and `check`.
//! `check` reads through [`Check::read`], tells facts and findings, and leaves with `?` when a read fails.

use crate::bundle::Bundle;
use crate::facts;
use crate::inspect::Limits;
use crate::report::{Finding, Verdict};
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use bytes::Bytes;
use serde_json::{Map, Value};
use std::ops::Range;

/// One file under inspection.
pub struct Check<'a> {
    /// All files of the version, for formats that span several.
    pub bundle: &'a Bundle<'a>,
    /// Path of this file; members of archives follow after `!/`.
    pub path: &'a str,
    /// The bytes of this file.
    pub source: &'a dyn Source,
    /// Bounds for this inspection.
    pub limits: &'a Limits,
    /// How many archives this file lies in.
    pub depth: usize,
    findings: Vec<Finding>,
    verdict: Verdict,
    facts: Map<String, Value>,
}

impl std::fmt::Debug for Check<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Check")
            .field("path", &self.path)
            .field("findings", &self.findings)
            .finish_non_exhaustive()
    }
}

impl<'a> Check<'a> {
    /// Most findings that are kept for one file; the verdict counts them all.
    pub const MAX_FINDINGS: usize = 100;

    /// Begins the inspection of one file.
    pub fn new(
        bundle: &'a Bundle<'a>,
        path: &'a str,
        source: &'a dyn Source,
        limits: &'a Limits,
        depth: usize,
    ) -> Self {
        Self {
            bundle,
            path,
            source,
            limits,
            depth,
            findings: Vec::new(),
            verdict: Verdict::Clean,
            facts: Map::new(),
        }
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.source.size()
    }

    /// Reads `range` whole; see [`Source::read`].
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        self.source.read(range)
    }

    /// Tells that `rule` applies, at `offset_bytes` if it has a place.
    pub fn find(&mut self, rule: &Rule, offset_bytes: Option<u64>, detail: impl Into<String>) {
        self.verdict = self.verdict.max(self.limits.verdict_of(rule));
        if self.findings.len() < Self::MAX_FINDINGS {
            self.findings.push(Finding {
                rule: rule.id.to_owned(),
                path: self.path.to_owned(),
                offset_bytes,
                detail: detail.into(),
            });
        }
    }

    /// Records a fact that was read out of the file.
    pub fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Takes over what was found in a part of this file, such as a member of an archive.
    pub fn absorb(&mut self, part: Check<'_>) {
        self.verdict = self.verdict.max(part.verdict);
        let room = Self::MAX_FINDINGS.saturating_sub(self.findings.len());
        self.findings.extend(part.findings.into_iter().take(room));
    }

    /// Takes over what was found in a part, and answers its facts.
    pub(crate) fn absorb_part(&mut self, part: Check<'_>) -> Map<String, Value> {
        let (verdict, findings, facts) = part.finish();
        self.absorb_findings(verdict, findings);
        facts
    }

    /// Takes over a verdict and the findings that led to it.
    pub(crate) fn absorb_findings(&mut self, verdict: Verdict, findings: Vec<Finding>) {
        self.verdict = self.verdict.max(verdict);
        let room = Self::MAX_FINDINGS.saturating_sub(self.findings.len());
        self.findings.extend(findings.into_iter().take(room));
    }

    /// The verdict so far.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The facts so far.
    pub fn facts(&self) -> &Map<String, Value> {
        &self.facts
    }

    /// Gives the facts so far the words that all formats share.
    pub(crate) fn complete_facts(&mut self, format: &str) {
        facts::complete(format, &mut self.facts);
    }

    /// Ends the inspection of this file.
    pub fn finish(self) -> (Verdict, Vec<Finding>, Map<String, Value>) {
        (self.verdict, self.findings, self.facts)
    }
}
