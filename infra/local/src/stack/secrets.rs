//! Secrets of one deployment: made at its first start, and kept in its data folder.

use std::{fs, io, io::Write as _, path::Path};

use anyhow::Context as _;
use shared::app::{Clock, Ids};

use super::{ADMINISTRATOR_TOKEN_FILE, Login, SECRET_ACCESS_KEY, StackOptions};
use crate::{data_folder::DataFolder, kms::private_key_of};

/// What only this deployment knows.
pub(super) struct Secrets {
    /// The key of page cursors.
    pub(super) cursors: String,
    /// The key under which secrets of subscriptions are sealed.
    pub(super) sealing: String,
    /// The key that packages are signed with, as PEM.
    pub(super) signing: String,
    /// The secret access key of S3.
    pub(super) s3: String,
    /// The key of the hashes of tokens, where callers bring some.
    pub(super) tokens: Option<String>,
}

impl Secrets {
    pub(super) fn of(folder: &DataFolder, options: &StackOptions) -> anyhow::Result<Self> {
        let has_tokens = options.login == Login::Token;
        let kept = |name| secret(folder, name, &options.clock);
        Ok(Self {
            cursors: kept("cursor-secret")?,
            sealing: kept("secrets-key")?,
            signing: signing_key(folder, &options.clock)?,
            s3: if has_tokens {
                kept("s3-secret")?
            } else {
                SECRET_ACCESS_KEY.to_owned()
            },
            tokens: has_tokens.then(|| kept("token-secret")).transpose()?,
        })
    }
}

/// Reads a secret, or makes one, so that what was made with it stays good over a restart.
fn secret(folder: &DataFolder, name: &str, clock: &Clock) -> anyhow::Result<String> {
    kept(folder, name, || {
        Some(hex::encode(Ids::new(clock.clone()).secret::<32>()))
    })
}

/// Reads the key that packages are signed with, or makes one.
fn signing_key(folder: &DataFolder, clock: &Clock) -> anyhow::Result<String> {
    kept(folder, "signing-key.pem", || {
        private_key_of(&Ids::new(clock.clone()).secret())
    })
}

/// Reads a secret from its file in the data folder, or makes it when there is none yet.
fn kept(
    folder: &DataFolder,
    name: &str,
    make: impl Fn() -> Option<String>,
) -> anyhow::Result<String> {
    let path = folder.path().join(name);
    let doing = || format!("the file `{}` is not usable", path.display());
    match fs::read_to_string(&path) {
        Ok(secret) if !secret.trim().is_empty() => return Ok(secret.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(doing),
    }
    // Few random bytes make no secret of the kind that is wanted, so that another try follows.
    let secret = (0..8)
        .find_map(|_| make())
        .context("the system's random source makes no secret")?;
    let secret = secret.trim().to_owned();
    keep(folder, &path, &secret).with_context(doing)?;
    Ok(secret)
}

/// Writes a secret under another name first, so that a kill in between leaves no half of it; only its owner may read it.
fn keep(folder: &DataFolder, path: &Path, secret: &str) -> anyhow::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder.path())?;
    writeln!(file, "{secret}")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Keeps the administrator's token in the data folder; whether it was not kept there before.
pub(super) fn keep_administrator_token(folder: &DataFolder, token: &str) -> anyhow::Result<bool> {
    let path = folder.path().join(ADMINISTRATOR_TOKEN_FILE);
    let doing = || format!("the file `{}` is not usable", path.display());
    match fs::read_to_string(&path) {
        Ok(kept) if kept.trim() == token => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(doing);
        }
        _ => {}
    }
    keep(folder, &path, token).with_context(doing)?;
    Ok(true)
}
