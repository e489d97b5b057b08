//! The audit export as a report that a person reads: what was promoted when, by whom and why, and everything else.

use crate::audit::Export;
use serde_json::Value;
use std::fmt::Write as _;

/// Rows of a report: time, sequence, what happened, who, why.
struct Row {
    sequence: u64,
    time: String,
    what: String,
    who: String,
    why: String,
    is_promotion: bool,
}

/// The report as Markdown.
pub(crate) fn markdown(export: &Export) -> String {
    let mut text = format!("# Audit of `{}`\n\n", plain(&named(export)));
    for (name, value) in facts(export) {
        let _ = writeln!(text, "- {name}: {}", cell(&value));
    }
    for (title, rows) in sections(export) {
        let _ = write!(
            text,
            "\n## {title}\n\n| # | When | What | Who | Why |\n| --- | --- | --- | --- | --- |\n"
        );
        for row in rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                row.sequence,
                row.time,
                cell(&row.what),
                cell(&row.who),
                cell(&row.why)
            );
        }
    }
    text
}

/// The report as HTML, without scripts and without anything from elsewhere.
pub(crate) fn html(export: &Export) -> String {
    let title = escape(&named(export));
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Audit of {title}</title>\n\
         <style>body{{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}}\
         table{{border-collapse:collapse;width:100%}}td,th{{border-bottom:1px solid #ccc;padding:.3em .6em;text-align:left;\
         vertical-align:top}}code{{word-break:break-all}}</style></head><body>\n<h1>Audit of <code>{title}</code></h1>\n<dl>\n"
    );
    for (name, value) in facts(export) {
        let _ = writeln!(
            text,
            "<dt>{name}</dt><dd><code>{}</code></dd>",
            escape(&value)
        );
    }
    text.push_str("</dl>\n");
    for (title, rows) in sections(export) {
        let _ = write!(
            text,
            "<h2>{title}</h2>\n<table><thead><tr><th>#</th><th>When</th><th>What</th><th>Who</th><th>Why</th></tr></thead><tbody>\n"
        );
        for row in rows {
            let _ = writeln!(
                text,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                row.sequence,
                row.time,
                escape(&row.what),
                escape(&row.who),
                escape(&row.why)
            );
        }
        text.push_str("</tbody></table>\n");
    }
    text.push_str("</body></html>\n");
    text
}

fn named(export: &Export) -> String {
    export.header["model"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn facts(export: &Export) -> Vec<(&'static str, String)> {
    let text = |name: &str| match &export.header[name] {
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        other => other.to_string(),
    };
    vec![
        ("Tenant", text("tenant")),
        ("Model id", text("model_id")),
        ("From", text("from")),
        ("To", text("to")),
        ("First event", text("first_sequence")),
        ("Last event", text("last_sequence")),
        ("Hash before", text("previous_hash")),
        ("Hash of the last event", text("last_hash")),
        ("Exported at", text("exported_at")),
        ("Exported by", text("exported_by")),
    ]
}

fn sections(export: &Export) -> Vec<(&'static str, Vec<Row>)> {
    let rows = || export.events.iter().map(row);
    let promotions: Vec<Row> = rows().filter(|row| row.is_promotion).collect();
    let mut sections = vec![("All events", rows().collect())];
    if !promotions.is_empty() {
        sections.insert(0, ("Promotions", promotions));
    }
    sections
}

fn row(chained: &shared::dynamodb::Chained) -> Row {
    let event: Value = serde_json::from_str(&chained.json).unwrap_or_default();
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let kind = text("type");
    let mut what = kind.clone();
    if let Some(alias) = event["alias"].as_str() {
        let _ = write!(what, " {alias}");
    }
    if let Some(version) = event["version"].as_u64() {
        let _ = write!(what, " version {version}");
    }
    let data = &event["data"];
    if !data["from"].is_null() || !data["to"].is_null() {
        let _ = write!(what, " ({} → {})", shown(&data["from"]), shown(&data["to"]));
    }
    let target = &data["target"];
    if let Some(name) = target["alias"].as_str().or(target["stage"].as_str()) {
        let _ = write!(what, " to {name}");
    }
    if let Some(check) = data["check"].as_str() {
        let _ = write!(what, " {check}");
        if let Some(status) = data["status"].as_str() {
            let _ = write!(what, ": {status}");
        }
    }
    if let (Some(environment), Some(endpoint)) =
        (data["environment"].as_str(), data["endpoint"].as_str())
    {
        let served = data["rollout"]["deployments"].as_array();
        let served: Vec<String> = served
            .into_iter()
            .flatten()
            .map(|one| format!("version {} {}", one["version"], one["weight"]))
            .collect();
        let _ = write!(what, " {environment}/{endpoint} ({})", served.join(", "));
    }
    Row {
        sequence: chained.link.sequence,
        time: text("time"),
        what,
        who: text("actor"),
        why: why(&event),
        is_promotion: [
            "alias.",
            "promotion.",
            "check.",
            "waiver.",
            "rollout.",
            "protections.",
            "stages.",
            "version.stage_changed",
            "version.lifecycle_set",
        ]
        .iter()
        .any(|prefix| kind.starts_with(prefix)),
    }
}

/// Why it happened, by all that was said of it.
fn why(event: &Value) -> String {
    let data = &event["data"];
    let mut said = Vec::new();
    for one in [
        &event["reason"],
        &data["comment"],
        &data["details"],
        &data["message"],
    ] {
        said.extend(one.as_str().map(str::to_owned));
    }
    let failed = data["conditions"].as_array();
    said.extend(failed.into_iter().flatten().filter_map(|condition| {
        let advice = condition["satisfied_by"].as_str()?;
        Some(format!("{}: {advice}", condition["id"].as_str()?))
    }));
    let revisions: Vec<String> = ["registry", "model"]
        .iter()
        .filter_map(|scope| {
            let revision = data["policy"][scope]["protections"].as_u64()?;
            Some(format!("{scope} {revision}"))
        })
        .collect();
    if !revisions.is_empty() {
        said.push(format!(
            "decided by protections of {}",
            revisions.join(", ")
        ));
    }
    let waived = data["policy"]["waived"].as_array();
    said.extend(
        waived
            .into_iter()
            .flatten()
            .filter_map(|one| Some(format!("waived: {}", one["condition"].as_str()?))),
    );
    if let Some(waiver) = data["waiver"].as_object() {
        let conditions = waiver.get("conditions").and_then(Value::as_array);
        let conditions: Vec<&str> = conditions
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        said.push(format!("waives {}", conditions.join(", ")));
    }
    if let Some(request) = data["request_id"].as_str() {
        said.push(format!("request {request}"));
    }
    let evidence = data["evidence"]
        .as_array()
        .or_else(|| data["request"]["evidence"].as_array());
    said.extend(
        evidence
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned),
    );
    said.join("; ")
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn escape(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '&' => "&amp;".to_owned(),
            '"' => "&quot;".to_owned(),
            '\'' => "&#39;".to_owned(),
            other => other.to_string(),
        })
        .collect()
}

/// A text within a table of Markdown: on one line, with nothing that Markdown or HTML would act on.
fn cell(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' | '\r' => " ".to_owned(),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '#' | '!' => format!("\\{character}"),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '&' => "&amp;".to_owned(),
            other => other.to_string(),
        })
        .collect()
}

fn plain(text: &str) -> String {
    text.replace('`', "'")
}
