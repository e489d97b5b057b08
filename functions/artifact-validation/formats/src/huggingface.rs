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
use crate::source::ReadError;
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

/// Largest configuration; indexes of the largest models have some megabytes.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
const MAX_SHARDS: usize = 20_000;

/// Tells whether this is the configuration that marks a directory.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    matches!(
        path.rsplit('/').next(),
        Some("config.json" | "model_index.json")
    ) && head.trim_ascii_start().starts_with(b"{")
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
    check_bundle(check)
}

/// Inspects the directory whose configuration this is.
pub fn check_bundle(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = inspect(check);
    settle(check, outcome, &MALFORMED, &TOO_LARGE)?;
    Ok(())
}

fn inspect(check: &mut Check<'_>) -> Result<(), Trouble> {
    let bytes = read_small(check.source, MAX_BYTES)?;
    duplicates(&bytes)?;
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
    code(check, "config.json", &config);
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
        // Each directory with a configuration of its own is inspected by that.
        if path.contains('/') {
            continue;
        }
        if lower.ends_with(".index.json") {
            index(check, &directory, path)?;
        } else if lower.ends_with(".json") && !matches!(name, "config.json" | "model_index.json") {
            other(check, &directory, path)?;
        } else if lower.ends_with(".jinja") {
            if let Some(file) = directory.find(path) {
                let bytes = read_small(file.source, MAX_BYTES)?;
                template(check, path, &String::from_utf8_lossy(&bytes));
            }
        }
    }
    Ok(())
}

/// Refuses an object that names a key twice.
fn duplicates(bytes: &bytes::Bytes) -> Result<(), Trouble> {
    let mut events = Json::new(bytes, Bounds::default());
    while events.next()? != Event::End {}
    Ok(())
}

/// Looks through a configuration for what makes a library import foreign code.
fn code(check: &mut Check<'_>, file: &str, config: &Value) {
    let mut pending = vec![config];
    while let Some(value) = pending.pop() {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let is_code = match key.as_str() {
                        "auto_map" | "custom_pipelines" | "custom_generate" => !is_empty(value),
                        "trust_remote_code" => value == &Value::Bool(true),
                        _ => false,
                    };
                    if is_code {
                        let shown = value.to_string();
                        check.find(
                            &CODE,
                            None,
                            format!("`{key}` in {}: {}", quote(file), quote(&shown)),
                        );
                    }
                    pending.push(value);
                }
            }
            Value::Array(items) => pending.extend(items),
            _ => {}
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
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
    // Vocabularies are larger than any configuration, and hold no settings.
    let is_vocabulary = matches!(path, "tokenizer.json" | "vocab.json" | "merges.json");
    if is_vocabulary || file.source.size() > MAX_BYTES {
        return Ok(());
    }
    let bytes = read_small(file.source, MAX_BYTES)?;
    let Ok(config) = serde_json::from_slice::<Value>(&bytes) else {
        return Ok(());
    };
    code(check, path, &config);
    match config.get("chat_template") {
        Some(Value::String(text)) => template(check, path, text),
        Some(Value::Array(templates)) => {
            for entry in templates {
                if let Some(text) = entry.get("template").and_then(Value::as_str) {
                    template(check, path, text);
                }
            }
        }
        Some(Value::Object(templates)) => {
            for text in templates.values().filter_map(Value::as_str) {
                template(check, path, text);
            }
        }
        _ => {}
    }
    Ok(())
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
