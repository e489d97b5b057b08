//! What facts of all formats have in common: the framework, and one name for each type of numbers.
//!
//! A format's own check tells facts in the format's words; here they get the words that reports use.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Frameworks by the first part of the modules that their pickles import; what others build upon comes last.
const BY_MODULE: &[(&str, &str)] = &[
    ("xgboost", "xgboost"),
    ("lightgbm", "lightgbm"),
    ("catboost", "catboost"),
    ("_catboost", "catboost"),
    ("sklearn", "scikit-learn"),
    ("keras", "keras"),
    ("tensorflow", "tensorflow"),
    ("torch", "pytorch"),
    ("__torch__", "pytorch"),
    ("statsmodels", "statsmodels"),
    ("pandas", "pandas"),
    ("scipy", "scipy"),
    ("numpy", "numpy"),
];

/// Adds and renames facts of a file of this format.
pub(crate) fn complete(format: &str, facts: &mut Map<String, Value>) {
    if let Some(dtypes) = facts.get_mut("dtypes") {
        rename(dtypes);
    }
    if format == "pickle" {
        let frameworks = of_globals(facts);
        if let Some(first) = frameworks.first() {
            facts
                .entry("framework")
                .or_insert_with(|| Value::from(*first));
        }
        if frameworks.len() > 1 {
            facts.insert("frameworks".to_owned(), frameworks.into());
        }
        return;
    }
    if let Some(framework) = framework_of(format, facts) {
        facts.entry("framework").or_insert(framework.into());
    }
}

/// The framework that a file is for, where its format or its facts tell.
fn framework_of(format: &str, facts: &Map<String, Value>) -> Option<&'static str> {
    Some(match format {
        "torch" | "torch-legacy" | "torch-tar" => "pytorch",
        "keras-v3" => "keras",
        "hdf5" if facts.get("flavor").is_some_and(|flavor| flavor == "keras") => "keras",
        "tf-savedmodel" => "tensorflow",
        "tflite" => "tensorflow-lite",
        "coreml" => "coreml",
        "onnx" => "onnx",
        "npy" | "npz" => "numpy",
        "huggingface" if facts.contains_key("pipeline_class") => "diffusers",
        "huggingface" if facts.contains_key("model_type") => "transformers",
        "safetensors" => match facts.get("metadata")?.get("format")?.as_str()? {
            "pt" => "pytorch",
            "tf" => "tensorflow",
            "flax" => "flax",
            "np" => "numpy",
            "mlx" => "mlx",
            _ => return None,
        },
        _ => return None,
    })
}

/// The frameworks whose classes a pickle has, those that others build upon last.
fn of_globals(facts: &Map<String, Value>) -> Vec<&'static str> {
    let modules: Vec<&str> = facts
        .get("globals")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter_map(|name| name.split('.').next())
        .collect();
    let mut found: Vec<&str> = BY_MODULE
        .iter()
        .filter(|(module, _)| modules.contains(module))
        .map(|(_, framework)| *framework)
        .collect();
    found.dedup();
    found
}

/// Gives types one name each, whether they are counted, listed or told.
fn rename(dtypes: &mut Value) {
    match dtypes {
        Value::Object(counts) => {
            let mut renamed: BTreeMap<String, u64> = BTreeMap::new();
            for (name, count) in counts.iter() {
                let slot = renamed.entry(dtype(name)).or_default();
                *slot = slot.saturating_add(count.as_u64().unwrap_or(0));
            }
            *counts = renamed
                .into_iter()
                .map(|(name, count)| (name, count.into()))
                .collect();
        }
        Value::Array(names) => names.iter_mut().for_each(rename),
        Value::String(name) => *name = dtype(name),
        _ => {}
    }
}

/// The name of a type, such as `float32`, for what safetensors, PyTorch and NumPy call it; others stay as they are.
fn dtype(name: &str) -> String {
    let known = match name {
        "F64" | "Double" => "float64",
        "F32" | "Float" => "float32",
        "F16" | "Half" => "float16",
        "BF16" | "BFloat16" => "bfloat16",
        "F8_E4M3" | "Float8_e4m3fn" => "float8_e4m3",
        "F8_E5M2" | "Float8_e5m2" => "float8_e5m2",
        "I64" | "Long" => "int64",
        "I32" | "Int" => "int32",
        "I16" | "Short" => "int16",
        "I8" | "Char" => "int8",
        "U64" => "uint64",
        "U32" => "uint32",
        "U16" => "uint16",
        "U8" | "Byte" => "uint8",
        "BOOL" | "Bool" => "bool",
        "C64" | "ComplexFloat" => "complex64",
        "ComplexDouble" => "complex128",
        other => return of_numpy(other).unwrap_or_else(|| other.to_owned()),
    };
    known.to_owned()
}

/// The name of a type in NumPy's short form: byte order, kind, bytes.
fn of_numpy(name: &str) -> Option<String> {
    let rest = name.strip_prefix(['<', '>', '|', '='])?;
    let (kind, bytes) = rest.split_at_checked(1)?;
    if rest == "O" {
        return Some("object".to_owned());
    }
    let bytes: u32 = bytes.parse().ok()?;
    Some(match kind {
        "f" => format!("float{}", bytes.checked_mul(8)?),
        "i" => format!("int{}", bytes.checked_mul(8)?),
        "u" => format!("uint{}", bytes.checked_mul(8)?),
        "c" => format!("complex{}", bytes.checked_mul(8)?),
        "b" => "bool".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn types_have_one_name_each() {
        for (told, name) in [
            ("F32", "float32"),
            ("Long", "int64"),
            ("<f4", "float32"),
            (">u2", "uint16"),
            ("|b1", "bool"),
            ("|O", "object"),
            ("<U7", "<U7"),
            ("Q4_K", "Q4_K"),
            ("<", "<"),
            ("<f99999999999", "<f99999999999"),
        ] {
            assert_eq!(dtype(told), name);
        }
        let mut counts = json!({"F32": 2, "Float": 1, "I8": 1});
        rename(&mut counts);
        assert_eq!(counts, json!({"float32": 3, "int8": 1}));
    }

    #[test]
    fn a_pickle_of_several_frameworks_tells_the_outermost_first() {
        let mut facts = Map::new();
        let globals = json!([
            "numpy.dtype",
            "sklearn.pipeline.Pipeline",
            "xgboost.core.Booster"
        ]);
        facts.insert("globals".to_owned(), globals);
        complete("pickle", &mut facts);
        assert_eq!(facts["framework"], "xgboost");
        assert_eq!(
            facts["frameworks"],
            json!(["xgboost", "scikit-learn", "numpy"])
        );
    }
}
