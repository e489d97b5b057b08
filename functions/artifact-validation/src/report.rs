//! The report of a validation: its JSON, its one line, and what follows from a verdict.
//!
//! The bytes depend on the artifacts and the rules alone, on no time and no order of events, so that a validation that
//! runs twice writes one object.

use crate::digest::Proof;
use crate::own_rules::{
    self, DIGEST_MISMATCH, INSPECTION_CRASHED, NEVER_ARRIVED, NOT_ACCEPTED, OwnRule, REJECTED,
    SIZE_MISMATCH,
};
use crate::ruling::Ruling;
use crate::source::Pinned;
use model_formats::rejudge::FACTS_VERSION;
use model_formats::{FileReport, Finding, Report as Inspection, Verdict, rules};
use serde::Serialize;
use serde_json::{Map, Value};
use shared::domain::artifact::media_type_of;
use shared::domain::{ArtifactPath, DeclaredArtifact, Digest, Status, Version};
use shared::{Error, Result};
use std::collections::HashMap;

/// Version of the report's schema.
const SCHEMA_VERSION: u32 = 1;
/// Most findings in a report; the rest is counted.
const MAX_FINDINGS: usize = 10_000;
/// Most findings of one upload rule in a report of a version whose uploads never came.
const MAX_MISSING: usize = 100;
/// Longest summary, in characters.
const MAX_SUMMARY: usize = 200;
/// A finished report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    /// `Ready` or `FailedRegistration`.
    pub(crate) status: Status,
    /// The verdict as it is written.
    pub(crate) verdict: String,
    /// One line for people.
    pub(crate) summary: String,
    /// The report's bytes.
    pub(crate) json: Vec<u8>,
    /// Whether the policy accepts a version of this verdict.
    pub(crate) is_accepted: bool,
    /// Revision of the policy that judged, if one did.
    pub(crate) policy_revision: Option<u64>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    tenant: &'a str,
    model: &'a str,
    version: u32,
    status: Status,
    verdict: &'a str,
    summary: &'a str,
    #[serde(flatten)]
    basis: Option<Basis<'a>>,
    artifacts: Vec<Artifact<'a>>,
    findings: Vec<Found>,
    #[serde(skip_serializing_if = "is_zero")]
    findings_omitted: usize,
}

/// What an inspection's verdict rests on.
#[derive(Serialize)]
struct Basis<'a> {
    /// Of the rules and the allow-list together.
    rules_digest: &'a str,
    /// Of the built-in list with what the policy adds to it.
    allow_list_digest: String,
    /// 0 without a policy.
    policy_revision: u64,
    /// What the facts mean; they are judged again only by builds that know it.
    facts_version: u32,
}

/// One artifact as it was judged, pinned to the object that was read.
#[derive(Serialize)]
pub(crate) struct Artifact<'a> {
    pub(crate) path: &'a str,
    pub(crate) size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<&'a Digest>,
    pub(crate) media_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) etag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) facts: Option<&'a Map<String, Value>>,
    pub(crate) checks: Vec<&'a str>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Found {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset_bytes: Option<u64>,
    rule: String,
    detail: String,
    why: &'static str,
    fix: &'static str,
    verdict: &'static str,
}

impl Found {
    fn of_upload(rule: &OwnRule, path: &str, detail: String) -> Self {
        Self {
            path: path.to_owned(),
            offset_bytes: None,
            rule: rule.id.to_owned(),
            detail,
            why: rule.why,
            fix: rule.fix,
            verdict: rule.verdict,
        }
    }

    fn of_content(finding: &Finding, ruling: &Ruling) -> Self {
        let (why, fix, verdict) = if let Some(rule) = rules::find(&finding.rule) {
            (rule.why, rule.fix, ruling.limits.verdict_of(rule).word())
        } else {
            own_rules::find(&finding.rule).map_or(("", "", "incomplete"), |rule| {
                (rule.why, rule.fix, rule.verdict)
            })
        };
        Self {
            path: finding.path.clone(),
            offset_bytes: finding.offset_bytes,
            rule: finding.rule.clone(),
            detail: finding.detail.clone(),
            why,
            fix,
            verdict,
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What an upload is not as declared in; empty if all is well.
#[derive(Debug)]
pub(crate) struct UploadFindings(Vec<Found>);

impl UploadFindings {
    /// Holds what arrived against what was declared.
    pub(crate) fn of(artifacts: &[Pinned], proofs: &[Proof]) -> Self {
        let mut findings = Vec::new();
        for (artifact, proof) in artifacts.iter().zip(proofs) {
            let declared = &artifact.declared;
            let path = declared.path.as_str();
            if declared.size_bytes != artifact.head.size_bytes {
                findings.push(Found::of_upload(
                    &SIZE_MISMATCH,
                    path,
                    format!(
                        "{} bytes were declared, {} arrived",
                        declared.size_bytes, artifact.head.size_bytes
                    ),
                ));
            }
            match &declared.digest {
                Some(digest) if *digest != proof.digest => findings.push(Found::of_upload(
                    &DIGEST_MISMATCH,
                    path,
                    format!("`{digest}` was declared, `{}` arrived", proof.digest),
                )),
                _ => {}
            }
        }
        Self(findings)
    }

    /// Whether all is as declared.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The outcome of an inspection that broke down.
pub(crate) fn crashed(artifacts: &[Pinned], ruling: &Ruling) -> Inspection {
    Inspection {
        verdict: Verdict::Incomplete,
        files: Vec::new(),
        findings: artifacts
            .first()
            .map(|first| Finding {
                rule: INSPECTION_CRASHED.id.to_owned(),
                path: first.declared.path.to_string(),
                offset_bytes: None,
                detail: format!(
                    "the inspection of the version's {} broke down",
                    count(artifacts.len(), "artifact")
                ),
            })
            .into_iter()
            .collect(),
        rules_digest: rules::digest(&ruling.limits),
    }
}

/// Reports a version whose uploads are not as declared; its content was not looked at.
pub(crate) fn rejected(
    version: &Version,
    artifacts: &[Pinned],
    proofs: &[Proof],
    findings: UploadFindings,
) -> Result<Judged> {
    let rows = rows_of(artifacts, proofs, None);
    write(
        version,
        Status::FailedRegistration,
        REJECTED,
        None,
        rows,
        findings.0,
    )
}

/// What becomes of a version's status; a ready one stays what it is, since its content does.
const fn status_after(before: Status, is_accepted: bool) -> Status {
    match (before, is_accepted) {
        (Status::Ready, _) | (_, true) => Status::Ready,
        (_, false) => Status::FailedRegistration,
    }
}

/// Reports a version whose content was inspected.
pub(crate) fn inspected(
    version: &Version,
    artifacts: &[Pinned],
    proofs: &[Proof],
    inspection: &Inspection,
    ruling: &Ruling,
) -> Result<Judged> {
    let rows = rows_of(artifacts, proofs, Some(inspection));
    judged(version, rows, inspection, ruling)
}

/// Reports what an inspection found, now or when its facts were stored.
pub(crate) fn judged(
    version: &Version,
    rows: Vec<Artifact<'_>>,
    inspection: &Inspection,
    ruling: &Ruling,
) -> Result<Judged> {
    let is_accepted = ruling.policy.accepts(inspection.verdict);
    let mut findings: Vec<Found> = inspection
        .findings
        .iter()
        .map(|finding| Found::of_content(finding, ruling))
        .collect();
    // What can never be accepted needs no policy to be refused.
    let could_be = matches!(
        inspection.verdict,
        Verdict::Clean | Verdict::ContainsCode | Verdict::Unsupported
    );
    if could_be && !is_accepted {
        let mut finding = Found::of_upload(
            &NOT_ACCEPTED,
            "",
            format!(
                "the policy of revision {} does not accept `{}`",
                ruling.revision,
                inspection.verdict.word()
            ),
        );
        finding.verdict = inspection.verdict.word();
        findings.push(finding);
    }
    let mut judged = write(
        version,
        status_after(version.status, is_accepted),
        inspection.verdict.word(),
        Some((inspection, ruling)),
        rows,
        findings,
    )?;
    judged.is_accepted = is_accepted;
    Ok(judged)
}

/// Reports a version whose uploads never came.
pub(crate) fn never_arrived(
    version: &Version,
    declared: &[DeclaredArtifact],
    missing: &[ArtifactPath],
) -> Result<Judged> {
    let mut findings: Vec<Found> = missing
        .iter()
        .take(MAX_MISSING)
        .map(|path| {
            Found::of_upload(
                &NEVER_ARRIVED,
                path.as_str(),
                "it had not arrived when the upload deadline passed".into(),
            )
        })
        .collect();
    if missing.len() > MAX_MISSING {
        findings.push(Found::of_upload(
            &NEVER_ARRIVED,
            "",
            format!(
                "{} beyond these had not arrived either",
                count(missing.len() - MAX_MISSING, "artifact")
            ),
        ));
    }
    if declared.is_empty() {
        findings.push(Found::of_upload(
            &NEVER_ARRIVED,
            "",
            "the version declares no artifact".into(),
        ));
    }
    let rows = declared
        .iter()
        .map(|declared| Artifact {
            path: declared.path.as_str(),
            size_bytes: declared.size_bytes,
            digest: declared.digest.as_ref(),
            media_type: media_type(declared),
            key: declared.key.as_deref(),
            object_version: declared.object_version.as_deref(),
            etag: None,
            format: None,
            verdict: None,
            facts: None,
            checks: Vec::new(),
        })
        .collect();
    write(
        version,
        Status::FailedRegistration,
        REJECTED,
        None,
        rows,
        findings,
    )
}

/// The media type that an artifact declares, or the one that its path suggests.
pub(crate) fn media_type(declared: &DeclaredArtifact) -> &str {
    declared
        .media_type
        .as_deref()
        .unwrap_or_else(|| media_type_of(&declared.path))
}

fn rows_of<'a>(
    artifacts: &'a [Pinned],
    proofs: &'a [Proof],
    inspection: Option<&'a Inspection>,
) -> Vec<Artifact<'a>> {
    let files: HashMap<&str, &FileReport> = inspection
        .iter()
        .flat_map(|inspection| &inspection.files)
        .map(|file| (file.path.as_str(), file))
        .collect();
    artifacts
        .iter()
        .zip(proofs)
        .map(|(artifact, proof)| {
            let path = artifact.declared.path.as_str();
            let file = files.get(path).copied();
            let mut checks = vec![
                "size",
                if proof.by_s3 {
                    "digest_by_s3"
                } else {
                    "digest_computed"
                },
            ];
            checks.extend(file.map(|_| "format"));
            Artifact {
                path,
                size_bytes: artifact.head.size_bytes,
                digest: Some(&proof.digest),
                media_type: media_type(&artifact.declared),
                key: artifact.declared.key.as_deref(),
                object_version: artifact.head.object_version.as_deref(),
                etag: Some(&artifact.head.etag),
                format: file.map(|file| file.format.as_str()),
                verdict: file.map(|file| file.verdict.word()),
                facts: file.map(|file| &file.facts),
                checks,
            }
        })
        .collect()
}

fn write(
    version: &Version,
    status: Status,
    verdict: &str,
    basis: Option<(&Inspection, &Ruling)>,
    mut artifacts: Vec<Artifact<'_>>,
    mut findings: Vec<Found>,
) -> Result<Judged> {
    artifacts.sort_by(|left, right| left.path.cmp(right.path));
    let summary = summarize(verdict, artifacts.len(), &findings);
    findings.sort();
    let findings_omitted = findings.len().saturating_sub(MAX_FINDINGS);
    findings.truncate(MAX_FINDINGS);
    let document = Document {
        schema_version: SCHEMA_VERSION,
        tenant: version.id.tenant.as_str(),
        // The home: it is in the bytes, which must be the same however often and whenever they are made.
        model: version.id.model.home(),
        version: version.id.number.get(),
        status,
        verdict,
        summary: &summary,
        basis: basis.map(|(inspection, ruling)| Basis {
            rules_digest: &inspection.rules_digest,
            allow_list_digest: ruling.limits.allow_list().digest(),
            policy_revision: ruling.revision,
            facts_version: FACTS_VERSION,
        }),
        artifacts,
        findings,
        findings_omitted,
    };
    let json = serde_json::to_vec(&document)
        .map_err(|error| Error::internal("writing the report", error))?;
    Ok(Judged {
        status,
        verdict: verdict.to_owned(),
        summary,
        json,
        is_accepted: false,
        policy_revision: basis
            .map(|(_, ruling)| ruling.revision)
            .filter(|revision| *revision > 0),
    })
}

/// One line: verdict, and the first of the findings that led to it.
fn summarize(verdict: &str, artifact_count: usize, findings: &[Found]) -> String {
    let artifacts = count(artifact_count, "artifact");
    let worst = findings
        .iter()
        .filter(|finding| finding.verdict == verdict)
        .min();
    let Some(worst) = worst else {
        return format!("{verdict}: {artifacts} checked");
    };
    let rest = match findings.len() - 1 {
        0 => String::new(),
        more => format!(" (and {})", count(more, "more finding")),
    };
    let place = if worst.path.is_empty() {
        String::new()
    } else {
        format!("`{}`: ", shorten(&worst.path, 60))
    };
    shorten(
        &format!("{verdict}: {place}{}{rest}", worst.detail),
        MAX_SUMMARY,
    )
}

fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let short: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{short}…")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::source::Seed;
    use shared::domain::version::Document as Place;
    use shared::domain::{ModelName, Principal, TenantName, Timestamp, VersionId, VersionNumber};
    use shared::s3::ObjectHead;

    pub(crate) fn version() -> Version {
        Version {
            id: VersionId {
                tenant: TenantName::default_tenant(),
                model: ModelName::parse("iris").unwrap(),
                number: VersionNumber::FIRST,
            },
            status: Status::PendingRegistration,
            stage: Version::first_stage(),
            alias_count: 0,
            registered_by: Principal::parse("ada").unwrap(),
            request_id: "request".to_owned(),
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
            finalized_at: None,
            deleted_at: None,
            purged_at: None,
            aliases: std::collections::BTreeSet::new(),
            origin: None,
            artifact_count: 2,
            size_bytes: 6,
            metadata: Place::Absent,
            artifacts: Place::Absent,
            notes: Place::Absent,
            metadata_digest: Digest::of(b"{}"),
            revision: 1,
            validation: None,
            package: None,
            standing: shared::domain::Standing::default(),
            files_of: None,
            declared_at: None,
            revoked_at: None,
        }
    }

    pub(crate) fn pinned(path: &str, declared_size: u64, digest: Option<Digest>) -> Pinned {
        Pinned {
            declared: DeclaredArtifact {
                path: ArtifactPath::parse(path).unwrap(),
                size_bytes: declared_size,
                digest,
                media_type: None,
                key: None,
                object_version: None,
            },
            key: format!("incoming/default/iris/1/{path}"),
            head: ObjectHead {
                size_bytes: 3,
                etag: "\"e\"".into(),
                object_version: Some("v".into()),
                digest: None,
            },
        }
    }

    fn proof() -> Proof {
        Proof {
            digest: Digest::of(b"abc"),
            by_s3: false,
            seed: Seed::None,
        }
    }

    fn inspection(verdict: Verdict) -> Inspection {
        let file = |path: &str| FileReport {
            path: path.into(),
            format: "unknown".into(),
            verdict,
            facts: Map::new(),
        };
        Inspection {
            verdict,
            rules_digest: "sha256:0".into(),
            files: vec![file("a.bin"), file("b.bin")],
            findings: vec![Finding {
                rule: "general.unknown-format".into(),
                path: "b.bin".into(),
                offset_bytes: Some(7),
                detail: "the content matches no supported format".into(),
            }],
        }
    }

    #[test]
    fn a_verdict_decides_whether_a_version_becomes_ready() {
        for (verdict, expected) in [
            (Verdict::Clean, true),
            (Verdict::ContainsCode, true),
            (Verdict::Unsupported, true),
            (Verdict::Incomplete, false),
            (Verdict::Malformed, false),
            (Verdict::Unsafe, false),
        ] {
            let artifacts = [pinned("a.bin", 3, None), pinned("b.bin", 3, None)];
            let judged = inspected(
                &version(),
                &artifacts,
                &[proof(), proof()],
                &inspection(verdict),
                &Ruling::default(),
            )
            .unwrap();
            assert_eq!(judged.status == Status::Ready, expected, "{verdict:?}");
            assert_eq!(judged.is_accepted, expected, "{verdict:?}");
            assert_eq!(
                judged.verdict,
                serde_json::to_value(verdict).unwrap().as_str().unwrap()
            );
        }
    }

    #[test]
    fn a_policy_decides_which_verdicts_it_takes_and_a_ready_version_stays_ready() {
        let ruling = Ruling {
            revision: 3,
            policy: model_formats::Policy {
                accepted_verdicts: [Verdict::Clean].into(),
                ..model_formats::Policy::default()
            },
            ..Ruling::default()
        };
        let artifacts = [pinned("a.bin", 3, None), pinned("b.bin", 3, None)];
        let code = inspection(Verdict::ContainsCode);
        let report = |version: &Version| {
            inspected(version, &artifacts, &[proof(), proof()], &code, &ruling).unwrap()
        };
        let judged = report(&version());
        assert_eq!(judged.status, Status::FailedRegistration);
        assert_eq!(
            judged.summary,
            "contains_code: the policy of revision 3 does not accept `contains_code` (and 1 more finding)"
        );
        let json: Value = serde_json::from_slice(&judged.json).unwrap();
        assert_eq!(json["policy_revision"], 3);
        let digest = json["allow_list_digest"].as_str().unwrap();
        assert_eq!(digest, ruling.limits.allow_list().digest());
        assert_eq!(json["artifacts"][0]["object_version"], "v");
        let ready = Version {
            status: Status::Ready,
            ..version()
        };
        let judged = report(&ready);
        assert_eq!((judged.status, judged.is_accepted), (Status::Ready, false));
    }

    #[test]
    fn mismatches_name_what_was_declared_and_what_arrived() {
        let artifacts = [
            pinned("a.bin", 4, Some(Digest::of(b"abc"))),
            pinned("b.bin", 3, Some(Digest::of(b"abd"))),
            pinned("c.bin", 3, None),
        ];
        let proofs = [proof(), proof(), proof()];
        let findings = UploadFindings::of(&artifacts, &proofs);
        let judged = rejected(&version(), &artifacts, &proofs, findings).unwrap();
        assert_eq!(judged.status, Status::FailedRegistration);
        assert_eq!(
            judged.summary,
            "rejected: `a.bin`: 4 bytes were declared, 3 arrived (and 1 more finding)"
        );
        let report: Value = serde_json::from_slice(&judged.json).unwrap();
        assert_eq!(report["findings"][0]["rule"], "upload.size-mismatch");
        assert_eq!(report["findings"][1]["rule"], "upload.digest-mismatch");
        let detail = report["findings"][1]["detail"].as_str().unwrap();
        assert!(detail.contains(Digest::of(b"abd").as_str()));
        assert!(detail.contains(Digest::of(b"abc").as_str()));
        assert_eq!(report["findings"].as_array().unwrap().len(), 2);
        assert!(UploadFindings::of(&artifacts[2..], &proofs[2..]).is_empty());
    }

    #[test]
    fn the_order_of_artifacts_does_not_change_the_report() {
        let artifacts = [pinned("a.bin", 3, None), pinned("b.bin", 3, None)];
        let swapped = [artifacts[1].clone(), artifacts[0].clone()];
        let proofs = [proof(), proof()];
        let (clean, ruling) = (inspection(Verdict::Clean), Ruling::default());
        assert_eq!(
            inspected(&version(), &artifacts, &proofs, &clean, &ruling).unwrap(),
            inspected(&version(), &swapped, &proofs, &clean, &ruling).unwrap()
        );
    }

    #[test]
    fn missing_artifacts_are_listed_up_to_a_bound_and_counted_beyond() {
        let declared: Vec<DeclaredArtifact> = (0..150)
            .map(|number| pinned(&format!("{number}.bin"), 3, None).declared)
            .collect();
        let missing: Vec<ArtifactPath> = declared
            .iter()
            .map(|artifact| artifact.path.clone())
            .collect();
        let judged = never_arrived(&version(), &declared, &missing).unwrap();
        let report: Value = serde_json::from_slice(&judged.json).unwrap();
        let findings = report["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 101);
        assert_eq!(
            findings[0]["detail"],
            "50 artifacts beyond these had not arrived either"
        );
        assert_eq!(report["verdict"], "rejected");
        assert_eq!(report["artifacts"].as_array().unwrap().len(), 150);
    }

    #[test]
    fn a_crashed_inspection_is_incomplete_and_says_why() {
        let artifacts = [pinned("a.bin", 3, None)];
        let ruling = Ruling::default();
        let crashed = crashed(&artifacts, &ruling);
        let judged = inspected(&version(), &artifacts, &[proof()], &crashed, &ruling).unwrap();
        assert_eq!(judged.status, Status::FailedRegistration);
        assert_eq!(judged.verdict, "incomplete");
        let report: Value = serde_json::from_slice(&judged.json).unwrap();
        assert_eq!(report["findings"][0]["rule"], "inspection.crashed");
        assert_ne!(report["findings"][0]["why"], "");
    }
}
