//! A strict subset of YAML 1.1 that holds what MLflow, conda and model cards write, and nothing that surprises.
//!
//! Tags construct objects, anchors and merge keys multiply, duplicate keys mean different things to different readers:
//! all are refused instead of interpreted. Scalars stay text, apart from null and booleans, since nothing here computes with them.

use crate::cursor::quote;
use serde_json::{Map, Value};

/// Largest document.
pub(crate) const MAX_BYTES: u64 = 2 * 1024 * 1024;
const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 50_000;

/// What is wrong with a document.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct YamlError {
    pub(crate) offset: u64,
    pub(crate) detail: String,
    /// Whether the document uses a feature that can construct objects or expand without bound.
    pub(crate) is_dangerous: bool,
}

/// Reads one document.
pub(crate) fn parse(text: &str) -> Result<Value, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser {
        bytes: text.as_bytes(),
        text,
        position: 0,
        nodes: 0,
    };
    parser.start()?;
    let value = parser.block(0, 0)?;
    parser.blank()?;
    if parser.rest().starts_with("...") {
        parser.end_of_line();
        parser.blank()?;
    }
    if parser.position < text.len() {
        return if parser.rest().starts_with("---") {
            parser.fail("a second document")
        } else {
            parser.fail("something that fits no indentation")
        };
    }
    Ok(value)
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    position: usize,
    nodes: usize,
}

impl<'a> Parser<'a> {
    fn fail<T>(&self, detail: impl Into<String>) -> Result<T, YamlError> {
        Err(YamlError {
            offset: self.position as u64,
            detail: detail.into(),
            is_dangerous: false,
        })
    }

    fn danger<T>(&self, detail: impl Into<String>) -> Result<T, YamlError> {
        Err(YamlError {
            offset: self.position as u64,
            detail: detail.into(),
            is_dangerous: true,
        })
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or("")
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    fn at(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.position.checked_add(ahead)?).copied()
    }

    /// Whether the byte `ahead` ends a token: blank, end of line or end of file.
    fn is_gap(&self, ahead: usize) -> bool {
        matches!(self.at(ahead), None | Some(b' ' | b'\n' | b'\r'))
    }

    fn column(&self) -> usize {
        let before = self.bytes.get(..self.position).unwrap_or(&[]);
        before
            .iter()
            .rev()
            .take_while(|byte| **byte != b'\n')
            .count()
    }

    fn start(&mut self) -> Result<(), YamlError> {
        self.blank()?;
        if self.peek() == Some(b'%') {
            return self.danger("a directive");
        }
        if self.rest().starts_with("---") && self.is_gap(3) {
            self.position += 3;
            self.spaces();
        }
        Ok(())
    }

    fn spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.position += 1;
        }
    }

    fn end_of_line(&mut self) {
        while self.peek().is_some_and(|byte| byte != b'\n') {
            self.position += 1;
        }
    }

    /// Whether only a comment, if anything, is left on this line; moves behind the blanks.
    fn is_line_over(&mut self) -> bool {
        let before = self.position;
        self.spaces();
        match self.peek() {
            None | Some(b'\n') => true,
            Some(b'\r') => self.at(1).is_none_or(|byte| byte == b'\n'),
            Some(b'#') => self.position > before || self.column() == 0,
            _ => false,
        }
    }

    /// Passes over blanks, comments and ends of lines, up to the next token.
    fn blank(&mut self) -> Result<(), YamlError> {
        loop {
            self.spaces();
            match self.peek() {
                Some(b'\n' | b'\r') => self.position += 1,
                Some(b'#') => self.end_of_line(),
                Some(b'\t') => return self.fail("a tab in an indentation"),
                _ => return Ok(()),
            }
        }
    }

    fn enter(&mut self, depth: usize) -> Result<(), YamlError> {
        self.nodes += 1;
        if depth > MAX_DEPTH {
            return self.danger(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        if self.nodes > MAX_NODES {
            return self.danger(format!("more than {MAX_NODES} values"));
        }
        Ok(())
    }

    /// A value that starts on a line of its own, or in the middle of one, at least at column `least`.
    fn block(&mut self, least: usize, depth: usize) -> Result<Value, YamlError> {
        self.enter(depth)?;
        self.blank()?;
        let column = self.column();
        if self.peek().is_none() || column < least || self.is_document_mark() {
            return Ok(Value::Null);
        }
        if self.peek() == Some(b'-') && self.is_gap(1) {
            return self.sequence(column, depth);
        }
        if self.is_key()? {
            return self.mapping(column, depth);
        }
        self.inline(least, depth)
    }

    fn is_document_mark(&self) -> bool {
        self.column() == 0
            && (self.rest().starts_with("---") || self.rest().starts_with("..."))
            && self.is_gap(3)
    }

    fn sequence(&mut self, column: usize, depth: usize) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            self.position += 1;
            let item = self.block(column + 1, depth + 1)?;
            items.push(item);
            self.blank()?;
            let is_next = self.column() == column && self.peek() == Some(b'-') && self.is_gap(1);
            if !is_next {
                return Ok(Value::Array(items));
            }
        }
    }

    /// Whether a key of a mapping starts here.
    fn is_key(&mut self) -> Result<bool, YamlError> {
        let start = self.position;
        if self.peek() == Some(b'?') && self.is_gap(1) {
            return self.fail("a key that is no plain text");
        }
        if matches!(self.peek(), Some(b'"' | b'\'')) {
            let outcome = self.quoted();
            self.spaces();
            let is_key = outcome.is_ok() && self.peek() == Some(b':') && self.is_gap(1);
            self.position = start;
            return Ok(is_key);
        }
        if matches!(self.peek(), Some(b'[' | b'{' | b'|' | b'>')) {
            return Ok(false);
        }
        let line = self.rest();
        let line = line
            .get(..line.find('\n').unwrap_or(line.len()))
            .unwrap_or("");
        Ok(key_end(line).is_some())
    }

    fn mapping(&mut self, column: usize, depth: usize) -> Result<Value, YamlError> {
        let mut entries = Map::new();
        loop {
            let at = self.position;
            let key = if matches!(self.peek(), Some(b'"' | b'\'')) {
                let key = self.quoted()?;
                self.spaces();
                key
            } else {
                self.no_indicator()?;
                let line = self.rest();
                let line = line
                    .get(..line.find('\n').unwrap_or(line.len()))
                    .unwrap_or("");
                let Some(end) = key_end(line) else {
                    return self.fail("expected a key");
                };
                self.position += end;
                line.get(..end).unwrap_or("").trim_end().to_owned()
            };
            if self.peek() != Some(b':') {
                return self.fail("expected a colon");
            }
            self.position += 1;
            if key == "<<" {
                return self.danger("a merge key");
            }
            let value = if self.is_line_over() {
                self.blank()?;
                // A list may stand at the column of its key.
                let is_list =
                    self.column() == column && self.peek() == Some(b'-') && self.is_gap(1);
                self.block(if is_list { column } else { column + 1 }, depth + 1)?
            } else {
                self.enter(depth + 1)?;
                self.inline(column + 1, depth + 1)?
            };
            if entries.insert(key.clone(), value).is_some() {
                self.position = at;
                return self.fail(format!("the key {} appears twice", quote(&key)));
            }
            self.blank()?;
            if self.peek().is_none() || self.column() != column || self.is_document_mark() {
                return Ok(Value::Object(entries));
            }
            if !self.is_key()? {
                return self.fail("expected a key");
            }
        }
    }

    /// Refuses what would make a plain scalar something else.
    fn no_indicator(&self) -> Result<(), YamlError> {
        match self.peek() {
            Some(b'&') => self.danger("an anchor"),
            Some(b'*') => self.danger("an alias"),
            Some(b'!') => self.danger("a tag, which can construct objects"),
            Some(b'%' | b'@' | b'`') => self.fail("a reserved character"),
            _ => Ok(()),
        }
    }

    /// A value that starts in the middle of a line; lines that continue it stand at `least` or further right.
    fn inline(&mut self, least: usize, depth: usize) -> Result<Value, YamlError> {
        self.spaces();
        self.no_indicator()?;
        let value = match self.peek() {
            Some(b'"' | b'\'') => Value::String(self.quoted()?),
            Some(b'[' | b'{') => self.flow(depth)?,
            Some(b'|' | b'>') => return self.literal(least),
            _ => return self.plain(least),
        };
        if !self.is_line_over() {
            return self.fail("something follows a value");
        }
        Ok(value)
    }

    fn plain(&mut self, least: usize) -> Result<Value, YamlError> {
        let mut text = String::new();
        let mut is_first = true;
        loop {
            let line = self.rest();
            let line = line
                .get(..line.find('\n').unwrap_or(line.len()))
                .unwrap_or("");
            let content = line
                .find(" #")
                .map_or(line, |end| line.get(..end).unwrap_or(""));
            if line.contains('\t') && content.trim_start().starts_with('\t') {
                return self.fail("a tab in an indentation");
            }
            let has_comment = content.len() < line.len();
            let content = content.trim();
            // What looks like a key within a text is one to some readers.
            if key_end(content).is_some() {
                return self.fail("a colon within a plain text");
            }
            if !is_first {
                text.push(' ');
            }
            text.push_str(content);
            self.end_of_line();
            is_first = false;
            let here = self.position;
            if has_comment {
                break;
            }
            self.blank()?;
            let is_continued = self.peek().is_some()
                && self.column() >= least.max(1)
                && !self
                    .text
                    .get(here..self.position)
                    .unwrap_or("")
                    .contains('#');
            if !is_continued {
                break;
            }
        }
        Ok(match text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Value::Null,
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            _ => Value::String(text),
        })
    }

    fn quoted(&mut self) -> Result<String, YamlError> {
        let is_double = self.peek() == Some(b'"');
        self.position += 1;
        let mut text = String::new();
        loop {
            let Some(character) = self.rest().chars().next() else {
                return self.fail("a quoted text without an end");
            };
            self.position += character.len_utf8();
            match character {
                '"' if is_double => return Ok(text),
                '\'' if !is_double => {
                    if self.peek() != Some(b'\'') {
                        return Ok(text);
                    }
                    self.position += 1;
                    text.push('\'');
                }
                '\\' if is_double => self.escape(&mut text)?,
                '\n' | '\r' => {
                    // A line break is folded: one is a blank, more are one less.
                    text.truncate(text.trim_end_matches(' ').len());
                    let mut breaks = usize::from(character == '\n');
                    while let Some(byte @ (b' ' | b'\n' | b'\r' | b'\t')) = self.peek() {
                        breaks += usize::from(byte == b'\n');
                        self.position += 1;
                    }
                    if breaks <= 1 {
                        text.push(' ');
                    }
                    text.extend(std::iter::repeat_n('\n', breaks.saturating_sub(1)));
                }
                character => text.push(character),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<(), YamlError> {
        let Some(kind) = self.rest().chars().next() else {
            return self.fail("a quoted text without an end");
        };
        self.position += kind.len_utf8();
        let digits = match kind {
            '0' => return push(text, '\0'),
            'a' => return push(text, '\u{7}'),
            'b' => return push(text, '\u{8}'),
            't' | '\t' => return push(text, '\t'),
            'n' => return push(text, '\n'),
            'v' => return push(text, '\u{b}'),
            'f' => return push(text, '\u{c}'),
            'r' => return push(text, '\r'),
            'e' => return push(text, '\u{1b}'),
            ' ' | '"' | '/' | '\\' => return push(text, kind),
            'N' => return push(text, '\u{85}'),
            '_' => return push(text, '\u{a0}'),
            'L' => return push(text, '\u{2028}'),
            'P' => return push(text, '\u{2029}'),
            '\n' | '\r' => {
                while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
                    self.position += 1;
                }
                return Ok(());
            }
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return self.fail("an escape that YAML does not know"),
        };
        let code = self
            .rest()
            .get(..digits)
            .filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|code| u32::from_str_radix(code, 16).ok())
            .and_then(char::from_u32);
        let Some(character) = code else {
            return self.fail("an escape that YAML does not know");
        };
        self.position += digits;
        push(text, character)
    }

    /// A text in block style, `|` or `>`.
    fn literal(&mut self, least: usize) -> Result<Value, YamlError> {
        let is_folded = self.peek() == Some(b'>');
        self.position += 1;
        let mut strip = None;
        while let Some(byte @ (b'+' | b'-' | b'0'..=b'9')) = self.peek() {
            if byte.is_ascii_digit() {
                return self.fail("a block text with a stated indentation");
            }
            strip = Some(byte);
            self.position += 1;
        }
        if !self.is_line_over() {
            return self.fail("something follows the start of a block text");
        }
        self.end_of_line();
        self.position = (self.position + 1).min(self.text.len());
        let mut lines: Vec<&str> = Vec::new();
        let mut indent = None;
        while self.position < self.text.len() {
            let rest = self.rest();
            let end = rest.find('\n').unwrap_or(rest.len());
            let line = rest.get(..end).unwrap_or("").trim_end_matches('\r');
            let content = line.trim_start_matches(' ');
            let column = line.len() - content.len();
            if content.is_empty() {
                lines.push("");
            } else {
                let wanted = *indent.get_or_insert(column);
                if column < wanted || column < least {
                    break;
                }
                lines.push(line.get(wanted..).unwrap_or(""));
            }
            self.position = (self.position + end + 1).min(self.text.len());
        }
        // The caller expects to stand at the end of a line.
        self.position = self.position.saturating_sub(1).max(1);
        while lines.last() == Some(&"") {
            lines.pop();
        }
        let mut text = lines.join(if is_folded { " " } else { "\n" });
        if strip != Some(b'-') {
            text.push('\n');
        }
        Ok(Value::String(text))
    }

    /// A value in flow style, `[…]` or `{…}`.
    fn flow(&mut self, depth: usize) -> Result<Value, YamlError> {
        self.enter(depth)?;
        let is_list = self.peek() == Some(b'[');
        let close = if is_list { b']' } else { b'}' };
        self.position += 1;
        let mut items = Vec::new();
        let mut entries = Map::new();
        loop {
            self.blank()?;
            if self.peek() == Some(close) {
                self.position += 1;
                break;
            }
            if is_list {
                items.push(self.flow_value(depth)?);
            } else {
                let Value::String(key) = self.flow_scalar()? else {
                    return self.fail("a key that is no text");
                };
                self.blank()?;
                if self.peek() != Some(b':') {
                    return self.fail("expected a colon");
                }
                self.position += 1;
                self.blank()?;
                if key == "<<" {
                    return self.danger("a merge key");
                }
                let value = if matches!(self.peek(), Some(b',' | b'}')) {
                    Value::Null
                } else {
                    self.flow_value(depth)?
                };
                if entries.insert(key.clone(), value).is_some() {
                    return self.fail(format!("the key {} appears twice", quote(&key)));
                }
            }
            self.blank()?;
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(byte) if byte == close => {}
                _ => return self.fail("expected a comma or an end"),
            }
        }
        Ok(if is_list {
            Value::Array(items)
        } else {
            Value::Object(entries)
        })
    }

    fn flow_value(&mut self, depth: usize) -> Result<Value, YamlError> {
        match self.peek() {
            Some(b'[' | b'{') => self.flow(depth + 1),
            _ => self.flow_scalar(),
        }
    }

    fn flow_scalar(&mut self) -> Result<Value, YamlError> {
        self.nodes += 1;
        self.enter(0)?;
        self.no_indicator()?;
        if matches!(self.peek(), Some(b'"' | b'\'')) {
            return self.quoted().map(Value::String);
        }
        let start = self.position;
        while let Some(byte) = self.peek() {
            let is_over = matches!(byte, b',' | b'[' | b']' | b'{' | b'}' | b'\n')
                || (byte == b':'
                    && (self.is_gap(1) || matches!(self.at(1), Some(b',' | b']' | b'}'))))
                || (byte == b'#'
                    && self.position > start
                    && self.bytes.get(self.position - 1) == Some(&b' '));
            if is_over {
                break;
            }
            self.position += 1;
        }
        let text = self.text.get(start..self.position).unwrap_or("").trim();
        if text.is_empty() {
            return self.fail("expected a value");
        }
        Ok(match text {
            "~" | "null" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => Value::String(text.to_owned()),
        })
    }
}

#[expect(clippy::unnecessary_wraps, reason = "shortens the table of escapes")]
fn push(text: &mut String, character: char) -> Result<(), YamlError> {
    text.push(character);
    Ok(())
}

/// Where the colon of a key lies within a line, if it has one.
fn key_end(line: &str) -> Option<usize> {
    let bytes = line.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        if *byte == b'#' && index > 0 && bytes.get(index - 1) == Some(&b' ') {
            return None;
        }
        if *byte == b':' && matches!(bytes.get(index + 1), None | Some(b' ' | b'\r')) {
            return Some(index);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(text: &str, expected: &Value) {
        assert_eq!(parse(text).as_ref(), Ok(expected), "{text}");
    }

    #[test]
    fn what_mlflow_and_conda_write_is_read() {
        check(
            "a: b\nc: 'it''s'\nd: \"x\\u00e9\"\n",
            &json!({"a": "b", "c": "it's", "d": "xé"}),
        );
        check(
            "a:\n  b: c\n  d:\n  - e\n  - f\ng: null\n",
            &json!({"a": {"b": "c", "d": ["e", "f"]}, "g": null}),
        );
        check(
            "d:\n- python=3.11\n- pip:\n  - mlflow\n  - x==1\nname: e",
            &json!({"d": ["python=3.11", {"pip": ["mlflow", "x==1"]}], "name": "e"}),
        );
        check(
            "a: '[{\"x\": 1,\n    \"y\": 2}]'\nb: {}\nc: []\n",
            &json!({"a": "[{\"x\": 1, \"y\": 2}]", "b": {}, "c": []}),
        );
        check(
            "---\n# comment\na: b # comment\n\nc: http://x/y#z\n",
            &json!({"a": "b", "c": "http://x/y#z"}),
        );
        check(
            "a: |\n  one\n  two\nb: >-\n  x\n  y\n",
            &json!({"a": "one\ntwo\n", "b": "x y"}),
        );
        check(
            "a: {b: [1, 2], c: {d: e}}",
            &json!({"a": {"b": ["1", "2"], "c": {"d": "e"}}}),
        );
        check("- a: 1\n  b: 2\n- c", &json!([{"a": "1", "b": "2"}, "c"]));
        check("a: one\n  two\nb: 3", &json!({"a": "one two", "b": "3"}));
        check(
            "a: -r requirements.txt\nb: '2026-11-20 23:17:54'",
            &json!({"a": "-r requirements.txt", "b": "2026-11-20 23:17:54"}),
        );
        check(
            "{\"a\": \"b\", \"c\": [true, null]}",
            &json!({"a": "b", "c": [true, null]}),
        );
        check(
            "- -r requirements.txt\n- - a\n  - b",
            &json!(["-r requirements.txt", ["a", "b"]]),
        );
        check("", &Value::Null);
    }

    #[test]
    fn what_constructs_or_expands_is_refused() {
        for text in [
            "a: !!python/object/apply:os.system [echo]",
            "!!python/name:os.system ''",
            "a: &x [1]\nb: *x",
            "a: [*x]",
            "a: [!!x y]",
            "<<: {a: b}",
            "- &a b",
            "%TAG ! tag:x,2000:\n---\na: b",
            "a: {b: !x c}",
            "!x a: b",
        ] {
            assert!(parse(text).is_err_and(|error| error.is_dangerous), "{text}");
        }
        let deep = "[".repeat(1000);
        assert!(parse(&deep).is_err_and(|error| error.is_dangerous));
    }

    #[test]
    fn what_readers_disagree_on_is_refused() {
        for text in [
            "a: b\na: c",
            "a: b: c",
            "? a\n: b",
            "a:\n\tb: c",
            "a: b\n---\nc: d",
            "a: 'x",
            "{a: 1, a: 2}",
            "a: [1",
            "a: 'b' c",
            "a: b\n  c: d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
