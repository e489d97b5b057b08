//! The names in a route's path, parsed.

use crate::domain::rollout::Place;
use crate::domain::tracking::{ExperimentId, LoggedModelId, RunId};
use crate::domain::{AliasName, ModelName, Realm, TenantName, VersionId, VersionNumber};
use crate::error::{Error, Result};
use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

/// The names in a route's path.
#[derive(Debug, Clone)]
pub struct Target(Vec<(String, String)>);

impl Target {
    /// A part of the path as it came, unchecked.
    pub fn get(&self, name: &str) -> Result<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| {
                Error::internal("reading the path", format!("the route has no `{{{name}}}`"))
            })
    }

    /// The registered model.
    pub fn model(&self) -> Result<ModelName> {
        ModelName::parse(self.get("model")?)
    }

    /// The registered model that the route names, or the registry.
    pub fn realm(&self) -> Result<Realm> {
        if self.0.iter().any(|(name, _)| name == "model") {
            self.model().map(Realm::Model)
        } else {
            Ok(Realm::Registry)
        }
    }

    /// The version's number.
    pub fn version(&self) -> Result<VersionNumber> {
        VersionNumber::parse(self.get("version")?)
    }

    /// The version of the registered model.
    pub fn version_id(&self, tenant: &TenantName) -> Result<VersionId> {
        Ok(VersionId {
            tenant: tenant.clone(),
            model: self.model()?,
            number: self.version()?,
        })
    }

    /// The name of a thing that has no kind of name of its own; whoever takes it checks it.
    pub fn name(&self) -> Result<&str> {
        self.get("name")
    }

    /// The alias.
    pub fn alias(&self) -> Result<AliasName> {
        AliasName::parse(self.get("alias")?)
    }

    /// Where something is served.
    pub fn place(&self) -> Result<Place> {
        Place::parse(self.get("environment")?, self.get("endpoint")?)
    }

    /// A calendar day, written `2026-03-01` or `20260301`.
    pub fn day(&self) -> Result<String> {
        let day = self.get("day")?;
        let digits: String = day.chars().filter(char::is_ascii_digit).collect();
        let written = digits.len() == 8 && (day == digits || day.len() == 10 && day.is_ascii());
        if !written {
            return Err(Error::invalid("day", "write the day as `2026-03-01`"));
        }
        Ok(format!(
            "{}-{}-{}",
            &digits[..4],
            &digits[4..6],
            &digits[6..]
        ))
    }

    /// Whatever follows a route that ends with `{*path}`.
    pub fn path(&self) -> Result<&str> {
        self.get("path")
    }

    /// The run.
    pub fn run(&self) -> Result<RunId> {
        RunId::parse(self.get("run")?)
    }

    /// The experiment.
    pub fn experiment(&self) -> Result<ExperimentId> {
        ExperimentId::parse(self.get("experiment")?)
    }

    /// The id of a logged model.
    pub fn logged_model(&self) -> Result<LoggedModelId> {
        LoggedModelId::parse(self.get("model_id")?)
    }

    /// The key of a tag, as it is.
    pub fn tag(&self) -> Result<String> {
        self.get("tag").map(str::to_owned)
    }

    /// An id such as that of a subscription: at most 64 letters and digits.
    pub fn id(&self) -> Result<String> {
        let id = self.get("id")?;
        if id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            Ok(id.to_owned())
        } else {
            Err(Error::invalid(
                "id",
                "the id is not valid; use one that a list gave",
            ))
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|rejection| {
                Error::invalid(
                    "path",
                    "the path is not valid UTF-8; percent-encode it as UTF-8",
                )
                .caused_by(rejection)
            })?;
        Ok(Self(
            params
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        ))
    }
}
