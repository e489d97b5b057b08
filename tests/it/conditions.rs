//! Every condition that a write carries in any story is known: to a seed of the simulation, or to a story that fails
//! without it.
//!
//! `SLIPWAY_WITHOUT` names a part of a condition, as a line of `conditions.tsv` does, that is taken out of every write,
//! so that a story can be shown to fail without it; `SLIPWAY_CONDITIONS` names a file to which unknown parts are added.

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::interceptors::{
    Intercept, SharedInterceptor, dyn_dispatch_hint,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use serde_json::Value;
use simulation::conditions::{Elsewhere, Known};
use simulation::{Mutation, Site};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::LazyLock;

/// The parts that seeds of the simulation notice, and those that a story does.
static KNOWN: LazyLock<BTreeSet<Site>> = LazyLock::new(|| {
    let simulated = Known::parse(include_str!("../simulation/conditions.tsv")).unwrap();
    let told = Elsewhere::parse(include_str!("../simulation/elsewhere.tsv")).unwrap();
    let simulated = simulated.sites().into_iter().cloned();
    simulated.chain(told.0.into_keys()).collect()
});

/// What is taken out.
static WITHOUT: LazyLock<Option<Mutation>> = LazyLock::new(|| {
    let site = variable("SLIPWAY_WITHOUT")?;
    Some(Mutation(vec![site.parse().unwrap()]))
});

/// Sees every write.
#[derive(Debug)]
struct Watch;

/// What sees every write.
pub(crate) fn watch() -> SharedInterceptor {
    SharedInterceptor::new(Watch)
}

#[dyn_dispatch_hint]
impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "Watch"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let Some(("DynamoDB_20120810", operation)) = request
            .headers()
            .get("x-amz-target")
            .and_then(|target| target.split_once('.'))
        else {
            return Ok(());
        };
        let operation = operation.to_owned();
        let body = request.body().bytes().unwrap_or_default();
        if !body.windows(19).any(|word| word == b"ConditionExpression") {
            return Ok(());
        }
        let mut body: Value = serde_json::from_slice(body)?;
        let unknown = unknown_of(&operation, &body);
        if let Some(mutation) = &*WITHOUT {
            mutation.remove_from(&operation, &mut body);
            let body = body.to_string();
            let length = body.len().to_string();
            request.headers_mut().insert("content-length", length);
            *request.body_mut() = SdkBody::from(body);
        } else if !unknown.is_empty() {
            tell(&unknown)?;
        }
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "it is whoever runs the stories who says so"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn unknown_of(operation: &str, body: &Value) -> BTreeSet<Site> {
    let mut sites = BTreeSet::new();
    simulation::mutation::each_part(operation, body, &mut |site, _, _| {
        if !KNOWN.contains(site) {
            sites.insert(site.clone());
        }
    });
    sites
}

/// Adds parts to the file, or fails if there is none.
fn tell(unknown: &BTreeSet<Site>) -> Result<(), BoxError> {
    let lines: Vec<String> = unknown.iter().map(ToString::to_string).collect();
    let Some(path) = variable("SLIPWAY_CONDITIONS") else {
        let text = format!(
            "nothing is known of the condition of a write; see `docs/consistency.md`:\n{}",
            lines.join("\n")
        );
        writeln!(std::io::stderr(), "{text}")?;
        return Err(text.into());
    };
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    // One call, so that tests which run at once do not mix their lines.
    file.write_all(format!("{}\n", lines.join("\n")).as_bytes())?;
    Ok(())
}
