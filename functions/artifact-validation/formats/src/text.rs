//! Files that accompany a model: documentation, licences, settings, tables; and source code, which is something else.

use crate::check::Check;
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::ReadError;

const NOT_TEXT: Rule = Rule {
    id: "text.not-text",
    verdict: Verdict::Malformed,
    why: "A text that holds other bytes is something else under a harmless name.",
    fix: "Save the file as UTF-8, or give it the name of what it is.",
};
const SOURCE_CODE: Rule = Rule {
    id: "text.source-code",
    verdict: Verdict::ContainsCode,
    why: "Frameworks run source files that they find beside a model.",
    fix: "Move the code into an installed package, or have the version approved.",
};

/// The rules of texts.
pub const RULES: &[Rule] = &[NOT_TEXT, SOURCE_CODE];

/// Names of files that are source code.
const CODE_EXTENSIONS: &[&str] = &[
    "py", "pyc", "pyi", "pyx", "ipynb", "sh", "bash", "zsh", "ps1", "bat", "cmd", "js", "mjs",
    "ts", "rb", "pl", "php", "lua", "r", "jl", "so", "dll", "dylib", "exe", "jar", "class", "wasm",
    "java", "c", "cc", "cpp", "cu", "h", "service", "desktop",
];

/// Whether the path names source code or a program.
pub fn is_code_path(path: &str) -> bool {
    extension(path).is_some_and(|extension| CODE_EXTENSIONS.contains(&extension.as_str()))
        || path
            .rsplit('/')
            .next()
            .is_some_and(|name| name == "Dockerfile" || name == "Makefile")
}

/// The extension in small letters.
pub(crate) fn extension(path: &str) -> Option<String> {
    let name = path.rsplit('/').next()?;
    let (_, extension) = name.rsplit_once('.')?;
    Some(extension.to_ascii_lowercase())
}

/// Whether the content is UTF-8 without control characters, or stands under the name of source code.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    is_code_path(path) || (is_text(head) && !head.starts_with(b"#!")) || head.starts_with(b"#!")
}

fn is_text(bytes: &[u8]) -> bool {
    let valid = match std::str::from_utf8(bytes) {
        Ok(_) => bytes,
        // The last character may be cut by the end of what was read.
        Err(error) if error.error_len().is_none() => {
            bytes.get(..error.valid_up_to()).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid
        .iter()
        .any(|byte| *byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c))
}

/// Inspects a text.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let size = check.size();
    let head = check.read(0..size.min(64 * 1024))?;
    if is_code_path(check.path) || head.starts_with(b"#!") {
        check.find(&SOURCE_CODE, None, "a file of source code or a program");
        return Ok(());
    }
    // A long text is sampled; nothing that reads it runs it.
    let tail = check.read(size.saturating_sub(64 * 1024)..size)?;
    if !is_text(&head) || tail.contains(&0) {
        check.find(&NOT_TEXT, None, "not UTF-8 text");
    }
    Ok(())
}
