//! Start-up of the bootstraps: how much happens before a function asks the Runtime API for its first event.
//!
//! Instructions are counted by callgrind and hardly vary; milliseconds do, so the best of several runs is told.

use anyhow::{Context as _, ensure};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// How often a start is timed.
const RUNS: usize = 15;

/// The budget of a function with the DynamoDB client.
const MOST_INSTRUCTIONS: u64 = 2_500_000;
const MOST_BYTES: u64 = 8_000_000;

/// Measures each bootstrap, and prints a table.
pub(crate) async fn run(bootstraps: &[impl AsRef<Path>]) -> anyhow::Result<()> {
    let has_valgrind = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .await
        .is_ok();
    if !has_valgrind {
        println!("valgrind is not installed, so instructions are not counted.\n");
    }
    println!(
        "| Bootstrap | Bytes | Of budget | Instructions | Of budget | Best ms | Peak RSS KiB |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for bootstrap in bootstraps {
        let bootstrap = bootstrap.as_ref();
        let bytes = std::fs::metadata(bootstrap)
            .with_context(|| format!("there is no bootstrap `{}`", bootstrap.display()))?
            .len();
        let (mut best, mut peak_kib) = (Duration::MAX, 0);
        for _ in 0..RUNS {
            let (time, rss_kib) = start(Command::new(bootstrap)).await?;
            best = best.min(time);
            peak_kib = peak_kib.max(rss_kib);
        }
        let (instructions, share) = if has_valgrind {
            let count = count(bootstrap).await?;
            (count.to_string(), ratio(count, MOST_INSTRUCTIONS))
        } else {
            ("-".into(), "-".into())
        };
        println!(
            "| {} | {bytes} | {} | {instructions} | {share} | {:.2} | {peak_kib} |",
            name(bootstrap),
            ratio(bytes, MOST_BYTES),
            best.as_secs_f64() * 1_000.0,
        );
    }
    Ok(())
}

/// Names the function: the file, or its folder if the file is called `bootstrap`.
fn name(bootstrap: &Path) -> String {
    let named = if bootstrap.ends_with("bootstrap") {
        bootstrap.parent().unwrap_or(bootstrap)
    } else {
        bootstrap
    };
    named
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn ratio(value: u64, budget: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two digits are told")]
    let ratio = value as f64 / budget as f64;
    format!("{ratio:.2}")
}

/// Starts a bootstrap as Lambda does; answers the time to its first poll, and its peak memory by then.
async fn start(mut command: Command) -> anyhow::Result<(Duration, u64)> {
    let polling = first_poll(&mut command).await?;
    let (time, rss) = (polling.time, polling.child.id().map_or(0, peak_rss_kib));
    stop(polling).await?;
    Ok((time, rss))
}

/// Counts the instructions to the first poll.
async fn count(bootstrap: &Path) -> anyhow::Result<u64> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("callgrind.out");
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(bootstrap);
    stop(first_poll(&mut command).await?).await?;
    let text = std::fs::read_to_string(&out).context("callgrind wrote no file")?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix("totals: ")
                .or_else(|| line.strip_prefix("summary: "))
        })
        .and_then(|count| count.trim().parse().ok())
        .context("callgrind's file has no total")
}

/// A process that asked for its first event.
struct Polling {
    child: Child,
    time: Duration,
    /// Stays open until the process was stopped, so that losing it is not measured.
    _connection: TcpStream,
}

/// Starts a process and waits until it asks for its first event, which never comes.
async fn first_poll(command: &mut Command) -> anyhow::Result<Polling> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("AWS_LAMBDA_RUNTIME_API", listener.local_addr()?.to_string())
        .env("AWS_LAMBDA_FUNCTION_NAME", "bench")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "bench")
        .env("AWS_SECRET_ACCESS_KEY", "bench")
        .env("AWS_SESSION_TOKEN", "bench")
        .env("TABLE_NAME", "bench")
        .env("BUCKET_NAME", "bench")
        .env("CURSOR_SECRET", "bench")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let started = Instant::now();
    let mut child = command.spawn().context("the bootstrap does not start")?;
    let (mut connection, _) = tokio::select! {
        accepted = listener.accept() => accepted?,
        status = child.wait() => anyhow::bail!("the bootstrap ended before its first poll: {}", status?),
    };
    let mut request = [0; 1024];
    let length = connection.read(&mut request).await?;
    let time = started.elapsed();
    ensure!(
        request[..length].starts_with(b"GET /2018-06-01/runtime/invocation/next"),
        "the bootstrap asked for something else first"
    );
    Ok(Polling {
        child,
        time,
        _connection: connection,
    })
}

/// Ends a process so that callgrind still writes what it counted.
async fn stop(mut polling: Polling) -> anyhow::Result<()> {
    if let Some(id) = polling.child.id() {
        Command::new("kill").arg(id.to_string()).status().await?;
    }
    polling.child.wait().await?;
    Ok(())
}

/// Reads the peak of a process's memory, where the system tells it.
fn peak_rss_kib(process: u32) -> u64 {
    std::fs::read_to_string(format!("/proc/{process}/status"))
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .unwrap_or(0)
}
