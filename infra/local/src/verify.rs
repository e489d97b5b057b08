//! `slipway verify`: is an audit export what the registry wrote? Offline, from the export alone.

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;
use shared::domain::audit::{Anchor, Verified, verify};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Verifies an audit export, and names the first event that was changed, dropped, inserted or reordered.
#[derive(Debug, Args)]
pub struct Verify {
    /// The export in JSON Lines; `-` reads the standard input
    #[arg(value_name = "FILE")]
    export: PathBuf,
    /// A seal that the export must agree with, as `GET /v1/seals/{day}` answers it
    #[arg(long = "seal", value_name = "FILE")]
    seals: Vec<PathBuf>,
    /// A hash that was kept elsewhere, as `<sequence>=<hash>`, such as `42=sha256:…`
    #[arg(long = "head", value_name = "SEQUENCE=HASH")]
    heads: Vec<String>,
}

impl Verify {
    /// Says that the export is right, or why not.
    pub fn run(&self) -> anyhow::Result<String> {
        let export = read(&self.export)?;
        let plain = verify(&export, &[])?;
        let mut anchors = self
            .heads
            .iter()
            .map(|head| anchor(head))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for path in &self.seals {
            anchors.extend(sealed(path, &plain)?);
        }
        let verified = verify(&export, &anchors)?;
        if !verified.has_end {
            bail!(
                "the header, the first line of an export, is missing, so that nobody can tell where the export ends; export again, or say the hash of its last event with `--head`"
            );
        }
        let model = verified.model_id.as_deref().unwrap_or("no model");
        if verified.last_sequence < verified.first_sequence {
            return Ok(format!("ok: the export of `{model}` holds no event"));
        }
        Ok(format!(
            "ok: events {} to {} of `{model}` are as they were written; {} trusted hashes agree; the last hash is {}",
            verified.first_sequence, verified.last_sequence, verified.anchors, verified.last_hash
        ))
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("the standard input cannot be read")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("`{}` cannot be read", path.display()))
}

fn anchor(text: &str) -> anyhow::Result<Anchor> {
    let (sequence, hash) = text
        .split_once('=')
        .with_context(|| format!("`{text}` is no head; write `<sequence>=<hash>`"))?;
    Ok(Anchor {
        sequence: sequence
            .parse()
            .with_context(|| format!("`{sequence}` is no sequence"))?,
        hash: hash.to_owned(),
    })
}

/// What a seal says of the model of the export.
fn sealed(path: &Path, export: &Verified) -> anyhow::Result<Vec<Anchor>> {
    let seal: Value = serde_json::from_str(&read(path)?)
        .with_context(|| format!("`{}` is no JSON", path.display()))?;
    let Some(models) = seal["models"].as_array() else {
        bail!("`{}` is no seal", path.display());
    };
    Ok(models
        .iter()
        .filter(|model| model["model_id"].as_str() == export.model_id.as_deref())
        .filter_map(|model| {
            Some(Anchor {
                sequence: model["sequence"].as_u64()?,
                hash: model["hash"].as_str()?.to_owned(),
            })
        })
        .collect())
}
