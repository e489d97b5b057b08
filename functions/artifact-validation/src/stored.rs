//! Stored reports, read back to be judged again.

use crate::own_rules::{self, REJECTED};
use crate::report::{self, Judged};
use crate::ruling::Ruling;
use model_formats::rejudge::{self, FACTS_VERSION};
use model_formats::{FileReport, Finding, Report as Inspection, Verdict};
use serde::Deserialize;
use serde_json::{Map, Value};
use shared::domain::{Artifact, ArtifactPath, Digest, Version};
use shared::s3::keys;
use shared::{App, Error, ErrorCode, Result};
use std::collections::HashMap;

/// A report as it was stored; the fields are those that a further judgement needs.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredReport {
    verdict: String,
    #[serde(default)]
    rules_digest: String,
    #[serde(default)]
    facts_version: u32,
    artifacts: Vec<StoredArtifact>,
    findings: Vec<Finding>,
    #[serde(default)]
    findings_omitted: usize,
}

/// An artifact as it was judged.
#[derive(Debug, Deserialize)]
struct StoredArtifact {
    path: String,
    size_bytes: u64,
    #[serde(default)]
    digest: Option<Digest>,
    media_type: String,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    object_version: Option<String>,
    #[serde(default)]
    etag: Option<String>,
    #[serde(default)]
    format: Option<String>,
    #[serde(default)]
    verdict: Option<Verdict>,
    #[serde(default)]
    facts: Map<String, Value>,
    checks: Vec<String>,
}

/// A further judgement, and the files whose stored facts do not decide.
#[derive(Debug)]
pub(crate) struct Rejudged {
    /// The judgement; no file is judged milder than its facts prove.
    pub(crate) judged: Judged,
    /// Paths of the files that have to be read to be judged by today's rules.
    pub(crate) needs_reading: Vec<String>,
}

impl StoredReport {
    /// The newest report of a version that was judged.
    pub(crate) async fn of(app: &App, version: &Version) -> Result<Self> {
        let id = &version.id;
        let validation = version.validation.as_ref().ok_or_else(|| {
            Error::new(
                ErrorCode::VersionNotReady,
                format!(
                    "{id} was not validated yet; it will be judged by the policy as it is then"
                ),
            )
        })?;
        let key = keys::report(id, &validation.report_digest);
        let bytes = app.bucket.read_whole(&key, None).await?.ok_or_else(|| {
            Error::internal("reading a report", format!("`{key}` of {id} is missing"))
        })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::internal(format!("reading `{key}`"), error))
    }

    /// Refuses a report of uploads that were never inspected: no policy makes them what was declared.
    pub(crate) fn require_inspected(&self, version: &Version) -> Result<()> {
        if self.verdict == REJECTED {
            return Err(not_rejudgeable(
                version,
                "its uploads are not as declared, or never came, so that nothing was inspected; register a new version",
            ));
        }
        Ok(())
    }

    /// Judges the stored facts by the ruling as it is now, without reading an artifact.
    pub(crate) fn rejudge(self, version: &Version, ruling: &Ruling) -> Result<Rejudged> {
        let is_partial = self.verdict == Verdict::Incomplete.word()
            || self
                .artifacts
                .iter()
                .any(|artifact| artifact.verdict.is_none());
        let obstacle = if self.facts_version != FACTS_VERSION {
            Some("its facts were stored by another build of the validation")
        } else if is_partial {
            Some("its inspection did not finish")
        } else {
            (self.findings_omitted > 0).then_some("its report leaves out findings")
        };
        if let Some(why) = obstacle {
            return Err(not_rejudgeable(
                version,
                &format!("{why}; have its artifacts read again with `read_artifacts: true`"),
            )
            .with("read_artifacts", true));
        }
        let inspection = rejudge::rejudge(&self.inspection(), &ruling.limits);
        let mut needs_reading: Vec<String> = inspection
            .files
            .iter()
            .filter(|file| rejudge::file_needs_reading(file))
            .map(|file| file.path.clone())
            .collect();
        needs_reading.sort();
        let files: HashMap<&str, &FileReport> = inspection
            .files
            .iter()
            .map(|file| (file.path.as_str(), file))
            .collect();
        let rows = self
            .artifacts
            .iter()
            .map(|artifact| {
                let file = files.get(artifact.path.as_str()).copied();
                report::Artifact {
                    path: &artifact.path,
                    size_bytes: artifact.size_bytes,
                    digest: artifact.digest.as_ref(),
                    media_type: &artifact.media_type,
                    key: artifact.key.as_deref(),
                    object_version: artifact.object_version.as_deref(),
                    etag: artifact.etag.as_deref(),
                    format: file.map(|file| file.format.as_str()),
                    verdict: file.map(|file| file.verdict.word()),
                    facts: file.map(|file| &file.facts),
                    checks: artifact.checks.iter().map(String::as_str).collect(),
                }
            })
            .collect();
        Ok(Rejudged {
            judged: report::judged(version, rows, &inspection, ruling)?,
            needs_reading,
        })
    }

    /// The artifacts as they were pinned when they were judged.
    pub(crate) fn pinned_artifacts(&self, version: &Version) -> Result<Vec<Artifact>> {
        let unpinned = || {
            not_rejudgeable(
                version,
                "its report does not say which objects were judged; have them read again with `read_artifacts: true`",
            )
            .with("read_artifacts", true)
        };
        let mut artifacts = self
            .artifacts
            .iter()
            .map(|artifact| {
                Ok(Artifact {
                    path: ArtifactPath::parse(artifact.path.as_str())?,
                    size_bytes: artifact.size_bytes,
                    digest: artifact.digest.clone().ok_or_else(unpinned)?,
                    media_type: artifact.media_type.clone(),
                    key: artifact.key.clone(),
                    packaged: false,
                    object_version: artifact.object_version.clone(),
                    etag: artifact.etag.clone().ok_or_else(unpinned)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        artifacts.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(artifacts)
    }

    fn inspection(&self) -> Inspection {
        let files: Vec<FileReport> = self
            .artifacts
            .iter()
            .filter_map(|artifact| {
                Some(FileReport {
                    path: artifact.path.clone(),
                    format: artifact.format.clone()?,
                    verdict: artifact.verdict?,
                    facts: artifact.facts.clone(),
                })
            })
            .collect();
        let findings = self
            .findings
            .iter()
            .filter(|finding| !own_rules::is_of_judgement(&finding.rule))
            .cloned()
            .collect();
        Inspection {
            verdict: files
                .iter()
                .map(|file| file.verdict)
                .max()
                .unwrap_or(Verdict::Incomplete),
            files,
            findings,
            rules_digest: self.rules_digest.clone(),
        }
    }
}

pub(crate) fn not_rejudgeable(version: &Version, why: &str) -> Error {
    Error::new(
        ErrorCode::NotRejudgeable,
        format!(
            "{} cannot be judged again from its report: {why}",
            version.id
        ),
    )
    .with("model", version.id.model.as_str())
    .with("version", version.id.number.get())
}
