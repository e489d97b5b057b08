//! Files on their way out: where their bytes are, or small ones themselves.

use crate::upload::expiration;
use crate::{paths, roots, versions};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use shared::domain::{Location, VersionId};
use shared::http::Caller;
use shared::mlflow::{Fields, MlflowCode, invalid, refused};
use shared::s3::keys;
use shared::{App, Error, Result};
use std::fmt::Write as _;
use unicode_normalization::UnicodeNormalization as _;

/// Largest file that is answered in the body, in bytes: Lambda answers 6 MiB, in base64.
const MAX_INLINE_BYTES: u64 = 4_400_000;

/// Names and extensions that MLflow shows as text.
const TEXTS: [&str; 26] = [
    "txt",
    "log",
    "err",
    "cfg",
    "conf",
    "cnf",
    "cf",
    "ini",
    "properties",
    "prop",
    "hocon",
    "toml",
    "yaml",
    "yml",
    "xml",
    "json",
    "js",
    "py",
    "py3",
    "csv",
    "tsv",
    "md",
    "rst",
    "ipynb",
    "MLmodel",
    "mlproject",
];

/// One object that holds a file.
pub(crate) struct Held {
    pub(crate) key: String,
    pub(crate) object_version: Option<String>,
    pub(crate) size_bytes: u64,
    /// The file's own name, for the client's disk.
    pub(crate) name: String,
}

/// The answer to who asks for a file: where its bytes are.
///
/// A file outside of all roots is answered itself if it is small, as files of unknown use are.
pub(crate) async fn by_path(app: &App, caller: &Caller, path: &str) -> Result<Response> {
    match paths::location(path)? {
        Location::Stored(path) if roots::is_loose(&path) => {
            let held = Held {
                key: keys::tracked(&caller.tenant, &path),
                object_version: None,
                size_bytes: 0,
                name: name_of(path.as_str()),
            };
            attached(app, &held, path.as_str()).await
        }
        _ => redirect(app, &held(app, caller, path).await?).await,
    }
}

/// Where a file's bytes are; asks S3 for what clients keep, and the version for what it holds.
pub(crate) async fn held(app: &App, caller: &Caller, path: &str) -> Result<Held> {
    match paths::location(path)? {
        Location::Stored(path) => {
            let key = keys::tracked(&caller.tenant, &path);
            let head = app.bucket.head(&key, None).await?;
            let head = head.ok_or_else(|| no_artifact(path.as_str()))?;
            Ok(Held {
                key,
                object_version: head.object_version,
                size_bytes: head.size_bytes,
                name: name_of(path.as_str()),
            })
        }
        Location::Version {
            model,
            number,
            path: within,
        } => {
            let within = within.ok_or_else(|| no_artifact(path))?;
            let id = VersionId {
                tenant: caller.tenant.clone(),
                model,
                number,
            };
            versions::held(app, caller, &id, &within).await
        }
        Location::Root => Err(no_artifact(path)),
    }
}

/// Sends the client to a file's bytes.
pub(crate) async fn redirect(app: &App, held: &Held) -> Result<Response> {
    let request = app
        .bucket
        .presign_get(&held.key, held.object_version.as_deref(), &held.name)
        .await?;
    let location = HeaderValue::from_str(&request.url)
        .map_err(|error| Error::internal("presigning a download", error))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A presigned download, as clients ask for it that fetch ranges in parallel.
pub(crate) async fn presigned(app: &App, held: &Held) -> Result<Value> {
    let request = app
        .bucket
        .presign_get(&held.key, held.object_version.as_deref(), &held.name)
        .await?;
    Ok(json!({"url": request.url, "headers": request.headers, "file_size": held.size_bytes}))
}

/// A presigned download of a run's file, as SageMaker's client asks for it.
pub(crate) async fn presigned_of_run(app: &App, caller: &Caller, fields: &Fields) -> Result<Value> {
    let run = fields.required("run_id")?;
    let path = paths::stored(&fields.required("path")?)?;
    let seconds = expiration(app, fields)?;
    let root = roots::of_run(app, &caller.tenant, &run).await?;
    let key = format!("{}/{path}", root.key);
    let head = app.bucket.head(&key, None).await?;
    let head = head.ok_or_else(|| no_artifact(path.as_str()))?;
    let name = name_of(path.as_str());
    let request = app
        .bucket
        .presign_get_for(&key, head.object_version.as_deref(), &name, seconds)
        .await?;
    Ok(json!({
        "presigned_url": request.url, "headers": request.headers, "file_size": head.size_bytes,
    }))
}

/// A file of a root, in the body if it is small.
pub(crate) async fn attached_of_root(app: &App, root_key: &str, path: &str) -> Result<Response> {
    let path = paths::stored(path)?;
    let held = Held {
        key: format!("{root_key}/{path}"),
        object_version: None,
        size_bytes: 0,
        name: name_of(path.as_str()),
    };
    attached(app, &held, path.as_str()).await
}

/// A file as an attachment that no browser shows or guesses at; one that is large is redirected to.
pub(crate) async fn attached(app: &App, held: &Held, path: &str) -> Result<Response> {
    let object = app
        .bucket
        .read_small(&held.key, held.object_version.as_deref(), MAX_INLINE_BYTES)
        .await?
        .ok_or_else(|| no_artifact(path))?;
    match object.bytes {
        Some(bytes) => attachment(&held.name, bytes),
        None => redirect(app, held).await,
    }
}

fn attachment(name: &str, bytes: Bytes) -> Result<Response> {
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|error| Error::internal("naming a download", error))
    };
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value(&media_type_of(name))?);
    headers.insert(header::CONTENT_DISPOSITION, value(&disposition(name))?);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // Without it the host on Lambda would take whatever is said to be text for UTF-8, and mend what is none.
    headers.insert(
        header::CONTENT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    Ok(response)
}

/// The media type of a file, by its name, as MLflow guesses it.
pub(crate) fn media_type_of(path: &str) -> String {
    let name = name_of(path);
    let extension = match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && !extension.is_empty() => extension,
        _ => name.as_str(),
    };
    if TEXTS.contains(&extension) {
        return "text/plain".to_owned();
    }
    mime_guess::from_path(&name)
        .first_or_octet_stream()
        .essence_str()
        .to_owned()
}

/// The header that makes a browser save a file under its name: RFC 6266, with RFC 8187 where the name is not ASCII.
fn disposition(name: &str) -> String {
    let quoted = |text: &str| {
        let is_token = !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        if is_token {
            text.to_owned()
        } else {
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        }
    };
    if name.is_ascii() {
        return format!("attachment; filename={}", quoted(name));
    }
    let plain: String = name.nfkd().filter(char::is_ascii).collect();
    let plain = if plain.is_empty() { "download" } else { &plain };
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    format!(
        "attachment; filename={}; filename*=UTF-8''{encoded}",
        quoted(plain)
    )
}

fn name_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The error for a file that is not there.
pub(crate) fn no_artifact(path: &str) -> Error {
    if path.is_empty() {
        return invalid("Invalid path: it is empty.");
    }
    refused(
        MlflowCode::ResourceDoesNotExist,
        format!("No such artifact: '{path}'"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_those_of_mlflow() {
        for (path, expected) in [
            ("a/MLmodel", "text/plain"),
            ("mlproject", "text/plain"),
            ("conda.yaml", "text/plain"),
            ("x.json", "text/plain"),
            ("notes.txt", "text/plain"),
            ("model.pkl", "application/octet-stream"),
            ("model", "application/octet-stream"),
            ("plot.png", "image/png"),
            ("page.html", "text/html"),
            (".gitignore", "application/octet-stream"),
        ] {
            assert_eq!(media_type_of(path), expected, "{path}");
        }
    }

    #[test]
    fn names_of_attachments_survive_the_header() {
        for (name, expected) in [
            ("a.txt", "attachment; filename=a.txt"),
            ("a b.txt", "attachment; filename=\"a b.txt\""),
            ("a\"b", "attachment; filename=\"a\\\"b\""),
            (
                "prüfung.txt",
                "attachment; filename=prufung.txt; filename*=UTF-8''pr%C3%BCfung.txt",
            ),
            (
                "検査",
                "attachment; filename=download; filename*=UTF-8''%E6%A4%9C%E6%9F%BB",
            ),
        ] {
            assert_eq!(disposition(name), expected);
        }
    }
}
