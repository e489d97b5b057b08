//! One run of one seed: clients ask, calls go on in random order, faults happen, processes die.

mod glance;
mod record;
mod table;

pub use self::record::{Answer, Asked, Options, Played};

use self::glance::Likely;
use self::table::{config, keys_of};
use crate::check;
use crate::clients;
use crate::direct;
use crate::draw::{Known, Profile};
use crate::mutation::Site;
use crate::network::{self, Exchange, Network, Progress, Reply};
use crate::wishes::{Believed, Wish};
use aws_sdk_dynamodb::config::retry::{RetryPartition, TokenBucket};
use axum::Router;
use dynoxide::Database;
use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::task::ArcWake;
use serde_json::{Value, json};
use shared::app::Clock;
use shared::domain::{ModelName, Timestamp};
use shared::{App, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// The tenant of every run.
pub(crate) const RUNS_TENANT: &str = "default";
const TABLE: &str = "simulation";
/// Most parts of conditions that are blamed for one refusal.
const MOST_BLAMED: usize = 4;

/// A process that serves one client at a time.
struct Process {
    app: App,
    router: Router,
    busy: Option<Busy>,
    woken: Arc<Woken>,
    /// What went wrong without an answer, to be asked for again.
    again: Option<usize>,
    believed: BTreeMap<(&'static str, &'static str), Believed>,
    /// Revisions that answers showed, by what they are of.
    revisions: BTreeMap<String, u64>,
}

struct Busy {
    wish: usize,
    future: BoxFuture<'static, Answer>,
}

#[derive(Debug)]
struct Woken(AtomicBool);

impl ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        woken.0.store(true, Ordering::SeqCst);
    }
}

/// Plays one seed.
pub fn play(seed: u64, options: &Options) -> Played {
    // Nothing waits for this runtime: it is there because limits of time ask for one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be had");
    let _entered = runtime.enter();
    let mut run = Run::new(seed, options);
    run.go();
    run.dispatch();
    run.end()
}

struct Run<'a> {
    options: &'a Options,
    profile: Profile,
    rng: Rng,
    table: Database,
    network: Network,
    clock: Clock,
    processes: Vec<Process>,
    asked: Vec<Asked>,
    versions: u32,
    /// The homes of models, as items that were written name them.
    homes: BTreeSet<String>,
    step: u64,
    written: BTreeMap<(String, String), u64>,
    sites: BTreeSet<Site>,
    blamed: BTreeSet<BTreeSet<Site>>,
    calls: u64,
    trace: Vec<String>,
    births: u64,
    /// How often, in thousandths, something goes wrong with a call now.
    faults: u32,
}

impl<'a> Run<'a> {
    fn new(seed: u64, options: &'a Options) -> Self {
        let table = Database::memory().expect("memory can be had");
        // Nobody reads the stream here, and keeping it would cost more than everything else.
        let definition = json!({
            "TableName": TABLE,
            "AttributeDefinitions": [
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
            ],
            "KeySchema": [
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            "BillingMode": "PAY_PER_REQUEST",
        });
        let definition = serde_json::from_value(definition).expect("the definition is valid");
        table.create_table(definition).expect("the table is new");
        let mut run = Self {
            options,
            profile: Profile::of(seed),
            rng: Rng::with_seed(seed),
            table,
            network: Network::default(),
            clock: Clock::fixed(Timestamp::from_millis(1_800_000_000_000)),
            processes: Vec::new(),
            asked: Vec::new(),
            versions: 0,
            homes: BTreeSet::new(),
            step: 0,
            written: BTreeMap::new(),
            sites: BTreeSet::new(),
            blamed: BTreeSet::new(),
            calls: 0,
            trace: Vec::new(),
            births: 0,
            faults: options.faults,
        };
        for index in 0..options.clients {
            let process = run.start_process(index);
            run.processes.push(process);
        }
        run
    }

    /// A process that remembers nothing.
    fn start_process(&mut self, index: usize) -> Process {
        self.births += 1;
        let partition = RetryPartition::custom(format!("{index}"))
            .token_bucket(TokenBucket::unlimited())
            .build();
        let transport = Transport {
            http: self.network.http(index),
            sleep: self.network.sleep(index),
            retries: Some(partition),
            seed: Some(self.rng.u64(..)),
        };
        let app = App::over(config(), self.clock.clone(), &[], transport);
        let routes = [register::routes(), promote::routes(), query::routes()].concat();
        Process {
            router: shared::http::mount(app.clone(), routes),
            app,
            busy: None,
            woken: Arc::new(Woken(AtomicBool::new(false))),
            again: None,
            believed: BTreeMap::new(),
            revisions: BTreeMap::new(),
        }
    }

    fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.options.trace {
            let line = format!("{:>6} {}", self.step, text());
            self.trace.push(line);
        }
    }

    fn go(&mut self) {
        loop {
            self.step += 1;
            // Whoever can go on by itself does, in a fixed order: only the network is a matter of chance.
            for index in 0..self.processes.len() {
                self.poll(index);
            }
            let idle: Vec<usize> = (0..self.processes.len())
                .filter(|index| {
                    let process = &self.processes[*index];
                    process.busy.is_none() && (process.again.is_some() || self.may_draw(*index))
                })
                .collect();
            let under_way = self.network.len();
            if idle.is_empty() && under_way == 0 {
                return;
            }
            let drawn = self.rng.usize(..idle.len() + under_way);
            if let Some(process) = idle.get(drawn) {
                self.begin(*process);
            } else {
                self.go_on(drawn - idle.len());
            }
        }
    }

    /// Whether a process may draw a wish: the first ones are one client's, one after another.
    fn may_draw(&self, index: usize) -> bool {
        let last = self.asked.len().saturating_sub(1);
        let is_begun = self.profile.first(last).is_none();
        self.asked.len() < self.options.wishes && (index == 0 || is_begun)
    }

    fn poll(&mut self, index: usize) {
        let process = &mut self.processes[index];
        let Some(busy) = &mut process.busy else {
            return;
        };
        if !process.woken.0.swap(false, Ordering::SeqCst) {
            return;
        }
        let waker = futures::task::waker(Arc::clone(&process.woken));
        let Poll::Ready(answer) = busy.future.poll_unpin(&mut Context::from_waker(&waker)) else {
            return;
        };
        let wish = busy.wish;
        process.busy = None;
        if wish < self.asked.len() {
            self.answered(index, wish, answer);
        }
    }

    fn answered(&mut self, index: usize, wish: usize, answer: Answer) {
        self.tell(|| {
            format!(
                "process {index}: wish {wish} got {} {}",
                answer.status, answer.body
            )
        });
        let may_repeat =
            !answer.is_certain() && self.asked[wish].key.is_some() && self.rng.u8(..100) < 80;
        let asked = &mut self.asked[wish];
        asked.until = Some(self.step);
        asked.was_repeated |= !answer.is_certain();
        let process = &mut self.processes[index];
        if may_repeat {
            process.again = Some(wish);
        }
        let seen = match &asked.wish {
            Wish::SetAlias { alias, .. }
            | Wish::RemoveAlias { alias, .. }
            | Wish::RollBack { alias, .. }
            | Wish::GetAlias { alias } => Some(*alias),
            _ => None,
        };
        if let Some(alias) = seen {
            let shown = if answer.status == 409 {
                &answer.body["error"]["details"]["current"]
            } else {
                &answer.body
            };
            if let Some(sequence) = shown["sequence"].as_u64() {
                let version = shown["version"]
                    .as_u64()
                    .and_then(|number| number.try_into().ok());
                process
                    .believed
                    .insert((asked.model, alias), Believed { version, sequence });
            }
        }
        if let Some(path) = asked.wish.revises(asked.model) {
            let shown = if answer.status == 409 {
                &answer.body["error"]["details"]["current"]
            } else {
                &answer.body
            };
            if let Some(revision) = shown["revision"].as_u64() {
                process.revisions.insert(path, revision);
            }
        }
        asked.answer = Some(answer);
    }

    /// Begins a new wish, or repeats one whose answer was lost.
    fn begin(&mut self, index: usize) {
        let wish = match self.processes[index].again.take() {
            Some(wish) => wish,
            None => self.draw(index),
        };
        self.clock.advance_millis(self.rng.u64(0..2));
        let asked = &self.asked[wish];
        if asked.wish == Wish::Sweep && self.rng.u8(..100) < 30 {
            // Longer than a request stays open, shorter than answers are kept.
            self.clock.advance_millis(61 * 60_000);
        }
        let process = &mut self.processes[index];
        let future = clients::ask(
            process.app.clone(),
            process.router.clone(),
            asked.wish.clone(),
            asked.model,
            wish,
            asked.key.clone(),
        );
        process.busy = Some(Busy {
            wish,
            future: future.boxed(),
        });
        process.woken.0.store(true, Ordering::SeqCst);
        let told = format!(
            "process {index}: wish {wish} {} {:?}",
            asked.model, asked.wish
        );
        self.tell(|| told);
    }

    fn draw(&mut self, index: usize) -> usize {
        let live = self.live_models();
        let wanted = self.profile.model(&mut self.rng);
        // Mostly a model that is there, so that more is done than refused.
        let found = live.iter().find(|live| live.0 == wanted).or(live.first());
        let (model, home, versions) = match found {
            Some(found) if self.rng.u8(..100) < self.profile.realism() => found.clone(),
            _ => (wanted, wanted.to_owned(), self.versions),
        };
        let Likely {
            ready,
            pending,
            deleted,
            requests,
        } = self.likely(&home);
        let process = &self.processes[index];
        let known = Known {
            versions,
            ready: &ready,
            pending: &pending,
            deleted: &deleted,
            requests: &requests,
            revisions: &process.revisions,
        };
        let first = self.profile.first(self.asked.len());
        let is_first = first.is_some();
        let (model, wish) = first.unwrap_or_else(|| {
            let wish = self.profile.draw(&mut self.rng, model, &known, |alias| {
                process.believed.get(&(model, alias)).copied()
            });
            (model, wish)
        });
        let wants_key =
            !wish.is_question() && !wish.is_internal() && (is_first || self.rng.u8(..100) < 60);
        let number = self.asked.len();
        self.asked.push(Asked {
            wish,
            model,
            key: wants_key.then(|| format!("key-{number}")),
            from: self.step,
            until: None,
            answer: None,
            was_repeated: false,
        });
        number
    }

    /// Goes on with one exchange.
    fn go_on(&mut self, index: usize) {
        let exchange = self.network.take(index);
        let fault = self.rng.u32(..1000) < self.faults;
        match exchange.progress.clone() {
            Progress::Sleeping => exchange.end(None),
            Progress::Sent(request) if exchange.is_abandoned() => {
                // It was sent before its client died or gave up, and may arrive or not.
                if self.rng.bool() {
                    self.tell(|| {
                        format!("applied late: {} {}", exchange.number, request.operation)
                    });
                    self.apply(&request);
                }
            }
            Progress::Sent(request) => {
                if !fault {
                    let reply = self.apply(&request);
                    self.tell(|| {
                        format!(
                            "applied: {} of process {}: {} {} {reply:?}",
                            exchange.number,
                            exchange.client,
                            request.operation,
                            request.body()
                        )
                    });
                    self.network.put_back(exchange.answered(reply));
                    return;
                }
                self.fail(exchange, &request);
            }
            Progress::Answered(reply) => {
                if fault {
                    let broken = self.rng.bool();
                    self.tell(|| format!("answer lost: {}", exchange.number));
                    exchange.end((!broken).then(Reply::failed));
                    self.maybe_kill(exchange.client);
                } else {
                    exchange.end(Some(reply));
                }
            }
        }
    }

    /// Lets a request fail in one of the ways in which requests fail.
    fn fail(&mut self, exchange: Exchange, request: &network::Request) {
        let way = if self.profile.is_deadly && self.rng.bool() {
            5
        } else {
            self.rng.u8(..6)
        };
        self.tell(|| format!("fault {way}: {} {}", exchange.number, request.operation));
        match way {
            0 => exchange.end(None),
            1 => exchange.end(Some(Reply::throttled())),
            2 => exchange.end(Some(Reply::failed())),
            3 if request.is_write() => exchange.end(Some(Reply::conflicting(request))),
            4 => {
                // The client gives up, but the request is still on its way.
                exchange.end(None);
                if self.rng.bool() {
                    self.apply(request);
                }
            }
            _ => {
                let client = exchange.client;
                self.network.put_back(exchange);
                self.kill(client);
            }
        }
    }

    fn maybe_kill(&mut self, client: usize) {
        if self.rng.u8(..100) < 20 {
            self.kill(client);
        }
    }

    /// Ends a process where it stands; another one takes its place, and knows nothing.
    fn kill(&mut self, index: usize) {
        self.tell(|| format!("process {index} dies"));
        let again = self.processes[index].busy.take().map(|busy| busy.wish);
        let before = self.processes[index].again.take();
        self.processes[index] = self.start_process(index);
        if let Some(wish) = again.or(before).filter(|wish| *wish < self.asked.len()) {
            self.asked[wish].was_repeated = true;
            // The client repeats what has a key, or never learns what became of it.
            if self.asked[wish].key.is_some() && self.rng.bool() {
                self.processes[index].again = Some(wish);
            }
        }
    }

    fn apply(&mut self, request: &network::Request) -> Reply {
        self.calls += 1;
        if !request.is_write() {
            return network::apply(&self.table, request, None);
        }
        let body = request.body();
        if self.options.surveys {
            crate::mutation::collect(&request.operation, &body, &mut self.sites);
        }
        let reply = network::apply(&self.table, request, self.options.mutation.as_ref());
        if self.options.surveys && reply.is_refusal() {
            // What was refused changed nothing, so the table is as it was.
            let blamed = crate::blame::blame(&self.table, request, MOST_BLAMED);
            self.blamed.extend(blamed);
        }
        if reply.is_success() {
            for (pk, sk) in keys_of(&body) {
                if let Some(home) = pk.strip_prefix(&format!("T#{RUNS_TENANT}#M#")) {
                    if let Some(number) = sk.strip_prefix("V#").and_then(|text| text.parse().ok()) {
                        self.versions = self.versions.max(number);
                    }
                    self.homes.insert(home.to_owned());
                }
                // A request that is repeated under its token is applied once.
                self.written.entry((pk, sk)).or_insert(self.step);
            }
        }
        reply
    }

    /// Dispatches what is left: two processes at once and out of order, then one that finishes.
    fn dispatch(&mut self) {
        let homes: Vec<ModelName> = self
            .homes
            .iter()
            .filter_map(|home| ModelName::of_home(home.as_str()).ok())
            .collect();
        for home in homes {
            for index in 0..3.min(self.processes.len()) {
                let (app, home) = (self.processes[index].app.clone(), home.clone());
                let salt = self.rng.usize(..100);
                let most = if index == 0 { usize::MAX } else { 20 };
                let future = async move {
                    let done = direct::dispatch(&app, &home, salt, most).await;
                    Answer {
                        status: if done.is_ok() { 200 } else { 503 },
                        body: Value::Null,
                    }
                };
                self.processes[index].woken.0.store(true, Ordering::SeqCst);
                self.processes[index].busy = Some(Busy {
                    wish: usize::MAX,
                    future: future.boxed(),
                });
            }
            self.go();
            self.faults = 0;
            let (app, home) = (self.processes[0].app.clone(), home.clone());
            let future = async move {
                let done = direct::dispatch(&app, &home, 0, usize::MAX).await;
                Answer {
                    status: if done.is_ok() { 200 } else { 503 },
                    body: Value::Null,
                }
            };
            self.processes[0].woken.0.store(true, Ordering::SeqCst);
            self.processes[0].busy = Some(Busy {
                wish: usize::MAX,
                future: future.boxed(),
            });
            self.go();
            self.faults = self.options.faults;
        }
    }

    fn end(self) -> Played {
        let scan =
            serde_json::from_value(json!({"TableName": TABLE})).expect("the request is valid");
        let found = self.table.scan(scan).expect("the table can be read");
        let found = serde_json::to_value(found).expect("items can be written");
        let mut played = Played {
            asked: self.asked,
            written: self.written,
            items: found["Items"].as_array().cloned().unwrap_or_default(),
            sites: self.sites,
            blamed: self.blamed,
            calls: self.calls,
            violations: Vec::new(),
            trace: self.trace,
        };
        played.violations = check::check(&played);
        played
    }
}
