//! Deliveries of webhooks: how many a second, and what endpoints that hang do to one that answers.
//!
//! Events are made first, with nothing moving; then the registry is started on the same data, and its pumps deliver.

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::extract::State;
use local::stack::{PumpMode, Stack, StackOptions, Storage};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the last delivery may be waited for.
const PATIENCE: Duration = Duration::from_mins(5);

/// When requests arrived.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<Vec<Instant>>>);

impl Arrivals {
    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// From the first to the last, and the longest time between two.
    fn spread(&self) -> Option<(Duration, Duration)> {
        let arrivals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = arrivals.windows(2).map(|pair| pair[1] - pair[0]).max()?;
        Some((*arrivals.last()? - *arrivals.first()?, longest))
    }
}

/// Measures, and prints a table.
pub(crate) async fn run(models: usize, changes: usize) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    println!(
        "| Endpoints that hang | Deliveries | Seconds | Deliveries/s | Of those alone | Longest pause ms |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut alone = None;
    for hanging in [0, 1, 5, 20] {
        let (arrivals, total) = deliver(models, changes, hanging).await?;
        let (whole, longest) = arrivals.spread().context("nothing was delivered")?;
        let rate = f64::from(u32::try_from(total)?) / whole.as_secs_f64();
        println!(
            "| {hanging} | {total} | {:.1} | {rate:.0} | {:.2} | {} |",
            whole.as_secs_f64(),
            rate / *alone.get_or_insert(rate),
            longest.as_millis()
        );
    }
    Ok(())
}

async fn deliver(
    models: usize,
    changes: usize,
    hanging: usize,
) -> anyhow::Result<(Arrivals, usize)> {
    let folder = tempfile::tempdir()?;
    let options = |pump| StackOptions {
        storage: Storage::Folder(folder.path().to_owned()),
        pump,
        ..StackOptions::default()
    };
    let arrivals = Arrivals::default();
    let answering = serve(arrivals.clone()).await?;
    // It takes connections, and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;

    let stack = Stack::start(options(PumpMode::Manual)).await?;
    let client = reqwest::Client::new();
    let post = async |path: &str, body: serde_json::Value| -> anyhow::Result<()> {
        let url = format!("{}{path}", stack.url());
        let status = client.post(url).json(&body).send().await?.status();
        ensure!(status.is_success(), "POST {path} answered {status}");
        Ok(())
    };
    post("/v1/subscriptions", json!({ "url": answering })).await?;
    for number in 0..hanging {
        let url = format!("http://{}/{number}", silent.local_addr()?);
        post("/v1/subscriptions", json!({ "url": url })).await?;
    }
    for model in 0..models {
        post("/v1/models", json!({"name": format!("m{model}")})).await?;
    }
    for change in 1..changes {
        for model in 0..models {
            let url = format!("{}/v1/models/m{model}", stack.url());
            let body = json!({"description": format!("text {change}")});
            let status = client.patch(url).json(&body).send().await?.status();
            ensure!(status.is_success(), "PATCH answered {status}");
        }
    }
    stack.shutdown().await;

    let total = models * changes;
    let stack = Stack::start(options(PumpMode::Automatic)).await?;
    let began = Instant::now();
    while arrivals.count() < total {
        ensure!(
            began.elapsed() < PATIENCE,
            "{} of {total} were delivered",
            arrivals.count()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stack.crash().await;
    Ok((arrivals, total))
}

async fn serve(arrivals: Arrivals) -> anyhow::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let answer = |State(arrivals): State<Arrivals>| async move {
        arrivals
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Instant::now());
    };
    let router = Router::new().fallback(answer).with_state(arrivals);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(url)
}
