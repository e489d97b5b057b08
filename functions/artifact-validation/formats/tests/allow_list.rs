//! Every name of the allow-list was reviewed, and none does what the review says that it cannot.

use bytes::Bytes;
use model_formats::pickle::ALLOW_LIST;
use model_formats::{Bundle, BundleFile, Limits, Verdict, inspect};
use std::collections::{BTreeMap, BTreeSet};

const REVIEW: &str = include_str!("allow-list-review.txt");
const CATEGORIES: &[&str] = &["value", "state", "checked", "named", "code", "native"];

struct Entry {
    granted: &'static str,
    module: &'static str,
    name: &'static str,
}

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
}

fn names() -> Vec<Entry> {
    lines(ALLOW_LIST)
        .flat_map(|line| {
            let mut words = line.split_whitespace();
            let granted = words.next().expect("a use");
            let module = words.next().expect("a module");
            words.map(move |name| Entry {
                granted,
                module,
                name,
            })
        })
        .collect()
}

#[test]
fn every_name_stands_once() {
    let mut seen = BTreeMap::new();
    for Entry {
        granted,
        module,
        name,
    } in names()
    {
        let before = seen.insert((module, name), granted);
        assert_eq!(before, None, "{module}.{name} stands twice");
    }
}

#[test]
fn every_name_was_reviewed_and_every_review_is_of_a_name() {
    let reviews: Vec<(Vec<&str>, &str, &str)> = lines(REVIEW)
        .map(|line| {
            let mut words = line.split_whitespace();
            let uses = words.next().expect("uses").split(',').collect();
            let modules = words.next().expect("modules");
            let category = words.next().expect("a category");
            assert!(CATEGORIES.contains(&category), "{line}");
            assert!(words.count() >= 2, "a reason is missing: {line}");
            (uses, modules, category)
        })
        .collect();
    let mut used = BTreeSet::new();
    for Entry {
        granted,
        module,
        name,
    } in names()
    {
        let best = reviews
            .iter()
            .enumerate()
            .filter(|(_, (uses, modules, _))| {
                uses.contains(&granted)
                    && modules
                        .strip_suffix(".*")
                        .map_or(*modules == module, |outer| {
                            module
                                .strip_prefix(outer)
                                .is_some_and(|rest| rest.starts_with('.'))
                        })
            })
            .max_by_key(|(_, (_, modules, _))| modules.len());
        let Some((index, (_, _, category))) = best else {
            panic!("`{granted} {module} {name}` was not reviewed");
        };
        used.insert(index);
        let fits = match granted {
            "call" | "call-dict" | "call-list" => matches!(*category, "value" | "state" | "code"),
            "check" => *category == "checked",
            "data" | "storage" => matches!(*category, "named" | "code"),
            "mention" | "code" => *category == "code",
            _ => matches!(*category, "state" | "native" | "checked" | "code"),
        };
        assert!(
            fits,
            "`{granted} {module} {name}` is reviewed as {category}"
        );
    }
    for (index, (uses, modules, _)) in reviews.iter().enumerate() {
        assert!(used.contains(&index), "no name of {uses:?} in {modules}");
    }
}

// ── What each use must refuse, whatever the name ──

fn text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("texts of the test are short");
    [&[0x8c, length], text.as_bytes()].concat()
}

fn global(module: &str, name: &str) -> Vec<u8> {
    [text(module), text(name), vec![0x93]].concat()
}

fn call(callee: &[u8], arguments: &[&[u8]]) -> Vec<u8> {
    [callee, b"(", arguments.concat().as_slice(), b"tR"].concat()
}

fn judge(body: &[u8]) -> Verdict {
    let source = Bytes::from([b"\x80\x04", body, b"."].concat());
    let file = BundleFile {
        path: "model.pkl",
        source: &source,
    };
    inspect(&Bundle::new(vec![file]), &Limits::default()).verdict
}

#[test]
fn no_name_can_be_used_beyond_its_review() {
    let method = call(
        &global("builtins", "getattr"),
        &[&global("builtins", "str"), &text("split")],
    );
    let range = call(
        &global("builtins", "range"),
        &[b"\x8a\x08\0\0\0\0\0\0\x04\0"],
    );
    let space = call(&global("types", "SimpleNamespace"), &[]);
    let pairs = [b"](".as_slice(), &text("a"), b"K\x01\x86e"].concat();
    let special = [b"}".as_slice(), &text("__class__"), b"K\x01s"].concat();
    let mut passed = Vec::new();
    let mut tried = 0;
    for Entry {
        granted,
        module,
        name,
    } in names()
    {
        let callee = global(module, name);
        let made = [callee.as_slice(), b")\x81"].concat();
        let hostile: Vec<Vec<u8>> = match granted {
            "call" | "call-dict" | "call-list" if (module, name) != ("functools", "partial") => {
                vec![call(&callee, &[&method]), call(&callee, &[&range])]
            }
            "check" => vec![
                call(&callee, &[&space]),
                call(&callee, &[&space, &space]),
                call(&callee, &[&space, &space, &space]),
                call(&callee, &[&text("x"), &space, &space, &space]),
            ],
            "data" | "mention" | "storage" => vec![
                call(&callee, &[]),
                call(&callee, &[&text("x")]),
                made.clone(),
                [callee.as_slice(), b"}b"].concat(),
            ],
            "class" | "class-dict" | "class-list" => vec![
                call(&callee, &[]),
                call(&callee, &[&text("x")]),
                [made.as_slice(), &pairs, b"b"].concat(),
                [made.as_slice(), &special, b"b"].concat(),
                [made.as_slice(), b"N", &special, b"\x86b"].concat(),
            ],
            _ => Vec::new(),
        };
        for (index, body) in hostile.iter().enumerate() {
            tried += 1;
            if matches!(judge(body), Verdict::Clean | Verdict::ContainsCode) {
                passed.push(format!("{granted} {module} {name}, {index}"));
            }
        }
    }
    assert!(tried > 10_000, "only {tried} were tried");
    assert!(
        passed.is_empty(),
        "{} of {tried}: {passed:#?}",
        passed.len()
    );
}
