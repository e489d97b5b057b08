//! Files that accompany a model: documentation, licences, settings, tables; and source code, which is something else.

use crate::check::Check;
use crate::cursor::Trouble;
use crate::events::{Bounds, Event, Events as _, Json};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::{ReadError, Source};

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

const DISGUISED: Rule = Rule {
    id: "text.disguised-model",
    verdict: Verdict::Malformed,
    why: "A model that does not begin as its library writes it is a text to checks, and a model to its loader.",
    fix: "Save the model again with its library, and upload the file unchanged.",
};

/// The rules of texts.
pub const RULES: &[Rule] = &[NOT_TEXT, SOURCE_CODE, DISGUISED];

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
    if head.trim_ascii_start().starts_with(b"{") {
        let mut events = Json::new(check.source, Bounds::default());
        let library = match library_of(&mut events) {
            Ok(library) => library,
            Err(Trouble::Read(error)) => return Err(error),
            // Loaders take more than what is JSON of one meaning and of moderate size.
            Err(_) => library_by_words(check.source)?,
        };
        if let Some(library) = library {
            check.find(
                &DISGUISED,
                None,
                format!("a model of {library} that does not begin like one"),
            );
        }
    }
    Ok(())
}

/// The library whose model a document is by its keys, wherever they stand and however much lies before them.
fn library_of(events: &mut Json<'_>) -> Result<Option<&'static str>, Trouble> {
    events.object()?;
    while let Some(key) = events.key()? {
        match key.as_str() {
            "oblivious_trees" | "features_info" => return Ok(Some("CatBoost")),
            "learner" => match events.next()? {
                Event::ObjectStart => {
                    while let Some(key) = events.key()? {
                        if matches!(key.as_str(), "gradient_booster" | "learner_model_param") {
                            return Ok(Some("XGBoost"));
                        }
                        events.skip_next()?;
                    }
                }
                event => events.skip(&event)?,
            },
            _ => events.skip_next()?,
        }
    }
    Ok(None)
}

/// The library whose words a text has, whatever stands between them.
fn library_by_words(source: &dyn Source) -> Result<Option<&'static str>, ReadError> {
    const WORDS: [&[u8]; 3] = [
        b"\"gradient_booster\"",
        b"\"learner_model_param\"",
        b"\"oblivious_trees\"",
    ];
    const STEP: u64 = 1024 * 1024;
    /// Longer than any of the words.
    const OVERLAP: u64 = 32;
    let mut found = [false; 3];
    let mut at = 0;
    while at < source.size() {
        let chunk = source.read(at..source.size().min(at + STEP + OVERLAP))?;
        for (word, found) in WORDS.iter().zip(&mut found) {
            *found |= chunk.windows(word.len()).any(|window| window == *word);
        }
        at += STEP;
    }
    Ok(match found {
        [true, true, _] => Some("XGBoost"),
        [_, _, true] => Some("CatBoost"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::run;

    #[test]
    fn models_are_found_behind_blanks_and_other_keys() {
        let padded = format!(
            "{{{}\"learner\":{{\"gradient_booster\":{{}}}}}}",
            " ".repeat(70_000)
        );
        for (text, rules) in [
            (padded.as_str(), &["text.disguised-model"][..]),
            (
                r#"{"a":[1,{"b":2}],"learner":{"attributes":{},"learner_model_param":{}}}"#,
                &["text.disguised-model"],
            ),
            (
                r#"{"model_info":{},"oblivious_trees":[]}"#,
                &["text.disguised-model"],
            ),
            (r#"{"learner":{"name":"adam"}}"#, &[]),
            (r#"{"learner":"gradient_booster","b":[]}"#, &[]),
            (r#"{"learner":["gradient_booster"],"features":1}"#, &[]),
            (r#"{"learner":{"gradient_boo"#, &[]),
            (
                r#"{"a":1,"a":2,"learner":{"learner_model_param":{},"gradient_booster":{}}}"#,
                &["text.disguised-model"],
            ),
            ("{ not json", &[]),
        ] {
            let (_, found, _) = run(check, "params.json", text.as_bytes().to_vec());
            assert_eq!(found, rules, "{text:.80}");
        }
    }
}
