//! pip's format of requirements, read as pip reads it: its lines, comments, options and included files.
//!
//! Source: <https://pip.pypa.io/en/stable/reference/requirements-file-format/>, `pip/_internal/req/req_file.py`, PEP 508.

use super::{
    DIRECT, Dependency, ESCAPE, FOREIGN_INDEX, KNOWN_INDEX, Lint, MAX_BYTES, is_inside,
    is_known_url, normalize,
};
use crate::cursor::{Trouble, quote, read_small};

/// Deepest inclusion of files by files.
const MAX_INCLUSIONS: usize = 8;

/// Where Python's `str.splitlines` ends a line.
const LINE_ENDS: &[char] = &[
    '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}',
];

/// Looks through a whole file.
pub(super) fn file(lint: &mut Lint<'_, '_>, text: &str) -> Result<(), Trouble> {
    for (offset, line) in lines(text) {
        self::line(lint, Some(offset), &line)?;
    }
    Ok(())
}

/// The lines of a file with their offsets: continued lines are joined, but a comment is never continued.
fn lines(text: &str) -> Vec<(u64, String)> {
    let mut lines: Vec<(u64, String)> = Vec::new();
    let mut continues = false;
    let mut offset = 0_u64;
    for raw in text.split_inclusive(LINE_ENDS) {
        let line = raw.trim_end_matches(LINE_ENDS);
        let is_comment = line.trim_start().starts_with('#');
        let goes_on = !is_comment && line.ends_with('\\');
        let part = if goes_on {
            line.trim_matches('\\')
        } else {
            line
        };
        match lines.last_mut() {
            Some((_, joined)) if continues => {
                if is_comment {
                    joined.push(' ');
                }
                joined.push_str(part);
            }
            _ => lines.push((offset, part.to_owned())),
        }
        continues = goes_on;
        offset += raw.len() as u64;
    }
    lines
}

/// A line without its comment, which begins at its start or after a blank.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, character) in line.char_indices() {
        if character == '#' && before.is_whitespace() {
            return line.get(..at).unwrap_or_default();
        }
        before = character;
    }
    line
}

/// One line: a requirement, or options.
pub(super) fn line(
    lint: &mut Lint<'_, '_>,
    offset: Option<u64>,
    text: &str,
) -> Result<(), Trouble> {
    let text = without_comment(text).trim();
    if text.is_empty() {
        return Ok(());
    }
    // Options begin at the first word with a dash.
    let start = std::iter::once(0)
        .chain(text.match_indices([' ', '\t']).map(|(at, _)| at + 1))
        .find(|at| text.get(*at..).is_some_and(|rest| rest.starts_with('-')))
        .unwrap_or(text.len());
    let (requirement, rest) = text.split_at(start);
    if !requirement.trim().is_empty() {
        match parse(requirement) {
            Some(dependency) => lint.declare(dependency),
            None => lint.find(
                &DIRECT,
                offset,
                format!("{} names no package of an index", quote(text)),
            ),
        }
    }
    let Some(words) = words(rest) else {
        lint.find(&DIRECT, offset, format!("the options {}", quote(rest)));
        return Ok(());
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        option(lint, offset, &word, &mut words)?;
    }
    Ok(())
}

/// Splits as a shell does; `None` if a quote is left open.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut open: Option<char> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let is_open = open.is_some();
        match character {
            _ if open == Some(character) => open = None,
            '\\' if open != Some('\'') => {
                word.get_or_insert_default().push(characters.next()?);
            }
            '"' | '\'' if !is_open => {
                word.get_or_insert_default();
                open = Some(character);
            }
            _ if !is_open && character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    open.is_none().then_some(words)
}

fn option(
    lint: &mut Lint<'_, '_>,
    offset: Option<u64>,
    word: &str,
    more: &mut impl Iterator<Item = String>,
) -> Result<(), Trouble> {
    let (name, value) = if let Some((name, value)) = word.split_once('=')
        && name.starts_with("--")
    {
        (name, Some(value.to_owned()))
    } else if !word.starts_with("--") && word.len() > 2 && word.is_char_boundary(2) {
        // A short option may be glued to its value.
        let (name, value) = word.split_at(2);
        (name, Some(value.to_owned()))
    } else {
        (word, None)
    };
    let mut value = || value.clone().or_else(|| more.next()).unwrap_or_default();
    match name {
        "-i" | "--index-url" | "--pypi-url" | "--extra-index-url" | "-f" | "--find-links"
        | "--trusted-host" => {
            let value = value();
            let rule = if is_known_url(&value) {
                &KNOWN_INDEX
            } else {
                &FOREIGN_INDEX
            };
            lint.find(rule, offset, format!("{name} {}", quote(&value)));
        }
        "-r" | "--requirement" | "-c" | "--constraint" => {
            let value = value();
            if value.contains("://") || value.starts_with("file:") {
                lint.find(&DIRECT, offset, format!("{name} {}", quote(&value)));
            } else if !is_inside(&value) {
                lint.find(&ESCAPE, offset, format!("{name} {}", quote(&value)));
            } else {
                include(lint, &value)?;
            }
        }
        "--only-binary" | "--no-binary" | "--hash" | "--use-feature" => {
            value();
        }
        "--pre" | "--prefer-binary" | "--require-hashes" | "--no-index" | "--no-deps" => {}
        _ => lint.find(&DIRECT, offset, format!("the option {}", quote(word))),
    }
    Ok(())
}

/// Looks through a file that another one includes, whatever its name.
pub(super) fn include(lint: &mut Lint<'_, '_>, name: &str) -> Result<(), Trouble> {
    let folder = lint
        .within()
        .rfind('/')
        .map_or("", |end| lint.within().get(..=end).unwrap_or_default());
    let path = format!("{folder}{}", name.strip_prefix("./").unwrap_or(name));
    if lint.included.len() >= MAX_INCLUSIONS || lint.included.contains(&path) {
        return Ok(());
    }
    // A file that is not there includes nothing; the installer will say so.
    let Some(file) = lint.bundle.find(&path) else {
        return Ok(());
    };
    let bytes = read_small(file.source, MAX_BYTES)?;
    lint.included.push(path);
    for (_, line) in lines(&String::from_utf8_lossy(&bytes)) {
        self::line(lint, None, &line)?;
    }
    lint.included.pop();
    Ok(())
}

/// Reads a requirement of PEP 508 without a URL; `None` if it is none.
pub(super) fn parse(text: &str) -> Option<Dependency> {
    let requirement = text.trim();
    let text = requirement.split(';').next()?.trim();
    let end = text
        .find(|character: char| !(character.is_ascii_alphanumeric() || "-_.".contains(character)))
        .unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    let is_name = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.ends_with(|last: char| last.is_ascii_alphanumeric());
    let is_file = [".whl", ".zip", ".gz", ".egg"]
        .iter()
        .any(|ending| name.to_ascii_lowercase().ends_with(ending));
    if !is_name || is_file {
        return None;
    }
    rest = rest.trim_start();
    if let Some(extras) = rest.strip_prefix('[') {
        rest = extras.split_once(']')?.1.trim_start();
    }
    let rest = rest
        .strip_prefix('(')
        .map_or(rest, |rest| rest.trim_end_matches(')'));
    let mut version = None;
    for specifier in rest
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let operator = ["===", "==", "~=", "!=", "<=", ">=", "<", ">"]
            .into_iter()
            .find(|operator| specifier.starts_with(operator))?;
        let value = specifier.get(operator.len()..)?.trim();
        let is_version = !value.is_empty()
            && value
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || ".+!*-_".contains(character));
        if !is_version {
            return None;
        }
        if operator.starts_with("==") && !value.contains('*') {
            version = Some(value.to_owned());
        }
    }
    Some(Dependency {
        name: normalize(name),
        version,
        requirement: requirement.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_pip_reads() {
        let texts = |text: &str| -> Vec<String> {
            lines(text)
                .into_iter()
                .map(|(_, line)| without_comment(&line).trim().to_owned())
                .filter(|line| !line.is_empty())
                .collect()
        };
        assert_eq!(texts("a==1\\\n --hash=x\nb"), ["a==1 --hash=x", "b"]);
        // A comment is not continued, and a line ends where Python says.
        assert_eq!(texts("# x \\\n-i http://evil"), ["-i http://evil"]);
        assert_eq!(texts("a # x\r-i http://evil"), ["a", "-i http://evil"]);
        assert_eq!(texts("a # x\u{2028}-e ."), ["a", "-e ."]);
        assert_eq!(texts("a\t# x\nb#c"), ["a", "b#c"]);
        assert_eq!(
            lines("ab\ncd\\\ne\nf")
                .iter()
                .map(|line| line.0)
                .collect::<Vec<_>>(),
            [0, 3, 9]
        );
    }

    #[test]
    fn requirements_are_those_of_pep_508() {
        for (text, expected) in [
            ("a", Some(("a", None))),
            ("A.b_C==1.0", Some(("a-b-c", Some("1.0")))),
            (
                "a[x,y] == 1!2.0+cu118 ; python_version < '3.9'",
                Some(("a", Some("1!2.0+cu118"))),
            ),
            ("a (>=1,<2)", Some(("a", None))),
            ("a~=1.4.2, !=1.5.*", Some(("a", None))),
            ("a==1.*", Some(("a", None))),
            ("a===1.0", Some(("a", Some("1.0")))),
            ("a>=1;extra=='x'", Some(("a", None))),
            ("a @ https://evil/a.whl", None),
            ("a@https://evil/a.whl", None),
            ("git+https://evil/a", None),
            ("https://evil/a.whl", None),
            ("a.whl", None),
            ("./a", None),
            ("a==", None),
            ("-a", None),
            ("a b", None),
            ("${A}", None),
        ] {
            let found = parse(text);
            let found = found
                .as_ref()
                .map(|found| (found.name.as_str(), found.version.as_deref()));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        assert_eq!(
            words("--a \"b c\" 'd'e\\ f").unwrap(),
            ["--a", "b c", "de f"]
        );
        assert!(words("--a 'b").is_none());
        assert!(words("").unwrap().is_empty());
    }
}
