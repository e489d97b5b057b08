//! Roots of artifacts: where the files of a run or a logged model lie, without what it logged.

use crate::domain::TenantName;
use crate::domain::location::Owner;
use crate::domain::tracking::Lifecycle;
use crate::dynamodb::Registry;
use crate::dynamodb::items::Reader;
use crate::dynamodb::keys::{self, Key};
use crate::error::Result;

/// Where the files of a run or a logged model lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRoot {
    /// The root's URI.
    pub uri: String,
    /// Whether the run or logged model is there.
    pub lifecycle: Lifecycle,
}

impl Registry {
    /// The root of a run's or logged model's artifacts, or nothing if there is none; deleted or not.
    pub async fn find_artifact_root(
        &self,
        tenant: &TenantName,
        owner: &Owner,
    ) -> Result<Option<ArtifactRoot>> {
        let id = match owner {
            Owner::Run(id) => id.as_str(),
            Owner::LoggedModel(id) => id.as_str(),
        };
        let Some(place) = self.place_of(tenant, id).await? else {
            return Ok(None);
        };
        let (partition, experiment) = match owner {
            Owner::Run(_) => (
                keys::runs(tenant, place.experiment),
                Some(keys::experiment(tenant, place.experiment)),
            ),
            Owner::LoggedModel(_) => (keys::logged_models(tenant, place.experiment), None),
        };
        let key = Key {
            pk: partition,
            sk: place.sk,
        };
        let mut wanted = vec![key.clone()];
        wanted.extend(experiment);
        let found = self.table.batch_get(&wanted, true).await?;
        let (mut root, mut life, mut lives) = (None, 0, (0, false));
        for item in &found {
            let reader = Reader(item);
            let is_deleted = reader.maybe_number("deleted").is_some();
            if reader.text("sk")? == key.sk {
                root = Some((reader.text("root")?.to_owned(), is_deleted));
                life = reader.maybe_number("life").unwrap_or(0);
            } else {
                lives = (reader.number("lives")?, is_deleted);
            }
        }
        // Of the run's own lifecycle and its experiment's the one holds that was decided last.
        let is_deleted = |own: bool| if life < lives.0 { lives.1 } else { own };
        Ok(root.map(|(uri, own)| ArtifactRoot {
            uri,
            lifecycle: if is_deleted(own) {
                Lifecycle::Deleted
            } else {
                Lifecycle::Active
            },
        }))
    }
}
