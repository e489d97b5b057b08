//! Measures Slipway on this machine: `bench http`, `bench mlflow`, `bench deliveries` and `bench startup <bootstrap>…`.
//!
//! Absolute times say more about the machine than about the code, so what is printed beside them is ratios and counts:
//! an operation against the raw DynamoDB request that it stands for, and instructions until a bootstrap asks for work.
//! `docs/benchmarks.md` keeps what was measured, and says how.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod deliveries;
mod http;
mod mlflow;
mod processes;
mod startup;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Measures Slipway on this machine.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Latency and throughput of HTTP operations, and their overhead over the raw store call.
    Http {
        /// Requests of each operation at each number of connections.
        #[arg(long, default_value_t = 512)]
        requests: usize,
    },
    /// The same load against a stock `mlflow server` and against Slipway: CPU time, throughput, memory, start-up.
    Mlflow(mlflow::Comparison),
    /// Deliveries of webhooks a second, alone and beside endpoints that hang.
    Deliveries {
        /// Models whose events are delivered.
        #[arg(long, default_value_t = 200)]
        models: usize,
        /// Events of each model.
        #[arg(long, default_value_t = 5)]
        changes: usize,
    },
    /// Instructions and milliseconds to the first poll, size and memory of bootstraps.
    Startup {
        /// The bootstraps: `target/lambda/query/bootstrap`, or `target/release/query`.
        #[arg(required = true)]
        bootstraps: Vec<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Options::parse().what {
        What::Http { requests } => http::run(requests).await,
        What::Mlflow(comparison) => mlflow::run(&comparison).await,
        What::Deliveries { models, changes } => deliveries::run(models, changes).await,
        What::Startup { bootstraps } => startup::run(&bootstraps).await,
    }
}
