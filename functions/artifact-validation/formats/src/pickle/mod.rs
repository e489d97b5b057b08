//! Pickles: plain, joblib's, cloudpickle's and dill's, also compressed.
//!
//! A pickle is a program.
//! It is followed symbolically, importing and calling nothing, and held against three kinds of rules: which names it
//! imports, which arguments it calls them with, and whether a pickler would write such a program at all.
//! The last kind leaves no room for programs that one reader follows differently from another.

mod globals;
mod input;
mod machine;
mod never;

pub use globals::{ALLOW_LIST, AllowList, AllowListError, Use};
pub use input::{Input, InputError};

pub(crate) use machine::tensors::MOST_SHAPES;
pub use machine::{Outcome, Storage, Style};
pub(crate) use machine::{TEMPLATE_ATTRIBUTE, is_by_pattern, is_called_attribute, is_template};

use crate::check::Check;
use crate::compressed::{self, Coding};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use crate::text::extension;
use bytes::Bytes;
use serde_json::{Map, Value};

pub(crate) const GLOBAL: Rule = Rule {
    id: "pickle.global-not-allowed",
    verdict: Verdict::Unsafe,
    why: "A pickle that imports a name outside of the allow-list can run anything while it is loaded.",
    fix: "Save the model without this object, or in a format without code; an operator can extend the allow-list.",
};
const ARGUMENTS: Rule = Rule {
    id: "pickle.call-not-allowed",
    verdict: Verdict::Unsafe,
    why: "A harmless name becomes dangerous when it is used in a way that its library never does.",
    fix: "Save the model again with the library that it belongs to.",
};
const OWN_CODE: Rule = Rule {
    id: "pickle.own-code",
    verdict: Verdict::ContainsCode,
    why: "Loading brings functions or classes of the author to life, which run when the model is used.",
    fix: "Move the code into an installed package, or have the version approved.",
};
const RUNS_OWN_CODE: Rule = Rule {
    id: "pickle.runs-own-code",
    verdict: Verdict::Unsafe,
    why: "The code that the pickle carries runs as soon as the file is loaded, before anyone uses the model.",
    fix: "Save the model again with the library that it belongs to.",
};
const NOT_CANONICAL: Rule = Rule {
    id: "pickle.not-canonical",
    verdict: Verdict::Malformed,
    why: "No pickler writes such a program, and readers may follow it differently from what was checked.",
    fix: "Save the model again with Python's own pickler, and upload the file unchanged.",
};
const PERSISTENT_ID: Rule = Rule {
    id: "pickle.persistent-id",
    verdict: Verdict::Malformed,
    why: "What a persistent id stands for is decided by whoever loads the pickle, so that it cannot be checked.",
    fix: "Save the model without references to objects outside of the file.",
};
const BOMB: Rule = Rule {
    id: "pickle.bomb",
    verdict: Verdict::Malformed,
    why: "A small pickle that grows beyond all bounds exhausts whoever loads it.",
    fix: "Save the model again with the library that it belongs to.",
};
const TRUNCATED: Rule = Rule {
    id: "pickle.truncated",
    verdict: Verdict::Malformed,
    why: "A pickle without its end cannot be loaded, but runs up to where it breaks off.",
    fix: "Upload the whole file again.",
};
const DAMAGED: Rule = Rule {
    id: "pickle.damaged-compression",
    verdict: Verdict::Malformed,
    why: "A damaged stream is read up to different places by different readers.",
    fix: "Save the model again, and upload the file unchanged.",
};

/// The rules of pickles.
pub const RULES: &[Rule] = &[
    GLOBAL,
    ARGUMENTS,
    OWN_CODE,
    RUNS_OWN_CODE,
    NOT_CANONICAL,
    PERSISTENT_ID,
    BOMB,
    TRUNCATED,
    DAMAGED,
];

/// Opcodes that are followed of a file whose format is still a guess.
const GUESS_OPERATIONS: u64 = 20_000;
/// A compressed program of more bytes than this may not expand more than [`MAX_DENSE_RATIO`] times.
const MAX_DENSE_BYTES: u64 = 8 * 1024 * 1024;
const MAX_DENSE_RATIO: u64 = 250;
/// Opcodes that are followed behind a compression, however small the file.
const MAX_DENSE_OPCODES: u64 = 1024 * 1024;
/// Most pickles one behind the other that are looked at, although only one may be there.
const MAX_TRAILING: usize = 16;

/// Whether the content is a pickle, also behind a compression.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, size: u64) -> bool {
    if looks_like_pickle(head, size) {
        return true;
    }
    Coding::of(head).is_some_and(|coding| {
        let (inner, ended) = compressed::expand_prefix(coding, head);
        if inner.is_empty() {
            // The first block is longer than what was read; then the name decides which check comes first.
            return matches!(
                extension(path).as_deref(),
                Some("pkl" | "pickle" | "joblib" | "dill")
            );
        }
        // Without its end, the size behind the compression is not known.
        let inner_size = if ended { inner.len() as u64 } else { u64::MAX };
        looks_like_pickle(&inner, inner_size)
    })
}

/// Whether `head` begins a pickle of `size` bytes, of any protocol.
pub fn looks_like_pickle(head: &[u8], size: u64) -> bool {
    match head {
        [0x80, 0..=5, ..] => return true,
        // The first opcodes of protocols 0 and 1, which have no mark of their own.
        [
            b'('
            | b']'
            | b'}'
            | b')'
            | b'c'
            | b'N'
            | b'I'
            | b'L'
            | b'F'
            | b'S'
            | b'U'
            | b'T'
            | b'V'
            | b'X'
            | b'K'
            | b'M'
            | b'J'
            | b'G'
            | b'l'
            | b'd'
            | b'i'
            | b'P'
            | 0x82..=0x84
            | 0x88..=0x8f
            | 0x95
            | 0x96
            | b'B'
            | b'C',
            ..,
        ] => {}
        _ => return false,
    }
    let bytes = Bytes::copy_from_slice(head);
    let mut input = Input::file(&bytes, 0);
    let mut operations = GUESS_OPERATIONS;
    let followed = machine::run(
        &mut input,
        AllowList::built_in(),
        Style::Plain,
        &mut operations,
    );
    match followed {
        Ok(outcome) => {
            // A text of one letter and a full stop is a pickle by chance, but a call is not.
            (outcome.finished && (input.offset() == size || !outcome.globals.is_empty()))
                || outcome.calls > 0
                || outcome.findings.iter().any(|(rule, ..)| rule.id == BOMB.id)
                || (input.offset() >= 1024 && size > head.len() as u64 && outcome.operations > 100)
        }
        // More opcodes than a guess may follow.
        Err(_) => true,
    }
}

/// Whether a pickle in text form, of which `head` is nothing but its first values, goes on to a call behind it.
///
/// A text is followed only if its head is a program up to where it is cut, which hardly any text is.
pub fn goes_on(head: &[u8], source: &dyn Source) -> Result<bool, ReadError> {
    let bytes = Bytes::copy_from_slice(head);
    let mut operations = GUESS_OPERATIONS;
    let list = AllowList::built_in();
    let begun = machine::run(
        &mut Input::file(&bytes, 0),
        list,
        Style::Plain,
        &mut operations,
    );
    let is_cut = match begun {
        Ok(outcome) => {
            source.size() > head.len() as u64
                && outcome
                    .findings
                    .last()
                    .is_some_and(|(rule, ..)| rule.id == TRUNCATED.id)
        }
        Err(_) => false,
    };
    if !is_cut {
        return Ok(false);
    }
    let mut operations = GUESS_OPERATIONS;
    let mut input = Input::file(source, 0);
    match machine::run(&mut input, list, Style::Plain, &mut operations) {
        Ok(outcome) => Ok(outcome.calls > 0
            || (!outcome.globals.is_empty() && outcome.finished)
            || outcome.findings.iter().any(|(rule, ..)| rule.id == BOMB.id)),
        Err(ReadError::Exhausted(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// What a file of another format would do to a reader who takes it for a pickle.
///
/// Readers choose by the name, or try one format after the other; bytes by chance stop them at once.
pub(crate) fn also_runs(
    source: &dyn Source,
) -> Result<Vec<(&'static Rule, u64, String)>, ReadError> {
    let mut operations = GUESS_OPERATIONS;
    let mut input = Input::file(source, 0);
    match machine::run_as_other(&mut input, AllowList::built_in(), &mut operations) {
        Ok(outcome) if outcome.calls > 0 => Ok(outcome
            .findings
            .into_iter()
            .filter(|(rule, ..)| rule.verdict == Verdict::Unsafe)
            .collect()),
        Ok(_) | Err(ReadError::Exhausted(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Inspects a file that is one pickle.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let source = check.source;
    let head = source.read(0..source.size().min(16))?;
    if let Some(coding) = Coding::of(&head).filter(|_| !matches!(head.first(), Some(0x80))) {
        check.fact("compression", coding.name());
        let (reader, progress) = match compressed::reader(coding, source) {
            Ok(reader) => reader,
            Err(reason) => {
                check.find(&DAMAGED, Some(0), reason);
                return Ok(());
            }
        };
        let mut input = Input::decoder(reader, compressed::allowance(source.size()));
        let dense = source.size().saturating_mul(MAX_DENSE_RATIO / 5);
        input.opcode_limit = dense.max(MAX_DENSE_OPCODES);
        let array_bytes = check_input(check, &mut input)?;
        // Arrays of zeros are honest; programs and texts never shrink that far.
        let program_bytes = input.offset().saturating_sub(array_bytes);
        if program_bytes > MAX_DENSE_BYTES && program_bytes / MAX_DENSE_RATIO > source.size() {
            check.find(
                &BOMB,
                None,
                format!(
                    "{} bytes expand to {program_bytes} besides arrays",
                    source.size()
                ),
            );
        }
        if check.verdict() == Verdict::Clean && progress.used() < source.size() {
            check.find(
                &NOT_CANONICAL,
                Some(progress.used()),
                "something lies behind the compressed stream",
            );
        }
        return Ok(());
    }
    let mut input = Input::file(source, 0);
    check_input(check, &mut input)?;
    Ok(())
}

/// Inspects a pickle that must be all there is; answers how many bytes its arrays have.
fn check_input(check: &mut Check<'_>, input: &mut Input<'_>) -> Result<u64, ReadError> {
    let outcome = check_stream(check, input, Style::Joblib)?;
    if !outcome.finished {
        return Ok(outcome.array_bytes);
    }
    for _ in 0..MAX_TRAILING {
        match input.is_at_end() {
            Ok(true) => break,
            Ok(false) => {}
            Err(InputError::Read(error)) => return Err(error),
            Err(error) => {
                check.find(&DAMAGED, Some(input.offset()), format!("{error:?}"));
                break;
            }
        }
        check.find(
            &NOT_CANONICAL,
            Some(input.offset()),
            "something lies behind the end of the pickle",
        );
        // Whether it would run or not, what is hidden there is worth telling.
        if !check_stream(check, input, Style::Joblib)?.finished {
            break;
        }
    }
    Ok(outcome.array_bytes)
}

/// Inspects the pickle at the input's place, and leaves the input behind its last opcode.
///
/// For formats that carry pickles: arrays of objects, members of archives.
pub fn check_stream(
    check: &mut Check<'_>,
    input: &mut Input<'_>,
    style: Style,
) -> Result<Outcome, ReadError> {
    let mut operations = check.limits.operations;
    let list = check.limits.allow_list();
    let mut outcome = machine::run(input, list, style, &mut operations)?;
    for (rule, offset, detail) in std::mem::take(&mut outcome.findings) {
        check.find(rule, Some(offset), detail);
    }
    if !outcome.globals.is_empty() {
        let mut globals: Vec<Value> = match check.facts().get("globals") {
            Some(Value::Array(known)) => known.clone(),
            _ => Vec::new(),
        };
        for global in &outcome.globals {
            let global = Value::from(global.as_str());
            if globals.len() < 1000 && !globals.contains(&global) {
                globals.push(global);
            }
        }
        if globals.len() >= 1000 {
            check.fact("globals_cut", true);
        }
        check.fact("globals", globals);
        let mut uses = match check.facts().get("global_uses") {
            Some(Value::Object(known)) => known.clone(),
            _ => Map::new(),
        };
        for (name, how) in &outcome.uses {
            match uses.get(name).and_then(Value::as_str) {
                None if uses.len() >= 1000 => {}
                Some(known) if known == how => {}
                Some(known) => {
                    let both = format!("{known} {how}");
                    uses.insert(name.clone(), both.into());
                }
                None => {
                    uses.insert(name.clone(), how.as_str().into());
                }
            }
        }
        check.fact("global_uses", uses);
    }
    if !check.facts().contains_key("pickle_protocol") {
        check.fact("pickle_protocol", outcome.protocol);
    }
    if outcome.arrays > 0 {
        check.fact("array_count", outcome.arrays);
    }
    Ok(outcome)
}

/// Inspects the pickle that begins at `offset` of `source` and must end with it.
pub fn check_at(check: &mut Check<'_>, source: &dyn Source, offset: u64) -> Result<(), ReadError> {
    let mut input = Input::file(source, offset);
    check_input(check, &mut input)?;
    Ok(())
}

/// What is dangerous in `bytes` at `start`, if a pickle begins there; for files that are refused already.
pub(crate) fn salvage(bytes: &Bytes, start: u64) -> Vec<(&'static Rule, String)> {
    let mut input = Input::file(bytes, start);
    let mut operations = GUESS_OPERATIONS;
    match machine::run(
        &mut input,
        AllowList::built_in(),
        Style::Joblib,
        &mut operations,
    ) {
        Ok(outcome) if outcome.calls > 0 => outcome
            .findings
            .into_iter()
            .filter(|(rule, ..)| rule.verdict == Verdict::Unsafe)
            .map(|(rule, _, detail)| (rule, detail))
            .collect(),
        _ => Vec::new(),
    }
}
