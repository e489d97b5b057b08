//! Chat templates: Jinja text that a loader renders, judged by its tokens against an allow-list.
//!
//! Template language: <https://jinja.palletsprojects.com/en/stable/templates/>.
//! Loaders render templates outside of a sandbox (CVE-2024-34359), where one attribute that begins with an underscore
//! leads to the interpreter.
//! Honest templates need few statements, filters, methods and functions, and no such attribute, so everything else is
//! refused.
//! What a subscript receives may be computed; whether a computed name can come to hold an underscore that the template
//! itself put there is followed through assignments, loops and macros.

use std::collections::{HashMap, HashSet};

/// Why a template is refused, and where in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateProblem {
    /// Byte offset within the template.
    pub offset: usize,
    /// What was found.
    pub detail: String,
}

/// Longest template; the longest published ones have some 30 KB.
pub const MAX_TEMPLATE_BYTES: usize = 1024 * 1024;

const STATEMENTS: &[&str] = &[
    "for",
    "endfor",
    "if",
    "elif",
    "else",
    "endif",
    "set",
    "endset",
    "macro",
    "endmacro",
    "call",
    "endcall",
    "filter",
    "endfilter",
    "break",
    "continue",
    "generation",
    "endgeneration",
    "with",
    "endwith",
    "do",
    "block",
    "endblock",
];
const FILTERS: &[&str] = &[
    "abs",
    "batch",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "from_json",
    "fromjson",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "to_json",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "wordwrap",
    "xmlattr",
];
/// Filters whose arguments name attributes or other filters.
const NAMING_FILTERS: &[&str] = &[
    "groupby",
    "join",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "select",
    "selectattr",
    "sort",
    "sum",
    "unique",
];
/// Filters that cannot put a string together.
const PLAIN_FILTERS: &[&str] = &[
    "abs",
    "count",
    "d",
    "default",
    "float",
    "from_json",
    "fromjson",
    "int",
    "items",
    "length",
    "lower",
    "round",
    "safe",
    "string",
    "trim",
    "upper",
    "wordcount",
];
const METHODS: &[&str] = &[
    "append",
    "capitalize",
    "copy",
    "count",
    "endswith",
    "extend",
    "find",
    "format",
    "get",
    "index",
    "insert",
    "isalnum",
    "isalpha",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "isupper",
    "items",
    "join",
    "keys",
    "lower",
    "lstrip",
    "partition",
    "pop",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rpartition",
    "rsplit",
    "rstrip",
    "setdefault",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "title",
    "update",
    "upper",
    "values",
    "zfill",
    "cycle",
    "changed",
    "strftime",
    "isoformat",
];
/// Methods that cannot put a string together.
const PLAIN_METHODS: &[&str] = &[
    "count",
    "endswith",
    "find",
    "get",
    "index",
    "items",
    "keys",
    "startswith",
    "values",
    "lower",
    "upper",
    "strip",
    "lstrip",
    "rstrip",
    "pop",
    "isdigit",
];
const FUNCTIONS: &[&str] = &[
    "raise_exception",
    "strftime_now",
    "namespace",
    "range",
    "dict",
    "caller",
    "tojson",
    "len",
    "get_current_date",
];
/// Names that lead to the environment of the renderer.
const FORBIDDEN_NAMES: &[&str] = &[
    "self",
    "cycler",
    "joiner",
    "lipsum",
    "config",
    "request",
    "session",
    "url_for",
    "get_flashed_messages",
    "import",
    "include",
    "extends",
    "from",
    "super",
    "eval",
    "exec",
    "open",
    "getattr",
    "globals",
    "locals",
    "vars",
    "os",
    "sys",
];
/// Prefixes of attributes of functions, generators, coroutines, frames and code objects.
const FORBIDDEN_ATTRIBUTES: &[&str] = &[
    "gi_",
    "cr_",
    "ag_",
    "f_globals",
    "f_builtins",
    "f_locals",
    "f_back",
    "f_code",
    "tb_",
    "func_",
    "im_",
    "co_",
    "mro",
    "format_map",
    "subclasses",
];

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Number(String),
    Mark(&'static str),
}

struct Placed {
    offset: usize,
    token: Token,
}

/// One `{{ … }}` or `{% … %}`.
struct Tag {
    statement: bool,
    tokens: Vec<Placed>,
}

const MARKS: &[&str] = &[
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "(", ")", "[", "]", "{", "}",
    ".", ",", ":", "|", "=", "<", ">", ";",
];

fn problem<T>(offset: usize, detail: impl Into<String>) -> Result<T, TemplateProblem> {
    Err(TemplateProblem {
        offset,
        detail: detail.into(),
    })
}

/// Judges `template`; `Ok` if nothing in it can reach beyond its inputs.
pub fn check_template(template: &str) -> Result<(), TemplateProblem> {
    if template.len() > MAX_TEMPLATE_BYTES {
        return problem(0, "the template is longer than any real one");
    }
    let tags = tokenize(template)?;
    let mut macros: HashSet<&str> = HashSet::new();
    for tag in &tags {
        if let [first, second, ..] = tag.tokens.as_slice()
            && tag.statement
            && matches!(&first.token, Token::Name(name) if name == "macro")
            && let Token::Name(name) = &second.token
        {
            macros.insert(name);
        }
    }
    for tag in &tags {
        check_tag(tag, &macros)?;
    }
    check_subscripts(&tags, &macros)
}

/// Splits the template into tags; text, comments and raw blocks vanish.
fn tokenize(template: &str) -> Result<Vec<Tag>, TemplateProblem> {
    let mut tags = Vec::new();
    let mut at = 0;
    while let Some(found) = template.get(at..).and_then(|rest| rest.find('{')) {
        let start = at + found;
        let rest = &template[start..];
        if rest.starts_with("{#") {
            match rest.find("#}") {
                Some(end) => at = start + end + 2,
                None => return problem(start, "a comment does not end"),
            }
        } else if rest.starts_with("{{") || rest.starts_with("{%") {
            let statement = rest.starts_with("{%");
            let (tokens, end) = tokenize_tag(template, start + 2, statement)?;
            at = end;
            if statement
                && matches!(tokens.first(), Some(Placed { token: Token::Name(name), .. }) if name == "raw")
            {
                if tokens.len() != 1 {
                    return problem(start, "a raw statement has arguments");
                }
                at = raw_end(template, end)
                    .map_or_else(|| problem(start, "a raw block does not end"), Ok)?;
                continue;
            }
            tags.push(Tag { statement, tokens });
        } else {
            at = start + 1;
        }
    }
    Ok(tags)
}

/// The end of the `{% endraw %}` that closes a raw block.
fn raw_end(template: &str, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let start = at + template.get(at..)?.find("{%")?;
        let inner = template.get(start + 2..)?;
        let word = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
        if let Some(after) = word.strip_prefix("endraw") {
            let after = after.trim_start();
            let after = after.strip_prefix(['-', '+']).unwrap_or(after);
            if let Some(rest) = after.strip_prefix("%}") {
                return Some(template.len() - rest.len());
            }
        }
        at = start + 2;
    }
}

fn tokenize_tag(
    template: &str,
    from: usize,
    statement: bool,
) -> Result<(Vec<Placed>, usize), TemplateProblem> {
    let close = if statement { "%}" } else { "}}" };
    let mut tokens = Vec::new();
    let mut at = from;
    let mut braces = 0usize;
    if template[at..].starts_with(['-', '+']) {
        at += 1;
    }
    loop {
        let rest = &template[at..];
        let Some(character) = rest.chars().next() else {
            return problem(from, "a tag does not end");
        };
        if character.is_whitespace() {
            at += character.len_utf8();
            continue;
        }
        if braces == 0 {
            if rest.starts_with(close) {
                return Ok((tokens, at + 2));
            }
            if (character == '-' || character == '+')
                && rest.get(1..).is_some_and(|rest| rest.starts_with(close))
            {
                return Ok((tokens, at + 3));
            }
        }
        let offset = at;
        let token = if character == '\'' || character == '"' {
            let (text, length) = read_string(rest, offset)?;
            at += length;
            Token::Text(text)
        } else if character.is_alphabetic() || character == '_' {
            let length = rest
                .find(|character: char| !(character.is_alphanumeric() || character == '_'))
                .unwrap_or(rest.len());
            at += length;
            let name = &rest[..length];
            if !name.is_ascii() {
                // Python folds such letters to ASCII, so the name may be another than it seems.
                return problem(offset, "a name has letters outside of ASCII");
            }
            Token::Name(name.to_owned())
        } else if character.is_ascii_digit() {
            let length = rest
                .find(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))
                .unwrap_or(rest.len());
            at += length;
            Token::Number(rest[..length].to_owned())
        } else if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
            at += mark.len();
            match *mark {
                "{" => braces += 1,
                "}" => braces = braces.saturating_sub(1),
                _ => {}
            }
            Token::Mark(mark)
        } else {
            return problem(
                offset,
                format!("the character {character:?} has no place in a template"),
            );
        };
        tokens.push(Placed { offset, token });
        if tokens.len() > 100_000 {
            return problem(offset, "a tag is longer than any real one");
        }
    }
}

/// Reads a string literal as Python would; answers its value and its length in the text.
fn read_string(rest: &str, offset: usize) -> Result<(String, usize), TemplateProblem> {
    let mut characters = rest.char_indices();
    let quote = characters.next().map(|(_, quote)| quote);
    let mut text = String::new();
    while let Some((at, character)) = characters.next() {
        if Some(character) == quote {
            return Ok((text, at + 1));
        }
        if character != '\\' {
            text.push(character);
            continue;
        }
        let Some((_, escape)) = characters.next() else {
            break;
        };
        match escape {
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            '\\' | '\'' | '"' => text.push(escape),
            '\n' => {}
            'x' | 'u' | 'U' => {
                let digits = match escape {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let mut code = 0u32;
                for _ in 0..digits {
                    let digit = characters.next().and_then(|(_, digit)| digit.to_digit(16));
                    let Some(digit) = digit else {
                        return problem(offset, "a string has a broken escape");
                    };
                    code = code.wrapping_mul(16).wrapping_add(digit);
                }
                text.push(char::from_u32(code).unwrap_or('\u{fffd}'));
            }
            '0'..='7' | 'N' => {
                return problem(offset, "a string spells a character by its number or name");
            }
            other => {
                text.push('\\');
                text.push(other);
            }
        }
    }
    problem(offset, "a string does not end")
}

/// Whether a string can serve as the name of a hidden attribute.
fn is_hidden_name(text: &str) -> bool {
    text.split('.').any(|part| {
        let inner = part.trim();
        let private = inner.strip_prefix('_').is_some_and(|rest| {
            !rest.is_empty()
                && rest
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        });
        private
            || FORBIDDEN_ATTRIBUTES
                .iter()
                .any(|attribute| inner.starts_with(attribute))
    })
}

/// Whether a string spells a special attribute of Python, wherever it stands.
fn is_special_name(text: &str) -> bool {
    contains_dunder(text) || text.split('.').any(|part| part.trim().starts_with("__"))
}

fn contains_dunder(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "class__",
        "__class",
        "__init",
        "init__",
        "globals__",
        "__glob",
        "builtins__",
        "__builtin",
        "__import",
        "import__",
        "subclasses__",
        "__subcl",
        "__base",
        "__mro",
        "mro__",
        "__dict",
        "__getattr",
        "__reduce",
        "__code",
        "__self__",
        "__module",
        "__call",
        "__new",
        "__func",
        "__loader",
    ];
    WORDS.iter().any(|word| text.contains(word))
}

fn check_tag(tag: &Tag, macros: &HashSet<&str>) -> Result<(), TemplateProblem> {
    let tokens = &tag.tokens;
    let mut start = 0;
    if tag.statement {
        match tokens.first() {
            Some(Placed {
                token: Token::Name(name),
                ..
            }) if STATEMENTS.contains(&name.as_str()) => start = 1,
            Some(first) => {
                return problem(
                    first.offset,
                    format!("the statement {:?} is not allowed", first.token),
                );
            }
            None => return Ok(()),
        }
    }
    let keyword = |at: usize| matches!(tokens.get(at), Some(Placed { token: Token::Name(name), .. }) if tag.statement && at == 0 && name == "filter");
    let mark = |at: Option<usize>, mark: &str| {
        at.and_then(|at| tokens.get(at))
            .is_some_and(|placed| matches!(placed.token, Token::Mark(found) if found == mark))
    };
    // Which call each open bracket belongs to: `Some(filter)` if it is a filter that takes names.
    let mut brackets: Vec<Option<&str>> = Vec::new();
    for at in start..tokens.len() {
        let offset = tokens[at].offset;
        let before = at.checked_sub(1);
        match &tokens[at].token {
            Token::Name(name) => {
                let called = mark(Some(at + 1), "(");
                let is_test = matches!(before.map(|at| &tokens[at].token), Some(Token::Name(word)) if word == "is" || word == "not");
                if mark(before, "|") || (before == Some(0) && keyword(0)) {
                    if !FILTERS.contains(&name.as_str()) {
                        return problem(offset, format!("the filter `{name}` is not allowed"));
                    }
                } else if mark(before, ".") {
                    if name.starts_with('_')
                        || FORBIDDEN_ATTRIBUTES
                            .iter()
                            .any(|known| name.starts_with(known))
                    {
                        return problem(
                            offset,
                            format!("the attribute `{name}` leads to the interpreter"),
                        );
                    }
                    if called
                        && !METHODS.contains(&name.as_str())
                        && !macros.contains(name.as_str())
                    {
                        return problem(offset, format!("the method `{name}` is not allowed"));
                    }
                    if name == "format" {
                        let receiver = at.checked_sub(2).map(|at| &tokens[at].token);
                        let plain =
                            matches!(receiver, Some(Token::Text(text)) if is_plain_format(text));
                        if !plain || !called {
                            return problem(
                                offset,
                                "`format` can reach attributes of its arguments",
                            );
                        }
                    }
                } else {
                    if name.len() > 1 && name.starts_with('_') && name.starts_with("__") {
                        return problem(offset, format!("the name `{name}` is not allowed"));
                    }
                    let is_keyword_argument = mark(Some(at + 1), "=") && !brackets.is_empty();
                    let is_test_of = matches!(tokens.get(at + 1).map(|next| &next.token), Some(Token::Name(word)) if word == "is");
                    if macros.contains(name.as_str())
                        && !called
                        && !is_keyword_argument
                        && !is_test_of
                    {
                        return problem(
                            offset,
                            format!("the macro `{name}` is passed on as a value"),
                        );
                    }
                    if FORBIDDEN_NAMES.contains(&name.as_str()) && !is_keyword_argument {
                        return problem(
                            offset,
                            format!("the name `{name}` leads to the environment of the renderer"),
                        );
                    }
                    let defines = tag.statement && at == 1;
                    let is_operator = matches!(
                        name.as_str(),
                        "in" | "not" | "and" | "or" | "if" | "else" | "is" | "recursive" | "elif"
                    );
                    if called
                        && !is_operator
                        && !is_test
                        && !defines
                        && !FUNCTIONS.contains(&name.as_str())
                        && !macros.contains(name.as_str())
                        && name != "loop"
                    {
                        return problem(offset, format!("the function `{name}` is not allowed"));
                    }
                }
            }
            Token::Text(text) => {
                let looks_up = mark(before, "[") || matches!(brackets.last(), Some(Some(_)));
                if is_special_name(text) || (looks_up && is_hidden_name(text)) {
                    return problem(offset, "a string spells a hidden attribute");
                }
                if let Some(Some(filter)) = brackets.last()
                    && (text == "attr"
                        || (*filter == "map"
                            && at > 0
                            && mark(before, "(")
                            && !FILTERS.contains(&text.as_str())))
                {
                    return problem(
                        offset,
                        format!("`{filter}` is given a filter that is not allowed"),
                    );
                }
                if has_huge_width(text) {
                    return problem(offset, "a format is wide enough to exhaust the renderer");
                }
                if text.len() > 65_536 {
                    return problem(offset, "a string is longer than any real one");
                }
            }
            Token::Number(number) => {
                let digits = number.chars().filter(char::is_ascii_digit).count();
                if digits > 7 {
                    return problem(offset, "a number is large enough to exhaust the renderer");
                }
            }
            Token::Mark("**")
                if !brackets.is_empty() && (mark(before, "(") || mark(before, ",")) => {}
            Token::Mark("**") => return problem(offset, "powers can exhaust the renderer"),
            Token::Mark("(" | "[" | "{") => {
                let filter = before.and_then(|name| match &tokens[name].token {
                    Token::Name(filter)
                        if mark(Some(at), "(")
                            && NAMING_FILTERS.contains(&filter.as_str())
                            && mark(name.checked_sub(1), "|") =>
                    {
                        Some(filter.as_str())
                    }
                    _ => None,
                });
                // Calling the result of an expression could call anything.
                if mark(Some(at), "(") && (mark(before, ")") || mark(before, "]")) {
                    return problem(offset, "the result of an expression is called");
                }
                brackets.push(filter);
            }
            Token::Mark(")" | "]" | "}") => {
                if brackets.pop().is_none() {
                    return problem(offset, "a bracket is closed that was not opened");
                }
            }
            Token::Mark(_) => {}
        }
    }
    Ok(())
}

/// Whether a text is a format with a field of a hundred thousand characters or more.
fn has_huge_width(text: &str) -> bool {
    let mut digits = 0;
    let mut in_field = false;
    for character in text.chars() {
        match character {
            '%' | '{' | ':' => (in_field, digits) = (true, 0),
            '0'..='9' if in_field => digits += 1,
            '-' | '+' | ' ' | '#' | '.' | '<' | '>' | '^' | '=' | '*' => digits = 0,
            _ => (in_field, digits) = (false, 0),
        }
        if digits >= 6 {
            return true;
        }
    }
    false
}

/// Whether a format string has only plain fields, without attributes or items.
fn is_plain_format(text: &str) -> bool {
    let mut inside = false;
    for character in text.chars() {
        match character {
            '{' => inside = true,
            '}' => inside = false,
            '.' | '[' if inside => return false,
            _ => {}
        }
    }
    true
}

/// What a name may hold: a string with an underscore that the template put there, or one that was put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Input,
    Underscore,
    Built,
}

fn origin(tokens: &[Placed], names: &HashMap<&str, Origin>, macros: &HashSet<&str>) -> Origin {
    let mut worst = Origin::Input;
    let mut builds = false;
    for (at, placed) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| &tokens[at].token);
        match &placed.token {
            Token::Text(text) => {
                let is_key = matches!(before, Some(Token::Mark("[")))
                    && matches!(
                        tokens.get(at + 1).map(|next| &next.token),
                        Some(Token::Mark("]"))
                    )
                    && matches!(
                        at.checked_sub(2).map(|at| &tokens[at].token),
                        Some(Token::Name(_) | Token::Mark("]" | ")"))
                    );
                if !is_key && (text.contains('_') || (text.contains('%') && text.contains('c'))) {
                    worst = worst.max(Origin::Underscore);
                }
                if !is_key && is_hidden_name(text) {
                    worst = Origin::Built;
                }
            }
            Token::Name(name) => {
                worst = worst.max(names.get(name.as_str()).copied().unwrap_or(Origin::Input));
                let called = matches!(
                    tokens.get(at + 1).map(|next| &next.token),
                    Some(Token::Mark("("))
                );
                match before {
                    Some(Token::Mark("|")) => {
                        builds |= !PLAIN_FILTERS.contains(&name.as_str());
                        // These spell names of functions or of keywords.
                        if matches!(name.as_str(), "string" | "tojson" | "urlencode" | "xmlattr") {
                            worst = worst.max(Origin::Underscore);
                        }
                    }
                    Some(Token::Mark(".")) => {
                        builds |= called && !PLAIN_METHODS.contains(&name.as_str());
                    }
                    _ if macros.contains(name.as_str()) && called => return Origin::Built,
                    _ if name == "caller" && called => return Origin::Built,
                    // Its keywords become strings.
                    _ if name == "dict" && called => worst = worst.max(Origin::Underscore),
                    _ => {}
                }
            }
            Token::Mark("~" | "+" | "%" | "*" | ":") => builds = true,
            Token::Mark(_) | Token::Number(_) => {}
        }
    }
    if builds && worst >= Origin::Underscore {
        Origin::Built
    } else {
        worst
    }
}

/// Follows computed strings to the subscripts and filters that look up a name.
fn check_subscripts(tags: &[Tag], macros: &HashSet<&str>) -> Result<(), TemplateProblem> {
    let mut names: HashMap<&str, Origin> = HashMap::new();
    // Three rounds carry an origin through loops that assign in turn; the fourth must find nothing new.
    for round in 0..6 {
        let before = names.clone();
        for tag in tags {
            assign(tag, &mut names, macros);
        }
        if names == before {
            break;
        }
        if round == 5 {
            return problem(0, "assignments depend on one another too deeply to follow");
        }
    }
    for tag in tags {
        let tokens = &tag.tokens;
        let mut open: Vec<(usize, bool)> = Vec::new();
        for (at, placed) in tokens.iter().enumerate() {
            let before = at.checked_sub(1).map(|at| &tokens[at].token);
            match &placed.token {
                Token::Mark("[") => {
                    let subscript = match before {
                        Some(Token::Name(name)) => !matches!(
                            name.as_str(),
                            "in" | "if" | "else" | "and" | "or" | "not" | "elif" | "is"
                        ),
                        Some(Token::Text(_) | Token::Mark(")" | "]" | "}")) => true,
                        _ => false,
                    };
                    open.push((at, subscript));
                }
                Token::Mark("(") => {
                    let names_something = matches!(before, Some(Token::Name(name))
                        if NAMING_FILTERS.contains(&name.as_str()) && name != "join"
                            && matches!(at.checked_sub(2).map(|at| &tokens[at].token), Some(Token::Mark("|"))));
                    open.push((at, names_something));
                }
                Token::Mark("{") => open.push((at, false)),
                Token::Mark(")" | "]" | "}") => {
                    if let Some((start, true)) = open.pop() {
                        let inner = &tokens[start + 1..at];
                        let is_slice = inner.iter().any(|placed| placed.token == Token::Mark(":"));
                        if !is_slice && origin(inner, &names, macros) == Origin::Built {
                            return problem(
                                placed.offset,
                                "a name that the template puts together is looked up",
                            );
                        }
                    }
                }
                _ => {}
            }
        }
        if open.len() > 1000 {
            return problem(0, "brackets are nested too deeply");
        }
    }
    Ok(())
}

/// Stands for the arguments of all calls to macros; no name of a template can be spelled so.
const ARGUMENTS: &str = "(arguments)";

/// Carries the origin of the values to the names that a statement assigns.
fn assign<'t>(tag: &'t Tag, names: &mut HashMap<&'t str, Origin>, macros: &HashSet<&str>) {
    fn raise<'t>(names: &mut HashMap<&'t str, Origin>, targets: &'t [Placed], value: Origin) {
        for placed in targets {
            if let Token::Name(name) = &placed.token {
                let known = names.entry(name).or_insert(Origin::Input);
                *known = (*known).max(value);
            }
        }
    }
    let tokens = tag.tokens.as_slice();
    let word = match tokens.first() {
        Some(Placed {
            token: Token::Name(name),
            ..
        }) if tag.statement => name.as_str(),
        _ => "",
    };
    let arguments = names.get(ARGUMENTS).copied().unwrap_or(Origin::Input);
    let is_mark = |at: usize, mark: &str| matches!(tokens.get(at), Some(Placed { token: Token::Mark(found), .. }) if *found == mark);
    match word {
        "set" | "with" => {
            let equals = tokens
                .iter()
                .position(|placed| placed.token == Token::Mark("="));
            match equals {
                Some(equals) => {
                    let value = origin(&tokens[equals + 1..], names, macros);
                    raise(names, &tokens[1..equals], value);
                    // `with` assigns several names in one statement.
                    for at in equals..tokens.len() {
                        if word == "with" && is_mark(at + 1, "=") {
                            raise(names, &tokens[at..=at], value);
                        }
                    }
                }
                // A block that is captured can spell anything.
                None if word == "set" => raise(names, &tokens[1..], Origin::Built),
                None => {}
            }
        }
        "for" => {
            let of = tokens
                .iter()
                .position(|placed| matches!(&placed.token, Token::Name(name) if name == "in"));
            if let Some(of) = of {
                let value = origin(&tokens[of + 1..], names, macros);
                // A recursive loop runs over what it is called with.
                let is_recursive = tokens.iter().any(
                    |placed| matches!(&placed.token, Token::Name(name) if name == "recursive"),
                );
                let value = if is_recursive {
                    value.max(arguments)
                } else {
                    value
                };
                raise(names, &tokens[1..of], value);
            }
        }
        "macro" | "call" => {
            // Which argument goes where is not followed; underscores within arguments are usual, so that only what was
            // put together counts. Defaults of parameters count in the same way.
            let defaults = if word == "macro" {
                origin(tokens.get(2..).unwrap_or_default(), names, macros)
            } else {
                Origin::Input
            };
            if arguments.max(defaults) == Origin::Built {
                raise(names, tokens.get(1..).unwrap_or_default(), Origin::Built);
            }
        }
        _ => {}
    }
    if arguments == Origin::Built {
        names.insert("varargs", Origin::Built);
        names.insert("kwargs", Origin::Built);
    }
    let mut open: Vec<usize> = Vec::new();
    for (index, placed) in tokens.iter().enumerate() {
        match &placed.token {
            Token::Mark("(") => open.push(index),
            Token::Mark(")") => {
                let Some(start) = open.pop() else { continue };
                let Some(Token::Name(callee)) = start.checked_sub(1).map(|at| &tokens[at].token)
                else {
                    continue;
                };
                let value = origin(&tokens[start + 1..index], names, macros);
                let passes_on = macros.contains(callee.as_str())
                    || matches!(callee.as_str(), "caller" | "loop");
                if passes_on && word != "macro" {
                    let known = names.entry(ARGUMENTS).or_insert(Origin::Input);
                    *known = (*known).max(value);
                }
                // The receiver holds the value from then on.
                if matches!(
                    callee.as_str(),
                    "append" | "extend" | "insert" | "update" | "setdefault"
                ) {
                    let receiver = start.saturating_sub(3);
                    raise(names, &tokens[receiver..=receiver], value);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check_template;

    #[test]
    fn honest_templates_pass() {
        for template in [
            "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' ~ message.content | trim }}{% endfor %}",
            "{%- set loop_messages = messages[1:] %}{{ messages[::-1][0]['tool_calls'] | tojson(indent=4) }}",
            "{% set ns = namespace(found=false, last_index=0) %}{% set ns.last_index = ns.last_index + 1 %}{{ messages[ns.last_index] }}",
            "{% macro render(d, keys) %}{% for k in d if k not in keys %}{{ k ~ '_x' }}{{ d[k] }}{% endfor %}{% endmacro %}{{ render(tool, ['a_b']) }}",
            "{{ raise_exception('no ' + role + '!') if x is defined else messages | selectattr('role', 'equalto', 'user') | list | length }}",
            "{{ strftime_now('%d %b %Y') }}{% if message.content is string and 'tool_calls' in message %}{% endif %}{{ {'a': 1}['a'] }}",
            "{{ tools | map(attribute='function') | list }}{{ (messages|length - 1) - loop.index0 }}{# __class__ #}",
            "{% raw %}{{ x.__class__ }}{% endraw %}{% generation %}{{ \"{}: {}\".format(a, b) }}{% endgeneration %}",
        ] {
            assert_eq!(check_template(template), Ok(()), "{template}");
        }
    }

    #[test]
    fn ways_to_the_interpreter_are_refused() {
        for template in [
            "{{ x.__class__ }}",
            "{{ x['__class__'] }}",
            r"{{ self['\x5f\x5finit\x5f\x5f'] }}",
            r"{{ x['\u005f\u005finit\u005f\u005f'] }}",
            "{{ x|attr('__in'~'it__') }}",
            "{{ x | attr ( y ) }}",
            "{{ x|map('attr', y) }}",
            "{{ [x]|map(attribute='a.__class__') }}",
            "{{ [x]|map(attribute='_'~'_class_'~'_') }}",
            "{{ x['_'~'_class_'~'_'] }}",
            "{{ x['_' '_class_' '_'] }}",
            "{% set a = '_'~'_class_'~'_' %}{{ x[a] }}",
            "{% set a = '_'*2 %}{% set b = a ~ 'class' ~ a %}{{ x[b] }}",
            "{% set a %}_{% endset %}{{ x[a] }}",
            "{% for k in ['_'~'_class_'~'_'] %}{{ x[k] }}{% endfor %}",
            "{% macro m() %}_{% endmacro %}{{ x[m()] }}",
            "{% macro m(k) %}{{ x[k] }}{% endmacro %}{{ m('_'~'_class_'~'_') }}",
            "{{ x[['_','_class','_','_']|join] }}",
            "{{ x['%c%cclass%c%c' % (95,95,95,95)] }}",
            "{{ '{0.__class__}'.format(x) }}",
            "{{ '{0.a}'.format(x) }}",
            "{{ y.format(x) }}",
            "{{ lipsum.a }}",
            "{{ cycler.x }}",
            "{% include 'x' %}",
            "{% import 'x' as y %}",
            "{{ x() }}",
            "{{ x.system('id') }}",
            "{{ x['a']() }}",
            "{{ range(999999999) }}",
            "{{ 9 ** 9 ** 9 }}",
            "{{ x.gi_frame }}",
            "{%- raw -%}{%- endraw -%}{{ x.__class__ }}",
            "{% with a=1, b='_'~'_class_'~'_' %}{{ x[b] }}{% endwith %}",
            "{% macro m(k='_'~'_class_'~'_') %}{{ x[k] }}{% endmacro %}{{ m() }}",
            "{% macro m() %}{{ x[varargs[0]] }}{% endmacro %}{{ m('_'~'_class_'~'_') }}",
            "{% macro m(k) %}{{ x[k] }}{% endmacro %}{% set ns = namespace(get=m) %}{{ ns.get('_'~'_class_'~'_') }}",
            "{% macro m() %}{{ caller('_'~'_class_'~'_') }}{% endmacro %}{% call(k) m() %}{{ x[k] }}{% endcall %}",
            "{% for k in [1] recursive %}{{ x[k] }}{{ loop(['_'~'_class_'~'_']) }}{% endfor %}",
            "{% set l = [] %}{% set _ = l.append('_'~'_class_'~'_') %}{{ x[l[0]] }}",
            "{% filter attr('a') %}x{% endfilter %}",
            "{{ x[dict(_=1)|list|first ~ '_class'] }}",
            "{% set n = namespace(a='_') %}{% set n.a = n.a ~ '_class_' ~ n.a %}{{ x[n.a] }}",
            "{{ x ",
        ] {
            assert!(check_template(template).is_err(), "{template}");
        }
    }
}
