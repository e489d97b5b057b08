//! The inspection of a whole bundle: detect each file's format, check it, and combine the verdicts.
//!
//! The format is told by the content; the name only has to agree.
//! A directory format has a marker file (`MLmodel`, `config.json`, `saved_model.pb`, `config.pbtxt`), whose check looks
//! at its neighbours through the bundle; files that such a check accounts for need no format of their own.

use crate::archive;
use crate::bundle::{Bundle, BundleFile};
use crate::cache::Cached;
use crate::check::Check;
use crate::completeness::{self, Requirements};
use crate::environment::Advisories;
use crate::pickle::AllowList;
use crate::report::{FileReport, Finding, Report, Verdict};
use crate::rules::{self, EMPTY, MISMATCH, POLYGLOT, READ_FAILED, Rule, TOO_DEEP, UNKNOWN};
use crate::source::{ReadError, Source};
use crate::text::extension;
use crate::{
    catboost, companion, compressed, coreml, environment, gguf, hdf5, huggingface, keras, licence,
    lightgbm, mlflow, npy, onnx, pickle, pmml, safetensors, savedmodel, skops, text, tflite, torch,
    triton, xgboost, zip,
};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bounds that hold for every parser, whatever a file says of itself.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most bytes that may be held in memory for one file at a time.
    pub memory_bytes: usize,
    /// Deepest nesting of archives within archives.
    pub archive_depth: usize,
    /// Most opcodes that are followed of one pickle; a few hundred million take seconds.
    pub operations: u64,
    /// Most bytes that are read of one file.
    pub read_bytes: u64,
    /// Names that pickles may import, where a deployment has a list of its own.
    pub allow_list: Option<Arc<AllowList>>,
    /// Advisories in OSV format that declared dependencies are held against.
    pub advisories: Option<Arc<Advisories>>,
    /// What a version must bring along in this registry.
    pub requirements: Requirements,
    /// Rules that lead to a worse verdict in this registry than by themselves.
    pub raised: BTreeMap<&'static str, Verdict>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 32 * 1024 * 1024,
            archive_depth: 4,
            operations: 500_000_000,
            read_bytes: u64::MAX,
            allow_list: None,
            advisories: None,
            requirements: Requirements::default(),
            raised: BTreeMap::new(),
        }
    }
}

impl Limits {
    /// The names that pickles may import.
    pub fn allow_list(&self) -> &AllowList {
        self.allow_list
            .as_deref()
            .unwrap_or_else(|| AllowList::built_in())
    }

    /// The verdict that a finding of this rule leads to in this registry.
    pub fn verdict_of(&self, rule: &Rule) -> Verdict {
        let raised = self.raised.get(rule.id).copied();
        raised.unwrap_or(Verdict::Clean).max(rule.verdict)
    }
}

/// How much of the beginning of a file decides its format; of its end, it is what readers of zip files search.
const EDGE_BYTES: u64 = 64 * 1024;

type Detect = fn(&[u8], &[u8], &str, u64) -> bool;
type Run = fn(&mut Check<'_>) -> Result<(), ReadError>;

/// A format: its name, how it is told, and how it is checked.
struct Format {
    name: &'static str,
    detect: Detect,
    check: Run,
}

const fn format(name: &'static str, detect: Detect, check: Run) -> Format {
    Format {
        name,
        detect,
        check,
    }
}

/// All formats; the first that claims a file checks it, so that the more particular ones come first.
const FORMATS: &[Format] = &[
    format("torch", torch::detect, torch::check),
    format("torch-legacy", torch::detect_legacy, torch::check_legacy),
    format("torch-tar", torch::detect_tar, torch::check_tar),
    format("gguf", gguf::detect, gguf::check),
    format("hdf5", hdf5::detect, hdf5::check),
    format("npy", npy::detect, npy::check),
    format("tflite", tflite::detect, tflite::check),
    format("catboost-cbm", catboost::detect, catboost::check),
    format("catboost-json", catboost::detect_json, catboost::check_json),
    format("skops", skops::detect, skops::check),
    format("keras-v3", keras::detect, keras::check),
    format("npz", npy::detect_npz, npy::check_npz),
    format("xgboost", xgboost::detect, xgboost::check),
    format("lightgbm", lightgbm::detect, lightgbm::check),
    // The length of a header may begin like a pickle, but four zeros and a brace are no opcodes.
    format("safetensors", safetensors::detect, safetensors::check),
    format("pickle", is_binary_pickle, pickle::check),
    format("archive", archive::detect, check_archive),
    format("pickle", pickle::detect, pickle::check),
    format("compressed", compressed::detect, compressed::check),
    format("tf-savedmodel", savedmodel::detect, savedmodel::check),
    format("coreml", coreml::detect, coreml::check),
    format("pmml", pmml::detect, pmml::check),
    format("mlflow", mlflow::detect, mlflow::check),
    format("triton", triton::detect, triton::check),
    format("huggingface", huggingface::detect, huggingface::check),
    format("environment", environment::detect, environment::check),
    format("model-card", licence::detect, licence::check),
    format("text", text::detect, text::check),
    format("companion", companion::detect, companion::check),
    format("onnx", onnx::detect, onnx::check),
];

/// Formats that any text has under the right name.
const TEXTS: &[&str] = &[
    "text",
    "environment",
    "huggingface",
    "mlflow",
    "model-card",
    "triton",
];

/// Pickles that say so in their first byte; those of protocols 0 and 1 are told only after everything that has a mark.
fn is_binary_pickle(head: &[u8], _tail: &[u8], _path: &str, _size: u64) -> bool {
    matches!(head, [0x80, 0..=5, ..])
}

/// Which formats may stand under an extension; an extension that is not listed says nothing.
const EXTENSIONS: &[(&[&str], &[&str])] = &[
    (
        &["pkl", "pickle", "joblib", "dill", "cloudpickle"],
        &["pickle", "torch"],
    ),
    (
        &["pt", "pth", "ckpt"],
        &["torch", "torch-legacy", "torch-tar", "tf-savedmodel"],
    ),
    (&["pt2"], &["torch"]),
    (&["mar"], &["torch"]),
    (&["safetensors"], &["safetensors"]),
    (&["gguf"], &["gguf"]),
    (&["onnx"], &["onnx"]),
    (&["keras"], &["keras-v3"]),
    (&["h5", "hdf5"], &["hdf5"]),
    (&["tflite", "lite"], &["tflite"]),
    (&["ubj"], &["xgboost"]),
    (&["cbm"], &["catboost-cbm"]),
    (&["pmml"], &["pmml"]),
    (&["mlmodel"], &["coreml"]),
    (&["skops"], &["skops"]),
    (&["npy"], &["npy"]),
    (&["npz"], &["npz"]),
    (&["tar", "zip", "tgz"], &["archive"]),
    (
        &[
            "json", "txt", "md", "yaml", "yml", "csv", "tsv", "toml", "jinja", "cfg", "ini", "xml",
            "html", "rst", "pbtxt",
        ],
        &[
            "text",
            "xgboost",
            "lightgbm",
            "environment",
            "mlflow",
            "huggingface",
            "model-card",
            "coreml",
            "pmml",
            "triton",
            "catboost-json",
        ],
    ),
];

/// Inspects every file of `bundle`.
pub fn inspect(bundle: &Bundle<'_>, limits: &Limits) -> Report {
    let mut findings = Vec::new();
    let mut files = Vec::new();
    let mut accounted = BTreeSet::new();
    for file in bundle.files() {
        let cached = Cached::new(file.source, limits.memory_bytes / 4, limits.read_bytes);
        let mut check = Check::new(bundle, file.path, &cached, limits, 0);
        let format = match check_file(&mut check) {
            Ok(format) => format,
            Err(error) => {
                check.find(&READ_FAILED, None, error.to_string());
                "unknown"
            }
        };
        accounted.extend(neighbours(file.path, format, check.facts(), bundle));
        let (verdict, found, mut facts) = check.finish();
        if format != "unknown" && cached.read_bytes() > 0 {
            facts.insert("bytes_read".to_owned(), cached.read_bytes().into());
        }
        findings.extend(found);
        files.push(FileReport {
            path: file.path.into(),
            format: format.into(),
            verdict,
            facts,
        });
    }
    account(&mut files, &mut findings, &accounted);
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
        rules_digest: rules::digest(limits),
    }
}

/// Brings findings into the order of a report.
pub(crate) fn sort(findings: &mut [Finding]) {
    findings.sort_by(|left, right| {
        (&left.path, left.offset_bytes, &left.rule).cmp(&(
            &right.path,
            right.offset_bytes,
            &right.rule,
        ))
    });
}

/// Takes raw data that a neighbour's check has accounted for out of the unknown.
fn account(files: &mut [FileReport], findings: &mut Vec<Finding>, accounted: &BTreeSet<String>) {
    for file in files {
        if file.verdict == Verdict::Unsupported
            && file.format == "unknown"
            && accounted.contains(&file.path)
        {
            file.verdict = Verdict::Clean;
            "external-data".clone_into(&mut file.format);
            findings.retain(|finding| finding.path != file.path || finding.rule != UNKNOWN.id);
        }
    }
}

/// Files that `path` refers to as raw data of its own, and whose bounds its check has verified.
fn neighbours(
    path: &str,
    format: &str,
    facts: &Map<String, Value>,
    bundle: &Bundle<'_>,
) -> Vec<String> {
    let folder = path
        .rfind('/')
        .map_or("", |end| path.get(..=end).unwrap_or_default());
    match format {
        "onnx" => facts
            .get("external_references")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(|name| format!("{folder}{name}"))
            .collect(),
        "coreml" if path.ends_with("Manifest.json") => bundle
            .files()
            .iter()
            .filter(|file| {
                file.path.starts_with(&format!("{folder}Data/"))
                    && file.path.ends_with("/weight.bin")
            })
            .map(|file| file.path.to_owned())
            .collect(),
        _ => Vec::new(),
    }
}

/// Detects the format of the file and checks it; answers the format's name.
fn check_file(check: &mut Check<'_>) -> Result<&'static str, ReadError> {
    let size = check.size();
    if size == 0 {
        let harmless = extension(check.path).is_none_or(|extension| {
            matches!(
                extension.as_str(),
                "txt" | "md" | "gitkeep" | "py" | "csv" | "gitignore"
            )
        });
        if harmless && !text::is_code_path(check.path) {
            return Ok("text");
        }
        check.find(&EMPTY, None, "the file has no bytes");
        return Ok("unknown");
    }
    let head = check.read(0..size.min(EDGE_BYTES))?;
    let tail = if size <= EDGE_BYTES {
        head.clone()
    } else {
        check.read(size.saturating_sub(zip::END_REACH)..size)?
    };
    let path = check.path.to_owned();
    let name = path.rsplit("!/").next().unwrap_or(&path);
    let found = FORMATS
        .iter()
        .find(|format| (format.detect)(&head, &tail, name, size));
    let may_be_text = found.is_none_or(|format| TEXTS.contains(&format.name));
    let found = if may_be_text && pickle::goes_on(&head, check.source)? {
        FORMATS.iter().find(|format| format.name == "pickle")
    } else {
        found
    };
    // Readers of zip files search their end for a directory, whatever the beginning says.
    if !head.starts_with(b"PK\x03\x04") && zip::ends_like_zip(check.source, &tail)? {
        let directory = zip::Archive::open(check.source).is_ok();
        let inside_archive = found.is_some_and(|format| format.name == "archive");
        if directory || !inside_archive {
            check.find(
                &POLYGLOT,
                Some(size.saturating_sub(22)),
                "the file ends like a zip archive but does not begin like one",
            );
            torch::salvage(check)?;
        }
    }
    let is_program = found.is_some_and(|format| {
        [
            "pickle",
            "torch",
            "torch-legacy",
            "torch-tar",
            "compressed",
            "archive",
        ]
        .contains(&format.name)
    });
    if !is_program {
        let runs = pickle::also_runs(check.source)?;
        if let Some((_, offset, _)) = runs.first() {
            check.find(
                &POLYGLOT,
                Some(*offset),
                "the file is also a pickle that runs something",
            );
        }
        for (rule, offset, detail) in runs {
            check.find(rule, Some(offset), detail);
        }
    }
    let Some(found) = found else {
        check.find(&UNKNOWN, None, "the content matches no supported format");
        return Ok("unknown");
    };
    let allowed = extension(name).and_then(|extension| {
        EXTENSIONS
            .iter()
            .find(|(extensions, _)| extensions.contains(&extension.as_str()))
            .map(|(_, formats)| (extension, *formats))
    });
    if let Some((extension, formats)) = allowed
        && !formats.contains(&found.name)
    {
        check.find(
            &MISMATCH,
            None,
            format!(
                "the name ends in `.{extension}`, but the content is {}",
                found.name
            ),
        );
    }
    (found.check)(check)?;
    check.complete_facts(found.name);
    Ok(found.name)
}

/// Inspects a part of a file, such as a member of an archive, as a file of its own within `check`.
///
/// `name` follows the path of the whole after `!/`; `source` holds the expanded bytes.
/// Nesting beyond [`Limits::archive_depth`] is a finding of its own.
pub fn check_part(check: &mut Check<'_>, name: &str, source: &dyn Source) -> Result<(), ReadError> {
    let path = format!("{}!/{name}", check.path);
    let mut part = Check::new(check.bundle, &path, source, check.limits, check.depth + 1);
    if part.depth > check.limits.archive_depth {
        part.find(
            &TOO_DEEP,
            None,
            "archives are nested too deeply to be followed",
        );
    } else if let Err(error) = check_file(&mut part) {
        part.find(&READ_FAILED, None, error.to_string());
    }
    let facts = check.absorb_part(part);
    if !facts.is_empty() && check.facts().len() < 64 {
        let key = format!("member:{name}");
        check.fact(&key, Value::Object(facts));
    }
    Ok(())
}

/// Inspects the members of an archive as a bundle of their own.
fn check_archive(check: &mut Check<'_>) -> Result<(), ReadError> {
    archive::with_members(check, &mut |check, members| {
        let files = members
            .iter()
            .map(|member| BundleFile {
                path: &member.path,
                source: member.source.as_ref(),
            })
            .collect();
        let bundle = Bundle::new(files);
        let mut kept = Vec::new();
        let mut accounted = BTreeSet::new();
        for file in bundle.files() {
            let path = format!("{}!/{}", check.path, file.path);
            let mut part = Check::new(&bundle, &path, file.source, check.limits, check.depth + 1);
            let format = match check_file(&mut part) {
                Ok(format) => format,
                Err(error) => {
                    part.find(&READ_FAILED, None, error.to_string());
                    "unknown"
                }
            };
            accounted.extend(neighbours(file.path, format, part.facts(), &bundle));
            let (verdict, findings, facts) = part.finish();
            kept.push((file.path, format, verdict, findings, facts));
        }
        let mut members = Vec::new();
        for (path, format, verdict, findings, facts) in kept {
            if format == "unknown" && verdict == Verdict::Unsupported && accounted.contains(path) {
                continue;
            }
            check.absorb_findings(verdict, findings);
            if members.len() < 200 {
                members.push(serde_json::json!({"path": path, "format": format, "verdict": verdict, "facts": facts}));
            }
        }
        check.fact("members", members);
        Ok(())
    })
}
