//! `pyproject.toml`: PEP 621, PEP 735, and what Poetry, uv, PDM and Setuptools add.

use super::{
    DIRECT, Dependency, ESCAPE, FOREIGN_INDEX, KNOWN_INDEX, Lint, is_inside, is_known_url,
    normalize, requirements,
};
use crate::cursor::{Trouble, quote};
use toml_edit::{Document, Item, TableLike, Value};

/// Looks through the whole file.
pub(super) fn file(lint: &mut Lint<'_, '_>) -> Result<(), Trouble> {
    let text = lint.text;
    let document = Document::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        Trouble::malformed(at as u64, error.message().to_owned())
    })?;
    let root = document.as_table();
    // What builds the package is looked at, and is no dependency of the model.
    if let Some(build) = at(root, &["build-system", "requires"]) {
        list(lint, build)?;
        lint.dependencies.clear();
    }
    if let Some(own) = at(root, &["project", "dependencies"]) {
        list(lint, own)?;
    }
    for path in [
        &["project", "optional-dependencies"][..],
        &["dependency-groups"],
        &["tool", "pdm", "dev-dependencies"],
    ] {
        for group in children(at(root, path)) {
            list(lint, group)?;
        }
    }
    for path in [
        &["tool", "uv", "dev-dependencies"][..],
        &["tool", "uv", "constraint-dependencies"],
        &["tool", "uv", "override-dependencies"],
        &["tool", "uv", "build-constraint-dependencies"],
    ] {
        if let Some(items) = at(root, path) {
            list(lint, items)?;
        }
    }
    poetry(lint, root);
    for source in children(at(root, &["tool", "uv", "sources"])) {
        for table in tables(source) {
            source_of(lint, table);
        }
    }
    indexes(lint, root);
    for path in [
        &["tool", "setuptools", "dynamic", "dependencies", "file"][..],
        &["tool", "setuptools", "dynamic", "optional-dependencies"],
    ] {
        included(lint, at(root, path))?;
    }
    Ok(())
}

/// What lies at a path of keys.
fn at<'i>(root: &'i dyn TableLike, path: &[&str]) -> Option<&'i Item> {
    let (first, rest) = path.split_first()?;
    let item = root.get(first)?;
    if rest.is_empty() {
        Some(item)
    } else {
        at(item.as_table_like()?, rest)
    }
}

/// The values of a table.
fn children(item: Option<&Item>) -> impl Iterator<Item = &Item> {
    item.and_then(Item::as_table_like)
        .into_iter()
        .flat_map(TableLike::iter)
        .map(|(_, item)| item)
}

/// A table, or the tables of a list, however they are written.
fn tables(item: &Item) -> Vec<&dyn TableLike> {
    if let Some(table) = item.as_table_like() {
        return vec![table];
    }
    if let Some(tables) = item.as_array_of_tables() {
        return tables.iter().map(|table| table as &dyn TableLike).collect();
    }
    item.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_inline_table)
        .map(|table| table as &dyn TableLike)
        .collect()
}

/// The texts of a list, or the one text, with their places.
fn texts(item: &Item) -> Vec<(Option<u64>, &str)> {
    let text = |value: &'_ Value| -> Option<u64> { Some(value.span()?.start as u64) };
    match item {
        Item::Value(Value::Array(items)) => items
            .iter()
            .filter_map(|value| Some((text(value), value.as_str()?)))
            .collect(),
        Item::Value(value) => value
            .as_str()
            .map(|found| (text(value), found))
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

/// A list of requirements.
fn list(lint: &mut Lint<'_, '_>, item: &Item) -> Result<(), Trouble> {
    for (place, text) in texts(item) {
        requirements::line(lint, place, text)?;
    }
    Ok(())
}

/// Poetry's tables of names and constraints.
fn poetry(lint: &mut Lint<'_, '_>, root: &dyn TableLike) {
    let mut groups: Vec<&Item> = ["dependencies", "dev-dependencies"]
        .iter()
        .filter_map(|name| at(root, &["tool", "poetry", name]))
        .collect();
    for group in children(at(root, &["tool", "poetry", "group"])) {
        groups.extend(group.as_table_like().and_then(|it| it.get("dependencies")));
    }
    for group in groups {
        for (name, item) in group.as_table_like().into_iter().flat_map(TableLike::iter) {
            if name == "python" {
                continue;
            }
            let mut constraints: Vec<&str> = item.as_str().into_iter().collect();
            for table in tables(item) {
                source_of(lint, table);
                constraints.extend(table.get("version").and_then(Item::as_str));
            }
            let constraint = constraints.join(", ");
            // A bare version means exactly that one.
            let bare = constraint.trim_start_matches("==").trim();
            let is_exact = bare.starts_with(|first: char| first.is_ascii_digit())
                && !bare.contains([',', '*', '|', '<', '>', ' ']);
            lint.declare(Dependency {
                name: normalize(name),
                version: is_exact.then(|| bare.to_owned()),
                requirement: format!("{name} {constraint}").trim_end().to_owned(),
            });
        }
    }
}

/// Where a table says that a package comes from.
fn source_of(lint: &mut Lint<'_, '_>, table: &dyn TableLike) {
    for key in ["git", "hg", "svn", "bzr", "url", "path", "file"] {
        let Some(item) = table.get(key) else { continue };
        for (place, value) in texts(item) {
            lint.find(&DIRECT, place, format!("{key} = {}", quote(value)));
        }
    }
}

/// The indexes that tools are told of.
fn indexes(lint: &mut Lint<'_, '_>, root: &dyn TableLike) {
    let mut found: Vec<&Item> = Vec::new();
    for (tool, name) in [("poetry", "source"), ("uv", "index"), ("pdm", "source")] {
        for table in at(root, &["tool", tool, name])
            .map(tables)
            .unwrap_or_default()
        {
            found.extend(table.get("url"));
        }
    }
    for prefix in [&["tool", "uv"][..], &["tool", "uv", "pip"]] {
        let Some(table) = at(root, prefix).and_then(Item::as_table_like) else {
            continue;
        };
        for key in ["index-url", "extra-index-url", "find-links"] {
            found.extend(table.get(key));
        }
    }
    for item in found {
        for (place, url) in texts(item) {
            let rule = if is_known_url(url) {
                &KNOWN_INDEX
            } else {
                &FOREIGN_INDEX
            };
            lint.find(rule, place, format!("the index {}", quote(url)));
        }
    }
}

/// Files of requirements that Setuptools reads.
fn included(lint: &mut Lint<'_, '_>, item: Option<&Item>) -> Result<(), Trouble> {
    let Some(item) = item else { return Ok(()) };
    for (place, name) in texts(item) {
        if is_inside(name) {
            requirements::include(lint, name)?;
        } else {
            lint.find(&ESCAPE, place, format!("file = {}", quote(name)));
        }
    }
    for group in children(Some(item)) {
        included(lint, group.as_table_like().and_then(|it| it.get("file")))?;
    }
    Ok(())
}
