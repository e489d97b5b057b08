//! Hostile files made for the purpose, by family; every one must be refused.
//!
//! Payloads are inert: they name functions and pass them words that do nothing.

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use model_formats::{Bundle, BundleFile, Limits, Verdict, inspect};
use std::io::Write as _;

fn verdict(files: &[(&str, Bytes)]) -> Verdict {
    let files = files
        .iter()
        .map(|(path, source)| BundleFile { path, source })
        .collect();
    inspect(&Bundle::new(files), &Limits::default()).verdict
}

/// Holds every file of a family to at least `least`; answers how many there were.
#[track_caller]
fn refuse(family: &[(String, &str, Vec<u8>)], least: Verdict, count: usize) {
    let passed: Vec<String> = family
        .iter()
        .filter_map(|(name, path, bytes)| {
            let found = verdict(&[(path, Bytes::from(bytes.clone()))]);
            (found < least).then(|| format!("{name} as {path}: {found:?}"))
        })
        .collect();
    assert!(
        passed.is_empty(),
        "{} of {} pass: {passed:#?}",
        passed.len(),
        family.len()
    );
    assert!(family.len() >= count, "only {} files", family.len());
}

// ── Pickles ─────────────────────────────────────────────────────────────

/// Functions that run something, import something, touch a file or a host, or lead to one that does.
const GADGETS: &str = "os system|os popen|os execvp|os spawnl|os posix_spawn|os remove|os rename|os putenv|os kill|posix system|\
nt system|subprocess Popen|subprocess check_output|subprocess getoutput|subprocess run|_posixsubprocess fork_exec|\
builtins eval|builtins exec|builtins compile|builtins open|builtins __import__|builtins breakpoint|builtins input|\
builtins map|builtins filter|builtins vars|builtins delattr|builtins globals|builtins memoryview|builtins iter|\
__builtin__ eval|__builtin__ execfile|__builtin__ apply|importlib import_module|importlib __import__|\
importlib.util spec_from_file_location|runpy run_path|runpy run_module|runpy _run_code|pty spawn|code interact|\
code InteractiveInterpreter|codeop compile_command|timeit timeit|timeit main|cProfile run|profile run|pdb run|bdb Bdb|\
trace Trace|doctest debug_script|pydoc pipepager|pydoc locate|webbrowser open|ctypes CDLL|ctypes.util find_library|\
_ctypes dlopen|shutil rmtree|shutil move|shutil copyfile|pathlib Path|io open|_io FileIO|io FileIO|tempfile mktemp|\
socket create_connection|socket socket|urllib.request urlopen|http.client HTTPConnection|ftplib FTP|smtplib SMTP|\
asyncio.subprocess create_subprocess_shell|multiprocessing.util spawnv_passfds|concurrent.futures ProcessPoolExecutor|\
threading Thread|_thread start_new_thread|signal signal|atexit register|sched scheduler|types FunctionType|\
marshal loads|pickle loads|pickle load|_pickle loads|cPickle loads|dill loads|dill._dill loads|cloudpickle loads|\
joblib load|joblib.numpy_pickle load|shelve open|dbm open|sqlite3 connect|zipimport zipimporter|operator attrgetter|\
operator methodcaller|operator itemgetter|_operator methodcaller|functools reduce|functools partialmethod|\
functools singledispatch|itertools starmap|itertools accumulate|inspect getattr_static|linecache getlines|logging.config listen|\
logging.config fileConfig|logging FileHandler|distutils.file_util write_file|setuptools.sandbox run_setup|pip main|\
pip._internal main|venv create|ensurepip bootstrap|site execsitecustomize|gc get_objects|sys exit|sys settrace|sys modules|\
numpy load|numpy fromfile|numpy loadtxt|numpy savetxt|numpy.f2py compile|numpy.testing runstring|\
numpy.testing._private.utils runstring|numpy.ctypeslib load_library|numpy.distutils.exec_command exec_command|\
numpy._core.multiarray fromfile|scipy.io loadmat|scipy.misc common|pandas read_pickle|pandas eval|pandas read_csv|\
pandas.io.common get_handle|sklearn.datasets load_files|sklearn.datasets fetch_openml|sklearn.utils._testing run|torch load|\
torch save|torch.hub load|torch.jit load|torch.package PackageImporter|torch.ops load_library|\
torch.utils.cpp_extension load|torch.utils.model_zoo load_url|torch._utils_internal get_file_path|torch.storage _load_from_bytes|\
torch._dynamo.guards ___eval|torch.fx.graph_module reduce_graph_module|torch.fx.graph_module _forward_from_src|\
torch.utils.bottleneck.__main__ run_cprofile|torch.utils._config_module load_config|torch.distributed.rpc rpc_sync|\
torch.multiprocessing spawn|xgboost Booster.load_model|lightgbm Booster|catboost CatBoost.load_model|mlflow.pyfunc load_model|\
keras.saving load_model|tensorflow io|tensorflow.io read_file|transformers AutoModel|yaml load|yaml unsafe_load|jsonpickle decode|\
requests get|paramiko SSHClient|fabric run|IPython start_ipython|IPython.utils.process system|nltk.data load|\
antigravity x|this s|lib2to3.pgen2.pgen ParserGenerator|lib2to3.pgen2.grammar Grammar|uuid _get_command_stdout|\
_aix_support _read_cmd_output|_osx_support _read_output|_pyrepl.pager pipe_pager|idlelib.pyshell ModifiedInterpreter|\
turtledemo x|test.support.script_helper assert_python_ok|unittest.mock _importer|pkgutil get_data|pkgutil resolve_name|\
getattr x|nonexistent_package_7 run|sklearn.svm._classes SVC.__init__|collections OrderedDict.__reduce__|os.path join";

fn gadgets() -> Vec<(&'static str, &'static str)> {
    GADGETS
        .split('|')
        .filter_map(|pair| pair.trim().split_once(' '))
        .collect()
}

fn text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("texts of the test are short");
    [&[0x8c, length], text.as_bytes()].concat()
}

fn stack_global(module: &str, name: &str) -> Vec<u8> {
    [text(module), text(name), vec![0x93]].concat()
}

fn old_global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Every way in which a program can come to call a name.
fn programs(module: &str, name: &str) -> Vec<(&'static str, Vec<u8>)> {
    let new = stack_global(module, name);
    let old = old_global(module, name);
    let (in_module, in_name) = (text(module), text(name));
    let svc = stack_global("sklearn.svm._classes", "SVC");
    let ordered = stack_global("collections", "OrderedDict");
    vec![
        ("reduce", join(&[b"\x80\x04", &new, &text("x"), b"\x85R."])),
        (
            "reduce, protocol 2",
            join(&[b"\x80\x02", &old, b"X\x01\0\0\0x\x85R."]),
        ),
        ("reduce, protocol 0", join(&[&old, b"(S'x'\ntR."])),
        (
            "instance of Python 1",
            join(&[
                b"(S'x'\ni",
                module.as_bytes(),
                b"\n",
                name.as_bytes(),
                b"\n.",
            ]),
        ),
        (
            "object of Python 1",
            join(&[b"\x80\x02(", &old, b"X\x01\0\0\0xo."]),
        ),
        (
            "new object",
            join(&[b"\x80\x04", &new, &text("x"), b"\x85\x81."]),
        ),
        (
            "new object with names",
            join(&[b"\x80\x04", &new, b")}\x92."]),
        ),
        ("only mentioned", join(&[b"\x80\x04", &new, b"."])),
        ("within a list", join(&[b"\x80\x04](K\x01", &new, b")Re."])),
        (
            "within a dictionary",
            join(&[b"\x80\x04}", &text("a"), &new, b")Rs."]),
        ),
        (
            "as a state",
            join(&[b"\x80\x04", &svc, b")\x81}", &text("kernel"), &new, b"sb."]),
        ),
        (
            "as a special attribute",
            join(&[
                b"\x80\x04",
                &svc,
                b")\x81}",
                &text("__setstate__"),
                &new,
                b"sb.",
            ]),
        ),
        (
            "as an argument",
            join(&[b"\x80\x04", &ordered, b"]", &new, b"a\x85R."]),
        ),
        (
            "thrown away",
            join(&[b"\x80\x04", &new, &text("x"), b"\x85R0N."]),
        ),
        (
            "thrown away by a mark",
            join(&[b"\x80\x04(", &new, &text("x"), b"\x85R1N."]),
        ),
        (
            "behind the end",
            join(&[b"\x80\x04N.", b"\x80\x04", &new, b")R."]),
        ),
        (
            "names from the memo",
            join(&[
                b"\x80\x04",
                &in_module,
                b"\x940",
                &in_name,
                b"\x940h\0h\x01\x93)R.",
            ]),
        ),
        (
            "name from a list",
            join(&[
                b"\x80\x04",
                &in_module,
                b"\x94",
                &in_name,
                b"\x94\x86\x940h\0h\x01\x93)R.",
            ]),
        ),
        (
            "without its last opcode",
            join(&[b"\x80\x04", &new, &text("x"), b"\x85R"]),
        ),
        ("before damage", join(&[b"\x80\x04", &new, b")R\xff\xff"])),
        (
            "in a frame too long",
            join(&[b"\x80\x04\x95\xff\0\0\0\0\0\0\0", &new, b")R."]),
        ),
        (
            "in a frame too short",
            join(&[b"\x80\x04\x95\x01\0\0\0\0\0\0\0", &new, b")R."]),
        ),
        (
            "after a second protocol",
            join(&[b"\x80\x04\x80\x02", &old, b")R."]),
        ),
        (
            "of protocol 5",
            join(&[b"\x80\x05\x96\x01\0\0\0\0\0\0\0x0", &new, b")R."]),
        ),
        (
            "under a function of the list",
            join(&[
                b"\x80\x04",
                &stack_global("functools", "partial"),
                &new,
                b"\x85R)R.",
            ]),
        ),
        (
            "by an object's factory",
            join(&[
                b"\x80\x04",
                &stack_global("collections", "defaultdict"),
                &new,
                b"\x85R.",
            ]),
        ),
        (
            "by a reconstructor",
            join(&[
                b"\x80\x04",
                &stack_global("copyreg", "_reconstructor"),
                &new,
                &stack_global("builtins", "object"),
                b"N\x87R.",
            ]),
        ),
        (
            "as a type of arrays",
            join(&[
                b"\x80\x04",
                &stack_global("numpy._core.multiarray", "_reconstruct"),
                &new,
                b"K\0\x85C\x01b\x87R.",
            ]),
        ),
        (
            "as a state of a call",
            join(&[b"\x80\x04", &new, b")R}", &text("a"), b"K\x01sb."]),
        ),
        ("in a set", join(&[b"\x80\x04\x8f(", &new, b")R\x90."])),
        ("in a frozen set", join(&[b"\x80\x04(", &new, b")R\x91."])),
    ]
}

#[test]
fn pickles_cannot_reach_a_function_outside_of_the_list() {
    let mut family = Vec::new();
    for (module, name) in gadgets() {
        for (way, program) in programs(module, name) {
            family.push((format!("{module}.{name}, {way}"), "model.pkl", program));
        }
    }
    refuse(&family, Verdict::Malformed, 5000);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

fn npy(descr: &str, shape: &str, content: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).expect("short").to_le_bytes();
    join(&[b"\x93NUMPY\x01\0", &length, header.as_bytes(), content])
}

fn tar(members: &[(&str, u8, &str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, link, content) in members {
        let mut header = vec![0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, b"0000644\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[*kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(&header);
        out.extend_from_slice(content);
        out.resize(out.len().div_ceil(512) * 512, 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// How one member of an archive deviates from what an archiver writes.
#[derive(Clone, Copy, Default)]
struct Odd {
    local_name: Option<&'static str>,
    flags: [u16; 2],
    method: [u16; 2],
    crc: [u32; 2],
    size: [i64; 2],
    compressed: [i64; 2],
    offset: i64,
    attributes: u32,
    made_by: u8,
    comment: &'static [u8],
    extra: [&'static [u8]; 2],
}

/// Oddities of the archive as a whole.
#[derive(Clone, Copy, Default)]
struct Around {
    before: &'static [u8],
    between: &'static [u8],
    before_end: &'static [u8],
    behind: &'static [u8],
    comment: &'static [u8],
    count: i32,
    table_size: i64,
    table_offset: i64,
    disk: u16,
}

fn zip(members: &[(&str, &[u8], Odd)], around: Around) -> Vec<u8> {
    let clip = |value: i64| u32::try_from(value.clamp(0, i64::from(u32::MAX))).expect("clamped");
    let short = |value: usize| u16::try_from(value).expect("short").to_le_bytes();
    let (mut out, mut table) = (around.before.to_vec(), Vec::new());
    for (name, content, odd) in members {
        let length = i64::try_from(content.len()).expect("small");
        let at = i64::try_from(out.len()).expect("small");
        for side in 0..2 {
            let mut common = vec![20, 0];
            common.extend(odd.flags[side].to_le_bytes());
            common.extend(odd.method[side].to_le_bytes());
            common.extend([0; 4]);
            common.extend((crc32fast::hash(content) ^ odd.crc[side]).to_le_bytes());
            common.extend(clip(length + odd.compressed[side]).to_le_bytes());
            common.extend(clip(length + odd.size[side]).to_le_bytes());
            if side == 0 {
                let name = odd.local_name.unwrap_or(name);
                out.extend(b"PK\x03\x04");
                out.extend(common);
                out.extend(short(name.len()));
                out.extend(short(odd.extra[0].len()));
                out.extend(name.as_bytes());
                out.extend(odd.extra[0]);
                out.extend_from_slice(content);
                out.extend(around.between);
            } else {
                table.extend(b"PK\x01\x02\x14");
                table.push(odd.made_by);
                table.extend(common);
                table.extend(short(name.len()));
                table.extend(short(odd.extra[1].len()));
                table.extend(short(odd.comment.len()));
                table.extend([0; 4]);
                table.extend(odd.attributes.to_le_bytes());
                table.extend(clip(at + odd.offset).to_le_bytes());
                table.extend(name.as_bytes());
                table.extend(odd.extra[1]);
                table.extend(odd.comment);
            }
        }
    }
    let start = i64::try_from(out.len()).expect("small");
    let count =
        u16::try_from(i32::try_from(members.len()).expect("few") + around.count).expect("few");
    out.extend(&table);
    out.extend(around.before_end);
    out.extend(b"PK\x05\x06");
    out.extend(around.disk.to_le_bytes());
    out.extend([0, 0]);
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(clip(i64::try_from(table.len()).expect("small") + around.table_size).to_le_bytes());
    out.extend(clip(start + around.table_offset).to_le_bytes());
    out.extend(short(around.comment.len()));
    out.extend(around.comment);
    out.extend(around.behind);
    out
}

fn plain_zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let members: Vec<_> = members
        .iter()
        .map(|(name, content)| (*name, *content, Odd::default()))
        .collect();
    zip(&members, Around::default())
}

#[test]
fn pickles_cannot_hide_in_other_formats() {
    let mut family = Vec::new();
    for (module, name) in [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("nonexistent_package_7", "f"),
    ] {
        for (way, program) in programs(module, name).into_iter().take(14) {
            let torch = |pickle: &[u8]| plain_zip(&[("m/data.pkl", pickle), ("m/version", b"3\n")]);
            let objects = npy("'|O'", "(1,)", &program);
            let hidden: Vec<(&str, &str, Vec<u8>)> = vec![
                ("gzip", "model.pkl.gz", gzip(&program)),
                ("gzip under another name", "model.joblib", gzip(&program)),
                ("zlib", "model.joblib", zlib(&program)),
                ("gzip twice", "model.gz", gzip(&gzip(&program))),
                ("PyTorch", "model.pt", torch(&program)),
                (
                    "PyTorch in an archive",
                    "model.zip",
                    plain_zip(&[("a/model.pt", &torch(&program))]),
                ),
                (
                    "PyTorch under another name",
                    "pytorch_model.bin",
                    torch(&program),
                ),
                ("array of objects", "a.npy", objects.clone()),
                (
                    "archive of arrays",
                    "a.npz",
                    plain_zip(&[("a.npy", &objects)]),
                ),
                ("zip", "model.zip", plain_zip(&[("model.pkl", &program)])),
                (
                    "zip, without an extension",
                    "model.zip",
                    plain_zip(&[("model", &program)]),
                ),
                (
                    "zip in zip",
                    "model.zip",
                    plain_zip(&[("in.zip", &plain_zip(&[("m.pkl", &program)]))]),
                ),
                (
                    "tar",
                    "model.tar",
                    tar(&[("model.pkl", b'0', "", &program)]),
                ),
                (
                    "tar.gz",
                    "model.tar.gz",
                    gzip(&tar(&[("a/b", b'0', "", &program)])),
                ),
                ("no extension", "model", program.clone()),
                ("weights", "pytorch_model.bin", program.clone()),
                ("a safetensors name", "model.safetensors", program.clone()),
                ("a text's name", "notes.txt", program.clone()),
                ("a picture's name", "logo.png", program.clone()),
            ];
            for (place, path, bytes) in hidden {
                family.push((format!("{module}.{name}, {way}, in {place}"), path, bytes));
            }
        }
    }
    refuse(&family, Verdict::Unsupported, 1000);
}

// ── Archives ────────────────────────────────────────────────────────────

#[test]
fn archives_cannot_be_read_in_two_ways() {
    let evil: &[u8] = b"cos\nsystem\n(S'x'\ntR.";
    let mut family: Vec<(String, &str, Vec<u8>)> = Vec::new();
    let d = Odd::default();
    let members: Vec<(&str, Odd)> = vec![
        (
            "another name in the header",
            Odd {
                local_name: Some("m/evil.pkl"),
                ..d
            },
        ),
        ("encrypted", Odd { flags: [1, 1], ..d }),
        ("encrypted in the header", Odd { flags: [1, 0], ..d }),
        ("encrypted in the table", Odd { flags: [0, 1], ..d }),
        (
            "patched",
            Odd {
                flags: [0x20, 0x20],
                ..d
            },
        ),
        (
            "strongly encrypted",
            Odd {
                flags: [0x40, 0x40],
                ..d
            },
        ),
        (
            "masked",
            Odd {
                flags: [0x2000, 0x2000],
                ..d
            },
        ),
        (
            "a name of two alphabets",
            Odd {
                flags: [0x800, 0],
                ..d
            },
        ),
        (
            "deflated in the header",
            Odd {
                method: [8, 0],
                ..d
            },
        ),
        (
            "deflated in the table",
            Odd {
                method: [0, 8],
                ..d
            },
        ),
        (
            "bzip2",
            Odd {
                method: [12, 12],
                ..d
            },
        ),
        (
            "LZMA",
            Odd {
                method: [14, 14],
                ..d
            },
        ),
        (
            "Zstandard",
            Odd {
                method: [93, 93],
                ..d
            },
        ),
        (
            "an unknown method",
            Odd {
                method: [77, 77],
                ..d
            },
        ),
        ("another checksum in the header", Odd { crc: [1, 0], ..d }),
        ("another checksum in the table", Odd { crc: [0, 1], ..d }),
        ("a wrong checksum", Odd { crc: [1, 1], ..d }),
        (
            "longer in the header",
            Odd {
                size: [1, 0],
                compressed: [1, 0],
                ..d
            },
        ),
        (
            "shorter in the header",
            Odd {
                size: [-1, 0],
                compressed: [-1, 0],
                ..d
            },
        ),
        (
            "longer in the table",
            Odd {
                size: [0, 5],
                compressed: [0, 5],
                ..d
            },
        ),
        (
            "shorter in the table",
            Odd {
                size: [0, -1],
                compressed: [0, -1],
                ..d
            },
        ),
        ("two sizes", Odd { size: [7, 7], ..d }),
        (
            "a huge size",
            Odd {
                size: [0, 0xffff_fff0],
                ..d
            },
        ),
        ("moved forward", Odd { offset: 1, ..d }),
        (
            "a link",
            Odd {
                made_by: 3,
                attributes: 0o120_777 << 16,
                ..d
            },
        ),
        (
            "a device",
            Odd {
                made_by: 3,
                attributes: 0o060_666 << 16,
                ..d
            },
        ),
        (
            "a pipe",
            Odd {
                made_by: 3,
                attributes: 0o010_666 << 16,
                ..d
            },
        ),
        (
            "a comment that is an end",
            Odd {
                comment: b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                ..d
            },
        ),
        (
            "a name in an extra field",
            Odd {
                extra: [b"", b"up\x0b\0\x01\0\0\0\0evil.p"],
                ..d
            },
        ),
        (
            "damaged extra fields",
            Odd {
                extra: [b"", b"\x01\0\xff\xff"],
                ..d
            },
        ),
    ];
    for (name, odd) in members {
        let pickle: &[u8] = b"\x80\x02}.";
        for path in ["model.pt", "model.zip"] {
            let bytes = zip(
                &[("m/data.pkl", pickle, odd), ("m/version", b"3\n", d)],
                Around::default(),
            );
            family.push((name.to_owned(), path, bytes));
        }
    }
    let a = Around::default();
    let around: Vec<(&str, Around)> = vec![
        (
            "bytes before",
            Around {
                before: b"#!/bin/sh\n",
                ..a
            },
        ),
        (
            "a pickle before",
            Around {
                before: b"cos\nsystem\n(S'x'\ntR.",
                ..a
            },
        ),
        (
            "bytes between",
            Around {
                between: b"hidden",
                ..a
            },
        ),
        (
            "a header between",
            Around {
                between: b"PK\x03\x04",
                ..a
            },
        ),
        (
            "bytes before the end",
            Around {
                before_end: b"hidden",
                ..a
            },
        ),
        (
            "bytes behind",
            Around {
                behind: b"hidden",
                ..a
            },
        ),
        (
            "a pickle behind",
            Around {
                behind: b"cos\nsystem\n(S'x'\ntR.",
                ..a
            },
        ),
        (
            "a comment",
            Around {
                comment: b"hello",
                ..a
            },
        ),
        (
            "an end in the comment",
            Around {
                comment: b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                ..a
            },
        ),
        (
            "an end behind the end",
            Around {
                behind: b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                ..a
            },
        ),
        ("a member too many", Around { count: 1, ..a }),
        ("a member too few", Around { count: -1, ..a }),
        (
            "a longer table",
            Around {
                table_size: 10,
                ..a
            },
        ),
        (
            "a shorter table",
            Around {
                table_size: -10,
                ..a
            },
        ),
        (
            "a table that begins later",
            Around {
                table_offset: 4,
                ..a
            },
        ),
        (
            "a table that begins earlier",
            Around {
                table_offset: -4,
                ..a
            },
        ),
        ("several disks", Around { disk: 1, ..a }),
    ];
    for (name, around) in around {
        for path in ["model.pt", "model.zip"] {
            let bytes = zip(
                &[("m/data.pkl", b"\x80\x02}.", d), ("m/version", b"3\n", d)],
                around,
            );
            family.push((name.to_owned(), path, bytes));
        }
    }
    for name in [
        "../x",
        "a/../../x",
        "/etc/x",
        "C:\\x",
        "c:/x",
        "..\\x",
        "a\\..\\x",
        "a//x",
        "./x",
        "a/./x",
        "x\0y",
        "\\\\host\\x",
        "a/..",
        "~/x/../..",
        "con/../../x",
    ] {
        family.push((
            format!("member {name:?}"),
            "model.zip",
            plain_zip(&[(name, b"x")]),
        ));
    }
    for names in [["a.txt", "a.txt"], ["a.txt", "A.TXT"], ["a", "a/b"]] {
        let bytes = plain_zip(&[(names[0], b"x"), (names[1], evil)]);
        family.push((format!("members {names:?}"), "model.zip", bytes));
    }
    for (name, kind, link) in [
        ("../x", b'0', ""),
        ("/etc/x", b'0', ""),
        ("a/../../x", b'0', ""),
        ("a\\..\\x", b'0', ""),
        ("x", b'1', "../y"),
        ("x", b'2', "/etc/passwd"),
        ("x", b'2', "../../y"),
        ("x", b'3', ""),
        ("x", b'4', ""),
        ("x", b'6', ""),
        ("x", b'7', ""),
        ("x", b'V', ""),
        ("x", b'M', ""),
        ("x", b'Z', ""),
    ] {
        family.push((
            format!("tar {name} {} {link}", char::from(kind)),
            "model.tar",
            tar(&[(name, kind, link, b"")]),
        ));
    }
    for records in [
        "12 path=../x\n",
        "13 path=/etc/x\n",
        "19 linkpath=/etc/x\n",
        "20 size=99999999999\n",
        "99 path=x\n",
        "nonsense",
    ] {
        let bytes = tar(&[
            ("p", b'x', "", records.as_bytes()),
            ("a.txt", b'0', "", b"x"),
        ]);
        family.push((format!("tar with {records:?}"), "model.tar", bytes));
    }
    let bytes = tar(&[("a.txt", b'0', "", b"x"), ("A.txt", b'0', "", b"y")]);
    family.push(("tar with two names of one".into(), "model.tar", bytes));
    let mut deep = b"x".to_vec();
    for _ in 0..8 {
        deep = plain_zip(&[("in.zip", &deep)]);
    }
    family.push(("eight archives deep".into(), "model.zip", deep));
    family.push(("a bomb".into(), "model.gz", gzip(&vec![0; 300 << 20])));
    refuse(&family, Verdict::ContainsCode, 120);
}

// ── Configurations and templates ────────────────────────────────────────

#[test]
fn templates_cannot_reach_the_interpreter() {
    let mut family = Vec::new();
    let roots = [
        "x",
        "messages",
        "self",
        "cycler",
        "joiner",
        "namespace",
        "lipsum",
        "range",
        "loop",
        "messages[0]",
    ];
    let ways = [
        "{{ R.__class__ }}",
        "{{ R['__class__'] }}",
        "{{ R[\"\\x5f\\x5fclass\\x5f\\x5f\"] }}",
        "{{ R|attr('__class__') }}",
        "{{ (R|attr)('__class__') }}",
        "{{ R.__init__.__globals__.os.popen('x') }}",
        "{% if R.__class__ %}{% endif %}",
        "{% set y = R.__class__ %}",
        "{% for y in R.__class__.__mro__ %}{% endfor %}",
        "{{ R['__cla' ~ 'ss__'] }}",
        "{{ R['__cla' + 'ss__'] }}",
        "{{ [R]|map(attribute='__class__')|list }}",
        "{{ R['%c%cclass'|format(95, 95)] }}",
    ];
    for root in roots {
        for way in ways {
            let template = way.replace('R', root);
            let config = format!(
                "{{\"chat_template\": {}}}",
                serde_json::Value::from(template.as_str())
            );
            family.push((
                template.clone(),
                "tokenizer_config.json",
                config.into_bytes(),
            ));
            family.push((
                template.clone(),
                "chat_template.jinja",
                template.into_bytes(),
            ));
        }
    }
    for template in [
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends 'x' %}",
        "{% from 'x' import y %}",
    ] {
        family.push((template.into(), "chat_template.jinja", template.into()));
    }
    refuse(&family, Verdict::Unsupported, 200);
}

fn keras(config: &str) -> Vec<u8> {
    plain_zip(&[
        (
            "metadata.json",
            br#"{"keras_version": "3.15.1", "date_saved": "2026-11-20@23:19:50"}"#,
        ),
        ("config.json", config.as_bytes()),
    ])
}

#[test]
fn keras_configurations_cannot_name_code() {
    let mut family = Vec::new();
    let nodes = [
        r#"{"class_name": "__lambda__", "config": {"value": "4wEAAA=="}}"#,
        r#"{"module": "keras.layers", "class_name": "Lambda", "config": {"function": "x"}}"#,
        r#"{"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "function"}"#,
        r#"{"module": "builtins", "class_name": "exec", "config": {}}"#,
        r#"{"module": "os", "class_name": "system", "config": {}}"#,
        r#"{"module": "os", "class_name": "function", "config": "system", "registered_name": "function"}"#,
        r#"{"module": "keras.utils", "class_name": "get_file", "config": {"origin": "http://x.invalid"}}"#,
        r#"{"module": "keras.src.utils.file_utils", "class_name": "function", "config": "get_file", "registered_name": "function"}"#,
        r#"{"module": "keras.saving", "class_name": "load_model", "config": {"filepath": "x"}}"#,
        r#"{"module": "keras.config", "class_name": "enable_unsafe_deserialization", "config": {}}"#,
        r#"{"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"module": "gAQ="}}"#,
        r#"{"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/x"}}"#,
        r#"{"module": "my_module", "class_name": "MyLayer", "config": {}}"#,
        r#"{"module": null, "class_name": "MyLayer", "config": {}, "registered_name": "mine>MyLayer"}"#,
        r#"{"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}}"#,
        r#"{"module": "keras.layers", "class_name": "TextVectorization", "config": {"vocabulary": "/etc/passwd"}}"#,
        r#"{"module": "subprocess", "class_name": "Popen", "config": {"args": "x"}}"#,
        r#"{"module": "keras.src.legacy", "class_name": "Lambda", "config": {}}"#,
    ];
    let places = [
        "N",
        r#"{"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [N]}}"#,
        r#"{"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": []}, "build_config": N}"#,
        r#"{"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": []}, "compile_config": {"loss": N}}"#,
        r#"{"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [{"module": "keras.layers", "class_name": "Dense", "config": {"units": 1, "activation": N}}]}}"#,
        r#"{"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [{"module": "keras.layers", "class_name": "TimeDistributed", "config": {"layer": N}}]}}"#,
        r#"{"module": "keras", "class_name": "Functional", "config": {"name": "s", "layers": [{"module": "keras.layers", "class_name": "Dense", "config": {"units": 1, "kernel_initializer": N}}], "input_layers": [], "output_layers": []}}"#,
    ];
    for node in nodes {
        for place in places {
            family.push((
                place.replace('N', node),
                "model.keras",
                keras(&place.replace('N', node)),
            ));
        }
    }
    refuse(&family, Verdict::ContainsCode, 60);
}

#[test]
fn directories_cannot_name_code_or_paths_of_others() {
    let mut family: Vec<(String, &str, Vec<u8>)> = Vec::new();
    let base = "flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n    model_path: model.pkl\n";
    for line in [
        "    code: code\n",
        "    loader_module: os\n",
        "    loader_module: evil_loader\n",
        "    data: ../../etc\n",
        "    data: /etc/passwd\n",
        "    python_model: ../x.pkl\n",
        "    env: ../conda.yaml\n",
        "    model_code_path: /x/model.py\n",
        "artifact_path: ../../x\nx: !!python/object/apply:os.system [x]\n",
        "x: !!python/name:os.system ''\n",
        "x: !<tag:yaml.org,2002:python/object/new:os.system> [x]\n",
        "x: &a [*a]\n",
        "x: !include /etc/passwd\n",
        "  sklearn:\n    code: ../code\n    pickled_model: /x\n",
        "  custom_flavor:\n    loader: x\n    data: ../../x\n",
        "  python_function:\n    loader_module: mlflow.pyfunc.model\n",
    ] {
        family.push((
            format!("MLmodel with {line:?}"),
            "MLmodel",
            format!("{base}{line}").into_bytes(),
        ));
    }
    for loader in [
        "os",
        "evil",
        "mlflow.evil",
        "mlflow.pyfunc.model.x",
        "builtins",
        "subprocess",
        "../x",
        "mlflow..sklearn",
        "code.loader",
        "mlflow.utils.process_utils",
    ] {
        let text = format!("flavors:\n  python_function:\n    loader_module: {loader}\n");
        family.push((format!("loader {loader}"), "MLmodel", text.into_bytes()));
    }
    for map in [
        r#"{"auto_map": {"AutoModel": "modeling.Net"}}"#,
        r#"{"auto_map": {"AutoModel": "other/repo--modeling.Net"}}"#,
        r#"{"model_type": "x", "text_config": {"auto_map": {"AutoModel": "m.N"}}}"#,
        r#"{"auto_map": {"AutoTokenizer": ["t.T", null]}}"#,
        r#"{"model_type": "x", "custom_pipelines": {"a": {"impl": "m.P"}}}"#,
        r#"{"auto_map": {"AutoModel": "a.B"}, "auto_map": {}}"#,
    ] {
        family.push((map.into(), "config.json", map.into()));
    }
    for name in [
        "../x.safetensors",
        "/x.safetensors",
        "a/../../x",
        "c:\\x",
        "http://x.invalid/a",
        "..\\x",
        "",
    ] {
        let text = format!(
            "{{\"metadata\": {{}}, \"weight_map\": {{\"a\": {}}}}}",
            serde_json::Value::from(name)
        );
        family.push((
            text.clone(),
            "model.safetensors.index.json",
            text.into_bytes(),
        ));
    }
    for line in [
        "--index-url https://x.invalid/simple",
        "--extra-index-url http://pypi.org/simple",
        "-i https://x.invalid",
        "-f https://x.invalid",
        "--find-links ../x",
        "git+https://x.invalid/a.git",
        "a @ https://x.invalid/a.whl",
        "-e .",
        "./a.whl",
        "https://x.invalid/a.tar.gz",
        "-r ../x.txt",
        "-r https://x.invalid/r.txt",
        "--trusted-host x.invalid",
        "a @ file:///x",
        "-c ../../c.txt",
        "numpy==1 --global-option=x",
        "a; @ x\n--index-url=https://x.invalid",
    ] {
        family.push((
            line.into(),
            "requirements.txt",
            format!("{line}\n").into_bytes(),
        ));
    }
    for text in [
        "name: \"m\"\nbackend: \"python\"\n",
        "name: \"m\"\nbackend: \"../x\"\n",
        "name: \"m\"\nbackend: \"custom\"\n",
        "name: \"m\"\nplatform: \"onnxruntime_onnx\"\nmodel_operations { op_library_filename: \"/x.so\" }\n",
        "name: \"m\"\nplatform: \"onnxruntime_onnx\"\ndefault_model_filename: \"../../x\"\n",
        "name: \"m\"\nbackend: \"p\\x79thon\"\n",
        "name: \"m\"\nbackend: 'py' 'thon'\n",
        "name: \"m\"\nplatform: \"ensemble\"\nparameters { key: \"EXECUTION_ENV_PATH\" value: { string_value: \"/x.tar.gz\" } }\n",
    ] {
        family.push((text.into(), "config.pbtxt", text.into()));
    }
    refuse(&family, Verdict::ContainsCode, 60);
}

fn skops(schema: &str) -> Vec<u8> {
    plain_zip(&[("schema.json", schema.as_bytes())])
}

#[test]
fn skops_schemas_cannot_name_code() {
    let mut family = Vec::new();
    let loaders = [
        "FunctionNode",
        "MethodNode",
        "OperatorFuncNode",
        "TypeNode",
        "ObjectNode",
        "ReduceNode",
        "PartialNode",
        "SliceNode",
        "DictNode",
        "QuantileForestNode",
        "EvilNode",
        "JsonNode",
    ];
    for (class, module) in [
        ("system", "os"),
        ("eval", "builtins"),
        ("load", "numpy"),
        ("Popen", "subprocess"),
        ("import_module", "importlib"),
        ("__import__", "builtins"),
        ("methodcaller", "operator"),
        ("loads", "pickle"),
    ] {
        for loader in loaders {
            let node = format!(
                r#"{{"__class__": "{class}", "__module__": "{module}", "__loader__": "{loader}", "__id__": 1, "content": {{"module_path": "{module}", "function": "{class}", "content": {{}}, "obj": {{}}, "func": "{class}"}}, "protocol": 2, "_skops_version": "0.13.0"}}"#
            );
            family.push((node.clone(), "model.skops", skops(&node)));
            let inner = format!(
                r#"{{"__class__": "dict", "__module__": "builtins", "__loader__": "DictNode", "__id__": 2, "key_types": {node}, "content": {{"a": {node}}}, "protocol": 2, "_skops_version": "0.13.0"}}"#
            );
            family.push((inner.clone(), "model.skops", skops(&inner)));
        }
    }
    refuse(&family, Verdict::ContainsCode, 120);
}

// ── Tensors ─────────────────────────────────────────────────────────────

fn safetensors(header: &str, content: &[u8]) -> Vec<u8> {
    join(&[
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        content,
    ])
}

#[test]
fn safetensors_and_arrays_cannot_be_read_in_two_ways() {
    let mut family: Vec<(String, &str, Vec<u8>)> = Vec::new();
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for header in [
        tensor("F32", "[2]", "[0,4]"),
        tensor("F32", "[2]", "[0,12]"),
        tensor("F32", "[2]", "[4,12]"),
        tensor("F32", "[2]", "[8,0]"),
        tensor("F33", "[2]", "[0,8]"),
        tensor("F32", "[-2]", "[0,8]"),
        tensor("F32", "[2.0]", "[0,8]"),
        tensor("F32", "\"2\"", "[0,8]"),
        tensor("F32", "[2]", "[0,8,9]"),
        tensor("F32", "[2]", "[0]"),
        tensor("F32", "[4611686018427387904,4]", "[0,8]"),
        tensor("F32", "[18446744073709551617]", "[0,8]"),
        tensor("F32", "[2e0]", "[0,8]"),
        tensor("F32", "[2]", "[0,8e0]"),
        format!("{{\"a\":1,{}", &tensor("F32", "[2]", "[0,8]")[1..]),
        format!("{} x", tensor("F32", "[2]", "[0,8]")),
        format!(" {}", tensor("F32", "[2]", "[0,8]")),
        tensor("F32", "[2]", "[0,8]").replace(
            "\"a\":",
            "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"a\":",
        ),
        tensor("F32", "[2]", "[0,8]").replace("\"shape\":[2]", "\"shape\":[2],\"shape\":[2]"),
        tensor("F32", "[2]", "[0,8]").replace("\"dtype\"", "\"extra\":1,\"dtype\""),
        tensor("F32", "[2]", "[0,8]")
            .replace('{', "[")
            .replace('}', "]"),
        r#"{"__metadata__":{"a":1}}"#.into(),
        r#"{"__metadata__":{"a":"b","a":"c"}}"#.into(),
        r#"{"__metadata__":[]}"#.into(),
        "[]".into(),
        "null".into(),
        "{".into(),
        tensor("f32", "[2]", "[0,8]"),
        tensor("F32", "[[2]]", "[0,8]"),
        tensor("F32", "[2]", "{\"0\":0}"),
        tensor("F32", "[true]", "[0,8]"),
        tensor("F32", "[null]", "[0,8]"),
        tensor("F32", "[2]", "[-0,8]"),
        tensor("F32", "[2]", "[0,8]").replace("\"a\"", "\"\\ud800\""),
    ] {
        family.push((
            header.clone(),
            "model.safetensors",
            safetensors(&header, &[0; 8]),
        ));
    }
    for (descr, shape, bytes) in [
        ("'<f8'", "(2,)", 8),
        ("'<f8'", "(1,)", 16),
        ("'<f8'", "(-1,)", 8),
        ("'<f8'", "(1.0,)", 8),
        ("'<f8'", "[1]", 8),
        ("'<f8'", "(1, 99999999999999999999)", 8),
        ("'<f8'", "(9223372036854775807, 4)", 8),
        ("'<f8'", "(0, 9223372036854775807, 9)", 0),
        ("'<f9'", "(1,)", 9),
        ("'f8' + 'x'", "(1,)", 8),
        ("__import__('os')", "(1,)", 8),
        ("['<f8']", "(1,)", 8),
        ("[('a', 'O')]", "(1,)", 8),
        ("'<f8', 'descr': '|O'", "(1,)", 8),
        ("'|O'", "(1,)", 0),
        ("'|O'", "(1,)", 3),
        ("'O'", "()", 8),
        ("[]", "(1,)", 8),
        ("(('a','b'),)", "(1,)", 8),
        ("'<M8[ns]x'", "(1,)", 8),
        ("u'<f8'", "(1,)", 8),
        ("b'<f8'", "(1,)", 8),
        ("'\\x3cf8'", "(1,)", 8),
        ("'<f8' # '", "(1,)", 8),
    ] {
        family.push((
            format!("{descr} {shape}"),
            "a.npy",
            npy(descr, shape, &vec![0; bytes]),
        ));
        let member = npy(descr, shape, &vec![0; bytes]);
        family.push((
            format!("{descr} {shape} in npz"),
            "a.npz",
            plain_zip(&[("a.npy", &member)]),
        ));
    }
    refuse(&family, Verdict::Malformed, 80);
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 127 {
        out.push(u8::try_from(length & 127).expect("seven bits") | 128);
        length >>= 7;
    }
    out.push(u8::try_from(length).expect("seven bits"));
    out.extend_from_slice(content);
    out
}

#[test]
fn onnx_graphs_cannot_name_foreign_files_or_code() {
    let mut family = Vec::new();
    let opset = |domain: &str, version: u8| {
        field(8, &join(&[&field(1, domain.as_bytes()), &[0x10, version]]))
    };
    let model = |graph: &[u8], opsets: &[u8]| join(&[&[8, 8], opsets, &field(7, graph)]);
    let node = |kind: &str, domain: &str, extra: &[u8]| {
        field(
            1,
            &join(&[
                &field(1, b"x"),
                &field(2, b"y"),
                &field(4, kind.as_bytes()),
                &field(7, domain.as_bytes()),
                extra,
            ]),
        )
    };
    let value = |name: &str| {
        join(&[
            &field(1, name.as_bytes()),
            &field(2, &field(1, &[8, 1, 0x12, 4, 10, 2, 8, 1])),
        ])
    };
    let graph = |parts: &[u8]| {
        join(&[
            parts,
            &field(2, b"g"),
            &field(11, &value("x")),
            &field(12, &value("y")),
        ])
    };
    let external = |entries: &[(&str, &str)]| {
        let data: Vec<u8> = entries
            .iter()
            .flat_map(|(key, value)| {
                field(
                    13,
                    &join(&[&field(1, key.as_bytes()), &field(2, value.as_bytes())]),
                )
            })
            .collect();
        join(&[&[8, 1, 0x10, 1], &field(8, b"w"), &data, &[0x70, 1]])
    };
    let main = opset("", 17);
    for location in [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "..\\x",
        "C:\\x",
        "",
        ".",
        "..",
        "x\0y",
        "file:///x",
        "missing.bin",
        "a/../../../x",
        "//host/x",
        "~/x",
    ] {
        let tensor = external(&[("location", location)]);
        let initializer = graph(&join(&[&node("Identity", "", b""), &field(5, &tensor)]));
        family.push((
            format!("initializer at {location:?}"),
            "m.onnx",
            model(&initializer, &main),
        ));
        let attribute = field(
            5,
            &join(&[&field(1, b"value"), &field(5, &tensor), &[0xa0, 1, 4]]),
        );
        let constant = graph(&node("Constant", "", &attribute));
        family.push((
            format!("attribute at {location:?}"),
            "m.onnx",
            model(&constant, &main),
        ));
        let inner = join(&[&field(2, b"s"), &field(5, &tensor), &field(12, &value("z"))]);
        let branch = field(
            5,
            &join(&[&field(1, b"then_branch"), &field(6, &inner), &[0xa0, 1, 5]]),
        );
        family.push((
            format!("subgraph at {location:?}"),
            "m.onnx",
            model(&graph(&node("If", "", &branch)), &main),
        ));
    }
    for entries in [
        vec![("location", "m.onnx"), ("offset", "-1")],
        vec![("location", "m.onnx"), ("length", "99999999")],
        vec![("location", "m.onnx"), ("offset", "x")],
        vec![("location", "m.onnx"), ("location", "../x")],
        vec![("location", "m.onnx"), ("__class__", "x")],
        vec![("offset", "0")],
    ] {
        let bytes = graph(&join(&[
            &node("Identity", "", b""),
            &field(5, &external(&entries)),
        ]));
        family.push((format!("{entries:?}"), "m.onnx", model(&bytes, &main)));
    }
    for (kind, domain) in [
        ("PyOp", "ai.onnx.contrib"),
        ("Evil", "evil.ops"),
        ("PythonOp", "com.microsoft"),
        ("Custom", "custom"),
        ("NoSuchOperator", ""),
        ("ATen", "org.pytorch.aten"),
    ] {
        let opsets = join(&[&main, &opset(domain, 1)]);
        family.push((
            format!("{domain} {kind}"),
            "m.onnx",
            model(&graph(&node(kind, domain, b"")), &opsets),
        ));
        family.push((
            format!("{domain} {kind} undeclared"),
            "m.onnx",
            model(&graph(&node(kind, domain, b"")), &main),
        ));
    }
    for version in [0, 99, 127] {
        family.push((
            format!("opset {version}"),
            "m.onnx",
            model(&graph(&node("Identity", "", b"")), &opset("", version)),
        ));
    }
    refuse(&family, Verdict::ContainsCode, 60);
}

fn gguf(entries: &[(&str, u32, Vec<u8>)], tail: &[u8]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(0_u64.to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    for (key, kind, value) in entries {
        out.extend((key.len() as u64).to_le_bytes());
        out.extend(key.as_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(value);
    }
    out.extend(tail);
    out
}

#[test]
fn gguf_files_cannot_carry_templates_or_lengths_that_harm() {
    let string = |text: &str| join(&[&(text.len() as u64).to_le_bytes(), text.as_bytes()]);
    let architecture = ("general.architecture", 8, string("llama"));
    let mut family = Vec::new();
    for template in [
        "{{ x.__class__ }}",
        "{{ x['__class__'] }}",
        "{{ x|attr('a') }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{{ self.__init__ }}",
        "{{ x['\\x5f_class__'] }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ x['_'*2 ~ 'class'] }}",
        "{% extends x %}",
        "{{ ''.__class__ }}",
        "{{ (1).__class__ }}",
        "{{ x.mro() }}",
        "{{ [].__class__.__base__ }}",
        "{{ range.__self__ }}",
        "{{ x.format_map(y) }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{{ x | map('attr', 'a') }}",
        "{{ x.f_globals }}",
        "{{ x.gi_frame }}",
        "{{ x.func_globals }}",
    ] {
        for key in [
            "tokenizer.chat_template",
            "tokenizer.chat_template.tool_use",
            "tokenizer.chat_template.rag",
        ] {
            family.push((
                format!("{key} {template}"),
                "m.gguf",
                gguf(
                    &[architecture.clone(), (key, 8, string(template))],
                    &[0; 32],
                ),
            ));
        }
    }
    let huge = u64::MAX.to_le_bytes().to_vec();
    for (name, kind, value) in [
        ("a text without end", 8, huge.clone()),
        (
            "an array without end",
            9,
            join(&[&4_u32.to_le_bytes(), &huge]),
        ),
        ("an unknown type", 13, vec![0; 8]),
        (
            "an array of arrays",
            9,
            join(&[
                &9_u32.to_le_bytes(),
                &1_u64.to_le_bytes(),
                &4_u32.to_le_bytes(),
                &0_u64.to_le_bytes(),
            ]),
        ),
        (
            "an unknown element",
            9,
            join(&[&77_u32.to_le_bytes(), &1_u64.to_le_bytes()]),
        ),
        ("a boolean of two", 7, vec![2]),
        (
            "a text that is none",
            8,
            join(&[&1_u64.to_le_bytes(), b"\xff"]),
        ),
        ("a length of 2^63", 8, (1_u64 << 63).to_le_bytes().to_vec()),
    ] {
        family.push((
            name.to_owned(),
            "m.gguf",
            gguf(&[architecture.clone(), ("a.b", kind, value)], b""),
        ));
    }
    for alignment in [0_u32, 3, 7, 12, 1 << 31, u32::MAX] {
        let entry = ("general.alignment", 4, alignment.to_le_bytes().to_vec());
        family.push((
            format!("alignment {alignment}"),
            "m.gguf",
            gguf(&[architecture.clone(), entry], &[0; 64]),
        ));
    }
    family.push((
        "a key twice".into(),
        "m.gguf",
        gguf(&[architecture.clone(), architecture.clone()], &[0; 32]),
    ));
    family.push((
        "a zip behind".into(),
        "m.gguf",
        join(&[
            &gguf(std::slice::from_ref(&architecture), b""),
            &plain_zip(&[("a", b"x")]),
        ]),
    ));
    family.push((
        "bytes behind".into(),
        "m.gguf",
        gguf(&[architecture], &[1; 5000]),
    ));
    refuse(&family, Verdict::Malformed, 60);
}

// ── Readers that differ, and functions with bound arguments ─────────────

/// A pickle that describes an array of bytes as joblib before 1.2 did, with the array, and what follows it.
fn old_joblib(array: &[u8]) -> Vec<u8> {
    let length = u32::try_from(array.len()).expect("arrays of the test are short");
    join(&[
        b"\x80\x03}",
        &old_text("a"),
        &old_global("joblib.numpy_pickle", "NumpyArrayWrapper"),
        b")\x81}(",
        &old_text("subclass"),
        &old_global("numpy", "ndarray"),
        &old_text("shape"),
        b"J",
        &length.to_le_bytes(),
        b"\x85",
        &old_text("order"),
        &old_text("C"),
        &old_text("dtype"),
        &old_global("numpy", "dtype"),
        &old_text("u1"),
        b"\x89\x88\x87R(K\x03",
        &old_text("|"),
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        &old_text("allow_mmap"),
        b"\x88ub",
        array,
        b"s.",
    ])
}

fn old_text(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("texts of the test are short");
    [b"X".as_slice(), &length.to_le_bytes(), text.as_bytes()].concat()
}

#[test]
fn arrays_of_old_joblib_are_followed_as_the_program_that_another_reader_sees() {
    let evil = b"cos\nsystem\n(S'x'\ntR.".as_slice();
    let family: Vec<(String, &str, Vec<u8>)> = [
        evil.to_vec(),
        [b"N".repeat(10).as_slice(), evil].concat(),
        [b"N0".repeat(5_000).as_slice(), evil].concat(),
        [b"N0".repeat(100_000).as_slice(), evil].concat(),
        [b"N".repeat(400_000).as_slice(), evil].concat(),
        [b"]0(1".repeat(9).as_slice(), evil].concat(),
        [b"I1\n0".as_slice(), evil].concat(),
    ]
    .iter()
    .flat_map(|array| {
        let plain = old_joblib(array);
        [
            (
                format!("{} bytes, compressed", array.len()),
                "a.joblib",
                zlib(&plain),
            ),
            (format!("{} bytes", array.len()), "a.joblib", plain),
        ]
    })
    .collect();
    refuse(&family, Verdict::Malformed, 14);
    // What reads as opcodes by chance does no harm to either reader.
    for array in [
        b"MF".as_slice(),
        b"NY",
        b"NNNNNNN",
        b"((((",
        b"]]]]",
        b"N",
        &[0x88; 40],
        b"abcdefgh",
    ] {
        let file = old_joblib(array);
        assert_eq!(
            verdict(&[("a.joblib", Bytes::from(file.clone()))]),
            Verdict::Clean,
            "{array:?}"
        );
        assert_eq!(
            verdict(&[("a.joblib", Bytes::from(zlib(&file)))]),
            Verdict::Clean,
            "{array:?}"
        );
    }
}

#[test]
fn functions_with_bound_arguments_cannot_open_files() {
    let partial = stack_global("functools", "partial");
    let memmap = stack_global("numpy", "memmap");
    let path = [text("/tmp/x"), text("u1"), text("w+")].concat();
    let bound = join(&[b"\x80\x04", &partial, b"(", &memmap, &path, b"tR."]);
    let set_later = join(&[
        b"\x80\x04",
        &partial,
        &stack_global("numpy", "abs"),
        b"\x85R(",
        &memmap,
        b"(",
        &path,
        b"t}Ntb.",
    ]);
    let transformer = join(&[
        b"\x80\x04",
        &stack_global(
            "sklearn.preprocessing._function_transformer",
            "FunctionTransformer",
        ),
        b")\x81}",
        &text("func"),
        &partial,
        b"(",
        &memmap,
        &path,
        b"tRsb.",
    ]);
    let family: Vec<(String, &str, Vec<u8>)> = [bound, set_later, transformer]
        .into_iter()
        .enumerate()
        .map(|(index, bytes)| (format!("program {index}"), "a.pkl", bytes))
        .collect();
    refuse(&family, Verdict::Unsafe, 3);
}

// ── What loaders look for where the format says nothing ─────────────────

/// A zip archive with one end record that lenient readers take and strict ones do not.
fn appended(change: &dyn Fn(&mut Vec<u8>, usize)) -> Vec<u8> {
    let evil = join(&[b"\x80\x04", &stack_global("posix", "getpid"), b")R."]);
    let mut archive = plain_zip(&[("archive/data.pkl", &evil), ("archive/version", b"3\n")]);
    let end = archive.len() - 22;
    change(&mut archive, end);
    archive
}

#[test]
fn archives_cannot_hide_behind_another_format() {
    let ends: Vec<(&str, Vec<u8>)> = vec![
        ("a plain end", appended(&|_, _| {})),
        (
            "another disk",
            appended(&|archive, end| archive[end + 4] = 1),
        ),
        (
            "a table on another disk",
            appended(&|archive, end| archive[end + 6] = 7),
        ),
        (
            "counts that differ",
            appended(&|archive, end| archive[end + 8] = 9),
        ),
        (
            "no members",
            appended(&|archive, end| archive[end + 8..end + 12].fill(0)),
        ),
        (
            "a table elsewhere",
            appended(&|archive, end| archive[end + 16..end + 20].fill(0)),
        ),
        (
            "a comment beyond the end",
            appended(&|archive, end| archive[end + 20] = 200),
        ),
        (
            "the longest comment",
            appended(&|archive, end| {
                archive[end + 20..].fill(0xff);
                archive.resize(archive.len() + 65_535, 0);
            }),
        ),
        (
            "something behind it",
            appended(&|archive, _| archive.resize(archive.len() + 1000, 0)),
        ),
    ];
    let mut family = Vec::new();
    for (name, archive) in ends {
        let count = archive.len();
        family.push((
            name.to_owned(),
            "a.npy",
            npy("'|u1'", &format!("({count},)"), &archive),
        ));
        let length = u32::try_from(count).expect("small").to_le_bytes();
        family.push((
            name.to_owned(),
            "a.pkl",
            join(&[b"\x80\x04B", &length, &archive, b"."]),
        ));
        family.push((
            name.to_owned(),
            "a.png",
            join(&[b"\x89PNG\r\n\x1a\n", &archive]),
        ));
        family.push((
            name.to_owned(),
            "a.safetensors",
            safetensors(
                &format!(
                    r#"{{"a":{{"dtype":"U8","shape":[{count}],"data_offsets":[0,{count}]}}}}"#
                ),
                &archive,
            ),
        ));
    }
    refuse(&family, Verdict::Malformed, 36);
}

#[test]
fn a_header_whose_length_reads_like_a_pickle_is_a_header() {
    for length in [0x80_usize, 0x0280, 0x0380, 0x0480, 0x0580] {
        let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        let file = safetensors(&format!("{header:<length$}"), b"abcd");
        assert_eq!(
            verdict(&[("model.safetensors", Bytes::from(file))]),
            Verdict::Clean,
            "{length:#x}"
        );
    }
}

#[test]
fn scripts_cannot_reach_files_however_they_are_spaced() {
    let empty: &[u8] = b"\x80\x02).";
    let script = |line: &str| {
        let code = format!("class M(Module):\n  def forward(self, x):\n    {line}\n    return x\n");
        plain_zip(&[
            ("m/data.pkl", empty),
            ("m/constants.pkl", empty),
            ("m/version", b"3\n"),
            ("m/code/__torch__.py", code.as_bytes()),
        ])
    };
    for line in [
        "y = ops.aten.add(x, x)",
        "y = torch.add(x, x)",
        "y = self.ops.x",
        "stops = x",
    ] {
        let found = verdict(&[("m.pt", Bytes::from(script(line)))]);
        assert_eq!(found, Verdict::Clean, "{line}");
    }
    let mut unsafe_family = Vec::new();
    for line in [
        "y = torch.from_file('x')",
        "y = torch . from_file('x')",
        "y = torch.\\\n      from_file('x')",
        "y = ops.aten.from_file('x')",
        "y = ops . aten . from_file('x')",
        "y = ops.image.read_file('x')",
        "y = ops.image.write_file('x', x)",
        "y = ops.torchaudio.sox_io_load_audio_file('x')",
        "y = torch.save(x, 'x')",
    ] {
        unsafe_family.push((line.to_owned(), "m.pt", script(line)));
    }
    refuse(&unsafe_family, Verdict::Unsafe, 9);
    let mut code_family = Vec::new();
    for line in [
        "y = ops.mine.run(x)",
        "y = ops",
        "y = ops.image",
        "y = getattr(ops, 'image')",
        "y = torch.ops.mine.run(x)",
        "y = torch._C.run(x)",
        "t = torch",
        "y = torch.classes.mine.Run(x)",
    ] {
        code_family.push((line.to_owned(), "m.pt", script(line)));
    }
    refuse(&code_family, Verdict::ContainsCode, 8);
}

#[test]
fn exported_programs_cannot_hide_objects_among_weights() {
    let evil = join(&[b"\x80\x04", &stack_global("posix", "getpid"), b")R."]);
    let inner = plain_zip(&[("archive/data.pkl", &evil), ("archive/version", b"3\n")]);
    let outside = br#"{"config": {"a": {"path_name": "../../x", "use_pickle": true}}}"#;
    let mut family = Vec::new();
    for (name, content) in [
        ("m/data/weights/weight_0", evil.as_slice()),
        ("m/data/constants/custom_obj_0", &evil),
        ("m/data/weights/weight_0", &inner),
        ("m/data/weights/model_weights_config.json", outside),
    ] {
        let file = plain_zip(&[
            ("m/archive_format", b"pt2"),
            ("m/version", b"0"),
            (name, content),
        ]);
        family.push((name.to_owned(), "m.pt2", file));
    }
    refuse(&family, Verdict::Malformed, 4);
}

#[test]
fn layers_cannot_be_larger_than_memory_or_named_like_functions() {
    let layer = |config: &str| {
        keras(&format!(
            r#"{{"module": "keras", "class_name": "Sequential", "config": {{"name": "s", "layers": [{{"module": "keras.layers", "class_name": "Dense", "config": {config}}}]}}}}"#
        ))
    };
    let mut family = Vec::new();
    for config in [
        r#"{"units": 1000000000000000}"#,
        r#"{"units": 1e15}"#,
        r#"{"input_dim": 1000000000000, "output_dim": 1}"#,
        r#"{"units": 1, "activation": "os.system"}"#,
        r#"{"units": 1, "kernel_regularizer": "builtins>eval"}"#,
        r#"{"units": 1, "bias_initializer": "os:system"}"#,
    ] {
        family.push((config.to_owned(), "model.keras", layer(config)));
    }
    let config =
        r#"{"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": []}}"#;
    for index in [
        r#"{"weight_map": {"a": ["../../x.weights.h5"]}}"#,
        r#"{"weight_map": {"a": "/x.weights.h5"}}"#,
    ] {
        let file = plain_zip(&[
            ("metadata.json", b"{}"),
            ("config.json", config.as_bytes()),
            ("model.weights.json", index.as_bytes()),
        ]);
        family.push((index.to_owned(), "model.keras", file));
    }
    refuse(&family, Verdict::Malformed, 8);
}

#[test]
fn functions_of_a_graph_cannot_expand_without_end() {
    let opset = |domain: &str| field(8, &join(&[&field(1, domain.as_bytes()), &[0x10, 1]]));
    let call = |function: &str, number: u8, from: &str, to: &str| {
        field(
            number,
            &join(&[
                &field(1, from.as_bytes()),
                &field(2, to.as_bytes()),
                &field(4, function.as_bytes()),
                &field(7, b"mine"),
            ]),
        )
    };
    let function = |name: &str, callees: &[&str]| {
        let mut nodes = Vec::new();
        for (index, callee) in callees.iter().enumerate() {
            let (from, to) = (format!("v{index}"), format!("v{}", index + 1));
            nodes.extend(call(callee, 7, &from, &to));
        }
        let head = [field(1, name.as_bytes()), field(4, b"v0")].concat();
        // The number 25 takes two bytes.
        let body = field(1, &[head, nodes, field(10, b"mine")].concat());
        [&[0xca, 1], &body[1..]].concat()
    };
    let model = |functions: &[Vec<u8>]| {
        let graph = [
            call("f0", 1, "x", "y"),
            field(2, b"g"),
            field(11, &field(1, b"x")),
            field(12, &field(1, b"y")),
        ]
        .concat();
        let opsets = [opset(""), opset("mine")].concat();
        [vec![8, 8], opsets, field(7, &graph), functions.concat()].concat()
    };
    let chain = |length: usize| -> Vec<Vec<u8>> {
        (0..length)
            .map(|index| {
                let next = format!("f{}", index + 1);
                let callees: Vec<&str> = if index + 1 < length {
                    vec![&next, &next]
                } else {
                    Vec::new()
                };
                function(&format!("f{index}"), &callees)
            })
            .collect()
    };
    assert_eq!(
        verdict(&[("m.onnx", Bytes::from(model(&chain(8))))]),
        Verdict::Clean
    );
    let family = vec![
        (
            "doubles sixty times".to_owned(),
            "m.onnx",
            model(&chain(60)),
        ),
        (
            "calls itself".to_owned(),
            "m.onnx",
            model(&[function("f0", &["f0"])]),
        ),
        (
            "calls one that calls it".to_owned(),
            "m.onnx",
            model(&[function("f0", &["f1"]), function("f1", &["f0"])]),
        ),
    ];
    refuse(&family, Verdict::Malformed, 3);
}

#[test]
fn companions_of_a_model_cannot_name_what_loaders_import() {
    let flavors =
        "flavors:\n  python_function:\n    loader_module: mlflow.pytorch\n    data: data\n";
    for (module, least) in [("pickle", Verdict::Clean), ("evil", Verdict::Unsafe)] {
        let found = verdict(&[
            ("MLmodel", Bytes::from(flavors.to_owned())),
            ("requirements.txt", Bytes::from_static(b"torch==2.5.0\n")),
            (
                "data/pickle_module_info.txt",
                Bytes::from(module.to_owned()),
            ),
        ]);
        assert_eq!(found, least, "{module}");
    }
    for (name, config) in [
        (
            "config.json",
            r#"{"model_type": "bert", "_attn_implementation": "evil/kernel"}"#,
        ),
        (
            "adapter_config.json",
            r#"{"peft_type": "LORA", "auto_mapping": {"base_model_class": "x", "parent_library": "os"}}"#,
        ),
    ] {
        let found = verdict(&[(name, Bytes::from(config.to_owned()))]);
        assert_eq!(found, Verdict::ContainsCode, "{config}");
    }
    let found = verdict(&[
        (
            "m/config.pbtxt",
            Bytes::from_static(b"name: \"m\"\nbackend: \"vllm\"\n"),
        ),
        (
            "m/1/model.json",
            Bytes::from_static(br#"{"model": "a/b", "trust_remote_code": true}"#),
        ),
    ]);
    assert_eq!(found, Verdict::ContainsCode);
}
