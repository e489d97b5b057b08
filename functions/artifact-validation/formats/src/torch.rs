//! PyTorch's files: the zip of `torch.save`, TorchScript, pt2, model archives of `TorchServe`, and the older forms.
//!
//! The programs of a file are its pickles, a few hundred KiB of what may be many GB; tensors stay where they are, and
//! are only held against the sizes that the programs state.

mod script;

use crate::check::Check;
use crate::inspect;
use crate::pickle::{self, Input, MOST_SHAPES, Outcome, Style};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::ReadError;
use crate::text;
use crate::zip::{Archive, Entry, ZipError};
use bytes::Bytes;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};

const MEMBER: Rule = Rule {
    id: "torch.unknown-member",
    verdict: Verdict::Malformed,
    why: "A member that the loader does not know hides something from it, or is meant for another loader.",
    fix: "Save the model again with `torch.save`, and upload the file unchanged.",
};
const STORAGE: Rule = Rule {
    id: "torch.storage-mismatch",
    verdict: Verdict::Malformed,
    why: "A tensor that does not match its record makes loaders read or write outside of it.",
    fix: "Save the model again with `torch.save`, and upload the file unchanged.",
};
const HIDDEN: Rule = Rule {
    id: "torch.hidden-pickle",
    verdict: Verdict::Unsafe,
    why: "A pickle under another name is found and run by tools that look for it, and missed by those that check.",
    fix: "Save the model again with `torch.save`, and upload the file unchanged.",
};
const LEGACY: Rule = Rule {
    id: "torch.legacy-layout",
    verdict: Verdict::Malformed,
    why: "The five parts of the older form must follow each other exactly, or loaders disagree on what is in the file.",
    fix: "Load the model where it was made, and save it again with a current `torch.save`.",
};
const TAR: Rule = Rule {
    id: "torch.tar",
    verdict: Verdict::Unsafe,
    why: "The form of PyTorch 0.1 is loaded by unpacking and unpickling without any check.",
    fix: "Load the model where it was made, and save it again with a current `torch.save`.",
};
const NATIVE: Rule = Rule {
    id: "torch.native-code",
    verdict: Verdict::ContainsCode,
    why: "The file brings machine code or Python that runs when the model is used.",
    fix: "Export the model without compiled code, or have the version approved.",
};
const SCRIPT: Rule = Rule {
    id: "torch.script-operator",
    verdict: Verdict::ContainsCode,
    why: "The script calls operators that belong to no part of PyTorch that is known to be harmless.",
    fix: "Export the model without custom operators, or have the version approved.",
};
const SCRIPT_FILES: Rule = Rule {
    id: "torch.script-files",
    verdict: Verdict::Unsafe,
    why: "The script reads or writes files while it runs.",
    fix: "Take the file access out of the model.",
};

/// The rules of PyTorch's files.
pub const RULES: &[Rule] = &[
    MEMBER,
    STORAGE,
    HIDDEN,
    LEGACY,
    TAR,
    NATIVE,
    SCRIPT,
    SCRIPT_FILES,
];

/// The pickled number that begins files of the older form.
const LEGACY_MAGIC: &[u8] = &[
    0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e,
];
/// Most bytes of one compressed program.
const MAX_PROGRAM: usize = 16 * 1024 * 1024;

/// Whether the content is one of PyTorch's files in a zip.
pub fn detect(head: &[u8], tail: &[u8], _path: &str, _size: u64) -> bool {
    if !head.starts_with(b"PK\x03\x04") {
        return false;
    }
    let holds = |name: &[u8]| {
        tail.windows(name.len()).any(|window| window == name)
            || head
                .get(..head.len().min(512))
                .is_some_and(|head| head.windows(name.len()).any(|window| window == name))
    };
    holds(b"/data.pkl")
        || holds(b"/constants.pkl")
        || holds(b"archive_format")
        || holds(b"MAR-INF/MANIFEST.json")
}

/// Whether the content is of the form before PyTorch 1.6.
pub fn detect_legacy(head: &[u8], _tail: &[u8], _path: &str, _size: u64) -> bool {
    head.starts_with(LEGACY_MAGIC)
}

/// Whether the content is of the form of PyTorch 0.1.
pub fn detect_tar(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    head.get(257..262) == Some(b"ustar")
        && (matches!(
            text::extension(path).as_deref(),
            Some("pt" | "pth" | "ckpt" | "bin")
        ) || head.get(..head.len().min(16 * 1024)).is_some_and(|head| {
            head.windows(8).any(|window| window == b"sys_info")
                || head.windows(8).any(|window| window == b"storages")
        }))
}

/// Inspects a tar of PyTorch 0.1, which is refused whatever it holds.
pub fn check_tar(check: &mut Check<'_>) -> Result<(), ReadError> {
    check.find(&TAR, Some(0), "a tar archive in the form of PyTorch 0.1");
    salvage(check)
}

/// Inspects a file of the older form: magic number, version, system, program, keys, storages.
pub fn check_legacy(check: &mut Check<'_>) -> Result<(), ReadError> {
    check.fact("framework", "pytorch");
    check.fact("layout", "legacy");
    let source = check.source;
    let mut input = Input::file(source, 0);
    let mut program = Outcome::default();
    for part in 0..5 {
        let at = input.offset();
        let outcome = pickle::check_stream(check, &mut input, Style::Torch)?;
        if !outcome.finished {
            return Ok(());
        }
        let is_program = part == 3;
        if !is_program && (!outcome.globals.is_empty() || outcome.calls > 0) {
            check.find(
                &LEGACY,
                Some(at),
                "a part other than the program imports names",
            );
        }
        if part == 1 && outcome.integer != Some(1001) {
            check.find(&LEGACY, Some(at), "the version of the layout is not 1001");
        }
        if is_program {
            program = outcome;
        }
    }
    let mut expected = input.offset();
    for storage in program.storages.values() {
        expected = expected.saturating_add(8).saturating_add(storage.bytes);
    }
    if expected != source.size() {
        check.find(
            &LEGACY,
            Some(input.offset()),
            format!(
                "the storages end at byte {expected}, but the file has {} bytes",
                source.size()
            ),
        );
    }
    tensor_facts(check, &program);
    Ok(())
}

/// Inspects a zip of PyTorch.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let source = check.source;
    check.fact("framework", "pytorch");
    let archive = match Archive::open(source) {
        Ok(archive) => archive,
        Err(error @ ZipError::Refused { .. }) => {
            error.report(check)?;
            return salvage(check);
        }
        Err(error) => return error.report(check),
    };
    if archive.find("MAR-INF/MANIFEST.json").is_some() {
        return check_model_archive(check, &archive);
    }
    let Some(root) = archive
        .entries()
        .first()
        .and_then(|entry| entry.name.split_once('/'))
        .map(|(root, _)| root.to_owned())
    else {
        check.find(&MEMBER, Some(0), "the members do not lie in one directory");
        return salvage(check);
    };
    let is_script = archive.find(&format!("{root}/constants.pkl")).is_some()
        || archive
            .entries()
            .iter()
            .any(|entry| entry.name.starts_with(&format!("{root}/code/")));
    let is_export = archive.find(&format!("{root}/archive_format")).is_some();
    check.fact(
        "layout",
        if is_export {
            "pt2"
        } else if is_script {
            "torchscript"
        } else {
            "zip"
        },
    );
    let style = if is_script {
        Style::TorchScript
    } else {
        Style::Torch
    };
    // A script has several programs, such as that of its constants, each with a folder of records of its name.
    let mut programs: BTreeMap<&str, Outcome> = BTreeMap::new();
    let mut records: BTreeMap<&str, BTreeMap<String, &Entry>> = BTreeMap::new();
    for entry in archive.entries() {
        let Some(name) = entry
            .name
            .strip_prefix(&root)
            .and_then(|name| name.strip_prefix('/'))
        else {
            check.find(
                &MEMBER,
                Some(entry.header_offset),
                format!("member `{}` lies outside of `{root}`", entry.name),
            );
            continue;
        };
        match name {
            _ if name == "data.pkl" || (is_script && is_direct(name, ".pkl")) => {
                let folder = match name.strip_suffix(".pkl").unwrap_or_default() {
                    "bytecode" => "constants",
                    folder => folder,
                };
                let found = program(check, &archive, entry, style)?;
                merge(programs.entry(folder).or_default(), found);
            }
            "version"
            | "byteorder"
            | ".format_version"
            | ".storage_alignment"
            | ".data/serialization_id"
            | ".data/version"
            | "archive_format"
            | "archive_version" => {
                small_text(check, &archive, entry)?;
            }
            _ if let Some((folder, key)) = name.split_once('/')
                && is_key(key)
                && (folder == "data"
                    || (is_script && archive.find(&format!("{root}/{folder}.pkl")).is_some())) =>
            {
                let records = records.entry(folder).or_default();
                records.insert(key.to_owned(), entry);
            }
            _ if is_script && (name.starts_with("code/__torch__") || name == "code/") => {
                script(check, &archive, entry)?;
            }
            _ if entry.is_directory() => {}
            _ if is_script && name.starts_with("extra/") => {
                let bytes = read_member(check, &archive, entry)?;
                if let Some(bytes) = bytes {
                    inspect::check_part(check, &entry.name, &bytes)?;
                }
            }
            _ if is_export => export_member(check, &archive, entry, name)?,
            _ => {
                check.find(
                    &MEMBER,
                    Some(entry.header_offset),
                    format!("member `{}` is none that PyTorch writes", entry.name),
                );
                if let Some(bytes) = read_member(check, &archive, entry)?
                    && pickle::looks_like_pickle(
                        bytes.get(..bytes.len().min(64 * 1024)).unwrap_or_default(),
                        bytes.len() as u64,
                    )
                {
                    check.find(
                        &HIDDEN,
                        Some(entry.header_offset),
                        format!("member `{}` is a pickle", entry.name),
                    );
                }
            }
        }
    }
    if !is_export {
        for (folder, records) in &records {
            // Inputs that were traced are described, but their values are left out.
            let is_described =
                *folder == "traced_inputs" && records.values().all(|entry| entry.size == 0);
            if !is_described {
                let program = programs.entry(folder).or_default();
                storages(check, program, records)?;
            }
        }
        for (_, program) in programs
            .iter()
            .filter(|(folder, _)| !records.contains_key(*folder))
        {
            storages(check, program, &BTreeMap::new())?;
        }
    }
    let mut outcome = Outcome::default();
    for found in programs.into_values() {
        merge(&mut outcome, found);
    }
    tensor_facts(check, &outcome);
    Ok(())
}

fn is_direct(name: &str, suffix: &str) -> bool {
    !name.contains('/') && name.ends_with(suffix)
}

fn is_key(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && !name.contains('/')
}

fn merge(into: &mut Outcome, from: Outcome) {
    into.storages.extend(from.storages);
    into.tensors += from.tensors;
    into.parameters = into.parameters.saturating_add(from.parameters);
    into.shapes.extend(from.shapes);
    into.shapes.truncate(MOST_SHAPES);
}

/// Reads a member of moderate size; what is wrong with it is told.
fn read_member(
    check: &mut Check<'_>,
    archive: &Archive<'_>,
    entry: &Entry,
) -> Result<Option<Bytes>, ReadError> {
    match archive.read(entry, MAX_PROGRAM) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ZipError::TooLarge { name, size }) => {
            check.find(
                &MEMBER,
                Some(entry.header_offset),
                format!("member `{name}` has {size} bytes, more than PyTorch writes there"),
            );
            Ok(None)
        }
        Err(error) => {
            error.report(check)?;
            salvage(check)?;
            Ok(None)
        }
    }
}

fn program(
    check: &mut Check<'_>,
    archive: &Archive<'_>,
    entry: &Entry,
    style: Style,
) -> Result<Outcome, ReadError> {
    let Some(bytes) = read_member(check, archive, entry)? else {
        return Ok(Outcome::default());
    };
    let mut input = Input::file(&bytes, 0);
    let outcome = pickle::check_stream(check, &mut input, style)?;
    if outcome.finished && input.offset() != bytes.len() as u64 {
        check.find(
            &HIDDEN,
            Some(entry.data_offset.saturating_add(input.offset())),
            format!("something lies behind the program in `{}`", entry.name),
        );
    }
    Ok(outcome)
}

fn small_text(
    check: &mut Check<'_>,
    archive: &Archive<'_>,
    entry: &Entry,
) -> Result<(), ReadError> {
    if entry.size > 64 {
        check.find(
            &MEMBER,
            Some(entry.header_offset),
            format!("member `{}` is longer than PyTorch writes it", entry.name),
        );
        return Ok(());
    }
    let Some(bytes) = read_member(check, archive, entry)? else {
        return Ok(());
    };
    let is_plain = bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'\n');
    if !is_plain {
        check.find(
            &MEMBER,
            Some(entry.header_offset),
            format!("member `{}` is no short text", entry.name),
        );
    } else if entry.name.ends_with("/version") {
        check.fact("format_version", String::from_utf8_lossy(&bytes).trim());
    }
    Ok(())
}

/// Holds each tensor's storage against its record, and each record against the programs.
fn storages(
    check: &mut Check<'_>,
    outcome: &Outcome,
    records: &BTreeMap<String, &Entry>,
) -> Result<(), ReadError> {
    let mut used = HashSet::new();
    for (key, storage) in &outcome.storages {
        let Some(entry) = records.get(key) else {
            check.find(&STORAGE, None, format!("storage `{key}` has no record"));
            continue;
        };
        used.insert(key.as_str());
        if entry.size != storage.bytes {
            check.find(
                &STORAGE,
                Some(entry.header_offset),
                format!(
                    "storage `{key}` needs {} bytes, but its record has {}",
                    storage.bytes, entry.size
                ),
            );
        }
    }
    for (key, entry) in records {
        if used.contains(key.as_str()) {
            continue;
        }
        check.find(
            &STORAGE,
            Some(entry.header_offset),
            format!("record `{}` belongs to no tensor", entry.name),
        );
        let head = check.read(entry.data_offset..entry.data_offset + entry.size.min(64 * 1024))?;
        if entry.stored && pickle::looks_like_pickle(&head, entry.size) {
            check.find(
                &HIDDEN,
                Some(entry.header_offset),
                format!("record `{}` is a pickle", entry.name),
            );
        }
    }
    Ok(())
}

fn tensor_facts(check: &mut Check<'_>, outcome: &Outcome) {
    check.fact("tensor_count", outcome.tensors);
    check.fact("parameter_count", outcome.parameters);
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for storage in outcome.storages.values() {
        *kinds
            .entry(storage.kind.trim_end_matches("Storage"))
            .or_default() += 1;
    }
    check.fact("dtypes", json!(kinds));
    // The names of tensors are keys of whatever the program builds, and not known here.
    check.fact("shapes", json!(outcome.shapes));
}

/// Looks through the text of a script for what leaves the model.
fn script(check: &mut Check<'_>, archive: &Archive<'_>, entry: &Entry) -> Result<(), ReadError> {
    if entry.is_directory() {
        return Ok(());
    }
    let Some(bytes) = read_member(check, archive, entry)? else {
        return Ok(());
    };
    if entry.name.ends_with(".debug_pkl") {
        // Source ranges: tuples and texts only.
        let mut input = Input::file(&bytes, 0);
        pickle::check_stream(check, &mut input, Style::TorchScript)?;
        return Ok(());
    }
    let Ok(source) = std::str::from_utf8(&bytes) else {
        check.find(
            &MEMBER,
            Some(entry.header_offset),
            format!("member `{}` is no text", entry.name),
        );
        return Ok(());
    };
    for (rule, word) in script::words(source).into_iter().take(20) {
        if rule.id == SCRIPT.id && word.starts_with("ops.") {
            custom_operator(check, &word);
        }
        check.find(
            rule,
            Some(entry.header_offset),
            format!("`{word}` in `{}`", entry.name),
        );
    }
    Ok(())
}

/// Remembers an operator that is not PyTorch's own.
fn custom_operator(check: &mut Check<'_>, word: &str) {
    let mut known: Vec<String> = check
        .facts()
        .get("custom_ops")
        .and_then(|known| serde_json::from_value(known.clone()).ok())
        .unwrap_or_default();
    let name = word
        .strip_prefix("ops.")
        .unwrap_or(word)
        .replacen('.', "::", 1);
    if known.len() < 50 && !known.contains(&name) {
        known.push(name);
        check.fact("custom_ops", known);
    }
}

/// Members of an exported program: JSON, weights, samples; and machine code.
fn export_member(
    check: &mut Check<'_>,
    archive: &Archive<'_>,
    entry: &Entry,
    name: &str,
) -> Result<(), ReadError> {
    let extension = text::extension(name);
    match extension.as_deref() {
        Some(
            "so" | "cubin" | "cpp" | "o" | "py" | "dll" | "dylib" | "ptx" | "hsaco" | "cu" | "hip",
        ) => {
            check.find(
                &NATIVE,
                Some(entry.header_offset),
                format!("member `{}` is code", entry.name),
            );
        }
        Some("pt" | "pkl" | "json") => {
            if let Some(bytes) = read_member(check, archive, entry)? {
                if name.ends_with("_config.json") {
                    weight_paths(check, entry, &bytes);
                }
                inspect::check_part(check, &entry.name, &bytes)?;
            }
        }
        _ if name.starts_with("data/weights/") || name.starts_with("data/constants/") => {
            raw_member(check, archive, entry)?;
        }
        _ => {
            check.find(
                &MEMBER,
                Some(entry.header_offset),
                format!("member `{}` is none that PyTorch writes", entry.name),
            );
        }
    }
    Ok(())
}

/// Looks into a member that holds the bytes of a tensor, or an object that is saved as a file of its own.
fn raw_member(
    check: &mut Check<'_>,
    archive: &Archive<'_>,
    entry: &Entry,
) -> Result<(), ReadError> {
    let Some(part) = archive.stored(entry) else {
        if let Some(bytes) = read_member(check, archive, entry)? {
            inspect::check_part(check, &entry.name, &bytes)?;
        }
        return Ok(());
    };
    let head = crate::source::Source::read(&part, 0..entry.size.min(64 * 1024))?;
    if head.starts_with(b"PK\x03\x04") {
        inspect::check_part(check, &entry.name, &part)?;
    } else {
        for (rule, detail) in pickle::salvage(&head, 0) {
            check.find(rule, Some(entry.data_offset), detail);
        }
    }
    Ok(())
}

/// The configuration of an exported program names its members, by paths that stay within the archive.
fn weight_paths(check: &mut Check<'_>, entry: &Entry, bytes: &Bytes) {
    let Ok(config) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return;
    };
    let entries = config.get("config").and_then(serde_json::Value::as_object);
    for weight in entries.into_iter().flat_map(serde_json::Map::values) {
        let path = weight.get("path_name").and_then(serde_json::Value::as_str);
        if path.is_some_and(|path| {
            path.starts_with('/') || path.contains('\\') || path.split('/').any(|part| part == "..")
        }) {
            check.find(
                &STORAGE,
                Some(entry.header_offset),
                format!("`{}` names a path outside of the archive", entry.name),
            );
        }
    }
}

/// A model archive of `TorchServe`: a manifest, a handler, and files that are models themselves.
fn check_model_archive(check: &mut Check<'_>, archive: &Archive<'_>) -> Result<(), ReadError> {
    check.fact("layout", "torch-mar");
    for entry in archive.entries() {
        if entry.is_directory() {
            continue;
        }
        if text::is_code_path(&entry.name) {
            check.find(
                &NATIVE,
                Some(entry.header_offset),
                format!("member `{}` is code", entry.name),
            );
        } else if let Some(part) = archive.stored(entry) {
            inspect::check_part(check, &entry.name, &part)?;
        } else if let Some(bytes) = read_member(check, archive, entry)? {
            inspect::check_part(check, &entry.name, &bytes)?;
        }
    }
    // The server loads whatever handler the manifest names, which is code also where it is one of its own.
    check.find(
        &NATIVE,
        None,
        "a model archive names the code that handles requests",
    );
    Ok(())
}

/// Looks for programs in a file that is refused already, to tell what it hides.
///
/// The verdict of such a file never depends on this, so that only its beginning and end are looked at.
pub(crate) fn salvage(check: &mut Check<'_>) -> Result<(), ReadError> {
    const WINDOW: u64 = 512 * 1024;
    const MAX_STARTS: usize = 64;
    let size = check.size();
    let start = 0..size.min(WINDOW);
    let end = size.saturating_sub(WINDOW).max(start.end)..size;
    let windows = [start, end];
    for window in windows {
        let base = window.start;
        let bytes = check.read(window)?;
        for (start, program) in candidates(&bytes).into_iter().take(MAX_STARTS) {
            for (rule, detail) in pickle::salvage(&program, 0) {
                check.find(rule, Some(base + start), detail);
            }
        }
    }
    Ok(())
}

/// Where programs could begin: after the headers of zip members, and at the marks of pickles.
fn candidates(bytes: &Bytes) -> Vec<(u64, Bytes)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 4 < bytes.len() && found.len() < 256 {
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.starts_with(b"PK\x03\x04") {
            let short = |place: usize| {
                rest.get(place..place + 2)
                    .and_then(|two| <[u8; 2]>::try_from(two).ok())
                    .map_or(0, u16::from_le_bytes)
            };
            let start = at + 30 + usize::from(short(26)) + usize::from(short(28));
            if start < bytes.len() {
                let content = bytes.slice(start..);
                let expanded = expand(short(8), &content);
                found.push((start as u64, expanded));
            }
        } else if matches!(rest, [0x80, 2..=5, ..]) {
            found.push((at as u64, bytes.slice(at..)));
        } else if rest.get(257..262) == Some(b"ustar")
            && at.is_multiple_of(512)
            && at + 512 < bytes.len()
        {
            found.push((at as u64 + 512, bytes.slice(at + 512..)));
        }
        at += 1;
    }
    found
}

fn expand(method: u16, content: &Bytes) -> Bytes {
    use std::io::Read as _;
    let mut expanded = Vec::new();
    let limit = 1024 * 1024;
    // What comes before an error is enough.
    let _ = match method {
        8 => flate2::read::DeflateDecoder::new(content.as_ref())
            .take(limit)
            .read_to_end(&mut expanded),
        12 => bzip2::read::BzDecoder::new(content.as_ref())
            .take(limit)
            .read_to_end(&mut expanded),
        _ => return content.clone(),
    };
    expanded.into()
}
