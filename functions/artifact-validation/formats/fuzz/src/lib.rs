//! Groups of formats, their seeds and their words, and the mutations that keep enough of a file's structure to reach
//! behind the first check.

use bytes::Bytes;
use model_formats::zip::Archive;
use model_formats::{Bundle, BundleFile, Limits, Report, inspect};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Formats that one target covers.
#[derive(Debug)]
pub struct Group {
    /// Name of the target.
    pub name: &'static str,
    /// Names under which inputs are judged.
    pub paths: &'static [&'static str],
    /// Ends of the names of the fixtures that are mutated.
    pub seeds: &'static [&'static str],
    /// Files in full, for formats of which the fixtures have few.
    pub texts: &'static [&'static str],
    /// What is put into inputs as a whole.
    pub words: &'static [&'static [u8]],
}

const NUMBERS: &[&[u8]] = &[
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\0\0\0\0",
    b"\x01\0\0\0",
];
const PICKLE: &[&[u8]] = &[
    b"\x80\x02",
    b"\x80\x05",
    b"\x95\x10\0\0\0\0\0\0\0",
    b"cos\nsystem\n",
    b"(",
    b"t",
    b"R",
    b"\x81",
    b"\x92",
    b"b",
    b"u",
    b"e",
    b"\x85",
    b"\x86",
    b"\x87",
    b"q\0",
    b"h\0",
    b"\x94",
    b"0",
    b"1",
    b"2",
    b"i",
    b"o",
    b"Q",
    b"\x97",
    b".",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy\ndtype\n",
    b"cnumpy\nndarray\n",
    b"X\x05\0\0\0abcde",
    b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n",
    b"K\x10",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"}",
    b"]",
    b"\x8f",
    b"\x90",
    b"\x91",
    b"ccollections\nOrderedDict\n",
    b"I1\n",
    b"L1L\n",
    b"S'O8'\n",
    b"Vtext\n",
    b"N",
];
const JSON: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"a\":",
    b"null",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b",",
    b"\"\\ud800\"",
    b"[[[[[[[[[[[[[[[[",
    b"true",
    b"\"__class__\":",
    b"\"module\":",
    b"\"class_name\":\"Lambda\"",
];
const TEMPLATE: &[&[u8]] = &[
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"{#",
    b"#}",
    b"(",
    b")",
    b"[",
    b"]",
    b"|attr(",
    b".__class__",
    b"for x in y",
    b"endfor",
    b"set a = ",
    b"macro m(a)",
    b"endmacro",
    b"~",
    b"\"\\x5f\"",
    b"if ",
    b"endif",
    b"raw",
    b"endraw",
    b"**",
    b"((((((((((((",
    b"not ",
    b" is ",
    b"-",
];

/// Every target.
pub const GROUPS: &[Group] = &[
    Group {
        name: "safetensors",
        paths: &["m.safetensors"],
        seeds: &[".safetensors"],
        texts: &[],
        words: JSON,
    },
    Group {
        name: "gguf",
        paths: &["m.gguf"],
        seeds: &[".gguf"],
        texts: &[],
        words: NUMBERS,
    },
    Group {
        name: "onnx",
        paths: &["m.onnx"],
        seeds: &[".onnx"],
        texts: &[],
        words: NUMBERS,
    },
    Group {
        name: "pickle",
        paths: &["m.pkl"],
        seeds: &[".pkl", ".joblib"],
        texts: &[],
        words: PICKLE,
    },
    Group {
        name: "zip",
        paths: &["m.zip", "m.pt"],
        seeds: &[".zip", ".mar"],
        texts: &[],
        words: NUMBERS,
    },
    Group {
        name: "torch",
        paths: &["m.pt"],
        seeds: &[".pt", ".pth", ".ckpt"],
        texts: &[],
        words: PICKLE,
    },
    Group {
        name: "keras",
        paths: &["m.keras"],
        seeds: &[".keras"],
        texts: &[],
        words: JSON,
    },
    Group {
        name: "hdf5",
        paths: &["m.h5"],
        seeds: &[".h5"],
        texts: &[],
        words: NUMBERS,
    },
    Group {
        name: "savedmodel",
        paths: &["saved_model.pb"],
        seeds: &["saved_model.pb"],
        texts: &[],
        words: NUMBERS,
    },
    Group {
        name: "tflite",
        paths: &["m.tflite"],
        seeds: &[".tflite"],
        texts: &[],
        words: NUMBERS,
    },
    Group {
        name: "coreml",
        paths: &["m.mlmodel"],
        seeds: &[".mlmodel"],
        texts: &[],
        words: NUMBERS,
    },
    Group {
        name: "xgboost-json",
        paths: &["m.json"],
        seeds: &["xgb.json"],
        texts: &[],
        words: JSON,
    },
    Group {
        name: "xgboost-ubj",
        paths: &["m.ubj"],
        seeds: &[".ubj"],
        texts: &[],
        words: &[
            b"{",
            b"}",
            b"[",
            b"]",
            b"[$d#L\xff\xff\xff\xff\xff\xff\xff\xff",
            b"L\0\0\0\0\0\0\0\x01",
            b"i\x01",
            b"Z",
            b"[[[[[[[[",
        ],
    },
    Group {
        name: "lightgbm",
        paths: &["m.txt"],
        seeds: &["lgbm.txt", ".lgb"],
        texts: &[],
        words: &[
            b"=",
            b"-1",
            b"\n",
            b"Tree=0",
            b" ",
            b"99999999999",
            b"inf",
            b"num_leaves=",
        ],
    },
    Group {
        name: "catboost",
        paths: &["m.cbm", "m.json"],
        seeds: &[".cbm", "cat.json"],
        texts: &[],
        words: JSON,
    },
    Group {
        name: "pmml",
        paths: &["m.pmml"],
        seeds: &[".pmml"],
        texts: &[],
        words: &[
            b"<",
            b">",
            b"<!DOCTYPE a [",
            b"<!ENTITY b 'c'>",
            b"&b;",
            b"<![CDATA[",
            b"]]>",
            b"<Extension>",
            b"<?xml",
            b"<a><a><a><a>",
        ],
    },
    Group {
        name: "skops",
        paths: &["m.skops"],
        seeds: &[".skops"],
        texts: &[],
        words: JSON,
    },
    Group {
        name: "npy",
        paths: &["m.npy", "m.npz"],
        seeds: &[".npy", ".npz"],
        texts: &[],
        words: &[
            b"{'descr': ",
            b"(",
            b",",
            b")",
            b"'O'",
            b"[('a','<i4')]",
            b"99999999999999",
            b"True",
        ],
    },
    Group {
        name: "mlflow",
        paths: &["MLmodel", "conda.yaml", "python_env.yaml"],
        seeds: &["MLmodel", ".yaml"],
        texts: &[],
        words: &[
            b": ",
            b"- ",
            b"\n",
            b"  ",
            b"!!python/object:a",
            b"&a ",
            b"*a",
            b"|",
            b">",
            b"{a: ",
            b"[",
            b"'",
            b"\"",
            b"? ",
            b"---\n",
            b"loader_module: x",
        ],
    },
    Group {
        name: "huggingface",
        paths: &[
            "config.json",
            "tokenizer_config.json",
            "model.safetensors.index.json",
            "README.md",
        ],
        seeds: &[
            "hf_dir/config.json",
            ".index.json",
            "hf_auto_map/config.json",
            "hf_dir/README.md",
        ],
        texts: &["---\nlicense: mit\ntags:\n- a\n---\n# Card\n"],
        words: JSON,
    },
    Group {
        name: "archive",
        paths: &["m.tar", "m.tar.gz"],
        seeds: &[".tar", ".tar.gz"],
        texts: &[],
        words: &[
            b"ustar\x0000",
            b"ustar  \0",
            b"L",
            b"x",
            b"12 path=../a\n",
            b"\x80\0\0\0\0\0\0\0\0\0\0\xff",
        ],
    },
    Group {
        name: "templates",
        paths: &["chat_template.jinja", "a.jinja"],
        seeds: &[],
        texts: &[
            "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim }}{% endfor %}",
            "{%- if tools is defined %}{{- raise_exception('no') }}{%- endif %}{% set ns = namespace(a=1) %}",
            "{% macro f(x, y=1) %}{{ x[0:2] ~ y }}{% endmacro %}{{ f('a') if b else c.items() | list }}",
        ],
        words: TEMPLATE,
    },
    Group {
        name: "compressed",
        paths: &["m.pkl", "m.joblib", "m.bin.gz"],
        seeds: &["bz2.joblib", "gzip.joblib", ".pkl.gz", "gz_as_pkl.pkl"],
        texts: &[],
        words: NUMBERS,
    },
    Group {
        name: "environment",
        paths: &["requirements.txt", "conda.yaml", "pyproject.toml"],
        seeds: &["requirements.txt", "conda.yaml"],
        texts: &["[project]\nname = \"a\"\ndependencies = [\"numpy==1.0\"]\n"],
        words: &[
            b"==",
            b"-r ",
            b"--extra-index-url ",
            b"@ git+https://",
            b"[",
            b"]",
            b";",
            b"\n",
            b"\\\n",
        ],
    },
    Group {
        name: "triton",
        paths: &["config.pbtxt"],
        seeds: &[".pbtxt"],
        texts: &[
            "name: \"m\"\nplatform: \"onnxruntime_onnx\"\nmax_batch_size: 8\ninput [ { name: \"x\" data_type: TYPE_FP32 dims: [ 4 ] } ]\n",
        ],
        words: &[
            b"{", b"}", b"[", b"]", b": ", b"\"", b"\\x5f", b"backend", b"#",
        ],
    },
];

/// Judges one input as the only file of a version.
pub fn judge(path: &str, content: &[u8]) -> Report {
    let source = Bytes::copy_from_slice(content);
    let file = BundleFile {
        path,
        source: &source,
    };
    inspect(&Bundle::new(vec![file]), &Limits::default())
}

/// Numbers that look random and are the same in every run.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below `bound`, or 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16)
            .unwrap_or_default()
            .checked_rem(bound)
            .unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or_default()
    }
}

/// A file to mutate: members of an archive, a compressed content, or bytes.
#[derive(Debug, Clone)]
pub enum Seed {
    /// Members of a zip archive, to be packed again with right checksums.
    Zip(Vec<(String, Vec<u8>)>),
    /// What a gzip stream holds.
    Gzip(Vec<u8>),
    /// Bytes as they are.
    Plain(Vec<u8>),
}

/// The seeds of a group, from the fixtures of the crate.
pub fn seeds(group: &Group) -> Vec<Seed> {
    let mut files = Vec::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    collect(&fixtures, &mut files);
    files.sort();
    let mut seeds: Vec<Seed> = group
        .texts
        .iter()
        .map(|text| Seed::Plain(text.as_bytes().to_vec()))
        .collect();
    for file in files {
        let name = file.to_string_lossy().into_owned();
        if !group.seeds.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        let Ok(content) = std::fs::read(&file) else {
            continue;
        };
        if content.len() > 70_000 {
            continue;
        }
        let source = Bytes::from(content.clone());
        if let Ok(archive) = Archive::open(&source) {
            let members: Vec<_> = archive
                .entries()
                .iter()
                .filter_map(|entry| {
                    Some((
                        entry.name.clone(),
                        archive.read(entry, 1 << 20).ok()?.to_vec(),
                    ))
                })
                .collect();
            if !members.is_empty() {
                seeds.push(Seed::Zip(members));
            }
        }
        if content.starts_with(&[0x1f, 0x8b]) {
            let mut expanded = Vec::new();
            let mut reader =
                std::io::Read::take(flate2::read::GzDecoder::new(content.as_slice()), 1 << 20);
            if std::io::Read::read_to_end(&mut reader, &mut expanded).is_ok() {
                seeds.push(Seed::Gzip(expanded));
            }
        }
        seeds.push(Seed::Plain(content));
    }
    seeds
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Makes one input of a seed.
pub fn mutate(seed: &Seed, others: &[Seed], words: &[&[u8]], dice: &mut Dice) -> Vec<u8> {
    match seed {
        Seed::Plain(bytes) => {
            let mut bytes = bytes.clone();
            damage(&mut bytes, others, words, dice);
            bytes
        }
        Seed::Gzip(bytes) => {
            let mut bytes = bytes.clone();
            damage(&mut bytes, others, words, dice);
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            let written = encoder.write_all(&bytes);
            written.and_then(|()| encoder.finish()).unwrap_or_default()
        }
        Seed::Zip(members) => {
            let mut members = members.clone();
            for _ in 0..=dice.below(2) {
                let which = dice.below(members.len());
                if let Some((name, content)) = members.get_mut(which) {
                    if dice.below(16) == 0 {
                        name.push_str(["/", "..", "\\", "A", ".npy"][dice.below(5)]);
                    } else {
                        damage(content, others, words, dice);
                    }
                }
            }
            if dice.below(20) == 0 {
                let which = dice.below(members.len());
                if let Some(member) = members.get(which).cloned() {
                    members.push(member);
                }
            }
            pack(&members)
        }
    }
}

/// Packs a canonical archive of stored members.
fn pack(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut table) = (Vec::new(), Vec::new());
    let short = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    let long = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    for (name, content) in members {
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(crc32fast::hash(content).to_le_bytes());
        common.extend(long(content.len()));
        common.extend(long(content.len()));
        common.extend(short(name.len()));
        common.extend([0, 0]);
        table.extend(b"PK\x01\x02\x14\0");
        table.extend(&common);
        table.extend([0; 10]);
        table.extend(long(out.len()));
        table.extend(name.as_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(content);
    }
    let start = out.len();
    out.extend(&table);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(short(members.len()));
    out.extend(short(members.len()));
    out.extend(long(table.len()));
    out.extend(long(start));
    out.extend([0, 0]);
    out
}

const INTERESTING: [u64; 12] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

fn damage(bytes: &mut Vec<u8>, others: &[Seed], words: &[&[u8]], dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        // Headers are small beside payloads, so that half of the places lie in the front.
        let reach = if dice.below(2) == 0 {
            bytes.len().min(1024)
        } else {
            bytes.len()
        };
        let at = dice.below(reach + 1).min(bytes.len());
        match dice.below(10) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, dice.byte()),
            2 => {
                let end = (at + 1 + dice.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + 1 + dice.below(64)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                let times = 1 + dice.below(8);
                bytes.splice(at..at, part.repeat(times));
            }
            4 | 5 => {
                let width = [1, 2, 4, 8][dice.below(4)];
                let mut value = INTERESTING[dice.below(INTERESTING.len())].to_le_bytes();
                if dice.below(4) == 0 {
                    value[..width].reverse();
                }
                for (target, new) in bytes.iter_mut().skip(at).zip(&value[..width]) {
                    *target = *new;
                }
            }
            6 if !words.is_empty() => {
                let word = words[dice.below(words.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            7 => {
                let other = &others[dice.below(others.len())];
                if let Seed::Plain(other) | Seed::Gzip(other) = other {
                    let start = dice.below(other.len());
                    let end = (start + 1 + dice.below(256)).min(other.len());
                    bytes.splice(at..at, other[start..end].iter().copied());
                }
            }
            8 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
            _ => {
                let value = dice.byte();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
        }
    }
    bytes.truncate(200_000);
}
