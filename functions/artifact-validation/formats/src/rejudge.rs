//! Judges a stored report again after the rules, the allow-list, the advisories or the policy have changed.
//!
//! Nothing is read: a finding takes the verdict that its rule has now, and the names that pickles import are held
//! against the list as it is now.
//! Where the stored facts do not decide, the old refusal stands and [`needs_reading`] says so.

use crate::completeness;
use crate::inspect::{Limits, sort};
use crate::pickle::{AllowList, GLOBAL, Use};
use crate::report::{FileReport, Finding, Report, Verdict};
use crate::rules;
use serde_json::{Map, Value};

/// What the facts of this build mean; a report of another version is not judged again, but read again.
pub const FACTS_VERSION: u32 = 2;

/// The fact that marks a file whose stored facts do not decide.
const NEEDS_READING: &str = "needs_reading";
/// Deepest nesting of facts, as archives nest.
const MAX_DEPTH: usize = 16;

/// Judges `report` again by `limits` and the rules of this build, without reading a byte.
///
/// A file is never judged milder than its facts prove: where they do not decide, its verdict stays and the file is
/// marked, which [`needs_reading`] tells.
pub fn rejudge(report: &Report, limits: &Limits) -> Report {
    let digest = rules::digest(limits);
    let mut findings: Vec<Finding> = Vec::new();
    let mut files = Vec::new();
    for file in &report.files {
        let own = report.findings.iter().filter(|finding| {
            is_of(&finding.path, &file.path) && !completeness::is_own(&finding.rule)
        });
        let (file, own) = again(file, own, limits, digest == report.rules_digest);
        findings.extend(own);
        files.push(file);
    }
    let missing = completeness::apply(&files, limits, &mut findings);
    sort(&mut findings);
    let verdict = files
        .iter()
        .map(|file| file.verdict)
        .max()
        .unwrap_or(Verdict::Unsupported)
        .max(missing);
    Report {
        verdict,
        files,
        findings,
        rules_digest: digest,
    }
}

/// Whether the judgement of any file has to wait for its bytes.
pub fn needs_reading(report: &Report) -> bool {
    report.files.iter().any(file_needs_reading)
}

/// Whether the judgement of a file has to wait for its bytes.
pub fn file_needs_reading(file: &FileReport) -> bool {
    file.verdict == Verdict::Incomplete || file.facts.get(NEEDS_READING) == Some(&Value::Bool(true))
}

/// Whether a finding at `path` belongs to `file`, or to a member of it.
fn is_of(path: &str, file: &str) -> bool {
    path.strip_prefix(file)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("!/"))
}

fn again<'f>(
    file: &FileReport,
    findings: impl Iterator<Item = &'f Finding>,
    limits: &Limits,
    is_same: bool,
) -> (FileReport, Vec<Finding>) {
    let list = limits.allow_list();
    let mut file = file.clone();
    let mut kept: Vec<Finding> = findings.cloned().collect();
    if is_same {
        return (file, kept);
    }
    let old = file.verdict;
    let mut undecided = false;
    let mut uses = Vec::new();
    undecided |= gather(&file.facts, &mut uses, 0);
    let (mut newly_allowed, mut allowed_again) = (false, false);
    for (name, how) in &uses {
        let shown: String = name.chars().take(120).collect();
        let detail = format!("imports `{}`", shown.escape_debug());
        let granted = granted(list, name);
        let was_refused = how.split(' ').next() == Some("refused");
        match granted {
            Some(granted) if was_refused && suffices(granted, how) => {
                newly_allowed = true;
                kept.retain(|finding| finding.rule != GLOBAL.id || finding.detail != detail);
            }
            Some(_) if was_refused => undecided = true,
            // It was followed as what it is allowed as again, and refused by a judgement between.
            Some(granted) if granted.word() == how => {
                let before = kept.len();
                kept.retain(|finding| finding.rule != GLOBAL.id || finding.detail != detail);
                allowed_again |= kept.len() < before;
            }
            // It was followed as something else.
            Some(_) => undecided = true,
            None if !was_refused && is_by_pattern(name) => {}
            // The finding is there already, unless the list had the name before.
            None if kept.iter().any(|finding| finding.detail == detail) => {}
            None => kept.push(Finding {
                rule: GLOBAL.id.to_owned(),
                path: file.path.clone(),
                offset_bytes: None,
                detail,
            }),
        }
    }
    let mut verdict = Verdict::Clean;
    for finding in &kept {
        // A rule that is gone says nothing of what replaced it.
        if let Some(rule) = rules::find(&finding.rule) {
            verdict = verdict.max(limits.verdict_of(rule));
        } else {
            undecided = true;
            verdict = verdict.max(old);
        }
    }
    // Refusals may have followed from the name that is allowed now, and findings beyond the kept ones are unknown.
    let others = kept
        .iter()
        .any(|finding| finding.rule.starts_with("pickle."));
    let is_cut = kept.len() >= 50;
    undecided |= newly_allowed && (others || is_cut);
    // What has no finding to explain it stays as it was.
    let explained = !report_is_bare(&kept, old, newly_allowed || allowed_again);
    if undecided || is_cut || !explained {
        undecided |= verdict < old && is_cut;
        verdict = verdict.max(old);
    }
    file.verdict = verdict;
    if undecided {
        file.facts.insert(NEEDS_READING.to_owned(), true.into());
    } else {
        file.facts.remove(NEEDS_READING);
    }
    (file, kept)
}

/// Whether a refusal has no finding at all, although nothing was allowed since.
fn report_is_bare(kept: &[Finding], old: Verdict, newly_allowed: bool) -> bool {
    kept.is_empty() && old != Verdict::Clean && !newly_allowed
}

/// Gathers the names that pickles in the file import; answers whether some are missing.
fn gather(facts: &Map<String, Value>, uses: &mut Vec<(String, String)>, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return true;
    }
    let mut is_cut = facts.contains_key("globals_cut")
        || (facts.contains_key("globals") && !facts.contains_key("global_uses"));
    if let Some(Value::Object(names)) = facts.get("global_uses") {
        for (name, how) in names {
            uses.push((name.clone(), how.as_str().unwrap_or_default().to_owned()));
        }
    }
    for (key, value) in facts {
        match value {
            Value::Object(inner) if key.starts_with("member:") => {
                is_cut |= gather(inner, uses, depth + 1);
            }
            Value::Array(members) if key == "members" => {
                is_cut |= members.len() >= 200;
                for member in members {
                    if let Some(Value::Object(inner)) = member.get("facts") {
                        is_cut |= gather(inner, uses, depth + 1);
                    }
                }
            }
            _ => {}
        }
    }
    is_cut
}

/// What the list grants `module.name`, wherever the module ends.
fn granted(list: &AllowList, full: &str) -> Option<Use> {
    full.rsplit_once('.')
        .and_then(|(module, name)| list.find(module, name))
}

/// Names that are allowed by the rules of the machine rather than by the list.
fn is_by_pattern(name: &str) -> bool {
    crate::pickle::is_by_pattern(name)
}

/// Whether everything that the pickle did with a refused name is what the list now permits.
fn suffices(granted: Use, how: &str) -> bool {
    let calls = how.contains("call");
    let instances = how.contains("instance");
    match granted {
        Use::Class => !calls,
        Use::Call => true,
        Use::Data => !calls && !instances,
        _ => false,
    }
}
