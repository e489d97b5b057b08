//! The configuration of a model: what it is, in the words of `ModelPack`.
//!
//! Specification: <https://github.com/modelpack/model-spec/blob/main/docs/config.md>. What is not known is left out.

use crate::attest::Subject;
use crate::attest::facts::Facts;
use serde_json::{Value, json};
use shared::domain::Artifact;
use std::collections::{BTreeMap, BTreeSet};

/// Fields in the order of their names, so that the same configuration is always the same bytes.
type Fields = BTreeMap<&'static str, Value>;

/// Formats of files that hold no numbers of a model.
const OTHER_FORMATS: [&str; 10] = [
    "archive",
    "companion",
    "compressed",
    "environment",
    "huggingface",
    "mlflow",
    "model-card",
    "text",
    "triton",
    "unknown",
];

/// Kinds of numbers as formats call them, in lower case, and as `ModelPack` does.
const PRECISIONS: &[(&str, &[&str])] = &[
    ("float32", &["f32", "float", "float32", "<f4", "dt_float"]),
    ("float64", &["f64", "double", "float64", "<f8", "dt_double"]),
    ("float16", &["f16", "half", "float16", "<f2", "dt_half"]),
    ("bfloat16", &["bf16", "bfloat16", "dt_bfloat16"]),
    (
        "float8_e4m3",
        &["f8_e4m3", "f8_e4m3fn", "float8_e4m3fn", "float8e4m3fn"],
    ),
    ("float8_e5m2", &["f8_e5m2", "float8_e5m2", "float8e5m2"]),
    ("complex64", &["c64", "complex64", "complexfloat", "<c8"]),
    (
        "complex128",
        &["c128", "complex128", "complexdouble", "<c16"],
    ),
    ("int8", &["i8", "char", "int8", "|i1", "dt_int8"]),
    ("int16", &["i16", "short", "int16", "<i2", "dt_int16"]),
    ("int32", &["i32", "int", "int32", "<i4", "dt_int32"]),
    ("int64", &["i64", "long", "int64", "<i8", "dt_int64"]),
    ("uint8", &["u8", "byte", "uint8", "|u1", "dt_uint8"]),
    ("uint16", &["u16", "uint16", "<u2", "dt_uint16"]),
    ("uint32", &["u32", "uint32", "<u4", "dt_uint32"]),
    ("uint64", &["u64", "uint64", "<u8", "dt_uint64"]),
    ("bool", &["bool", "|b1", "dt_bool"]),
];

/// The configuration of a version with these files, which are in the order of the layers.
pub(super) fn write(
    subject: &Subject<'_>,
    artifacts: &[&Artifact],
) -> BTreeMap<&'static str, Fields> {
    let facts = Facts::of(subject);
    let digests: Vec<_> = artifacts.iter().map(|artifact| &artifact.digest).collect();
    // A raw layer is its own content.
    let layers = Fields::from([("type", json!("layers")), ("diffIds", json!(digests))]);
    BTreeMap::from([
        ("descriptor", descriptor(subject, &facts)),
        ("config", technical(&facts)),
        ("modelfs", layers),
    ])
}

fn descriptor(subject: &Subject<'_>, facts: &Facts) -> Fields {
    let version = subject.version;
    let metadata = &subject.metadata;
    let mut fields = Fields::new();
    fields.insert("createdAt", json!(version.created_at));
    fields.insert("name", version.id.model.as_str().into());
    fields.insert("version", version.id.number.to_string().into());
    if let Some(author) = &metadata.author {
        fields.insert("authors", json!([author]));
    }
    if let Some(code) = &metadata.code {
        if let Some(repository) = &code.repository {
            fields.insert("sourceURL", repository.as_str().into());
        }
        fields.insert("revision", code.commit.as_str().into());
    }
    let datasets: Vec<&String> = metadata
        .datasets
        .iter()
        .filter_map(|dataset| dataset.uri.as_ref().or(dataset.source.as_ref()))
        .collect();
    if !datasets.is_empty() {
        fields.insert("datasetsURL", json!(datasets));
    }
    if !facts.licences.is_empty() {
        fields.insert("licenses", json!(facts.licences));
    }
    fields
}

fn technical(facts: &Facts) -> Fields {
    let formats: Vec<&str> = facts
        .formats
        .iter()
        .map(String::as_str)
        .filter(|format| !OTHER_FORMATS.contains(format))
        .collect();
    let precisions: BTreeSet<&str> = facts
        .number_kinds
        .iter()
        .filter_map(|kind| precision(kind))
        .collect();
    let precisions: Vec<&str> = precisions.into_iter().collect();
    // The same model in two formats has its parameters twice, and it cannot be told from two models.
    let parameters = match facts.parameters.len() {
        1 => facts.parameters.values().next().copied().unwrap_or(0),
        _ => 0,
    };
    [
        ("architecture", facts.architecture.clone()),
        ("format", Some(formats.join(","))),
        ("paramSize", param_size(parameters)),
        ("precision", Some(precisions.join(","))),
    ]
    .into_iter()
    .filter_map(|(name, text)| {
        let text = text.filter(|text| !text.is_empty())?;
        Some((name, text.into()))
    })
    .collect()
}

fn precision(kind: &str) -> Option<&'static str> {
    let kind = kind.to_lowercase();
    PRECISIONS
        .iter()
        .find(|(_, names)| names.contains(&kind.as_str()))
        .map(|(precision, _)| *precision)
}

/// A number of parameters with one decimal and a letter, such as `6.7B`; `None` below one thousand.
fn param_size(count: u64) -> Option<String> {
    let (unit, letter) = [
        (1_000_000_000_000_000, 'Q'),
        (1_000_000_000_000, 'T'),
        (1_000_000_000, 'B'),
        (1_000_000, 'M'),
        (1_000, 'K'),
    ]
    .into_iter()
    .find(|(unit, _)| count >= *unit)?;
    let tenths = count / (unit / 10);
    Some(match tenths % 10 {
        0 => format!("{}{letter}", tenths / 10),
        digit => format!("{}.{digit}{letter}", tenths / 10),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_counted_as_people_say_them() {
        for (count, expected) in [
            (0, None),
            (999, None),
            (1_000, Some("1K")),
            (6_738_415_616, Some("6.7B")),
            (124_439_808, Some("124.4M")),
            (1_000_000_000_000, Some("1T")),
        ] {
            assert_eq!(param_size(count).as_deref(), expected, "{count}");
        }
    }

    #[test]
    fn kinds_of_numbers_have_one_name() {
        for (kind, expected) in [
            ("F32", Some("float32")),
            ("BFloat16", Some("bfloat16")),
            ("<i8", Some("int64")),
            ("Q4_K", None),
        ] {
            assert_eq!(precision(kind), expected, "{kind}");
        }
    }
}
