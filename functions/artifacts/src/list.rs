//! What lies in a folder.

use crate::{paths, roots, versions};
use serde_json::{Value, json};
use shared::domain::location::Owner;
use shared::domain::{Location, VersionId};
use shared::http::Caller;
use shared::mlflow::invalid;
use shared::s3::{Folder, keys};
use shared::{App, Result};

/// Most entries of one folder: the answer has no pages, and Lambda answers 6 MB.
const MOST_ENTRIES: usize = 40_000;

/// Lists a folder by its path below the root of all artifacts; names are relative to the folder.
pub(crate) async fn by_path(app: &App, caller: &Caller, path: &str) -> Result<Value> {
    let folder = match paths::location_of_uri(path.trim_end_matches('/'))? {
        Location::Root => at(app, &keys::tracked_prefix(&caller.tenant)).await?,
        Location::Stored(path) => {
            at(app, &format!("{}/", keys::tracked(&caller.tenant, &path))).await?
        }
        Location::Version {
            model,
            number,
            path,
        } => {
            let id = VersionId {
                tenant: caller.tenant.clone(),
                model,
                number,
            };
            versions::folder(app, caller, &id, path.as_ref()).await?
        }
    };
    Ok(shown(folder, ""))
}

/// Lists a folder of a run or logged model; names are relative to its root.
pub(crate) async fn of_owner(
    app: &App,
    caller: &Caller,
    owner: &Owner,
    path: Option<String>,
) -> Result<Value> {
    let path = path
        .as_deref()
        .map(|path| path.trim_end_matches('/'))
        .filter(|path| !path.is_empty())
        .map(paths::stored)
        .transpose()?;
    let root = roots::of(app, &caller.tenant, owner).await?;
    let (prefix, before) = match &path {
        None => (format!("{}/", root.key), String::new()),
        Some(path) => (format!("{}/{path}/", root.key), format!("{path}/")),
    };
    let mut answer = shown(at(app, &prefix).await?, &before);
    answer["root_uri"] = root.uri.into();
    Ok(answer)
}

async fn at(app: &App, prefix: &str) -> Result<Folder> {
    let folder = app.bucket.list_folder(prefix, MOST_ENTRIES).await?;
    folder.ok_or_else(|| {
        invalid(format!(
            "The folder has more than {MOST_ENTRIES} entries, too many for one answer. List its folders, or read it \
             from S3."
        ))
    })
}

/// MLflow's shape of a listing: folders without a size, and no list where there is nothing.
fn shown(folder: Folder, before: &str) -> Value {
    let mut files: Vec<(String, Value)> = folder
        .files
        .into_iter()
        .map(|(name, size)| {
            let path = format!("{before}{name}");
            let view = json!({"path": path, "is_dir": false, "file_size": size});
            (path, view)
        })
        .collect();
    files.extend(folder.folders.into_iter().map(|name| {
        let path = format!("{before}{name}");
        let view = json!({"path": path, "is_dir": true});
        (path, view)
    }));
    files.sort_by(|left, right| left.0.cmp(&right.0));
    let files: Vec<Value> = files.into_iter().map(|(_, view)| view).collect();
    if files.is_empty() {
        json!({})
    } else {
        json!({ "files": files })
    }
}
