//! From a tag or a digest to the version that has it, as long as its bytes are given out.

use shared::domain::{
    AliasName, Digest, ModelName, Repository, TenantName, Version, VersionId, VersionNumber,
};
use shared::dynamodb::Holding;
use shared::oci::{OciCode, OciDocument, refused};
use shared::{App, Error, ErrorCode, Result};

/// How many versions are looked at for `latest` in one read.
const LATEST_PAGE: usize = 20;
/// How many versions are looked at together, where the newest one that has a digest is not given out.
const HOLDERS_PAGE: usize = 25;

/// A version that is given out, and what it is to OCI clients.
pub(crate) struct Pulled {
    pub(crate) id: VersionId,
    pub(crate) document: OciDocument,
}

/// Whether the bytes of a version are given out by this protocol.
pub(crate) fn is_pullable(version: &Version) -> bool {
    version.require_downloadable().is_ok()
        && version
            .package
            .as_ref()
            .is_some_and(|package| package.files.is_some())
}

/// A digest in a path; `None` if it is of an algorithm by which nothing is known here.
pub(crate) fn digest_of(text: &str) -> Result<Option<Digest>> {
    if let Ok(digest) = Digest::parse(text) {
        return Ok(Some(digest));
    }
    let is_other = text.split_once(':').is_some_and(|(algorithm, encoded)| {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        algorithm != "sha256"
            && algorithm.bytes().next().is_some_and(is_word)
            && algorithm
                .bytes()
                .all(|byte| is_word(byte) || b"+._-".contains(&byte))
            && !encoded.is_empty()
            && encoded
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte))
    });
    if is_other {
        return Ok(None);
    }
    Err(refused(
        OciCode::DigestInvalid,
        "the digest is not valid; write `sha256:` and 64 hexadecimal digits in lower case",
    ))
}

/// The version of a tag: a number, with or without `v`; an alias; or `latest`, the newest one that is given out.
///
/// A number is that of a version, even where an alias has it as its name.
pub(crate) async fn by_tag(app: &App, repository: &Repository, tag: &str) -> Result<Pulled> {
    let number = number_of(tag);
    if tag == "latest" {
        return latest(app, repository).await;
    }
    if let Some(number) = number {
        match by_number(app, repository, &repository.model, number).await {
            Err(error) if error.code == ErrorCode::VersionNotFound => {}
            other => return other,
        }
    }
    if let Ok(name) = AliasName::parse(tag)
        && let Some(alias) = app
            .registry
            .find_alias(&repository.tenant, &repository.model, &name)
            .await?
        && let Some(number) = alias.version
    {
        return by_number(app, repository, &alias.model, number).await;
    }
    // Whether there is such a model at all.
    app.registry
        .home_of(&repository.tenant, &repository.model)
        .await?;
    Err(unknown_tag())
}

/// The number that a tag means as a version's.
fn number_of(tag: &str) -> Option<VersionNumber> {
    let digits = tag.strip_prefix('v').unwrap_or(tag);
    let number = VersionNumber::new(digits.parse().ok()?).ok()?;
    (number.to_string() == digits).then_some(number)
}

fn unknown_tag() -> Error {
    refused(
        OciCode::ManifestUnknown,
        "there is no such tag; ask for `tags/list`: tags are aliases and numbers of versions",
    )
}

async fn latest(app: &App, repository: &Repository) -> Result<Pulled> {
    let mut after = None;
    loop {
        let page = app
            .registry
            .versions(
                &repository.tenant,
                &repository.model,
                false,
                LATEST_PAGE,
                after,
            )
            .await?;
        if let Some(version) = page.items.iter().find(|version| is_pullable(version)) {
            return by_number(app, repository, &version.id.model, version.id.number).await;
        }
        after = page.after;
        if after.is_none() {
            return Err(unknown_tag());
        }
    }
}

async fn by_number(
    app: &App,
    repository: &Repository,
    model: &ModelName,
    number: VersionNumber,
) -> Result<Pulled> {
    let id = VersionId {
        tenant: repository.tenant.clone(),
        model: model.clone(),
        number,
    };
    let (mut version, mut document) = app.registry.oci_version(&id, false).await?;
    if !is_pullable(&version) || document.is_none() {
        // A client that was told a moment ago that it is packaged must find it so.
        (version, document) = app.registry.oci_version(&id, true).await?;
    }
    version.require_downloadable()?;
    match document.filter(|_| is_pullable(&version)) {
        Some(document) => Ok(Pulled {
            id: version.id,
            document,
        }),
        None => Err(refused(
            OciCode::ManifestUnknown,
            "the version has no package that can be pulled; wait a moment after it is READY",
        )),
    }
}

/// A version that is given out, found by a digest of what it has.
pub(crate) struct Holder {
    pub(crate) id: VersionId,
    pub(crate) holding: Holding,
    /// What it is to OCI clients, if that was asked for.
    pub(crate) document: Option<OciDocument>,
}

/// The newest version that has a digest and is given out; `None` if there is none.
///
/// The error is that there is no such model.
pub(crate) async fn by_digest(
    app: &App,
    repository: &Repository,
    digest: &Digest,
    wants: Wants,
) -> Result<Option<Holder>> {
    let mut look = Look {
        app,
        tenant: &repository.tenant,
        model: repository.model.clone(),
        digest,
        wants,
        is_consistent: false,
    };
    // Where the name means a model that lies elsewhere, and what was written a moment ago, another look finds.
    for _ in 0..3 {
        match look.newest_holder().await? {
            Found::Holder(holder) => return Ok(Some(*holder)),
            Found::Elsewhere(model) => look.model = model,
            Found::Nothing if look.is_consistent => break,
            Found::Nothing => {
                look.is_consistent = true;
                look.model = app
                    .registry
                    .home_of(&repository.tenant, &look.model)
                    .await?;
            }
        }
    }
    Ok(None)
}

/// What a look for a digest is to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    /// Where the bytes are.
    Blob,
    /// What the version is to OCI clients, too.
    Document,
}

/// A look for a digest.
struct Look<'a> {
    app: &'a App,
    tenant: &'a TenantName,
    model: ModelName,
    digest: &'a Digest,
    wants: Wants,
    is_consistent: bool,
}

/// What came of a look.
enum Found {
    Holder(Box<Holder>),
    /// The name means a model that lies there by now.
    Elsewhere(ModelName),
    Nothing,
}

impl Look<'_> {
    async fn newest_holder(&self) -> Result<Found> {
        let (mut limit, mut after) = (1, None);
        loop {
            let page = self
                .app
                .registry
                .holdings(
                    self.tenant,
                    &self.model,
                    self.digest,
                    limit,
                    after,
                    self.is_consistent,
                )
                .await?;
            for holding in page.items {
                let (version, document) = match self.version(holding.number).await {
                    Ok(found) => found,
                    Err(error) if error.code == ErrorCode::VersionNotFound => continue,
                    Err(error) => return Err(error),
                };
                if version.id.model.home() != self.model.home() {
                    return Ok(Found::Elsewhere(version.id.model));
                }
                if is_pullable(&version) {
                    return Ok(Found::Holder(Box::new(Holder {
                        id: version.id,
                        holding,
                        document,
                    })));
                }
            }
            after = page.after;
            if after.is_none() {
                return Ok(Found::Nothing);
            }
            limit = HOLDERS_PAGE;
        }
    }

    async fn version(&self, number: VersionNumber) -> Result<(Version, Option<OciDocument>)> {
        let registry = &self.app.registry;
        let id = VersionId {
            tenant: self.tenant.clone(),
            model: self.model.clone(),
            number,
        };
        match (self.wants, self.is_consistent) {
            (Wants::Document, is_consistent) => registry.oci_version(&id, is_consistent).await,
            (Wants::Blob, true) => Ok((registry.version(&id).await?, None)),
            (Wants::Blob, false) => Ok((registry.glance_version(&id).await?, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_one_way() {
        for (tag, expected) in [
            ("1", Some(1)),
            ("v12", Some(12)),
            ("0", None),
            ("01", None),
            ("v", None),
            ("V1", None),
            ("+1", None),
            ("1.0", None),
            ("99999999999", None),
        ] {
            assert_eq!(number_of(tag).map(VersionNumber::get), expected, "{tag}");
        }
    }

    #[test]
    fn digests_of_other_algorithms_are_unknown_and_others_are_refused() {
        assert!(matches!(digest_of(Digest::of(b"").as_ref()), Ok(Some(_))));
        assert!(matches!(digest_of("sha512:00ff"), Ok(None)));
        for bad in ["sha256:00", "sha256", ":", "sha512:", "a b:00", "sha256:"] {
            assert!(digest_of(bad).is_err(), "{bad}");
        }
    }
}
