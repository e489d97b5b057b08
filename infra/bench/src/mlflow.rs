//! The same load against a stock `mlflow server` and against Slipway, by MLflow's REST API, one after the other.
//!
//! What counts is the CPU time that the server's processes take for a request, because it is touched least by whatever
//! else the machine does; requests per second at 1, 8 and 32 connections, memory and start-up stand beside it.
//!
//! CPU time is counted in nanoseconds and until the server is quiet again, so that each pays for the work that its
//! requests leave to the background. What a server takes when nobody asks is measured once and taken off.

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::processes::Processes;

/// How many requests are under way at once.
const CONNECTIONS: [usize; 3] = [1, 8, 32];

/// How long a server may take to its first answer.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long a server is left alone to see what it takes when nobody asks.
const IDLE: Duration = Duration::from_secs(5);

/// How often a server is asked whether it is quiet.
const QUIET_INTERVAL: Duration = Duration::from_millis(200);

/// A server is quiet that takes less than this share of a core above what it takes when nobody asks.
const QUIET: f64 = 0.02;

/// How long a server may go on in the background.
const QUIET_PATIENCE: Duration = Duration::from_mins(1);

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

impl Measured {
    fn shown(self) -> (String, String) {
        (
            format!("{:.0}", self.per_second),
            format!("{:.3}", self.cpu_ms),
        )
    }
}

/// What was measured of a server.
struct Results {
    first_answer: Duration,
    /// CPU time that it takes when nobody asks, as a share of a core.
    idle: f64,
    operations: Vec<Measured>,
    memory_mib: f64,
    processes: f64,
}

/// What is measured, and how much of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Comparison {
    /// The program `mlflow` of an environment in which it is installed.
    #[arg(long, default_value = "mlflow")]
    mlflow: PathBuf,
    /// The program `slipway`, built with optimization.
    #[arg(long, default_value = "target/release/slipway")]
    slipway: PathBuf,
    /// Requests to Slipway of each operation at each number of connections.
    #[arg(long, default_value_t = 2_000)]
    requests: usize,
    /// Requests to MLflow, which takes longer to answer them.
    #[arg(long, default_value_t = 300)]
    mlflow_requests: usize,
    /// How much Slipway logs: into a file, like MLflow.
    #[arg(long, default_value = "info")]
    log: String,
    /// Leave MLflow out: each row then tells of Slipway alone.
    #[arg(long)]
    alone: bool,
    /// Only operations whose name has this in it.
    #[arg(long, default_value = "")]
    only: String,
}

/// Measures both servers, and prints tables.
pub(crate) async fn run(comparison: &Comparison) -> anyhow::Result<()> {
    // The client for plain HTTP still wants to know which cryptography it would use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let stock = if comparison.alone {
        None
    } else {
        let command = |port: u16| {
            let mut command = Command::new(&comparison.mlflow);
            command
                .current_dir(folder.path())
                .args(["server", "--host", "127.0.0.1", "--port", &port.to_string()])
                .args(["--backend-store-uri", "sqlite:///mlflow.db"]);
            command
        };
        let log = File::create(folder.path().join("mlflow.log"))?;
        let load = Load::new("mlflow", comparison.mlflow_requests, &comparison.only);
        Some(load.measure(command, log).await?)
    };
    let command = |port: u16| {
        let mut command = Command::new(&comparison.slipway);
        command
            .args(["--port", &port.to_string(), "--s3-port", "0"])
            .args(["--log", &comparison.log, "--data-dir"])
            .arg(folder.path().join("slipway"));
        command
    };
    let log = File::create(folder.path().join("slipway.log"))?;
    let load = Load::new("slipway", comparison.requests, &comparison.only);
    let ours = load.measure(command, log).await?;
    print(&load.operations(), stock.as_ref(), &ours);
    Ok(())
}

/// A figure of a whole server, and what it is called.
type Figure = (&'static str, fn(&Results) -> f64);

fn print(operations: &[(Operation, &str)], stock: Option<&Results>, ours: &Results) {
    println!(
        "| Operation | Connections | MLflow req/s | Slipway req/s | MLflow CPU ms | Slipway CPU ms | Requests per CPU second |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let rows = operations
        .iter()
        .flat_map(|(_, name)| CONNECTIONS.map(|connections| (name, connections)));
    for (index, ((name, connections), ours)) in rows.zip(&ours.operations).enumerate() {
        let stock = stock.map(|stock| stock.operations[index]);
        let (per_second, cpu_ms) = ours.shown();
        let (stock_per_second, stock_cpu_ms) = stock.map_or_else(Default::default, Measured::shown);
        let ratio = stock.map_or_else(String::new, |stock| {
            format!("{:.0}×", stock.cpu_ms / ours.cpu_ms)
        });
        println!(
            "| {name} | {connections} | {stock_per_second} | {per_second} | {stock_cpu_ms} | {cpu_ms} | {ratio} |"
        );
    }
    println!();
    println!("| | MLflow | Slipway | Ratio |");
    println!("| --- | ---: | ---: | ---: |");
    let figures: [Figure; 4] = [
        ("first answer, s", |of| of.first_answer.as_secs_f64()),
        ("memory after the load (PSS), MiB", |of| of.memory_mib),
        ("CPU time when nobody asks, ms a second", |of| {
            of.idle * 1000.0
        }),
        ("processes", |of| of.processes),
    ];
    for (name, figure) in figures {
        let ours = figure(ours);
        match stock.map(figure) {
            Some(stock) => println!("| {name} | {stock:.2} | {ours:.2} | {:.0}× |", stock / ours),
            None => println!("| {name} | | {ours:.2} | |"),
        }
    }
}

/// A server and a client of it.
struct Server {
    processes: Processes,
    client: reqwest::Client,
    url: String,
}

impl Server {
    /// The share of a core that the server takes meanwhile.
    async fn busy(&self, interval: Duration) -> f64 {
        let (cpu, began) = (self.processes.cpu(), Instant::now());
        tokio::time::sleep(interval).await;
        let cpu = self.processes.cpu().saturating_sub(cpu);
        cpu.as_secs_f64() / began.elapsed().as_secs_f64()
    }

    /// Waits until nothing goes on in the background that was not going on when nobody asked.
    async fn settle(&self, idle: f64) {
        let began = Instant::now();
        let mut quiet = 0;
        // Once may be a pause between two things.
        while quiet < 2 && began.elapsed() < QUIET_PATIENCE {
            if self.busy(QUIET_INTERVAL).await < idle + QUIET {
                quiet += 1;
            } else {
                quiet = 0;
            }
        }
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

/// What is asked of a server.
struct Load<'a> {
    name: &'a str,
    requests: usize,
    only: &'a str,
}

impl<'a> Load<'a> {
    fn new(name: &'a str, requests: usize, only: &'a str) -> Self {
        Self {
            name,
            requests,
            only,
        }
    }

    fn operations(&self) -> Vec<(Operation, &'static str)> {
        Operation::ALL
            .into_iter()
            .filter(|(_, name)| name.contains(self.only))
            .collect()
    }

    async fn measure(
        &self,
        command: impl FnOnce(u16) -> Command,
        log: File,
    ) -> anyhow::Result<Results> {
        let began = Instant::now();
        let server = self.start(command, log).await?;
        let first_answer = began.elapsed();
        let run = prepare(&server).await?;
        // What is left of its start, and of what was prepared.
        server.settle(0.0).await;
        let idle = server.busy(IDLE).await;

        let next = AtomicUsize::new(0);
        let mut operations = Vec::new();
        for (operation, label) in self.operations() {
            for connections in CONNECTIONS {
                operations.push(
                    self.measure_one(&server, operation, label, connections, idle, &next, &run)
                        .await?,
                );
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a few processes")]
        let processes = server.processes.pids().len() as f64;
        Ok(Results {
            first_answer,
            idle,
            operations,
            memory_mib: server.processes.memory_mib(),
            processes,
        })
    }

    /// Starts a server, and waits for its first answer.
    async fn start(
        &self,
        command: impl FnOnce(u16) -> Command,
        log: File,
    ) -> anyhow::Result<Server> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let began = Instant::now();
        let processes = Processes::start(command(port).stdout(log.try_clone()?).stderr(log))
            .with_context(|| format!("`{}` does not start; name its program", self.name))?;
        let server = Server {
            processes,
            client: reqwest::Client::new(),
            url: format!("http://127.0.0.1:{port}"),
        };
        while server
            .send("experiments/get?experiment_id=0", None)
            .await
            .is_err()
        {
            if began.elapsed() > PATIENCE {
                bail!(
                    "`{}` did not answer within {} s",
                    self.name,
                    PATIENCE.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(server)
    }

    #[expect(clippy::too_many_arguments, reason = "one row of the table")]
    async fn measure_one(
        &self,
        server: &Server,
        operation: Operation,
        label: &str,
        connections: usize,
        idle: f64,
        next: &AtomicUsize,
        run: &str,
    ) -> anyhow::Result<Measured> {
        let load = async |count: usize| -> usize {
            stream::iter(0..count)
                .map(|_| server.ask(operation, next.fetch_add(1, Ordering::Relaxed), run))
                .buffer_unordered(connections)
                .filter(|outcome| std::future::ready(outcome.is_ok()))
                .count()
                .await
        };
        // Connections are opened and caches filled before anything counts.
        load(connections * 4 + self.requests / 20).await;
        server.settle(idle).await;
        let (cpu, began) = (server.processes.cpu(), Instant::now());
        let answered = load(self.requests).await;
        let load_took = began.elapsed();
        server.settle(idle).await;
        let cpu = server.processes.cpu().saturating_sub(cpu).as_secs_f64()
            - idle * began.elapsed().as_secs_f64();
        if answered < self.requests {
            println!(
                "`{}` failed {} of {} requests to {label} at {connections} connections.",
                self.name,
                self.requests - answered,
                self.requests,
            );
        }
        ensure!(
            answered > 0,
            "`{}` answers no request to {label}",
            self.name
        );
        #[expect(clippy::cast_precision_loss, reason = "a few thousand requests")]
        let count = answered as f64;
        Ok(Measured {
            per_second: count / load_took.as_secs_f64(),
            cpu_ms: cpu * 1000.0 / count,
        })
    }
}

/// Makes what the load asks for, and answers the id of a run.
async fn prepare(server: &Server) -> anyhow::Result<String> {
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
        .context("a run has an id")?;
    Ok(run.to_owned())
}
