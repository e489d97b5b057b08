//! The corpus files of the tensor and graph formats get the verdicts that its manifest asks for.

use bytes::Bytes;
use model_formats::{Bundle, BundleFile, Check, Limits, ReadError, Source, Verdict};
use model_formats::{coreml, gguf, hdf5, keras, onnx, safetensors, savedmodel, tflite};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

type Detect = fn(&[u8], &[u8], &str, u64) -> bool;
type Run = fn(&mut Check<'_>) -> Result<(), ReadError>;

const FORMATS: &[(&str, Detect, Run)] = &[
    ("gguf", gguf::detect, gguf::check),
    ("hdf5", hdf5::detect, hdf5::check),
    ("keras", keras::detect, keras::check),
    ("tflite", tflite::detect, tflite::check),
    ("safetensors", safetensors::detect, safetensors::check),
    ("savedmodel", savedmodel::detect, savedmodel::check),
    ("coreml", coreml::detect, coreml::check),
    ("onnx", onnx::detect, onnx::check),
];

/// Which of the manifest's formats belong to the modules here.
const OURS: &[&str] = &[
    "safetensors",
    "gguf",
    "onnx",
    "onnx-dir",
    "keras-v3",
    "keras-h5",
    "keras-weights-h5",
    "hdf5",
    "tf-savedmodel",
    "tflite",
    "coreml",
];

fn corpus() -> Option<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("shared/corpus"))
        .find(|folder| folder.join("manifest.csv").is_file())
}

fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Bytes>) {
    if folder.is_file() {
        files.insert(
            prefix.to_owned(),
            Bytes::from(std::fs::read(folder).expect("the corpus can be read")),
        );
        return;
    }
    for entry in std::fs::read_dir(folder).expect("the corpus can be listed") {
        let path = entry.expect("the corpus can be listed").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        collect(&path, &format!("{prefix}/{name}"), files);
    }
}

/// Judges every file that one of the formats claims; answers the worst verdict, its rules, and who claimed what.
fn judge(files: &BTreeMap<String, Bytes>) -> (Option<Verdict>, Vec<String>) {
    let bundle = Bundle::new(
        files
            .iter()
            .map(|(path, source)| BundleFile { path, source })
            .collect(),
    );
    let limits = Limits::default();
    let mut worst = None;
    let mut told = Vec::new();
    for (path, bytes) in files {
        let head = &bytes[..bytes.len().min(65_536)];
        let tail = &bytes[bytes.len().saturating_sub(65_536)..];
        let claimed = FORMATS
            .iter()
            .find(|(_, detect, _)| detect(head, tail, path, bytes.len() as u64));
        if let Some((name, _, run)) = claimed {
            let mut check = Check::new(&bundle, path, bytes, &limits, 0);
            run(&mut check).expect("memory can be read");
            let (verdict, findings, _) = check.finish();
            worst = worst.max(Some(verdict));
            told.push(format!("{path} is {name}: {verdict:?}"));
            told.extend(
                findings
                    .into_iter()
                    .map(|found| format!("  {} {}", found.rule, found.detail)),
            );
        }
    }
    (worst, told)
}

#[test]
fn the_corpus_gets_the_verdicts_of_its_manifest() {
    let Some(corpus) = corpus() else { return };
    let manifest = std::fs::read_to_string(corpus.join("manifest.csv")).unwrap();
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in manifest.lines().skip(1) {
        let mut cells = line.split(',');
        let (Some(file), Some(format), Some(label)) = (cells.next(), cells.next(), cells.next())
        else {
            continue;
        };
        if !OURS.contains(&format) {
            continue;
        }
        count += 1;
        let mut files = BTreeMap::new();
        collect(&corpus.join(file), file, &mut files);
        let (verdict, told) = judge(&files);
        let right = match label {
            "benign" => verdict == Some(Verdict::Clean),
            "benign-code" => verdict == Some(Verdict::ContainsCode),
            "malicious" => matches!(verdict, Some(Verdict::Unsafe | Verdict::ContainsCode)),
            _ => verdict >= Some(Verdict::Malformed),
        };
        if !right {
            wrong.push(format!("{label} {file}: {told:#?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// A large file of which only some bytes are real, and which counts what is read.
struct Sparse {
    head: Vec<u8>,
    size: u64,
    read: AtomicU64,
}

impl Source for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        assert!(range.start <= range.end && range.end <= self.size);
        self.read
            .fetch_add(range.end - range.start, Ordering::Relaxed);
        let at = |place: u64| {
            usize::try_from(place)
                .ok()
                .and_then(|place| self.head.get(place))
                .copied()
                .unwrap_or(0)
        };
        Ok((range.start..range.end).map(at).collect())
    }
}

#[test]
fn a_gigabyte_of_safetensors_is_judged_by_its_header() {
    let size = 1_000_000_000u64;
    let header = format!(r#"{{"a":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}"#);
    let mut head = (header.len() as u64).to_le_bytes().to_vec();
    head.extend_from_slice(header.as_bytes());
    let source = Sparse {
        size: head.len() as u64 + size,
        head,
        read: AtomicU64::new(0),
    };
    let bundle = Bundle::new(vec![BundleFile {
        path: "model.safetensors",
        source: &source,
    }]);
    let limits = Limits::default();
    let mut check = Check::new(&bundle, "model.safetensors", &source, &limits, 0);
    safetensors::check(&mut check).unwrap();
    assert_eq!(check.verdict(), Verdict::Clean);
    assert!(source.read.load(Ordering::Relaxed) <= 1024 * 1024);
}

fn seeds() -> Vec<(String, Bytes)> {
    let Some(corpus) = corpus() else {
        return Vec::new();
    };
    let mut files = BTreeMap::new();
    for name in [
        "torch.safetensors",
        "matmul.onnx",
        "skl_pipe.onnx",
        "onnx_ext",
        "llama3tmpl.gguf",
        "nn.mlmodel",
        "keras_seq.keras",
        "keras_seq.h5",
        "keras_seq.weights.h5",
        "savedmodel_func/saved_model.pb",
        "func.tflite",
        "plain.h5",
    ] {
        let path = corpus.join("benign").join(name);
        if path.exists() {
            collect(&path, name, &mut files);
        }
    }
    files
        .into_iter()
        .filter(|(_, bytes)| bytes.len() < 100_000)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_mutation_makes_a_check_panic(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..6), 1..12),
    ) {
        let seeds = seeds();
        if !seeds.is_empty() {
            let (path, bytes) = which.get(&seeds);
            let mut bytes = bytes.to_vec();
            for (place, value, kind) in edits {
                if bytes.is_empty() {
                    break;
                }
                // Headers are small beside payloads, so that most edits go to the front.
                let reach = if value % 3 == 0 { bytes.len() } else { bytes.len().min(2000) };
                let at = place.index(reach);
                match kind {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, value),
                    2 => { bytes.remove(at); }
                    3 => bytes[at] = 0xff,
                    4 => bytes[at] = bytes[at].wrapping_add(1),
                    _ => bytes[at] = value,
                }
            }
            let bytes = Bytes::from(bytes);
            let bundle = Bundle::new(vec![BundleFile { path, source: &bytes }]);
            let limits = Limits::default();
            for (_, detect, run) in FORMATS {
                let _ = detect(&bytes[..bytes.len().min(65_536)], &bytes, path, bytes.len() as u64);
                let mut check = Check::new(&bundle, path, &bytes, &limits, 0);
                run(&mut check).unwrap();
            }
        }
    }
}
