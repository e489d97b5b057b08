//! Layers: one for each file, of the kind that its name suggests.

use super::TITLE;
use super::image::{Annotations, Descriptor};
use shared::domain::Artifact;

/// Annotation with the path of a file within its model.
const FILE_PATH: &str = "org.cncf.model.filepath";
/// Annotation that says whether the kind was only guessed.
const IS_GUESSED: &str = "org.cncf.model.file.mediatype.untested";

const WEIGHT: &str = "application/vnd.cncf.model.weight.v1.raw";
const WEIGHT_CONFIG: &str = "application/vnd.cncf.model.weight.config.v1.raw";
const DOCUMENT: &str = "application/vnd.cncf.model.doc.v1.raw";
const CODE: &str = "application/vnd.cncf.model.code.v1.raw";
const DATASET: &str = "application/vnd.cncf.model.dataset.v1.raw";

/// Names of files whose extension would say something else, or nothing; the names come first, in lower case.
const NAMES: &[(&str, &[&str])] = &[
    (
        WEIGHT_CONFIG,
        &[
            "mlmodel",
            "vocab.txt",
            "merges.txt",
            "added_tokens.txt",
            "spiece.model",
            "tokenizer.model",
            "sentencepiece.bpe.model",
            "tiktoken.model",
            "config.pbtxt",
            ".gitattributes",
            ".gitignore",
        ],
    ),
    (
        DOCUMENT,
        &[
            "license", "licence", "notice", "readme", "copying", "authors",
        ],
    ),
    (
        CODE,
        &[
            "requirements.txt",
            "conda.yaml",
            "conda.yml",
            "python_env.yaml",
            "pyproject.toml",
            "dockerfile",
            "makefile",
        ],
    ),
];

/// Extensions, in lower case; what is not listed counts as weights.
const EXTENSIONS: &[(&str, &[&str])] = &[
    (
        WEIGHT_CONFIG,
        &[
            "json",
            "yaml",
            "yml",
            "toml",
            "ini",
            "cfg",
            "conf",
            "config",
            "properties",
            "xml",
            "pbtxt",
            "jinja",
            "tiktoken",
            "vocab",
            "hparams",
            "lock",
        ],
    ),
    (
        DOCUMENT,
        &[
            "md", "txt", "rst", "pdf", "html", "htm", "log", "png", "jpg", "jpeg", "gif", "svg",
            "docx", "sig",
        ],
    ),
    (
        CODE,
        &[
            "py", "ipynb", "sh", "bash", "c", "cc", "cpp", "h", "hpp", "cu", "rs", "go", "java",
            "js", "ts", "r", "jl", "scala", "lua", "so", "dll", "dylib", "whl", "jar",
        ],
    ),
    (
        DATASET,
        &[
            "csv", "tsv", "jsonl", "ndjson", "parquet", "arrow", "feather", "avro", "orc",
            "tfrecord",
        ],
    ),
];

/// The layer of a file.
pub(super) fn of(artifact: &Artifact) -> Descriptor<'_> {
    let path = artifact.path.as_str();
    Descriptor {
        annotations: Annotations::from([
            (FILE_PATH, path.to_owned()),
            (IS_GUESSED, "true".to_owned()),
            (TITLE, path.to_owned()),
        ]),
        ..Descriptor::new(media_type(path), &artifact.digest, artifact.size_bytes)
    }
}

/// The kind of a file by its name.
fn media_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => (stem, extension),
        _ => (name.as_str(), ""),
    };
    let find = |rows: &[(&'static str, &[&str])], text: &str| {
        rows.iter()
            .find(|(_, known)| known.contains(&text))
            .map(|(media_type, _)| *media_type)
    };
    find(NAMES, &name)
        // `LICENSE.txt` and `README.rst`, but not `notice.py`.
        .or_else(|| {
            find(&NAMES[1..2], stem).filter(|_| find(EXTENSIONS, extension) == Some(DOCUMENT))
        })
        .or_else(|| find(EXTENSIONS, extension))
        .unwrap_or(WEIGHT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_the_kind() {
        for (path, expected) in [
            ("model.safetensors", WEIGHT),
            ("data/model.PKL", WEIGHT),
            ("weights", WEIGHT),
            ("model.onnx.data", WEIGHT),
            ("MLmodel", WEIGHT_CONFIG),
            ("tokenizer.json", WEIGHT_CONFIG),
            ("vocab.txt", WEIGHT_CONFIG),
            ("tokenizer.model", WEIGHT_CONFIG),
            (".gitattributes", WEIGHT_CONFIG),
            ("README.md", DOCUMENT),
            ("LICENSE", DOCUMENT),
            ("license.txt", DOCUMENT),
            ("notice.py", CODE),
            ("requirements.txt", CODE),
            ("code/predict.py", CODE),
            ("examples/input.csv", DATASET),
        ] {
            assert_eq!(media_type(path), expected, "{path}");
        }
    }
}
