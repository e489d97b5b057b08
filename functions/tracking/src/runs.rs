//! Runs: create, read, update, delete, restore.

use crate::views::{self, artifact_root};
use crate::{experiments, logging};
use axum::extract::State;
use serde_json::{Value, json};
use shared::domain::tracking::experiment::append_to_uri;
use shared::domain::tracking::run::RUN_NAME_TAG;
use shared::domain::tracking::{Lifecycle, Run, RunId, RunStatus};
use shared::dynamodb::RunChange;
use shared::http::{Caller, Reply, respond};
use shared::mlflow::fields::missing;
use shared::mlflow::{Fields, invalid, looked_up};
use shared::{App, Result};
use std::collections::BTreeMap;

/// The run that a request names; old clients call its id `run_uuid`.
pub(crate) fn run_id(fields: &Fields) -> Result<RunId> {
    let id = match fields.text("run_id")?.filter(|id| !id.is_empty()) {
        Some(id) => id,
        None => fields
            .text("run_uuid")?
            .filter(|id| !id.is_empty())
            .ok_or_else(|| missing("run_id"))?,
    };
    RunId::parse(id)
}

/// An enumeration, which protobuf takes by name and by number.
pub(crate) fn enumerated<T>(
    fields: &Fields,
    name: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>> {
    let text = match fields.value(name) {
        None => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    parse(&text)
        .map(Some)
        .ok_or_else(|| shared::mlflow::fields::mistyped(name, &Value::from(text)))
}

/// 32 hexadecimal digits, as MLflow makes ids.
pub(crate) fn new_id(app: &App) -> String {
    format!("{:032x}", u128::from_be_bytes(app.ids.secret()))
}

pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let experiment = experiments::for_new(&app, &caller, &fields).await?;
    let id = new_id(&app);
    let tags: BTreeMap<String, String> = fields.pairs("tags")?.into_iter().collect();
    let given = fields.text("run_name")?.filter(|name| !name.is_empty());
    let tagged = tags.get(RUN_NAME_TAG).filter(|name| !name.is_empty());
    if let (Some(given), Some(tagged)) = (&given, tagged)
        && given != tagged
    {
        return Err(invalid(format!(
            "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values (run_name='{given}', mlflow.runName='{tagged}')."
        )));
    }
    let name = given
        .or_else(|| tagged.cloned())
        .unwrap_or_else(|| random_name(&app));
    let mut run = Run {
        artifact_uri: append_to_uri(
            &experiment.artifact_root(&artifact_root(&app, &caller)),
            &[&id, "artifacts"],
        ),
        id: RunId::parse(id)?,
        experiment_id: experiment.id,
        name: name.clone(),
        user_id: fields.text("user_id")?.unwrap_or_default(),
        status: RunStatus::Running,
        start_time: fields.int("start_time")?.unwrap_or_default(),
        end_time: None,
        lifecycle: Lifecycle::Active,
        life: experiment.lives,
        params: BTreeMap::new(),
        tags,
        metrics: BTreeMap::new(),
        datasets: Vec::new(),
        model_inputs: Vec::new(),
        model_outputs: Vec::new(),
        revision: 1,
    };
    run.set_tag(RUN_NAME_TAG, &name);
    let view = json!({"run": views::run(&run)});
    let answer = caller.answer(200, &view, app.clock.now())?;
    let outcome = app
        .registry
        .create_run(&caller.tenant, &run, answer)
        .await
        .map(|outcome| outcome.map(|()| view.clone()));
    let outcome = looked_up(outcome, async {
        let found = app.registry.find_run(&caller.tenant, &run.id).await?;
        Ok(found.map(|_| view))
    })
    .await;
    respond(&app, &caller, 200, outcome).await
}

/// A name such as `calm-heron-412`, for what was given none.
pub(crate) fn random_name(app: &App) -> String {
    const ADJECTIVES: [&str; 16] = [
        "able", "bold", "calm", "deft", "eager", "fair", "glad", "hale", "keen", "lively", "merry",
        "neat", "proud", "quick", "rare", "sage",
    ];
    const ANIMALS: [&str; 16] = [
        "ant", "bee", "crane", "deer", "eagle", "finch", "goat", "heron", "ibis", "jay", "koala",
        "lark", "mole", "newt", "otter", "pony",
    ];
    let [first, second, third, fourth] = app.ids.secret::<4>();
    format!(
        "{}-{}-{}",
        ADJECTIVES[usize::from(first % 16)],
        ANIMALS[usize::from(second % 16)],
        u16::from_be_bytes([third, fourth]) % 1_000
    )
}

pub(crate) async fn get(State(app): State<App>, caller: Caller, fields: Fields) -> Result<Reply> {
    let found = app.registry.run(&caller.tenant, &run_id(&fields)?).await?;
    Reply::ok(json!({"run": views::run(&found.run)}))
}

pub(crate) async fn update(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    let id = run_id(&fields)?;
    let status = enumerated(&fields, "status", RunStatus::parse)?;
    let end_time = fields.int("end_time")?;
    let name = fields.text("run_name")?.filter(|name| !name.is_empty());
    let change = |run: &mut Run| {
        run.require_active()?;
        if let Some(status) = status {
            run.status = status;
        }
        if end_time.is_some() {
            run.end_time = end_time;
        }
        if let Some(name) = &name {
            run.set_tag(RUN_NAME_TAG, name);
        }
        Ok(RunChange::default())
    };
    logging::change(
        &app,
        &caller,
        &id,
        change,
        |run| json!({"run_info": views::run_info(run)}),
    )
    .await
}

pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    set_lifecycle(&app, &caller, &fields, Lifecycle::Deleted).await
}

pub(crate) async fn restore(
    State(app): State<App>,
    caller: Caller,
    fields: Fields,
) -> Result<Reply> {
    set_lifecycle(&app, &caller, &fields, Lifecycle::Active).await
}

async fn set_lifecycle(
    app: &App,
    caller: &Caller,
    fields: &Fields,
    lifecycle: Lifecycle,
) -> Result<Reply> {
    let id = run_id(fields)?;
    let change = |run: &mut Run| {
        run.lifecycle = lifecycle;
        Ok(RunChange::default())
    };
    logging::change(app, caller, &id, change, |_| json!({})).await
}
