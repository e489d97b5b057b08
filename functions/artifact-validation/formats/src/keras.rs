//! Keras v3: a zip archive with `config.json`, `metadata.json` and weights in HDF5.
//!
//! Source: `keras/src/saving/saving_lib.py` of <https://github.com/keras-team/keras>.

use crate::check::Check;
use crate::hdf5;
use crate::keras_config::{
    self, COMPRESSED, MAX_CONFIG_BYTES, MEMBER, METADATA, MISSING, PICKLE, check_config,
};
use crate::safetensors::{has_extension, shorten};
use crate::source::{ReadError, Source};
use crate::zip::{Archive, Entry, ZipError};
use serde_json::Value;

/// Largest compressed weights that are expanded for the check.
const MAX_EXPANDED_BYTES: usize = 16 * 1024 * 1024;

/// The rules of archives, and of configurations wherever they stand.
pub use keras_config::RULES;

/// Whether the content is a zip archive with the members of a Keras model, or is named one.
pub fn detect(head: &[u8], tail: &[u8], path: &str, _size: u64) -> bool {
    if !head.starts_with(b"PK\x03\x04") {
        return false;
    }
    let holds = |name: &[u8]| tail.windows(name.len()).any(|window| window == name);
    has_extension(path, "keras")
        || (holds(b"config.json")
            && (holds(b"model.weights.h5")
                || (holds(b"metadata.json") && !holds(b"schema.json") && !holds(b"data.pkl"))))
}

/// Checks the archive, the configuration and the weights.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let archive = match Archive::open(check.source) {
        Ok(archive) => archive,
        Err(error) => return error.report(check),
    };
    for name in ["config.json", "metadata.json"] {
        let Some(entry) = archive.find(name) else {
            if name == "config.json" {
                check.find(&MISSING, None, "`config.json` is missing");
            }
            continue;
        };
        let bytes = match archive.read(entry, MAX_CONFIG_BYTES) {
            Ok(bytes) => bytes,
            Err(ZipError::TooLarge { size, .. }) => {
                check.find(
                    &MEMBER,
                    Some(entry.data_offset),
                    format!("`{name}` has {size} bytes"),
                );
                continue;
            }
            Err(error) => {
                error.report(check)?;
                continue;
            }
        };
        if name == "config.json" {
            check_config(check, &bytes, name, Some(entry.data_offset));
            continue;
        }
        match crate::strict_json::parse(&bytes) {
            Ok(Value::Object(metadata)) => {
                if let Some(version) = metadata.get("keras_version").and_then(Value::as_str) {
                    check.fact("keras_version", shorten(version));
                }
            }
            _ => check.find(
                &METADATA,
                Some(entry.data_offset),
                "`metadata.json` is not one object",
            ),
        }
    }
    for entry in archive.entries() {
        let name = entry.name.as_str();
        if entry.is_directory() || matches!(name, "config.json" | "metadata.json") {
            continue;
        }
        let is_plain_asset = name.starts_with("assets/")
            && [
                ".py", ".pkl", ".pickle", ".so", ".dll", ".pyc", ".sh", ".exe", ".dylib", ".npy",
            ]
            .iter()
            .all(|end| !name.ends_with(end));
        if has_extension(name, "h5") && !name.starts_with("assets/") {
            weights(check, &archive, entry)?;
        } else if has_extension(name, "npz") && !name.starts_with("assets/") {
            arrays(check, &archive, entry)?;
        } else if is_plain_asset {
            asset(check, &archive, entry)?;
        } else if name == "model.weights.json" {
            match archive.read(entry, MAX_CONFIG_BYTES) {
                Ok(bytes) => match crate::strict_json::parse(&bytes) {
                    Ok(index) => {
                        keras_config::check_index(check, &index, name, Some(entry.data_offset));
                    }
                    Err(_) => check.find(
                        &METADATA,
                        Some(entry.data_offset),
                        "`model.weights.json` is not JSON",
                    ),
                },
                Err(error) => error.report(check)?,
            }
        } else {
            check.find(
                &MEMBER,
                Some(entry.header_offset),
                format!("the member `{}`", shorten(name)),
            );
        }
    }
    Ok(())
}

fn asset(check: &mut Check<'_>, archive: &Archive<'_>, entry: &Entry) -> Result<(), ReadError> {
    match archive.read_prefix(entry, 64) {
        Ok(head) => {
            let is_pickle = head.first() == Some(&0x80) && matches!(head.get(1), Some(2..=5));
            if is_pickle {
                check.find(
                    &PICKLE,
                    Some(entry.data_offset),
                    format!("the asset `{}` is a pickle", shorten(&entry.name)),
                );
            } else if crate::onnx::is_other_magic(&head) {
                check.find(
                    &MEMBER,
                    Some(entry.data_offset),
                    format!("the asset `{}` is no text", shorten(&entry.name)),
                );
            }
            Ok(())
        }
        Err(error) => error.report(check),
    }
}

/// Checks a member in HDF5, through its range if it is stored and in memory if it is small.
fn weights(check: &mut Check<'_>, archive: &Archive<'_>, entry: &Entry) -> Result<(), ReadError> {
    if let Some(part) = archive.stored(entry) {
        return member(check, &entry.name, &part);
    }
    match archive.read(entry, MAX_EXPANDED_BYTES) {
        Ok(bytes) => member(check, &entry.name, &bytes),
        Err(ZipError::TooLarge { size, .. }) => {
            check.find(
                &COMPRESSED,
                Some(entry.data_offset),
                format!("`{}` has {size} bytes", shorten(&entry.name)),
            );
            Ok(())
        }
        Err(error) => error.report(check),
    }
}

fn member(check: &mut Check<'_>, name: &str, source: &dyn Source) -> Result<(), ReadError> {
    let path = format!("{}!/{name}", check.path);
    let mut part = Check::new(check.bundle, &path, source, check.limits, check.depth + 1);
    hdf5::check(&mut part)?;
    for fact in ["tensor_count", "parameter_count", "dtypes", "shapes"] {
        if let Some(value) = part.facts().get(fact) {
            check.fact(fact, value.clone());
        }
    }
    check.absorb(part);
    Ok(())
}

/// Checks weights in npz: every member must be an array without Python objects.
fn arrays(check: &mut Check<'_>, archive: &Archive<'_>, entry: &Entry) -> Result<(), ReadError> {
    let bytes;
    let part;
    let source: &dyn Source = if let Some(stored) = archive.stored(entry) {
        part = stored;
        &part
    } else {
        bytes = match archive.read(entry, MAX_EXPANDED_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => return error.report(check),
        };
        &bytes
    };
    let inner = match Archive::open(source) {
        Ok(inner) => inner,
        Err(error) => return error.report(check),
    };
    for array in inner.entries() {
        let head = match inner.read_prefix(array, 4096) {
            Ok(head) => head,
            Err(error) => return error.report(check),
        };
        let start = match (head.starts_with(b"\x93NUMPY"), head.get(6)) {
            (true, Some(1)) => 10,
            (true, Some(2 | 3)) => 12,
            _ => {
                check.find(
                    &PICKLE,
                    Some(entry.data_offset),
                    format!("`{}` is no array", shorten(&array.name)),
                );
                continue;
            }
        };
        let width = start - 8;
        let length = usize::try_from(crate::window::little(
            head.get(8..8 + width).unwrap_or_default(),
        ))
        .unwrap_or(usize::MAX);
        let header = start
            .checked_add(length)
            .and_then(|end| head.get(start..end))
            .unwrap_or_default();
        let text = String::from_utf8_lossy(header);
        // The description of a plain type is one quoted string such as '<f4'; anything else may hold objects.
        let plain = text
            .split_once("'descr'")
            .and_then(|(_, rest)| rest.trim_start_matches([':', ' ']).strip_prefix('\''))
            .and_then(|rest| rest.split_once('\''))
            .is_some_and(|(descr, _)| {
                let kind = descr.trim_start_matches(['<', '>', '|', '=']);
                !kind.is_empty()
                    && kind.starts_with(['f', 'i', 'u', 'b', 'c'])
                    && kind[1..].bytes().all(|byte| byte.is_ascii_digit())
            });
        if !plain || text.matches("'descr'").count() != 1 {
            check.find(
                &PICKLE,
                Some(entry.data_offset),
                format!("`{}` may hold Python objects", shorten(&array.name)),
            );
        }
    }
    Ok(())
}
