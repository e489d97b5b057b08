//! The operators that a script of TorchScript names.

use super::{SCRIPT, SCRIPT_FILES};
use crate::rules::Rule;

/// What a script names of PyTorch's operators that is not known to be harmless.
///
/// The language allows blanks and line breaks around a dot, and a name for a part of a path; a path that is not
/// written out is told as what it may be.
pub(super) fn words(source: &str) -> Vec<(&'static Rule, String)> {
    let mut words = Vec::new();
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = source.as_bytes();
    let mut at = 0;
    let mut is_attribute = false;
    while let Some(&first) = bytes.get(at) {
        if !is_letter(first) {
            if first == b'.' {
                is_attribute = true;
            } else if !first.is_ascii_whitespace() && first != b'\\' {
                is_attribute = false;
            }
            at += 1;
            continue;
        }
        let mut path = vec![identifier(source, &mut at)];
        // Only the first name of a path can be the root of the operators.
        while path.len() < 3 {
            let mut behind = at;
            skip_blank(bytes, &mut behind);
            if bytes.get(behind) != Some(&b'.') {
                break;
            }
            behind += 1;
            skip_blank(bytes, &mut behind);
            if !bytes.get(behind).copied().is_some_and(is_letter) {
                break;
            }
            path.push(identifier(source, &mut behind));
            at = behind;
        }
        let is_root = !is_attribute || matches!(path.first(), Some(&"ops"));
        is_attribute = false;
        if !is_root {
            continue;
        }
        let opens_files = |name: &str| {
            [
                "from_file",
                "fopen",
                "load",
                "load_library",
                "open",
                "read",
                "save",
                "system",
                "write",
            ]
            .contains(&name)
                || [
                    "read_file",
                    "write_file",
                    "_from_file",
                    "load_audio",
                    "save_audio",
                ]
                .iter()
                .any(|part| name.contains(part))
        };
        let rule = match path.as_slice() {
            ["torch", name] | ["torch", name, _] | ["ops", _, name] if opens_files(name) => {
                &SCRIPT_FILES
            }
            [
                "ops",
                "prim" | "aten" | "quantized" | "prepacked" | "torchvision" | "inductor",
                _,
            ] => continue,
            ["torch"] | ["torch", "ops" | "_C" | "classes", ..] | ["ops", ..] => &SCRIPT,
            _ => continue,
        };
        words.push((rule, path.join(".")));
    }
    words
}

/// The name at `at`, which is left behind it.
fn identifier<'t>(source: &'t str, at: &mut usize) -> &'t str {
    let rest = source.get(*at..).unwrap_or_default();
    let end = rest
        .bytes()
        .position(|byte| !byte.is_ascii_alphanumeric() && byte != b'_')
        .unwrap_or(rest.len());
    *at += end.max(1);
    rest.get(..end).unwrap_or_default()
}

fn skip_blank(bytes: &[u8], at: &mut usize) {
    while bytes
        .get(*at)
        .is_some_and(|byte| byte.is_ascii_whitespace() || *byte == b'\\')
    {
        *at += 1;
    }
}
