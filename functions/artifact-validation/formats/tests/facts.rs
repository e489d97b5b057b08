//! The facts that are read out of real files, one of each format and more, held against `fixtures/facts.json`.

use bytes::Bytes;
use model_formats::{Bundle, BundleFile, Limits, inspect};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// What is looked at; a folder is one model.
const FIXTURES: &[&str] = &[
    "cat.cbm",
    "cat.json",
    "func.tflite",
    "hf_dir",
    "keras_seq.h5",
    "keras_seq.keras",
    "keras_seq.weights.h5",
    "lgbm.txt",
    "lgbm_classifier.pkl",
    "llama3tmpl.gguf",
    "matmul.onnx",
    "mlflow_lgbm",
    "mlflow_xgb.tar",
    "nn.mlmodel",
    "obj.npy",
    "onnx_ext",
    "plain.h5",
    "pt_dtypes.pt",
    "pt_full_module.pt",
    "pt_torchscript.pt",
    "sagemaker_tf_model.tar.gz",
    "savedmodel_func",
    "skl_pipe.onnx",
    "sklearn_pipe.joblib",
    "sklearn_pipe_cloudpickle.pkl",
    "sklearn_pipe_dill.pkl",
    "sklearn_rf_bz2.joblib",
    "torch.safetensors",
    "tree.pmml",
    "wc.npz",
    "xgb.json",
    "xgb.ubj",
    "xgb_classifier.joblib",
];

fn collect(path: &Path, name: &str, files: &mut BTreeMap<String, Bytes>) {
    if path.is_file() {
        let bytes = std::fs::read(path).expect("the fixture can be read");
        files.insert(name.to_owned(), bytes.into());
        return;
    }
    for entry in std::fs::read_dir(path).expect("the fixture can be listed") {
        let entry = entry.expect("the fixture can be listed");
        let inner = entry.file_name().to_string_lossy().into_owned();
        let inner = if name.is_empty() {
            inner
        } else {
            format!("{name}/{inner}")
        };
        collect(&entry.path(), &inner, files);
    }
}

#[test]
fn facts_of_real_files_are_as_they_were() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut found = Map::new();
    for fixture in FIXTURES {
        let path = fixtures.join("benign").join(fixture);
        let name = if path.is_dir() { "" } else { *fixture };
        let mut files = BTreeMap::new();
        collect(&path, name, &mut files);
        let files = files
            .iter()
            .map(|(path, source)| BundleFile { path, source })
            .collect();
        for file in inspect(&Bundle::new(files), &Limits::default()).files {
            let key = if name.is_empty() {
                format!("{fixture}/{}", file.path)
            } else {
                file.path
            };
            let mut facts = file.facts;
            facts.insert("format".to_owned(), file.format.into());
            found.insert(key, Value::Object(facts));
        }
    }
    let mut found = Value::Object(found);
    let known = std::fs::read_to_string(fixtures.join("facts.json")).unwrap_or_default();
    // Whether objects keep the order of their names depends on what else is built.
    found.sort_all_objects();
    if serde_json::from_str::<Value>(&known).ok().as_ref() != Some(&found) {
        let written = Path::new(env!("CARGO_TARGET_TMPDIR")).join("facts.json");
        std::fs::write(&written, format!("{found:#}\n")).expect("the facts can be written");
        panic!(
            "facts differ; compare `{}` with `tests/fixtures/facts.json`, and copy it if it is right",
            written.display()
        );
    }
}
