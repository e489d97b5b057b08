//! Model repositories of Triton Inference Server: `<model>/config.pbtxt` beside numbered versions, by `model_config.proto`.
//!
//! The configuration names the backend, a shared library or Python that runs the model, and files that the server opens.

use crate::bundle::Bundle;
use crate::check::Check;
use crate::cursor::{Trouble, quote, read_small, settle};
use crate::mlflow::Directory;
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::ReadError;
use serde_json::{Value, json};

/// The rules of this format.
pub const RULES: &[Rule] = &[MALFORMED, CODE, PATH, BACKEND, MISSING];

const MALFORMED: Rule = Rule {
    id: "triton.malformed",
    verdict: Verdict::Malformed,
    why: "The server refuses a configuration that is no text-format protobuf, or reads it differently.",
    fix: "Write the configuration by Triton's schema.",
};
const CODE: Rule = Rule {
    id: "triton.contains-code",
    verdict: Verdict::ContainsCode,
    why: "The server runs the Python or the native code that the model brings.",
    fix: "Use a backend that loads data only, or ask for an approval.",
};
const PATH: Rule = Rule {
    id: "triton.path-escape",
    verdict: Verdict::Unsafe,
    why: "The server would open a file outside of the model's directory.",
    fix: "Name files relative to the directory of the version.",
};
const BACKEND: Rule = Rule {
    id: "triton.unknown-backend",
    verdict: Verdict::ContainsCode,
    why: "A backend is a shared library that the server loads; this one is none of Triton's.",
    fix: "Use a backend that comes with Triton, or ask for an approval.",
};
const MISSING: Rule = Rule {
    id: "triton.missing-file",
    verdict: Verdict::Malformed,
    why: "The server needs a file that is not part of the version.",
    fix: "Upload the whole model directory.",
};

const MAX_BYTES: u64 = 1024 * 1024;
const MAX_DEPTH: usize = 32;
const MAX_FIELDS: usize = 50_000;

/// Backends that come with Triton and load data.
const BACKENDS: &[&str] = &[
    "onnxruntime",
    "tensorflow",
    "tensorrt",
    "tensorrtllm",
    "openvino",
    "fil",
    "dali",
    "identity",
    "square",
    "repeat",
    "ensemble",
    "vllm",
];

/// Names of platforms from before backends had names.
const PLATFORMS: &[&str] = &[
    "onnxruntime_onnx",
    "tensorrt_plan",
    "tensorflow_graphdef",
    "tensorflow_savedmodel",
    "ensemble",
];

/// Tells whether this is the configuration of a model.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    path.rsplit('/')
        .next()
        .is_some_and(|name| name == "config.pbtxt")
        && crate::environment::is_text(head)
}

/// Tells whether the bundle holds a repository.
pub fn detect_bundle(bundle: &Bundle<'_>) -> bool {
    bundle
        .files()
        .iter()
        .any(|file| file.path == "config.pbtxt" || file.path.ends_with("/config.pbtxt"))
}

/// Inspects the model whose configuration this is.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    check_bundle(check)
}

/// Inspects the model whose configuration this is.
pub fn check_bundle(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = inspect(check);
    settle(check, outcome, &MALFORMED, &MALFORMED)?;
    Ok(())
}

fn inspect(check: &mut Check<'_>) -> Result<(), Trouble> {
    let bytes = read_small(check.source, MAX_BYTES)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| Trouble::malformed(error.valid_up_to() as u64, "not UTF-8"))?;
    let fields = parse(text)?;
    let directory = Directory::of(check);
    let get = |path: &str| {
        fields
            .iter()
            .find(|field| field.path == path)
            .map(|field| field.value.as_str())
            .filter(|value| !value.is_empty())
    };
    let backend = get("backend");
    let platform = get("platform");
    let runtime = get("runtime");
    match (backend, platform) {
        (Some("python"), _) => check.find(&CODE, None, "the backend is Python"),
        (Some("pytorch"), _) | (_, Some("pytorch_libtorch")) => {
            check.find(&CODE, None, "the backend runs TorchScript");
        }
        (Some(name), _) if !BACKENDS.contains(&name) => {
            check.find(&BACKEND, None, format!("the backend {}", quote(name)));
        }
        (None, Some(name)) if !PLATFORMS.contains(&name) => {
            check.find(&BACKEND, None, format!("the platform {}", quote(name)));
        }
        _ => {}
    }
    if let Some(runtime) = runtime {
        check.find(&BACKEND, None, format!("the runtime {}", quote(runtime)));
    }
    let sources: Vec<&str> = directory
        .paths()
        .filter(|path| {
            let lower = path.to_ascii_lowercase();
            [".py", ".pyc", ".so", ".dll", ".dylib"]
                .iter()
                .any(|ending| lower.ends_with(ending))
        })
        .take(10)
        .collect();
    for path in sources {
        check.find(&CODE, None, format!("{} is code", quote(path)));
    }
    if backend == Some("vllm") {
        remote_code(check, &directory)?;
    }
    files(check, &directory, &fields);
    check.fact("name", get("name"));
    check.fact("backend", backend.or(platform));
    check.fact("max_batch_size", get("max_batch_size"));
    let tensors = |kind: &str| -> Vec<Value> {
        let mut tensors: Vec<(usize, serde_json::Map<String, Value>)> = Vec::new();
        for field in &fields {
            let Some(name) = field
                .path
                .strip_prefix(kind)
                .and_then(|rest| rest.strip_prefix('.'))
            else {
                continue;
            };
            if tensors.last().is_none_or(|(item, _)| *item != field.item) {
                tensors.push((field.item, serde_json::Map::new()));
            }
            if let Some((_, tensor)) = tensors.last_mut() {
                match (name, tensor.get_mut(name)) {
                    ("dims", Some(Value::Array(dims))) => dims.push(json!(field.value)),
                    ("dims", None) => {
                        tensor.insert(name.to_owned(), json!([field.value]));
                    }
                    ("name" | "data_type", None) => {
                        tensor.insert(name.to_owned(), json!(field.value));
                    }
                    _ => {}
                }
            }
        }
        tensors
            .into_iter()
            .map(|(_, tensor)| Value::Object(tensor))
            .collect()
    };
    check.fact(
        "signature",
        json!({"inputs": tensors("input"), "outputs": tensors("output")}),
    );
    let versions: std::collections::BTreeSet<&str> = directory
        .paths()
        .filter_map(|path| path.split_once('/'))
        .map(|(version, _)| version)
        .filter(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    let is_ensemble = platform == Some("ensemble") || backend == Some("ensemble");
    if versions.is_empty() && !is_ensemble && check.path.ends_with("config.pbtxt") {
        check.find(&MISSING, None, "no directory of a version");
    }
    check.fact("versions", json!(versions));
    Ok(())
}

/// The arguments of vLLM may ask it to import code from the repository of the model.
fn remote_code(check: &mut Check<'_>, directory: &Directory<'_>) -> Result<(), Trouble> {
    let paths: Vec<&str> = directory
        .paths()
        .filter(|path| path.ends_with("/model.json"))
        .collect();
    for path in paths {
        let Some(file) = directory.find(path) else {
            continue;
        };
        let bytes = read_small(file.source, MAX_BYTES)?;
        let asks = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|arguments| arguments.get("trust_remote_code").cloned())
            .is_some_and(|value| value != Value::Bool(false) && value != Value::Null);
        if asks {
            check.find(&CODE, None, format!("{} trusts remote code", quote(path)));
        }
    }
    Ok(())
}

/// Fields that name files of the model, and parameters that backends take for paths.
fn files(check: &mut Check<'_>, directory: &Directory<'_>, fields: &[Field]) {
    for field in fields {
        let name = field.path.rsplit('.').next().unwrap_or("");
        let is_file = matches!(
            name,
            "default_model_filename"
                | "label_filename"
                | "filename"
                | "input_data_file"
                | "cc_model_filenames"
        );
        let is_free = matches!(name, "string_value" | "value" | "key");
        let is_up = field.value.split(['/', '\\']).any(|part| part == "..");
        if is_file && !crate::environment::is_inside(&field.value) && !field.value.is_empty()
            || is_free && is_up
        {
            check.find(
                &PATH,
                None,
                format!("`{}` is {}", field.path, quote(&field.value)),
            );
        } else if name == "string_value" && field.value.starts_with('/') {
            let is_code = [".so", ".tar.gz", ".py"]
                .iter()
                .any(|ending| field.value.ends_with(ending));
            let rule = if is_code { &CODE } else { &PATH };
            check.find(
                rule,
                None,
                format!("a parameter is {}", quote(&field.value)),
            );
        } else if name == "key"
            && matches!(
                field.value.as_str(),
                "EXECUTION_ENV_PATH" | "op_library_filename"
            )
        {
            check.find(
                &CODE,
                None,
                format!("the parameter {}", quote(&field.value)),
            );
        } else if name == "label_filename"
            && !field.value.is_empty()
            && directory.find(&field.value).is_none()
        {
            check.find(
                &MISSING,
                None,
                format!("the labels {}", quote(&field.value)),
            );
        }
        if name == "op_library_filename" {
            check.find(&CODE, None, format!("the library {}", quote(&field.value)));
        }
    }
}

/// One scalar of the configuration, with the names of the messages around it.
#[derive(Debug, PartialEq, Eq)]
struct Field {
    path: String,
    value: String,
    /// Which message at the first level it lies in.
    item: usize,
}

/// Reads text-format protobuf into its scalars.
fn parse(text: &str) -> Result<Vec<Field>, Trouble> {
    let mut tokens = Tokens { text, position: 0 };
    let mut fields = Vec::new();
    // Names of open messages, what closes each, and whether it is one of a list.
    let mut open: Vec<(String, char, bool)> = Vec::new();
    let mut item = 0;
    loop {
        let at = tokens.position as u64;
        let broken = |what: &str| Trouble::malformed(at, what.to_owned());
        let Some(token) = tokens.next()? else {
            return if open.is_empty() {
                Ok(fields)
            } else {
                Err(broken("a message without an end"))
            };
        };
        if fields.len() > MAX_FIELDS {
            return Err(broken("too many fields"));
        }
        let name = match token {
            Token::Mark(close @ ('}' | '>')) => {
                let Some((name, expected, is_list)) = open.pop() else {
                    return Err(broken("an end without a start"));
                };
                if close != expected {
                    return Err(broken("an end that does not fit its start"));
                }
                if is_list {
                    // Another message of the list, or its end.
                    match tokens.next()? {
                        Some(Token::Mark(',')) => match tokens.next()? {
                            Some(Token::Mark(mark @ ('{' | '<'))) => {
                                item += 1;
                                let close = if mark == '{' { '}' } else { '>' };
                                open.push((name, close, true));
                            }
                            _ => return Err(broken("expected a message")),
                        },
                        Some(Token::Mark(']')) => tokens.separator(),
                        _ => return Err(broken("expected a comma or the end of a list")),
                    }
                } else {
                    tokens.separator();
                }
                continue;
            }
            Token::Word(name) => name,
            _ => return Err(broken("expected a field")),
        };
        let path = open
            .iter()
            .map(|(name, _, _)| name.as_str())
            .chain([name.as_str()])
            .collect::<Vec<_>>()
            .join(".");
        let mut next = tokens.next()?;
        let has_colon = next == Some(Token::Mark(':'));
        if has_colon {
            next = tokens.next()?;
        }
        if open.is_empty() {
            item += 1;
        }
        match next {
            Some(Token::Mark(mark @ ('{' | '<'))) => {
                if open.len() >= MAX_DEPTH {
                    return Err(broken("nested too deeply"));
                }
                let close = if mark == '{' { '}' } else { '>' };
                open.push((name, close, false));
            }
            Some(Token::Mark('[')) => match tokens.next()? {
                Some(Token::Mark(']')) => tokens.separator(),
                Some(Token::Mark(mark @ ('{' | '<'))) => {
                    if open.len() >= MAX_DEPTH {
                        return Err(broken("nested too deeply"));
                    }
                    let close = if mark == '{' { '}' } else { '>' };
                    open.push((name, close, true));
                }
                mut value => {
                    loop {
                        let Some(Token::Word(word) | Token::Text(word)) = value else {
                            return Err(broken("expected a value"));
                        };
                        fields.push(Field {
                            path: path.clone(),
                            value: word,
                            item,
                        });
                        match tokens.next()? {
                            Some(Token::Mark(',')) => value = tokens.next()?,
                            Some(Token::Mark(']')) => break,
                            _ => return Err(broken("expected a comma or the end of a list")),
                        }
                    }
                    tokens.separator();
                }
            },
            Some(Token::Word(value)) if has_colon => {
                fields.push(Field { path, value, item });
                tokens.separator();
            }
            Some(Token::Text(mut value)) if has_colon => {
                // Texts that follow one another are one.
                loop {
                    let before = tokens.position;
                    if let Some(Token::Text(more)) = tokens.next()? {
                        value.push_str(&more);
                    } else {
                        tokens.position = before;
                        break;
                    }
                }
                fields.push(Field { path, value, item });
                tokens.separator();
            }
            _ => return Err(broken("expected a value")),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Mark(char),
}

struct Tokens<'a> {
    text: &'a str,
    position: usize,
}

impl Tokens<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.position..).unwrap_or("")
    }

    fn blank(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            let skipped = rest.len() - trimmed.len();
            let comment = if trimmed.starts_with('#') {
                trimmed.find('\n').unwrap_or(trimmed.len())
            } else {
                0
            };
            self.position += skipped + comment;
            if comment == 0 {
                return;
            }
        }
    }

    /// Passes over the comma or semicolon that may follow a field.
    fn separator(&mut self) {
        self.blank();
        if self.rest().starts_with([',', ';']) {
            self.position += 1;
        }
    }

    fn next(&mut self) -> Result<Option<Token>, Trouble> {
        self.blank();
        let at = self.position as u64;
        let Some(first) = self.rest().chars().next() else {
            return Ok(None);
        };
        if matches!(first, '"' | '\'') {
            self.position += 1;
            let mut value = String::new();
            loop {
                let Some(character) = self.rest().chars().next() else {
                    return Err(Trouble::malformed(at, "a text without an end"));
                };
                self.position += character.len_utf8();
                match character {
                    '\n' => return Err(Trouble::malformed(at, "a text without an end")),
                    '\\' => {
                        let escaped = self.rest().chars().next();
                        match escaped {
                            Some(plain @ ('"' | '\'' | '\\' | '/')) => {
                                self.position += 1;
                                value.push(plain);
                            }
                            Some('n') => {
                                self.position += 1;
                                value.push('\n');
                            }
                            Some('t') => {
                                self.position += 1;
                                value.push('\t');
                            }
                            // Escapes by number could spell a path that is not seen here.
                            _ => return Err(Trouble::malformed(at, "an escape by number")),
                        }
                    }
                    quote if quote == first => return Ok(Some(Token::Text(value))),
                    character => value.push(character),
                }
            }
        }
        let is_word =
            |character: char| character.is_ascii_alphanumeric() || "_.-+".contains(character);
        if is_word(first) {
            let rest = self.rest();
            let end = rest
                .find(|character: char| !is_word(character))
                .unwrap_or(rest.len());
            let word = rest.get(..end).unwrap_or("").to_owned();
            self.position += end;
            return Ok(Some(Token::Word(word)));
        }
        if "{}<>[]:,;".contains(first) {
            self.position += 1;
            return Ok(Some(Token::Mark(first)));
        }
        Err(Trouble::malformed(
            at,
            "a character that has no meaning here",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::BundleFile;
    use crate::inspect::Limits;
    use bytes::Bytes;

    fn run(text: &str, others: &[&str]) -> (Verdict, serde_json::Map<String, Value>) {
        let source = Bytes::copy_from_slice(text.as_bytes());
        let empty = Bytes::new();
        let mut files = vec![BundleFile {
            path: "m/config.pbtxt",
            source: &source,
        }];
        files.extend(others.iter().map(|path| BundleFile {
            path,
            source: &empty,
        }));
        let bundle = Bundle::new(files);
        let limits = Limits::default();
        let mut check = Check::new(&bundle, "m/config.pbtxt", &source, &limits, 0);
        super::check(&mut check).unwrap();
        let (verdict, _, facts) = check.finish();
        (verdict, facts)
    }

    const PLAIN: &str = "name: \"m\"\nplatform: \"onnxruntime_onnx\"\nmax_batch_size: 8 # x\ninput [\n  { name: \"x\" data_type: TYPE_FP32 dims: [ 3, 224 ] },\n  { name: \"y\", data_type: TYPE_INT8, dims: [ 1 ] }\n]\noutput { name: \"z\" dims: -1 }\ninstance_group [ { count: 1 kind: KIND_CPU } ]\n";

    #[test]
    fn a_plain_model_is_clean_and_its_signature_known() {
        let (verdict, facts) = run(PLAIN, &["m/1/model.onnx"]);
        assert_eq!(verdict, Verdict::Clean);
        assert_eq!(
            facts["signature"]["inputs"][0],
            json!({"name": "x", "data_type": "TYPE_FP32", "dims": ["3", "224"]})
        );
        assert_eq!(facts["signature"]["inputs"][1]["name"], "y");
        assert_eq!(facts["signature"]["outputs"][0]["dims"], json!(["-1"]));
    }

    #[test]
    fn code_and_paths_are_found() {
        let cases = [
            ("backend: \"python\"", Verdict::ContainsCode),
            ("backend: \"py\" 'thon'", Verdict::ContainsCode),
            ("backend: \"mine\"", Verdict::ContainsCode),
            (
                "backend: \"onnxruntime\" default_model_filename: \"../../x\"",
                Verdict::Unsafe,
            ),
            (
                "backend: \"onnxruntime\" parameters { key: \"a\" value: { string_value: \"../x\" } }",
                Verdict::Unsafe,
            ),
            (
                "backend: \"tensorflow\" model_operations { op_library_filename: \"x.so\" }",
                Verdict::ContainsCode,
            ),
            ("backend: \"onnx\\162untime\"", Verdict::Malformed),
            ("backend {", Verdict::Malformed),
            ("a: ]", Verdict::Malformed),
        ];
        for (text, verdict) in cases {
            assert_eq!(run(text, &["m/1/model.onnx"]).0, verdict, "{text}");
        }
        assert_eq!(run(PLAIN, &["m/1/model.py"]).0, Verdict::ContainsCode);
    }
}
