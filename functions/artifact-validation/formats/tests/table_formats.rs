//! Holds the modules for tree models, arrays, directories and archives against the shared corpus, and against damage.
//!
//! The corpus lies beside the checkout; without it, only the mutations of small built-in files run.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot read its files has failed"
)]

use bytes::Bytes;
use model_formats::{
    Bundle, BundleFile, Check, Limits, ReadError, Verdict, archive, catboost, environment,
    huggingface, licence, lightgbm, mlflow, npy, pmml, skops, triton, xgboost,
};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

type Detect = fn(&[u8], &[u8], &str, u64) -> bool;
type Inspect = fn(&mut Check<'_>) -> Result<(), ReadError>;

/// The modules that this table covers, the more special before the more general.
const MODULES: &[(&str, Detect, Inspect)] = &[
    ("mlflow", mlflow::detect, mlflow::check),
    ("huggingface", huggingface::detect, huggingface::check),
    ("triton", triton::detect, triton::check),
    ("environment", environment::detect, environment::check),
    ("licence", licence::detect, licence::check),
    ("npy", npy::detect, npy::check),
    ("skops", skops::detect, skops::check),
    ("npz", npy::detect_npz, npy::check_npz),
    ("catboost", catboost::detect, catboost::check),
    ("catboost-json", catboost::detect_json, catboost::check_json),
    ("lightgbm", lightgbm::detect, lightgbm::check),
    ("xgboost", xgboost::detect, xgboost::check),
    ("pmml", pmml::detect, pmml::check),
];

/// Formats of the manifest that these modules are for.
const FORMATS: &[&str] = &[
    "catboost-cbm",
    "catboost-json",
    "hf-dir",
    "lightgbm-txt",
    "mlflow-dir",
    "npy",
    "npz",
    "pmml",
    "skops",
    "tar",
    "tar.gz",
    "tar.zst",
    "triton",
    "triton-dir",
    "xgboost-json",
    "xgboost-ubj",
    "zip",
];

/// Files whose only sin, or whose content, is a pickle, which other tests judge.
const PICKLES: &[&str] = &[
    "malicious/mlflow_evil_pickle",
    "malicious/sagemaker_inference_py.tar.gz",
    "malicious/tar_pickle_hidden_ext.tar",
    "malicious/zip_nested.zip",
];

fn corpus() -> Option<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|directory| directory.join("shared/corpus"))
        .find(|directory| directory.join("manifest.csv").is_file())
}

/// Inspects every file with the first module that claims it; what none claims counts for nothing here.
fn inspect(bundle: &Bundle<'_>, depth: usize) -> Result<(Verdict, Vec<String>), ReadError> {
    let limits = Limits::default();
    let mut worst = Verdict::Clean;
    let mut rules = Vec::new();
    for file in bundle.files() {
        let size = file.source.size();
        let head = file.source.read(0..size.min(64 * 1024))?;
        let tail = file.source.read(size.saturating_sub(64 * 1024)..size)?;
        let mut check = Check::new(bundle, file.path, file.source, &limits, depth);
        let module = MODULES
            .iter()
            .find(|(_, detect, _)| detect(&head, &tail, file.path, size));
        if let Some((_, _, run)) = module {
            run(&mut check)?;
        } else if archive::detect(&head, &tail, file.path, size) {
            archive::with_members(&mut check, &mut |_, members| {
                let files = members
                    .iter()
                    .map(|member| BundleFile {
                        path: &member.path,
                        source: &*member.source,
                    })
                    .collect();
                let (verdict, inner) = inspect(&Bundle::new(files), depth + 1)?;
                worst = worst.max(verdict);
                rules.extend(inner);
                Ok(())
            })?;
        }
        let (verdict, findings, _) = check.finish();
        worst = worst.max(verdict);
        rules.extend(findings.into_iter().map(|finding| finding.rule));
    }
    Ok((worst, rules))
}

fn load(path: &Path, root: &Path, files: &mut Vec<(String, Bytes)>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            load(&entry.unwrap().path(), root, files);
        }
    } else {
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/");
        files.push((name, Bytes::from(std::fs::read(path).unwrap())));
    }
}

fn run(files: &[(String, Bytes)]) -> (Verdict, Vec<String>) {
    let bundle = Bundle::new(
        files
            .iter()
            .map(|(path, source)| BundleFile { path, source })
            .collect(),
    );
    inspect(&bundle, 0).unwrap()
}

/// The rows of the manifest for these modules: path, format, label.
fn rows(corpus: &Path) -> Vec<(String, String, String)> {
    std::fs::read_to_string(corpus.join("manifest.csv"))
        .unwrap()
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split(',').map(ToOwned::to_owned);
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
        .filter(|(path, format, _)| {
            FORMATS.contains(&format.as_str()) && !PICKLES.contains(&path.as_str())
        })
        .collect()
}

#[test]
fn the_corpus_is_judged_by_its_labels() {
    let Some(corpus) = corpus() else {
        return;
    };
    let mut wrong = Vec::new();
    assert!(rows(&corpus).len() > 30);
    for (path, format, label) in rows(&corpus) {
        let full = corpus.join(&path);
        let root = if full.is_dir() {
            full.clone()
        } else {
            full.parent().unwrap().to_owned()
        };
        let mut files = Vec::new();
        load(&full, &root, &mut files);
        let (verdict, rules) = run(&files);
        let is_right = match label.as_str() {
            "benign" => verdict == Verdict::Clean,
            "benign-code" => verdict == Verdict::ContainsCode,
            "malicious" => verdict >= Verdict::Malformed || verdict == Verdict::ContainsCode,
            _ => verdict >= Verdict::Malformed,
        };
        if !is_right {
            wrong.push(format!("{path} ({format}, {label}): {verdict:?} {rules:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Small files of each format, and the corpus where it is there.
fn seeds() -> Vec<(String, Bytes)> {
    let tree = r#"{"learner":{"attributes":{},"feature_names":[],"feature_types":[],"gradient_booster":{"model":{"gbtree_model_param":{"num_parallel_tree":"1","num_trees":"1"},"iteration_indptr":[0,1],"tree_info":[0],"trees":[{"base_weights":[0,1,2],"categories":[],"categories_nodes":[],"categories_segments":[],"categories_sizes":[],"default_left":[0,0,0],"id":0,"left_children":[1,-1,-1],"loss_changes":[0,0,0],"parents":[2147483647,0,0],"right_children":[2,-1,-1],"split_conditions":[0,0,0],"split_indices":[0,0,0],"split_type":[0,0,0],"sum_hessian":[0,0,0],"tree_param":{"num_deleted":"0","num_feature":"1","num_nodes":"3","size_leaf_vector":"1"}}]},"name":"gbtree"},"learner_model_param":{"num_class":"0","num_feature":"1","num_target":"1"},"objective":{"name":"reg:squarederror"}},"version":[3,2,0]}"#;
    let mut seeds: Vec<(String, Bytes)> = [
        ("m.json", tree),
        ("MLmodel", "flavors:\n  python_function:\n    loader_module: mlflow.xgboost\n    data: MLmodel\n    env:\n      conda: conda.yaml\nsignature:\n  inputs: '[{\"type\": \"double\"}]'\n"),
        ("conda.yaml", "channels:\n- conda-forge\ndependencies:\n- pip:\n  - a==1\n"),
        ("requirements.txt", "a==1 --hash=sha256:00\n-r x.txt\n"),
        ("pyproject.toml", "[project]\ndependencies = [\"a==1\", 'b']\n"),
        ("README.md", "---\nlicense: mit\ntags: [a, {b: c}]\nx: |\n  y\n---\n# x\n"),
        ("config.json", "{\"model_type\": \"x\", \"auto_map\": {\"a\": [1.5e3, \"\\u00e9\"]}}"),
        ("config.pbtxt", "backend: \"x\" input [ { name: \"a\" dims: [ 1, 2 ] }, { name: 'b' } ]"),
        ("a.npy", "\u{93}NUMPY"),
        ("m.pmml", "<?xml version=\"1.0\"?><PMML version=\"4.4\"><DataDictionary numberOfFields=\"1\"><DataField name=\"x\" optype=\"continuous\" dataType=\"double\"/></DataDictionary><TreeModel><MiningSchema><MiningField name=\"x\"/></MiningSchema></TreeModel></PMML>"),
    ]
    .into_iter()
    .map(|(path, text)| (path.to_owned(), Bytes::copy_from_slice(text.as_bytes())))
    .collect();
    if let Some(corpus) = corpus() {
        for (path, _, _) in rows(&corpus) {
            let full = corpus.join(&path);
            let mut files = Vec::new();
            load(&full, full.parent().unwrap(), &mut files);
            seeds.extend(files.into_iter().filter(|(_, bytes)| bytes.len() < 60_000));
        }
    }
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        seed in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>(), any::<u8>()), 1..6),
    ) {
        thread_local! {
            static SEEDS: Vec<(String, Bytes)> = seeds();
        }
        let (path, bytes) = SEEDS.with(|seeds| seeds[seed.index(seeds.len())].clone());
        let mut bytes = bytes.to_vec();
        for (place, kind, value, length) in edits {
            if bytes.is_empty() {
                break;
            }
            // Headers decide more than what follows, so half of the edits hit the first bytes.
            let range = if value % 2 == 0 { bytes.len() } else { bytes.len().min(256) };
            let at = place.index(range);
            match kind {
                0 => bytes[at] = value,
                1 => bytes.truncate(at),
                2 => bytes[at] ^= 1 << (value % 8),
                _ => {
                    let end = bytes.len().min(at + usize::from(length));
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
        }
        let files = [(path, Bytes::from(bytes))];
        let bundle = Bundle::new(vec![BundleFile { path: &files[0].0, source: &files[0].1 }]);
        // A stream that breaks while it is decompressed again is a failed read; all else is a verdict.
        let _ = inspect(&bundle, 0);
    }
}
