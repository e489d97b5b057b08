//! Pickles made of names that are allowed, put together so that loading them does harm.
//!
//! Each is what a pickler could have written, so that only what is done with the names tells it from a model.
//! Payloads are inert: they print a number, or name a file that nobody opens.

use bytes::Bytes;
use model_formats::{Bundle, BundleFile, Limits, Verdict, inspect};

fn verdict(name: &str, content: Vec<u8>) -> Verdict {
    let source = Bytes::from(content);
    let file = BundleFile {
        path: name,
        source: &source,
    };
    inspect(&Bundle::new(vec![file]), &Limits::default()).verdict
}

// ── An assembler: each function answers the opcodes that leave one value on the stack ──

fn text(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("texts of the test are short");
    [b"X", length.to_le_bytes().as_slice(), text.as_bytes()].concat()
}

fn global(name: &str) -> Vec<u8> {
    let (module, name) = name.rsplit_once('.').expect("a module and a name");
    [text(module), text(name), vec![0x93]].concat()
}

fn int(number: i64) -> Vec<u8> {
    match i32::try_from(number) {
        Ok(number) => [b"J".as_slice(), &number.to_le_bytes()].concat(),
        Err(_) => [&[0x8a, 8], number.to_le_bytes().as_slice()].concat(),
    }
}

fn bytes(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("bytes of the test are short");
    [b"B", length.to_le_bytes().as_slice(), content].concat()
}

fn none() -> Vec<u8> {
    b"N".to_vec()
}

fn tuple(parts: &[Vec<u8>]) -> Vec<u8> {
    [b"(", parts.concat().as_slice(), b"t"].concat()
}

fn list(parts: &[Vec<u8>]) -> Vec<u8> {
    [b"](", parts.concat().as_slice(), b"e"].concat()
}

fn dict(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<Vec<u8>> = pairs
        .iter()
        .flat_map(|(key, value)| [text(key), value.clone()])
        .collect();
    [b"}(", pairs.concat().as_slice(), b"u"].concat()
}

fn call(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    [global(name), tuple(parts), b"R".to_vec()].concat()
}

fn instance(name: &str) -> Vec<u8> {
    [global(name), b")\x81".to_vec()].concat()
}

fn build(object: Vec<u8>, state: &[u8]) -> Vec<u8> {
    let mut made = object;
    made.extend(state);
    made.push(b'b');
    made
}

fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x04", body, b"."].concat()
}

// ── NumPy ──

fn dtype(code: &str, width: i64, flags: i64) -> Vec<u8> {
    let made = call(
        "numpy.dtype",
        &[text(code), b"\x89".to_vec(), b"\x88".to_vec()],
    );
    let parts = [
        int(3),
        text("|"),
        none(),
        none(),
        none(),
        int(width),
        int(width),
        int(flags),
    ];
    build(made, &tuple(&parts))
}

fn structured(sub: Vec<u8>, names: Vec<u8>, fields: Vec<u8>) -> Vec<u8> {
    let made = call(
        "numpy.dtype",
        &[text("V16"), b"\x89".to_vec(), b"\x88".to_vec()],
    );
    let parts = [
        int(3),
        text("|"),
        sub,
        names,
        fields,
        int(16),
        int(1),
        int(0),
    ];
    build(made, &tuple(&parts))
}

fn array(shape: &[i64], dtype: Vec<u8>, data: Vec<u8>) -> Vec<u8> {
    let shape: Vec<Vec<u8>> = shape.iter().map(|side| int(*side)).collect();
    let made = call(
        "numpy._core.multiarray._reconstruct",
        &[global("numpy.ndarray"), tuple(&[int(0)]), bytes(b"b")],
    );
    build(
        made,
        &tuple(&[int(1), tuple(&shape), dtype, b"\x89".to_vec(), data]),
    )
}

/// An array as joblib writes it, `raw` behind its description.
fn joblib(dtype: Vec<u8>, count: i64, more: &[(&str, Vec<u8>)], raw: &[u8]) -> Vec<u8> {
    let mut state = vec![
        ("subclass", global("numpy.ndarray")),
        ("shape", tuple(&[int(count)])),
        ("order", text("C")),
        ("dtype", dtype),
        ("allow_mmap", b"\x88".to_vec()),
        ("numpy_array_alignment_bytes", int(16)),
    ];
    state.extend(more.iter().cloned());
    let wrapper = instance("joblib.numpy_pickle.NumpyArrayWrapper");
    let padding = [[8].as_slice(), &[0xff; 8]].concat();
    [build(wrapper, &dict(&state)), padding, raw.to_vec()].concat()
}

/// What the other reader would run, where one of two readers sees the bytes of an array.
fn hidden() -> Vec<u8> {
    let mut raw = vec![0; 64];
    raw.extend(global("posix.getpid"));
    raw.extend(b")R0.");
    raw.resize(128, b'.');
    raw
}

fn partial() -> Vec<u8> {
    call("functools.partial", &[global("numpy.abs"), int(1)])
}

fn namespace(name: &str, value: Vec<u8>) -> Vec<u8> {
    build(call("types.SimpleNamespace", &[]), &dict(&[(name, value)]))
}

const NORM: &str = "scipy.stats._continuous_distns.norm_gen";
const TEMPLATE: &str = "_parse_arg_template";

/// The text that `SciPy` writes for a distribution with one parameter.
const HONEST: &str = "\ndef _parse_args(self, s,  loc=0, scale=1):\n    return (s, ), loc, scale\n\n\
def _parse_args_rvs(self, s,  loc=0, scale=1, size=None):\n    \
return self._argcheck_rvs(s,  loc, scale, size=size)\n\n\
def _parse_args_stats(self, s,  loc=0, scale=1, moments='mv'):\n    return (s, ), loc, scale, moments\n";

fn refuse(family: Vec<(&str, Vec<u8>)>) {
    let wrong: Vec<String> = family
        .into_iter()
        .filter_map(|(name, body)| {
            let found = verdict("model.joblib", pickle(&body));
            (found != Verdict::Unsafe && found != Verdict::Malformed)
                .then(|| format!("{name}: {found:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_assembler_makes_pickles_that_are_clean_when_they_do_no_harm() {
    let honest = vec![
        ("array", array(&[2], dtype("f8", -1, 0), bytes(&[0; 16]))),
        (
            "objects",
            array(&[2], dtype("O8", -1, 63), list(&[int(1), none()])),
        ),
        (
            "fields",
            array(
                &[1],
                structured(
                    none(),
                    tuple(&[text("a"), text("b")]),
                    dict(&[
                        ("a", tuple(&[dtype("f8", -1, 0), int(0)])),
                        ("b", tuple(&[dtype("i4", -1, 0), int(8)])),
                    ]),
                ),
                bytes(&[0; 16]),
            ),
        ),
        ("joblib", joblib(dtype("f4", -1, 0), 32, &[], &hidden())),
        (
            "distribution",
            build(instance(NORM), &dict(&[(TEMPLATE, text(HONEST))])),
        ),
        ("range", call("builtins.range", &[int(0), int(100)])),
        ("fraction", call("fractions.Fraction", &[text("-3/4")])),
        ("decimal", call("decimal.Decimal", &[text("1.5e3")])),
        (
            "deque",
            call("collections.deque", &[list(&[int(1)]), int(5)]),
        ),
        (
            "zone",
            call(
                "pandas.core.dtypes.dtypes.DatetimeTZDtype",
                &[text("ns"), text("Europe/Berlin")],
            ),
        ),
        (
            "method",
            call("builtins.getattr", &[global("builtins.str"), text("split")]),
        ),
    ];
    for (name, body) in honest {
        assert_eq!(
            verdict("model.joblib", pickle(&body)),
            Verdict::Clean,
            "{name}"
        );
    }
}

#[test]
fn states_cannot_hold_what_loading_runs() {
    let evil = || text("print(1)");
    let pair = |key: &str| tuple(&[text(key), evil()]);
    let retold = HONEST.replace("loc=0, scale=1):", "loc=0, scale=print(1)):");
    refuse(vec![
        (
            "the text of a distribution",
            build(instance(NORM), &dict(&[(TEMPLATE, evil())])),
        ),
        (
            "a text that is nearly SciPy's",
            build(instance(NORM), &dict(&[(TEMPLATE, text(&retold))])),
        ),
        (
            "parameters that are code",
            build(
                instance(NORM),
                &dict(&[(TEMPLATE, text(&HONEST.replace("s, ", "s=print(1), ")))]),
            ),
        ),
        ("as pairs", build(instance(NORM), &list(&[pair(TEMPLATE)]))),
        (
            "as two pairs",
            build(instance(NORM), &tuple(&[pair(TEMPLATE), pair("a")])),
        ),
        (
            "as the keys of a dictionary",
            build(
                instance(NORM),
                &tuple(&[
                    dict(&[(TEMPLATE, text(HONEST)), ("print(1)", none())]),
                    pair("a"),
                ]),
            ),
        ),
        (
            "in an ordered dictionary",
            build(
                instance(NORM),
                &[
                    call("collections.OrderedDict", &[]),
                    [b"(".to_vec(), text(TEMPLATE), evil(), b"u".to_vec()].concat(),
                ]
                .concat(),
            ),
        ),
        (
            "in a dictionary of another class",
            build(
                instance(NORM),
                &call(
                    "copyreg._reconstructor",
                    &[
                        global("lightning_fabric.utilities.data.AttributeDict"),
                        global("builtins.dict"),
                        dict(&[(TEMPLATE, evil())]),
                    ],
                ),
            ),
        ),
        (
            "what is closed when it is thrown away",
            build(
                instance("scipy.spatial._qhull.Delaunay"),
                &dict(&[("_qhull", namespace("close", partial()))]),
            ),
        ),
        (
            "a method that the optimizer calls",
            build(
                instance("torch.optim.sgd.SGD"),
                &dict(&[("param_groups", list(&[namespace("setdefault", partial())]))]),
            ),
        ),
        (
            "a method of a type that the state calls",
            build(
                instance("sklearn.svm._classes.SVC"),
                &dict(&[("pop", global("lightgbm.basic.Booster"))]),
            ),
        ),
        (
            "a special attribute in slots",
            call(
                "torch._utils._rebuild_parameter_with_state",
                &[
                    none(),
                    b"\x88".to_vec(),
                    none(),
                    tuple(&[
                        none(),
                        dict(&[("__class__", global("sklearn.svm._classes.SVC"))]),
                    ]),
                ],
            ),
        ),
        (
            "a special attribute as a pair",
            build(
                instance("scipy.sparse._coo.coo_matrix"),
                &list(&[pair("__array_interface__"), pair("coords")]),
            ),
        ),
        (
            "a function that opens files, by a namespace",
            namespace("get_params", global("numpy.memmap")),
        ),
        (
            "a function that opens files, in a list",
            list(&[global("numpy.memmap")]),
        ),
        (
            "what a class frees",
            call(
                "xgboost._data_utils.Categories",
                &[tuple(&[namespace("value", int(1)), partial()]), none()],
            ),
        ),
    ]);
}

#[test]
fn arrays_cannot_be_told_from_programs_by_what_they_claim() {
    let claims =
        |more: &[(&str, Vec<u8>)], kind: Vec<u8>, count| joblib(kind, count, more, &hidden());
    refuse(vec![
        (
            "a width that NumPy ignores",
            claims(&[], dtype("f4", 8, 0), 16),
        ),
        (
            "a type without its width",
            claims(&[], dtype("f", -1, 0), 16),
        ),
        (
            "a type twice",
            claims(&[("dtype", dtype("f4", -1, 0))], dtype("f8", -1, 0), 16),
        ),
        (
            "a shape twice",
            claims(&[("shape", tuple(&[int(16)]))], dtype("f4", -1, 0), 32),
        ),
        (
            "a type by a class of unknown width",
            claims(&[], call("numpy.dtype", &[global("numpy.datetime64")]), 16),
        ),
        (
            "fewer objects than the shape",
            array(&[100], dtype("O8", -1, 63), list(&[int(1)])),
        ),
        (
            "room for objects that are not there",
            array(&[1 << 40], dtype("O8", -1, 63), list(&[int(1)])),
        ),
        (
            "objects from bytes",
            array(&[2], dtype("O8", -1, 63), bytes(&[0x41; 16])),
        ),
        (
            "objects that the type denies",
            array(&[2], dtype("O8", -1, 0), bytes(&[0x41; 16])),
        ),
        (
            "objects by their class",
            array(
                &[2],
                call("numpy.dtype", &[global("numpy.object_")]),
                bytes(&[0x41; 16]),
            ),
        ),
        (
            "a field behind the item",
            structured(
                none(),
                tuple(&[text("a")]),
                dict(&[("a", tuple(&[dtype("f8", -1, 0), int(1_000_000)]))]),
            ),
        ),
        (
            "a field before the item",
            structured(
                none(),
                tuple(&[text("a")]),
                dict(&[("a", tuple(&[dtype("f8", -1, 0), int(-64)]))]),
            ),
        ),
        (
            "a name without a field",
            structured(
                none(),
                tuple(&[text("b")]),
                dict(&[("a", tuple(&[dtype("f8", -1, 0), int(0)]))]),
            ),
        ),
        (
            "more parts than the item has room for",
            structured(
                tuple(&[dtype("f8", -1, 0), tuple(&[int(1_000_000)])]),
                none(),
                none(),
            ),
        ),
        (
            "objects among the fields",
            structured(
                none(),
                tuple(&[text("a")]),
                dict(&[("a", tuple(&[dtype("O8", -1, 63), int(0)]))]),
            ),
        ),
    ]);
}

#[test]
fn small_calls_cannot_exhaust_the_loader() {
    let range = || call("builtins.range", &[int(1 << 50)]);
    let doubled = (0..33_u8).fold(
        [b"}".to_vec(), tuple(&[int(1), int(1)]), vec![0x94]].concat(),
        // Each is a pair of the one before, so that the hash of the last visits all of them.
        |before, slot| [before, vec![b'h', slot, 0x86, 0x94]].concat(),
    );
    refuse(vec![
        ("a long range", range()),
        ("a list of a range", call("collections.deque", &[range()])),
        (
            "a count of a range",
            call("collections.Counter", &[range()]),
        ),
        ("a size of a range", call("torch.Size", &[range()])),
        (
            "a fraction with an exponent",
            call("fractions.Fraction", &[text("1e999999999")]),
        ),
        (
            "a fraction of a decimal",
            call(
                "fractions.Fraction",
                &[call("decimal.Decimal", &[text("1e999999999")])],
            ),
        ),
        (
            "bytes by their number",
            call("builtins.bytearray", &[int(1 << 45)]),
        ),
        (
            "bytes by the number that a tensor is",
            call(
                "builtins.bytearray",
                &[call("torch.nn.parameter.Parameter", &[none()])],
            ),
        ),
        (
            "a tree of more outputs than it has",
            call(
                "sklearn.tree._tree.Tree",
                &[
                    int(4),
                    array(&[1], dtype("i8", -1, 0), bytes(&[0; 8])),
                    int(1 << 40),
                ],
            ),
        ),
        (
            "a key whose hash takes for ever",
            [doubled, int(1), b"s".to_vec()].concat(),
        ),
        (
            "a time zone that is a file",
            call(
                "pandas.core.dtypes.dtypes.DatetimeTZDtype",
                &[text("ns"), text("dateutil//nowhere")],
            ),
        ),
        (
            "a key of a zone that is a path",
            call(
                "zoneinfo.ZoneInfo._unpickle",
                &[text("../nowhere"), b"\x89".to_vec()],
            ),
        ),
        (
            "a method that dill evaluates",
            call(
                "dill._dill._getattr",
                &[
                    global("builtins.str"),
                    text("split"),
                    text("a'b'c'print(1)#'"),
                ],
            ),
        ),
    ]);
}

#[test]
fn code_by_value_cannot_run_while_it_comes_to_life() {
    let function = || {
        call(
            "cloudpickle.cloudpickle._make_function",
            &[none(), none(), none(), none(), none()],
        )
    };
    let family = vec![
        (
            "a metaclass that is a function",
            call(
                "cloudpickle.cloudpickle._make_skeleton_class",
                &[function(), text("x"), tuple(&[]), dict(&[]), none(), none()],
            ),
        ),
        (
            "a base that is a function",
            call(
                "cloudpickle.cloudpickle._make_skeleton_enum",
                &[
                    tuple(&[function()]),
                    text("x"),
                    text("x"),
                    dict(&[]),
                    text("m"),
                    none(),
                    none(),
                ],
            ),
        ),
        (
            "a type that is an imported function",
            call(
                "dill._dill._create_type",
                &[
                    call("dill._dill._import_module", &[text("posix.getpid")]),
                    text("x"),
                ],
            ),
        ),
        (
            "a state for a module",
            call(
                "cloudpickle.cloudpickle._class_setstate",
                &[
                    call("cloudpickle.cloudpickle.subimport", &[text("os")]),
                    tuple(&[dict(&[]), dict(&[("getpid", none())])]),
                ],
            ),
        ),
        (
            "globals for a function of a library",
            call(
                "cloudpickle.cloudpickle._function_setstate",
                &[
                    global("sklearn.utils.validation.check_array"),
                    tuple(&[dict(&[]), dict(&[("__globals__", dict(&[]))])]),
                ],
            ),
        ),
    ];
    for (name, body) in family {
        assert_eq!(
            verdict("model.pkl", pickle(&body)),
            Verdict::Unsafe,
            "{name}"
        );
    }
}

#[test]
fn a_file_of_another_format_cannot_be_a_pickle_too() {
    // The string of the pickle is the identifier of a flatbuffer, and its first bytes are where the root lies.
    let mut file = b"\x80\x04\x8c\x04TFL30cposix\ngetpid\n)R.".to_vec();
    file.resize(0x048c_0480 + 64, 0);
    for name in ["model.bin", "model.tflite"] {
        assert_eq!(verdict(name, file.clone()), Verdict::Unsafe, "{name}");
    }
    let short = file[..200].to_vec();
    assert_eq!(verdict("model.bin", short), Verdict::Unsafe);
}

#[test]
fn pickles_in_text_form_are_found_behind_any_beginning() {
    let tail = b"cposix\ngetpid\n(S'x'\ntR.".as_slice();
    let beginnings = [
        [b"S'", vec![b'a'; 70_000].as_slice(), b"'\n0"].concat(),
        [b"V", vec![b'b'; 2_000_000].as_slice(), b"\n0"].concat(),
        b"S'line'\n0".repeat(30_000),
        vec![b'('; 1500],
        b"I0x10\n0".to_vec(),
        b"Np1_0\n0".to_vec(),
        (0..5000)
            .flat_map(|slot| format!("Np{}\n0", slot + 7).into_bytes())
            .collect(),
        [b"F", vec![b'0'; 1_500_000].as_slice(), b"1.5\n0"].concat(),
        b"L+1L\n0".repeat(20_000),
        [b"\x96\x04\0\0\0\0\0\0\0aaaa0".as_slice()].concat(),
    ];
    for (index, beginning) in beginnings.iter().enumerate() {
        for name in [
            "model.bin",
            "model.txt",
            "README.md",
            "pytorch_model.bin",
            "vocab",
            "a.json",
        ] {
            let found = verdict(name, [beginning, tail].concat());
            assert!(
                matches!(found, Verdict::Unsafe | Verdict::Malformed),
                "beginning {index} as {name}: {found:?}"
            );
        }
    }
    for text in [
        "I am a text of one long line. ".repeat(5_000),
        "call me what you like ".repeat(5_000),
        format!("{}\n", "V".repeat(200_000)),
        "Some lines\n".repeat(10_000),
    ] {
        assert_eq!(verdict("notes.txt", text.into_bytes()), Verdict::Clean);
    }
}
