//! Hugging Face directories: `config.json` beside weights, as `transformers`, `diffusers` and `sentence-transformers` read them.
//!
//! The libraries import Python from the directory where a configuration asks for it, open the shards that an index names,
//! and render chat templates. Weights are checked by their own formats, each of them, whichever a loader would prefer.

use crate::bundle::Bundle;
use crate::check::Check;
use crate::cursor::{Trouble, quote, read_small, settle};
use crate::events::{Bounds, Event, Events, Json};
use crate::mlflow::Directory;
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::{ReadError, Source};
use crate::text::extension;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The rules of this format.
pub const RULES: &[Rule] = &[MALFORMED, TOO_LARGE, CODE, PATH, MISSING, TEMPLATE];

const MALFORMED: Rule = Rule {
    id: "huggingface.malformed",
    verdict: Verdict::Malformed,
    why: "A configuration that is not JSON of one meaning cannot be loaded, or is loaded differently by different libraries.",
    fix: "Save the model again with `save_pretrained`.",
};
const TOO_LARGE: Rule = Rule {
    id: "huggingface.too-large",
    verdict: Verdict::Incomplete,
    why: "A configuration of this size cannot be inspected.",
    fix: "Save the model again with `save_pretrained`.",
};
const CODE: Rule = Rule {
    id: "huggingface.remote-code",
    verdict: Verdict::ContainsCode,
    why: "Loading the model with `trust_remote_code` runs Python from its directory, or from another repository.",
    fix: "Use an architecture that is part of the library, or ask for an approval.",
};
const PATH: Rule = Rule {
    id: "huggingface.path-escape",
    verdict: Verdict::Unsafe,
    why: "The loader would open a file outside of the model's directory.",
    fix: "Name shards by their file names.",
};
const MISSING: Rule = Rule {
    id: "huggingface.missing-shard",
    verdict: Verdict::Malformed,
    why: "The index names a shard that is not part of the version.",
    fix: "Upload every shard that the index names.",
};
const TEMPLATE: Rule = Rule {
    id: "huggingface.chat-template",
    verdict: Verdict::Unsafe,
    why: "A template that reaches into objects of Python runs code when it is rendered without a sandbox.",
    fix: "Use only loops, conditions and the fields of messages in the template.",
};

/// Largest `config.json`, whose values take many times the memory of its text.
const MAX_BYTES: u64 = 1024 * 1024;
const MAX_SHARDS: usize = 20_000;

/// Tells whether this is the configuration that marks a directory, or one that is loaded without it.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    let name = name(path);
    let is_marker = matches!(name, "config.json" | "model_index.json");
    let is_json = head.trim_ascii_start().starts_with(b"{");
    ((is_marker || is_loaded_alone(name)) && is_json)
        || (extension(name).as_deref() == Some("jinja") && std::str::from_utf8(head).is_ok())
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Tokenizers, processors, adapters and indexes are loaded from directories without a `config.json`, too.
fn is_loaded_alone(name: &str) -> bool {
    name.ends_with("_config.json") || name.ends_with(".index.json") || name == "chat_template.json"
}

/// Tells whether the bundle holds such a directory.
pub fn detect_bundle(bundle: &Bundle<'_>) -> bool {
    bundle.files().iter().any(|file| {
        matches!(
            file.path.rsplit('/').next(),
            Some("config.json" | "model_index.json")
        )
    })
}

/// Inspects the directory whose configuration this is.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    if matches!(name(check.path), "config.json" | "model_index.json") {
        return check_bundle(check);
    }
    let outcome = alone(check);
    settle(check, outcome, &MALFORMED, &TOO_LARGE)?;
    Ok(())
}

/// Inspects a file of a directory that has no configuration of its own; the others are inspected by that.
fn alone(check: &mut Check<'_>) -> Result<(), Trouble> {
    let directory = Directory::of(check);
    if directory.find("config.json").is_some() || directory.find("model_index.json").is_some() {
        return Ok(());
    }
    let name = name(check.path).to_owned();
    if extension(&name).as_deref() == Some("jinja") {
        let bytes = read_small(check.source, MAX_BYTES)?;
        template(check, &name, &String::from_utf8_lossy(&bytes));
        return Ok(());
    }
    if directory.find(&name).is_none() {
        return scan(check, &name, check.source);
    }
    if name.ends_with(".index.json") {
        return index(check, &directory, &name);
    }
    other(check, &directory, &name)
}

/// Inspects the directory whose configuration this is.
pub fn check_bundle(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = inspect(check);
    settle(check, outcome, &MALFORMED, &TOO_LARGE)?;
    Ok(())
}

fn inspect(check: &mut Check<'_>) -> Result<(), Trouble> {
    let bytes = read_small(check.source, MAX_BYTES)?;
    scan(check, "config.json", &bytes)?;
    let config: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Trouble::malformed(0, format!("not JSON: {error}")))?;
    let Value::Object(fields) = &config else {
        return Err(Trouble::malformed(0, "not an object"));
    };
    for (key, fact) in [
        ("model_type", "model_type"),
        ("architectures", "architectures"),
        ("torch_dtype", "dtypes"),
        ("dtype", "dtypes"),
        ("transformers_version", "transformers_version"),
        ("vocab_size", "vocabulary_size"),
        ("hidden_size", "hidden_size"),
        ("num_hidden_layers", "layer_count"),
        ("_class_name", "pipeline_class"),
        ("_diffusers_version", "diffusers_version"),
    ] {
        if let Some(value) = fields.get(key).filter(|value| !value.is_null()) {
            check.fact(fact, value.clone());
        }
    }
    if check.path.ends_with("model_index.json") {
        pipeline(check, &config);
    }
    let directory = Directory::of(check);
    let mut sources = 0;
    let paths: Vec<&str> = directory.paths().collect();
    for path in paths {
        let name = path.rsplit('/').next().unwrap_or(path);
        let lower = name.to_ascii_lowercase();
        let is_code = [".py", ".pyc", ".pyd", ".so", ".dll", ".dylib"]
            .iter()
            .any(|ending| lower.ends_with(ending));
        if is_code && sources < 10 {
            sources += 1;
            check.find(&CODE, None, format!("{} is code", quote(path)));
        }
        let extension = lower.rsplit('.').next().unwrap_or("");
        if extension == "jinja"
            && let Some(file) = directory.find(path)
        {
            let bytes = read_small(file.source, MAX_BYTES)?;
            template(check, path, &String::from_utf8_lossy(&bytes));
        }
        // Each directory with a configuration of its own is inspected by that.
        if path.contains('/') {
            continue;
        }
        if path == "modules.json" {
            modules(check, &directory)?;
        }
        if lower.ends_with(".index.json") {
            index(check, &directory, path)?;
        } else if extension == "json" && !matches!(name, "config.json" | "model_index.json") {
            other(check, &directory, path)?;
        }
    }
    Ok(())
}

/// Looks through a configuration, whatever its size, for templates and for what makes a library import foreign code.
fn scan(check: &mut Check<'_>, path: &str, source: &dyn Source) -> Result<(), Trouble> {
    let mut events = Json::new(source, Bounds::default());
    // Keys of what is open; whether the last key that asks for code has a value yet.
    let mut open: Vec<String> = Vec::new();
    let mut key = String::new();
    let mut asks = false;
    loop {
        let event = events.next()?;
        if asks && !matches!(event, Event::ObjectEnd | Event::ArrayEnd) {
            check.find(
                &CODE,
                Some(events.offset()),
                format!("{} asks for code to be imported", quote(path)),
            );
        }
        asks = false;
        let names_code = matches!(
            key.as_str(),
            "auto_map" | "custom_pipelines" | "custom_generate"
        );
        match event {
            Event::Key(next) => {
                key = next.chars().take(100).collect();
                continue;
            }
            Event::ObjectStart | Event::ArrayStart => {
                asks = names_code;
                open.push(std::mem::take(&mut key));
            }
            Event::ObjectEnd | Event::ArrayEnd => {
                open.pop();
            }
            Event::Text(text) => {
                let is_template =
                    key == "chat_template" || open.iter().any(|key| key == "chat_template");
                if is_template {
                    template(check, path, &text);
                }
                // Kernels are fetched and imported by the name of a repository, base classes by that of a package.
                let is_foreign = match key.as_str() {
                    "_attn_implementation"
                    | "attn_implementation"
                    | "_attn_implementation_internal"
                    | "experts_implementation" => text.contains('/'),
                    "parent_library" => !matches!(
                        text.split('.').next(),
                        Some("transformers" | "diffusers" | "sentence_transformers" | "timm")
                    ),
                    _ => names_code,
                };
                if is_foreign && !text.is_empty() {
                    check.find(
                        &CODE,
                        Some(events.offset()),
                        format!("`{key}` in {} is {}", quote(path), quote(&text)),
                    );
                }
            }
            Event::Boolean(true) if key == "trust_remote_code" => {
                check.find(
                    &CODE,
                    Some(events.offset()),
                    format!("`{key}` in {}", quote(path)),
                );
            }
            Event::End => return Ok(()),
            _ => {}
        }
        // A key belongs to one value.
        key.clear();
    }
}

/// Modules of `sentence-transformers` are imported by the names of their types.
fn modules(check: &mut Check<'_>, directory: &Directory<'_>) -> Result<(), Trouble> {
    let Some(file) = directory.find("modules.json") else {
        return Ok(());
    };
    let bytes = read_small(file.source, MAX_BYTES)?;
    let modules: Vec<Value> = serde_json::from_slice(&bytes)
        .map_err(|error| Trouble::malformed(0, format!("`modules.json`: {error}")))?;
    for module in &modules {
        let kind = module.get("type").and_then(Value::as_str).unwrap_or("");
        if !kind.starts_with("sentence_transformers.") {
            check.find(&CODE, None, format!("the module {}", quote(kind)));
        }
        let path = module.get("path").and_then(Value::as_str).unwrap_or("");
        if !path.is_empty() && !crate::environment::is_inside(path) {
            check.find(&PATH, None, format!("the module at {}", quote(path)));
        }
    }
    Ok(())
}

/// A pipeline of `diffusers` names a library and a class for each component.
fn pipeline(check: &mut Check<'_>, config: &Value) {
    for (name, value) in config.as_object().into_iter().flatten() {
        let parts: Vec<&str> = value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let foreign = if name == "_class_name" {
            // A list names a file of the directory and a class in it.
            (parts.len() > 1).then(|| parts.join("."))
        } else if name.starts_with('_') {
            None
        } else {
            match parts.as_slice() {
                [library, class] => {
                    let is_known = matches!(
                        *library,
                        "diffusers"
                            | "transformers"
                            | "onnxruntime"
                            | "flax"
                            | "optimum"
                            | "stable_diffusion"
                    ) || library.starts_with("diffusers.")
                        || library.starts_with("transformers.")
                        || matches!(
                            *library,
                            "stable_diffusion_safe" | "paint_by_example" | "kandinsky"
                        );
                    (!is_known).then(|| format!("{library}.{class}"))
                }
                _ => None,
            }
        };
        if let Some(foreign) = foreign {
            check.find(
                &CODE,
                None,
                format!("the component {} is {}", quote(name), quote(&foreign)),
            );
        }
    }
}

/// Holds the shards that an index names against the directory.
fn index(check: &mut Check<'_>, directory: &Directory<'_>, path: &str) -> Result<(), Trouble> {
    let Some(file) = directory.find(path) else {
        return Ok(());
    };
    let mut shards = BTreeSet::new();
    let mut count = 0_u64;
    let mut events = Json::new(file.source, Bounds::default());
    let inside = |trouble| match trouble {
        Trouble::Malformed { offset, detail } => {
            Trouble::malformed(offset, format!("{}: {detail}", quote(path)))
        }
        other => other,
    };
    events.object().map_err(inside)?;
    while let Some(key) = events.key().map_err(inside)? {
        if key != "weight_map" {
            events.skip_next().map_err(inside)?;
            continue;
        }
        events.object().map_err(inside)?;
        while events.key().map_err(inside)?.is_some() {
            count += 1;
            shards.insert(events.text().map_err(inside)?);
            if shards.len() > MAX_SHARDS {
                return Err(Trouble::malformed(events.offset(), "too many shards"));
            }
        }
    }
    if events.next().map_err(inside)? != Event::End {
        return Err(Trouble::malformed(events.offset(), "expected the end"));
    }
    for shard in &shards {
        if !crate::environment::is_inside(shard) {
            check.find(
                &PATH,
                None,
                format!("{} names the shard {}", quote(path), quote(shard)),
            );
        } else if directory.find(shard).is_none() {
            check.find(
                &MISSING,
                None,
                format!("{} names the shard {}", quote(path), quote(shard)),
            );
        }
    }
    check.fact("shard_count", shards.len());
    check.fact("tensor_count", count);
    Ok(())
}

/// Looks into the other configurations: those of tokenizers, processors and adapters.
fn other(check: &mut Check<'_>, directory: &Directory<'_>, path: &str) -> Result<(), Trouble> {
    let Some(file) = directory.find(path) else {
        return Ok(());
    };
    // Vocabularies hold no settings; examples and the like need not be JSON of one document.
    if matches!(path, "tokenizer.json" | "vocab.json" | "merges.json") {
        return Ok(());
    }
    match scan(check, path, file.source) {
        Err(Trouble::Malformed { offset, detail })
            if path.contains("config") || path.contains("template") =>
        {
            Err(Trouble::malformed(
                offset,
                format!("{}: {detail}", quote(path)),
            ))
        }
        Err(Trouble::Malformed { .. }) => Ok(()),
        outcome => outcome,
    }
}

fn template(check: &mut Check<'_>, path: &str, text: &str) {
    if let Err(problem) = crate::templates::check_template(text) {
        check.find(
            &TEMPLATE,
            None,
            format!("{} at {}: {}", quote(path), problem.offset, problem.detail),
        );
    }
    check.fact("chat_templates", json!(true));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::BundleFile;
    use crate::inspect::Limits;
    use bytes::Bytes;

    fn run(files: &[(&str, &str)]) -> Verdict {
        let files: Vec<(&str, Bytes)> = files
            .iter()
            .map(|(path, text)| (*path, Bytes::copy_from_slice(text.as_bytes())))
            .collect();
        let bundle = Bundle::new(
            files
                .iter()
                .map(|(path, source)| BundleFile { path, source })
                .collect(),
        );
        let limits = Limits::default();
        let (path, source) = &files[0];
        let mut check = Check::new(&bundle, path, source, &limits, 0);
        super::check(&mut check).unwrap();
        check.verdict()
    }

    #[test]
    fn configurations_that_ask_for_code_need_an_approval() {
        let plain = (
            "m/config.json",
            "{\"model_type\": \"bert\", \"auto_map\": {}}",
        );
        let cases: [(&[(&str, &str)], Verdict); 10] = [
            (&[plain], Verdict::Clean),
            (
                &[("config.json", "{\"auto_map\": {\"A\": \"x.Y\"}}")],
                Verdict::ContainsCode,
            ),
            (
                &[("config.json", "{\"a\": [{\"auto_map\": [\"x.Y\", null]}]}")],
                Verdict::ContainsCode,
            ),
            (
                &[("config.json", "{\"auto\\u005fmap\": \"x.Y\"}")],
                Verdict::ContainsCode,
            ),
            (
                &[("config.json", "{\"a\": 1, \"a\": 2}")],
                Verdict::Malformed,
            ),
            (&[plain, ("m/x.py", "")], Verdict::ContainsCode),
            (
                &[
                    plain,
                    (
                        "m/tokenizer_config.json",
                        "{\"chat_template\": \"{{ x.__class__ }}\"}",
                    ),
                ],
                Verdict::Unsafe,
            ),
            (
                &[plain, ("m/more/x.jinja", "{{ x.__class__ }}")],
                Verdict::Unsafe,
            ),
            (
                &[
                    plain,
                    (
                        "m/modules.json",
                        "[{\"type\": \"os.system\", \"path\": \"\"}]",
                    ),
                ],
                Verdict::ContainsCode,
            ),
            (
                &[
                    plain,
                    (
                        "m/a.index.json",
                        "{\"weight_map\": {\"t\": \"gone.safetensors\"}}",
                    ),
                ],
                Verdict::Malformed,
            ),
        ];
        for (files, verdict) in cases {
            assert_eq!(run(files), verdict, "{files:?}");
        }
    }
}
