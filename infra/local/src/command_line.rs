//! The command line of `slipway`: options, the greeting, logs for a person, and signals.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use shared::app::Clock;
use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Writer, debug_fn},
    },
    registry::LookupSpan,
};

use crate::stack::{
    ACCESS_KEY_ID, ADMINISTRATOR_TOKEN_FILE, Login, SECRET_ACCESS_KEY, Stack, StackOptions, Storage,
};
use crate::verify::Verify;

/// Runs the whole model registry on this machine.
#[derive(Debug, Parser)]
#[command(name = "slipway", version, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    /// The folder that keeps everything; it is made if it is missing
    #[arg(long, value_name = "FOLDER", default_value = ".slipway")]
    data_dir: PathBuf,
    /// Forget everything at the end, instead of keeping it in a folder
    #[arg(long, conflicts_with = "data_dir")]
    in_memory: bool,
    /// The port of the API; 0 is any free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The port of S3, which upload and download addresses name; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 8081)]
    s3_port: u16,
    /// The address to listen on; only this machine's own, since nothing authenticates callers
    #[arg(long, value_parser = loopback, default_value = "127.0.0.1")]
    host: IpAddr,
    /// How callers are known
    #[arg(long, value_enum, value_name = "HOW", default_value = "none")]
    auth: Auth,
    /// How much to log
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LogLevel,
    /// Write the log as JSON lines
    #[arg(long)]
    json_logs: bool,
}

/// What else it does than run the registry.
#[derive(Debug, Subcommand)]
enum Command {
    /// Verify an audit export, offline
    Verify(Verify),
}

/// How callers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Auth {
    /// Who calls is who they say
    None,
    /// By tokens, as on AWS; the first one is printed at the first start and kept in the data folder
    Token,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogLevel {
    /// Requests and events
    Info,
    /// Everything
    Debug,
    /// Only what somebody should look at
    Warn,
}

fn loopback(text: &str) -> Result<IpAddr, String> {
    let address = match text {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ => text
            .parse()
            .map_err(|_| "it is no IP address; use 127.0.0.1".to_owned())?,
    };
    if address.is_loopback() {
        Ok(address)
    } else {
        Err(
            "other machines could reach it, and nothing authenticates them; use 127.0.0.1"
                .to_owned(),
        )
    }
}

/// Runs until Ctrl-C or SIGTERM.
///
/// An error is one line on the standard error output and exit code 1; a wrong option is exit code 2.
pub fn run() -> ExitCode {
    let options = CommandLine::parse();
    if let Some(Command::Verify(verify)) = &options.command {
        return match verify.run() {
            Ok(message) => {
                let _ = writeln!(io::stdout().lock(), "{message}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                let _ = writeln!(io::stderr().lock(), "error: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    start_logs(&options);
    let outcome = tokio::runtime::Builder::new_multi_thread()
        // The embedded DynamoDB holds a thread while SQLite works, so there are some to spare on small machines too.
        .worker_threads(std::thread::available_parallelism().map_or(4, |cores| cores.get().max(4)))
        .enable_all()
        .build()
        .context("the runtime does not start")
        .and_then(|runtime| runtime.block_on(serve(options)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever closed the standard error output does not want to know.
            let _ = writeln!(io::stderr().lock(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: CommandLine) -> anyhow::Result<()> {
    // Listening for signals begins first, so that an early Ctrl-C is a shutdown as well.
    let mut signals = Signals::listen().context("signals cannot be handled")?;
    let starting = Stack::start(StackOptions {
        storage: if options.in_memory {
            Storage::Memory
        } else {
            Storage::Folder(options.data_dir.clone())
        },
        http: SocketAddr::new(options.host, options.port),
        s3_port: options.s3_port,
        login: match options.auth {
            Auth::None => Login::Nobody,
            Auth::Token => Login::Token,
        },
        ..StackOptions::default()
    });
    let stack = tokio::select! {
        started = starting => started?,
        () = signals.received() => return Ok(()),
    };
    // A closed output is no reason to stop.
    let _ = greet(&stack, options.in_memory);
    signals.received().await;
    tracing::info!("Stopping; press Ctrl-C again to stop at once");
    tokio::select! {
        () = stack.shutdown() => {
            tracing::info!("Stopped");
            Ok(())
        }
        () = signals.received() => Ok(()),
    }
}

fn greet(stack: &Stack, is_in_memory: bool) -> io::Result<()> {
    let (url, s3_url) = (stack.url(), stack.s3_url());
    let data = if is_in_memory {
        "temporary; gone when this ends".to_owned()
    } else {
        let path = stack.data_folder();
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        path.display().to_string()
    };
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "Slipway {version} is ready.

  API   {url}
  S3    {s3_url}  (bucket `{bucket}`)
  Data  {data}
",
        version = env!("CARGO_PKG_VERSION"),
        bucket = crate::definition::BUCKET,
    )?;
    let region = crate::definition::REGION;
    let authorization = match stack.administrator() {
        None => {
            writeln!(
                out,
                "For the AWS CLI:

  export AWS_ACCESS_KEY_ID={ACCESS_KEY_ID} AWS_SECRET_ACCESS_KEY={SECRET_ACCESS_KEY} \\
         AWS_REGION={region} AWS_ENDPOINT_URL_S3={s3_url}
"
            )?;
            ""
        }
        Some(administrator) => {
            if is_in_memory || administrator.is_new {
                writeln!(
                    out,
                    "The administrator's token, which is shown once:

  export SLIPWAY_TOKEN={}
",
                    administrator.token
                )?;
            } else {
                writeln!(
                    out,
                    "The administrator's token is kept in `{ADMINISTRATOR_TOKEN_FILE}` of the data folder:

  export SLIPWAY_TOKEN=$(cat '{data}/{ADMINISTRATOR_TOKEN_FILE}')
"
                )?;
            }
            " -H \"authorization: Bearer $SLIPWAY_TOKEN\""
        }
    };
    writeln!(
        out,
        "Next, register a model:

  curl -X POST {url}/v1/models{authorization} -H 'content-type: application/json' -d '{{\"name\": \"iris\"}}'

Ctrl-C stops.
"
    )?;
    out.flush()
}

/// Ctrl-C, and what a supervisor sends.
#[derive(Debug)]
struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    #[cfg(unix)]
    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn received(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

fn start_logs(options: &CommandLine) {
    let level = match options.log {
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Warn => "warn",
    };
    // What the libraries below say at these levels is for their authors.
    let filter = EnvFilter::new(format!(
        "{level},aws_smithy_runtime=warn,aws_smithy_runtime_api=warn,aws_sdk_s3=warn,aws_sdk_dynamodb=warn,\
         aws_config=warn,hyper=warn,hyper_util=warn,s3s=warn,h2=warn,dynoxide=error,rustls=warn,reqwest=warn"
    ));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    if options.json_logs {
        logs.json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .init();
    } else {
        logs.event_format(Line(Clock::system()))
            .fmt_fields(debug_fn(write_field))
            .init();
    }
}

/// Writes what a person reads: the message, and the reason of a failure.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(writer, "{value:?}"),
        "error" | "code" => write!(writer, " ({value:?})"),
        _ => Ok(()),
    }
}

/// A line for a person who reads along: the time of day in UTC, the level if it is not the usual one, the message.
///
/// Request ids and other fields are for machines, and stand in the JSON lines.
struct Line(Clock);

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = self.0.now().to_string();
        write!(writer, "{} ", now.get(11..23).unwrap_or_default())?;
        let level = *event.metadata().level();
        if level != Level::INFO {
            let color = match level {
                _ if !writer.has_ansi_escapes() => "",
                Level::ERROR => "\x1b[31m",
                Level::WARN => "\x1b[33m",
                _ => "\x1b[2m",
            };
            let end = if color.is_empty() { "" } else { "\x1b[0m" };
            write!(writer, "{color}{level}{end} ")?;
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_taken() {
        for accepted in ["127.0.0.1", "127.1.2.3", "::1", "localhost"] {
            loopback(accepted).unwrap();
        }
        for refused in ["0.0.0.0", "::", "192.168.1.1", "example.com", ""] {
            loopback(refused).unwrap_err();
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        CommandLine::command().debug_assert();
    }
}
