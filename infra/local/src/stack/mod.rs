//! The whole registry, started in this process.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use local::stack::{Stack, StackOptions};
//!
//! let stack = Stack::start(StackOptions::default()).await?;
//! println!("{}", stack.url());
//! stack.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! With [`PumpMode::Automatic`] events travel by themselves. With [`PumpMode::Manual`] they wait until a test delivers
//! them: [`Stack::drain`] delivers all, [`Stack::step`] one, and [`Stack::deliveries`] lists them so that a test can
//! choose the order, deliver one twice ([`Stack::duplicate`]) or never ([`Stack::drop_delivery`]).

mod door;
mod environment;
mod manual;
mod plumbing;
mod pumps;
mod secrets;

pub use manual::Delivery;
pub use plumbing::{Delivered, Outcome};

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use aws_smithy_runtime_api::client::{http::SharedHttpClient, interceptors::SharedInterceptor};
use axum::Router;
use shared::{
    App, Transport,
    app::{Clock, Ids},
    config::Config,
};
use time::OffsetDateTime;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::timeout,
};

use crate::{
    clock,
    data_folder::DataFolder,
    definition::{self, Function, SCHEDULES},
    dynamodb::Engine,
    functions::Functions,
    inbox::Inbox,
    kms::Kms,
    queues::{DeadLetter, Queues},
    s3::{self, S3Options, S3Server},
    wire::{Service, Wire},
};
use door::Door;
use environment::Addresses;
use manual::Manual;
use plumbing::Plumbing;
use secrets::{Secrets, keep_administrator_token};

/// The access key that the embedded S3 lets in; the embedded DynamoDB takes any.
pub const ACCESS_KEY_ID: &str = "slipway";

/// Its secret, which is none: the servers listen on loopback only.
pub const SECRET_ACCESS_KEY: &str = "slipway-local";

/// File of the data folder that keeps the administrator's token.
pub const ADMINISTRATOR_TOKEN_FILE: &str = "administrator-token";

/// How long requests and event handlers may go on after a shutdown began.
const GRACE: Duration = Duration::from_secs(5);

/// How often [`Stack::idle`] looks.
const IDLE_INTERVAL: Duration = Duration::from_millis(10);

/// Where everything is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In this folder, which one process uses at a time.
    Folder(PathBuf),
    /// In temporary folders that go with the stack.
    Memory,
}

/// Who moves events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PumpMode {
    /// The host does, as AWS would.
    Automatic,
    /// A test does, one by one or all at once.
    Manual,
}

/// How callers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// They are not: who calls is who they say, and S3 has a secret that everybody knows.
    Nobody,
    /// They bring tokens, which the authorizer checks before any route; S3 has a secret of its own.
    Token,
}

/// How a stack is started.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// Where everything is kept.
    pub storage: Storage,
    /// The address of the API, on loopback; port 0 is any free one.
    pub http: SocketAddr,
    /// The port of S3, on the same interface; 0 is any free one.
    pub s3_port: u16,
    /// Tells the time to functions and embedded servers.
    ///
    /// With a fixed clock, automatic pumps wait out a backoff only when the clock is moved.
    pub clock: Clock,
    /// See every AWS request of the functions.
    pub interceptors: Vec<SharedInterceptor>,
    /// Who moves events.
    pub pump: PumpMode,
    /// What is run; a test may exchange a handler.
    pub functions: Functions,
    /// How callers are known.
    pub login: Login,
    /// Variables of [`Config`] that differ from the host's own choice, such as `TRUST_ACTOR_HEADER`.
    pub settings: BTreeMap<String, String>,
}

impl Default for StackOptions {
    /// A throw-away registry on free ports that moves its events itself.
    fn default() -> Self {
        Self {
            storage: Storage::Memory,
            http: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            s3_port: 0,
            clock: Clock::system(),
            interceptors: Vec::new(),
            pump: PumpMode::Automatic,
            functions: Functions::slipway(),
            login: Login::Nobody,
            settings: BTreeMap::new(),
        }
    }
}

/// The token with which the first tokens are created.
#[derive(Clone)]
pub struct Administrator {
    /// The token.
    pub token: String,
    /// Whether it was made just now, so that nobody can have read it yet.
    pub is_new: bool,
}

impl std::fmt::Debug for Administrator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Administrator(hidden)")
    }
}

/// A running registry.
///
/// Dropping it ends it at once; [`shutdown`](Self::shutdown) lets it finish what it does.
#[derive(Debug)]
pub struct Stack {
    plumbing: Arc<Plumbing>,
    manual: Option<Manual>,
    http: SocketAddr,
    s3: SocketAddr,
    data: PathBuf,
    administrator: Option<Administrator>,
    /// What takes work in: the API and the pumps.
    front: JoinSet<()>,
    stop_front: watch::Sender<bool>,
    /// What the front relies on: the embedded servers.
    servers: Vec<JoinHandle<()>>,
    stop_servers: watch::Sender<bool>,
    /// The way of the functions to those servers.
    wire: Wire,
}

impl Stack {
    /// Starts everything; when it returns, the API answers.
    ///
    /// The port answers earlier already: `503` until the storage is open.
    pub async fn start(options: StackOptions) -> anyhow::Result<Self> {
        if !options.http.ip().is_loopback() {
            bail!(
                "nothing authenticates callers on one machine, so `{}` is refused; use a loopback address such as 127.0.0.1",
                options.http.ip()
            );
        }
        let storage = options.storage.clone();
        // Not on this thread: the former owner may need it to let go.
        let folder = spawn_blocking(move || match storage {
            Storage::Folder(path) => DataFolder::open(path),
            Storage::Memory => DataFolder::temporary(),
        })
        .await??;
        let http = listen(options.http, "--port").await?;
        let s3_listener = listen(
            SocketAddr::new(options.http.ip(), options.s3_port),
            "--s3-port",
        )
        .await?;
        let dynamodb = listen(
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            "--port",
        )
        .await?;
        let (http_address, s3_address) = (http.local_addr()?, s3_listener.local_addr()?);
        let inbox_listener = listen(
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            "--port",
        )
        .await?;
        let sqs_listener = listen(
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            "--port",
        )
        .await?;
        let sqs_address = sqs_listener.local_addr()?;
        let kms_listener = listen(
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            "--port",
        )
        .await?;
        let kms_address = kms_listener.local_addr()?;
        let dynamodb_address = dynamodb.local_addr()?;
        let inbox_address = inbox_listener.local_addr()?;
        let inbox = Inbox::default();

        let (stop_front, front_stopping) = watch::channel(false);
        let (stop_servers, servers_stopping) = watch::channel(false);
        let mut front = JoinSet::new();
        let door = Door::new(Ids::new(options.clock.clone()));
        front.spawn(door::serve(
            http,
            door::router(Arc::clone(&door)),
            pumps::stopped(front_stopping.clone()),
            GRACE,
        ));

        let manual = (options.pump == PumpMode::Manual).then(Manual::default);
        let secrets = Secrets::of(&folder, &options)?;
        let kms = Kms::new(&secrets.signing)?;
        let opened = open(&folder, &options, &secrets, manual.as_ref())?;
        opened.s3.ensure_bucket(definition::BUCKET).await?;
        opened.engine.create_table(definition::table())?;
        let inbox_routes = inbox.clone().router();
        let sqs_routes = opened.queues.clone().router();
        let kms_routes = kms.clone().router();
        let servers = vec![
            serve_s3(&opened.s3, s3_listener, &servers_stopping),
            serve_dynamodb(&opened.engine, dynamodb, &servers_stopping),
            serve(
                "EventBridge and SNS",
                &inbox_routes,
                inbox_listener,
                &servers_stopping,
            ),
            serve("SQS", &sqs_routes, sqs_listener, &servers_stopping),
            serve("KMS", &kms_routes, kms_listener, &servers_stopping),
        ];

        let addresses = Addresses {
            http: http_address,
            s3: s3_address,
            dynamodb: dynamodb_address,
            inbox: inbox_address,
            sqs: sqs_address,
            kms: kms_address,
        };
        let variables = environment::variables(&options, &secrets, &addresses);
        let config = Config::from_lookup(&|name| variables.get(name).cloned())
            .context("the registry's settings are not usable")?;
        let mut transport = Transport::real(&config);
        let wire = Wire::new(
            vec![
                (
                    environment::url_of(dynamodb_address),
                    Service::DynamoDb(opened.engine.clone()),
                ),
                (
                    environment::url_of(inbox_address),
                    Service::Routes(inbox_routes),
                ),
                (
                    environment::url_of(sqs_address),
                    Service::Routes(sqs_routes),
                ),
                (
                    environment::url_of(kms_address),
                    Service::Routes(kms_routes),
                ),
            ],
            transport.http,
        );
        transport.http = SharedHttpClient::new(wire.clone());
        let app = App::over(config, options.clock, &options.interceptors, transport);
        let plumbing = Arc::new(Plumbing {
            app,
            functions: options.functions,
            stream: opened
                .engine
                .stream(definition::TABLE, plumbing::CONSUMER)?,
            notifications: opened.s3.notifications(),
            queues: opened.queues,
            engine: opened.engine,
            s3: opened.s3,
            inbox,
            kms,
        });
        door.open(Arc::clone(&plumbing));
        if manual.is_none() {
            pumps::start(&mut front, &plumbing, &front_stopping);
        }
        let administrator = match &secrets.tokens {
            None => None,
            Some(secret) => {
                let token = authorizer::administrator_token(secret);
                let is_new = keep_administrator_token(&folder, &token)?;
                Some(Administrator { token, is_new })
            }
        };
        Ok(Self {
            administrator,
            plumbing,
            manual,
            http: http_address,
            s3: s3_address,
            data: folder.path().to_owned(),
            front,
            stop_front,
            servers,
            stop_servers,
            wire,
        })
    }

    /// What the functions see.
    pub fn app(&self) -> &App {
        &self.plumbing.app
    }

    /// The address of the API: `http://127.0.0.1:8080`.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// The address of S3.
    pub fn s3_url(&self) -> String {
        format!("http://{}", self.s3)
    }

    /// The administrator's token, where callers bring tokens.
    pub fn administrator(&self) -> Option<&Administrator> {
        self.administrator.as_ref()
    }

    /// The folder in which everything lies.
    pub fn data_folder(&self) -> &Path {
        &self.data
    }

    /// The embedded queues.
    pub fn queues(&self) -> &Queues {
        &self.plumbing.queues
    }

    /// The embedded DynamoDB.
    pub fn engine(&self) -> &Engine {
        &self.plumbing.engine
    }

    /// The embedded S3 server, with its counters.
    pub fn s3(&self) -> &S3Server {
        &self.plumbing.s3
    }

    /// What was put on the event bus, and what was published to topics.
    pub fn inbox(&self) -> &Inbox {
        &self.plumbing.inbox
    }

    /// The embedded key management.
    pub fn kms(&self) -> &Kms {
        &self.plumbing.kms
    }

    /// Lists what was given up, the oldest first.
    pub fn dead_letters(&self) -> anyhow::Result<Vec<DeadLetter>> {
        Ok(self.plumbing.queues.dead_letters()?)
    }

    /// Calls every swept function once, as its schedule does, and returns how each call ended.
    pub async fn sweep(&self) -> Vec<(Function, Result<(), String>)> {
        let mut outcomes = Vec::with_capacity(SCHEDULES.len());
        for schedule in &SCHEDULES {
            let function = schedule.function;
            outcomes.push((function, self.plumbing.fire_schedule(function).await));
        }
        outcomes
    }

    /// Expires items and forgets old stream records, which happens once a minute by itself.
    pub fn tidy(&self) -> anyhow::Result<()> {
        self.plumbing.tidy()
    }

    /// Waits until no event is under way; only automatic pumps get there by themselves.
    pub async fn idle(&self) -> anyhow::Result<()> {
        while !self.plumbing.is_idle().await? {
            tokio::time::sleep(IDLE_INTERVAL).await;
        }
        Ok(())
    }

    /// Lists the events that wait: messages queue by queue, then the stream's records, then copies.
    ///
    /// Of each queue and of the stream, the first 1,000.
    pub async fn deliveries(&self) -> anyhow::Result<Vec<Delivery>> {
        self.manual()?.deliveries(&self.plumbing).await
    }

    /// Delivers one event, which may be any of those that wait.
    ///
    /// One that fails waits again: a stream record at once, a message after its backoff, or as a dead letter.
    pub async fn deliver(&self, id: &str) -> anyhow::Result<Delivered> {
        self.manual()?.deliver(&self.plumbing, id).await
    }

    /// Makes a copy of an event that waits, as if it came twice, and returns the copy's id.
    pub fn duplicate(&self, id: &str) -> anyhow::Result<String> {
        self.manual()?.duplicate(&self.plumbing, id)
    }

    /// Loses an event that waits, for good.
    pub fn drop_delivery(&self, id: &str) -> anyhow::Result<()> {
        self.manual()?.drop_delivery(&self.plumbing, id)
    }

    /// Delivers the first event that waits; without one, lets the queues' time pass to the next attempt.
    ///
    /// Nothing is left when it returns nothing.
    pub async fn step(&self) -> anyhow::Result<Option<Delivered>> {
        let manual = self.manual()?;
        loop {
            if let Some(first) = manual.first(&self.plumbing).await? {
                return manual.deliver(&self.plumbing, &first).await.map(Some);
            }
            if !manual.skip_backoff(&self.plumbing)? {
                return Ok(None);
            }
        }
    }

    /// Delivers until nothing is left, retries included, and returns what was delivered, in order.
    ///
    /// It ends, because what fails again and again becomes a dead letter.
    pub async fn drain(&self) -> anyhow::Result<Vec<Delivered>> {
        let mut delivered = Vec::new();
        while let Some(one) = self.step().await? {
            delivered.push(one);
        }
        Ok(delivered)
    }

    /// Stops taking requests and events, lets those under way finish for 5 seconds, and closes the storage.
    pub async fn shutdown(mut self) {
        self.stop_front.send_replace(true);
        let finished = timeout(GRACE, async {
            while self.front.join_next().await.is_some() {}
        });
        if finished.await.is_err() {
            tracing::warn!(
                "Ended functions that were still running after {} s; their events come again",
                GRACE.as_secs()
            );
        }
        self.front.shutdown().await;
        self.close_servers().await;
    }

    /// Ends functions and requests where they stand, as a crash would, and closes the storage.
    ///
    /// A stack can then be started on the same folder.
    pub async fn crash(mut self) {
        self.front.shutdown().await;
        self.close_servers().await;
    }

    async fn close_servers(&mut self) {
        self.wire.cut();
        self.stop_servers.send_replace(true);
        for mut server in self.servers.drain(..) {
            if timeout(GRACE, &mut server).await.is_err() {
                server.abort();
                let _ = server.await;
            }
        }
    }

    fn manual(&self) -> anyhow::Result<&Manual> {
        self.manual
            .as_ref()
            .context("deliveries are chosen by hand only with `PumpMode::Manual`")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // The pumps and the API end with their set.
        self.wire.cut();
        for server in &self.servers {
            server.abort();
        }
    }
}

/// The open storage.
struct Opened {
    engine: Engine,
    queues: Queues,
    s3: S3Server,
}

fn open(
    folder: &DataFolder,
    options: &StackOptions,
    secrets: &Secrets,
    manual: Option<&Manual>,
) -> anyhow::Result<Opened> {
    let time = options.clock.clone();
    let clock: clock::Clock =
        Arc::new(move || UNIX_EPOCH + Duration::from_millis(time.now().millis()));
    let queue_clock = match manual {
        None => Arc::clone(&clock),
        Some(manual) => {
            let (clock, ahead) = (Arc::clone(&clock), Arc::clone(&manual.queue_time_ahead_ms));
            Arc::new(move || clock() + Duration::from_millis(ahead.load(Ordering::SeqCst)))
        }
    };
    let mut s3_options = S3Options::new(ACCESS_KEY_ID, &secrets.s3);
    definition::REGION.clone_into(&mut s3_options.region);
    let s3_clock = Arc::clone(&clock);
    s3_options.clock = Arc::new(move || OffsetDateTime::from(s3_clock()));
    let s3_storage = match options.storage {
        Storage::Folder(_) => s3::Storage::Folder(folder.subfolder("s3")?),
        Storage::Memory => s3::Storage::Memory,
    };
    Ok(Opened {
        engine: Engine::open(folder, clock)?,
        queues: Queues::open(folder, definition::queue_definitions(), queue_clock)?,
        s3: S3Server::open(s3_storage, s3_options)?,
    })
}

async fn listen(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let (port, ip) = (address.port(), address.ip());
        match error.kind() {
            io::ErrorKind::AddrInUse => anyhow::anyhow!(
                "port {port} on {ip} is in use; stop what uses it, or choose another one with `{option}`"
            ),
            io::ErrorKind::PermissionDenied => anyhow::anyhow!(
                "port {port} on {ip} is not yours to use; choose one above 1023 with `{option}`"
            ),
            _ => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
        }
    })
}

fn serve_s3(s3: &S3Server, listener: TcpListener, stop: &watch::Receiver<bool>) -> JoinHandle<()> {
    let (s3, stop) = (s3.clone(), stop.clone());
    tokio::spawn(async move {
        if let Err(error) = s3.serve(listener, pumps::stopped(stop)).await {
            tracing::error!(%error, "The embedded S3 stopped serving");
        }
    })
}

/// Serves the routes of a small service until it is time to stop.
fn serve(
    name: &'static str,
    routes: &Router,
    listener: TcpListener,
    stop: &watch::Receiver<bool>,
) -> JoinHandle<()> {
    let (routes, stop) = (routes.clone(), stop.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = pumps::stopped(stop) => {}
            served = axum::serve(listener, routes) => {
                if let Err(error) = served {
                    tracing::error!(%error, "The embedded {name} stopped serving");
                }
            }
        }
    })
}

fn serve_dynamodb(
    engine: &Engine,
    listener: TcpListener,
    stop: &watch::Receiver<bool>,
) -> JoinHandle<()> {
    let (engine, stop) = (engine.clone(), stop.clone());
    tokio::spawn(async move {
        if let Err(error) = engine.serve(listener, pumps::stopped(stop)).await {
            tracing::error!(
                error = plumbing::chain(&error),
                "The embedded DynamoDB stopped serving"
            );
        }
    })
}
