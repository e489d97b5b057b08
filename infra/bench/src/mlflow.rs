//! The same load against a stock `mlflow server` and against Slipway, by MLflow's REST API, one after the other.
//!
//! What counts is the CPU time that the server's processes take for a request, because it is touched least by whatever
//! else the machine does; requests per second at 1, 8 and 32 connections, memory and start-up stand beside it.

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many requests are under way at once.
const CONNECTIONS: [usize; 3] = [1, 8, 32];

/// How long a server may take to its first answer.
const PATIENCE: Duration = Duration::from_mins(2);

/// How many clock ticks a second of CPU time has; Linux tells user space 100 on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Operation {
    CreateModel,
    CreateVersion,
    GetByAlias,
    SearchPage,
    LogBatch,
}

impl Operation {
    const ALL: [(Self, &'static str); 5] = [
        (Self::CreateModel, "create model"),
        (Self::CreateVersion, "create version"),
        (Self::GetByAlias, "get by alias"),
        (Self::SearchPage, "search models, page of 100"),
        (Self::LogBatch, "log-batch of 100 metrics"),
    ];
}

/// What was measured of one operation at one number of connections.
#[derive(Debug, Clone, Copy)]
struct Measured {
    per_second: f64,
    cpu_ms: f64,
}

/// What was measured of a server.
struct Results {
    first_answer: Duration,
    operations: Vec<Measured>,
    memory_mib: f64,
    processes: usize,
}

/// Measures both servers, and prints tables.
pub(crate) async fn run(mlflow: &Path, slipway: &Path, requests: usize) -> anyhow::Result<()> {
    // The client for plain HTTP still wants to know which cryptography it would use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let stock = measure("mlflow", requests, |port| {
        let mut command = Command::new(mlflow);
        command
            .current_dir(folder.path())
            .args(["server", "--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--backend-store-uri", "sqlite:///mlflow.db"]);
        command
    })
    .await?;
    let data = folder.path().join("slipway");
    let ours = measure("slipway", requests, |port| {
        let mut command = Command::new(slipway);
        command
            .args([
                "--port",
                &port.to_string(),
                "--s3-port",
                "0",
                "--log",
                "warn",
                "--data-dir",
            ])
            .arg(&data);
        command
    })
    .await?;
    print(&stock, &ours);
    Ok(())
}

fn print(stock: &Results, ours: &Results) {
    println!(
        "| Operation | Connections | MLflow req/s | Slipway req/s | MLflow CPU ms | Slipway CPU ms | Requests per CPU second |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let rows = Operation::ALL
        .iter()
        .flat_map(|(_, name)| CONNECTIONS.map(|connections| (name, connections)));
    for (((name, connections), stock), ours) in rows.zip(&stock.operations).zip(&ours.operations) {
        println!(
            "| {name} | {connections} | {:.0} | {:.0} | {:.2} | {:.2} | {:.0}× |",
            stock.per_second,
            ours.per_second,
            stock.cpu_ms,
            ours.cpu_ms,
            stock.cpu_ms / ours.cpu_ms,
        );
    }
    println!();
    println!("| | MLflow | Slipway | Ratio |");
    println!("| --- | ---: | ---: | ---: |");
    println!(
        "| first answer, s | {:.2} | {:.2} | {:.0}× |",
        stock.first_answer.as_secs_f64(),
        ours.first_answer.as_secs_f64(),
        stock.first_answer.as_secs_f64() / ours.first_answer.as_secs_f64(),
    );
    println!(
        "| memory after the load (PSS), MiB | {:.0} | {:.0} | {:.0}× |",
        stock.memory_mib,
        ours.memory_mib,
        stock.memory_mib / ours.memory_mib,
    );
    println!("| processes | {} | {} | |", stock.processes, ours.processes);
}

/// A server in a process group of its own, which ends with this value.
struct Server {
    child: Child,
    client: reqwest::Client,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = Command::new("kill").arg("-9").arg(pid.to_string()).status();
        }
        let _ = self.child.wait();
    }
}

impl Server {
    /// Every process of the server.
    fn pids(&self) -> Vec<u32> {
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| stat(*pid).is_some_and(|fields| fields[2] == self.child.id().to_string()))
            .collect()
    }

    /// CPU time of all processes since they began, in milliseconds, with that of children that ended.
    fn cpu_ms(&self) -> f64 {
        let ticks: u64 = self
            .pids()
            .into_iter()
            .filter_map(stat)
            .flat_map(|fields| {
                fields[11..15]
                    .iter()
                    .filter_map(|field| field.parse::<u64>().ok())
                    .collect::<Vec<_>>()
            })
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "a few minutes of ticks")]
        let ticks = ticks as f64;
        ticks * 1000.0 / TICKS_PER_SECOND
    }

    /// Memory of all processes, each shared page counted once in all.
    fn memory_mib(&self) -> f64 {
        let kib: f64 = self
            .pids()
            .into_iter()
            .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok())
            .filter_map(|text| {
                let line = text.lines().find(|line| line.starts_with("Pss:"))?;
                line.split_whitespace().nth(1)?.parse::<f64>().ok()
            })
            .sum();
        kib / 1024.0
    }

    async fn send(&self, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let url = format!("{}/api/2.0/mlflow/{path}", self.url);
        let request = match body {
            Some(body) => self.client.post(url).json(&body),
            None => self.client.get(url),
        };
        let response = request.send().await?;
        let status = response.status();
        let body: Value = response.json().await?;
        ensure!(status.is_success(), "{path} answered {status}: {body}");
        Ok(body)
    }

    /// Asks for one operation.
    async fn ask(&self, operation: Operation, number: usize, run: &str) -> anyhow::Result<()> {
        match operation {
            Operation::CreateModel => {
                let name = format!("created-{number}");
                self.send("registered-models/create", Some(json!({"name": name})))
                    .await?;
            }
            Operation::CreateVersion => {
                let name = format!("prepared-{}", number % 100);
                let body = json!({"name": name, "source": "s3://elsewhere/model"});
                self.send("model-versions/create", Some(body)).await?;
            }
            Operation::GetByAlias => {
                self.send(
                    "registered-models/alias?name=prepared-0&alias=champion",
                    None,
                )
                .await?;
            }
            Operation::SearchPage => {
                self.send("registered-models/search?max_results=100", None)
                    .await?;
            }
            Operation::LogBatch => {
                let metrics: Vec<Value> = (0..100)
                    .map(|step| json!({"key": format!("loss-{}", step % 10), "value": 0.5, "timestamp": number, "step": step}))
                    .collect();
                self.send(
                    "runs/log-batch",
                    Some(json!({"run_id": run, "metrics": metrics})),
                )
                .await?;
            }
        }
        Ok(())
    }
}

/// The fields of `/proc/<pid>/stat` after the name: state, parent, group…
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    let fields: Vec<String> = fields.split_whitespace().map(str::to_owned).collect();
    (fields.len() > 15).then_some(fields)
}

async fn measure(
    name: &str,
    requests: usize,
    command: impl FnOnce(u16) -> Command,
) -> anyhow::Result<Results> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let began = Instant::now();
    let child = command(port)
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("`{name}` does not start; name its program"))?;
    let server = Server {
        child,
        client: reqwest::Client::new(),
        url: format!("http://127.0.0.1:{port}"),
    };
    while server
        .send("experiments/get?experiment_id=0", None)
        .await
        .is_err()
    {
        if began.elapsed() > PATIENCE {
            bail!("`{name}` did not answer within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let first_answer = began.elapsed();
    for number in 0..100 {
        let name = format!("prepared-{number}");
        server
            .send("registered-models/create", Some(json!({"name": name})))
            .await?;
    }
    let body = json!({"name": "prepared-0", "source": "s3://elsewhere/model"});
    server.send("model-versions/create", Some(body)).await?;
    let body = json!({"name": "prepared-0", "alias": "champion", "version": "1"});
    server.send("registered-models/alias", Some(body)).await?;
    let run = server
        .send("runs/create", Some(json!({"experiment_id": "0"})))
        .await?;
    let run = run["run"]["info"]["run_id"]
        .as_str()
        .context("a run has an id")?
        .to_owned();

    let next = AtomicUsize::new(0);
    let mut operations = Vec::new();
    for (operation, label) in Operation::ALL {
        for connections in CONNECTIONS {
            let load = async |count: usize| -> usize {
                stream::iter(0..count)
                    .map(|_| server.ask(operation, next.fetch_add(1, Ordering::Relaxed), &run))
                    .buffer_unordered(connections)
                    .filter(|outcome| std::future::ready(outcome.is_ok()))
                    .count()
                    .await
            };
            // Connections are opened and caches filled before anything counts.
            load(connections * 2).await;
            let (cpu, began) = (server.cpu_ms(), Instant::now());
            let answered = load(requests).await;
            if answered < requests {
                println!(
                    "`{name}` failed {} of {requests} requests to {label} at {connections} connections.",
                    requests - answered
                );
            }
            ensure!(answered > 0, "`{name}` answers no request to {label}");
            #[expect(clippy::cast_precision_loss, reason = "a few thousand requests")]
            let count = answered as f64;
            operations.push(Measured {
                per_second: count / began.elapsed().as_secs_f64(),
                cpu_ms: ((server.cpu_ms() - cpu) / count).max(0.001),
            });
        }
    }
    Ok(Results {
        first_answer,
        operations,
        memory_mib: server.memory_mib(),
        processes: server.pids().len(),
    })
}
