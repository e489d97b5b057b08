//! Endpoints that hang, lie and break off, and records that come twice, split and out of order: every event arrives,
//! in the order of its model's chain, and nobody waits for another's endpoint.

use crate::world::{World, http_client};
use local::stack::{PumpMode, Stack, StackOptions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How an endpoint behaves until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Hangs,
    Drips,
    Closes,
    NoHttp,
    Fails,
    Redirects,
    /// Answers 200 and fewer bytes than it said.
    BreaksOff,
    /// Answers 200 and a gigabyte.
    NeverEnds,
}

impl Kind {
    /// The word in the log for what it does; none if what it does counts as delivered.
    fn error(self) -> Option<&'static str> {
        match self {
            Self::Good | Self::BreaksOff | Self::NeverEnds => None,
            Self::Hangs | Self::Drips => Some("timed_out"),
            Self::Closes | Self::NoHttp => Some("request_failed"),
            Self::Fails | Self::Redirects => Some("not_2xx"),
        }
    }
}

/// An endpoint by hand, byte by byte.
#[derive(Clone)]
struct Endpoint {
    kind: Kind,
    url: String,
    is_healed: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<Value>>>,
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

impl Endpoint {
    async fn start(kind: Kind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Self {
            kind,
            url: format!("http://{}/{kind:?}", listener.local_addr().unwrap()),
            is_healed: Arc::default(),
            got: Arc::default(),
        };
        let serving = endpoint.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().answer(stream));
            }
        });
        endpoint
    }

    async fn answer(self, mut stream: TcpStream) {
        let Some(body) = read_request(&mut stream).await else {
            return;
        };
        self.got.lock().unwrap().push(body);
        let kind = if self.is_healed.load(Ordering::SeqCst) {
            Kind::Good
        } else {
            self.kind
        };
        // Whoever sent may be gone by now.
        let _ = match kind {
            Kind::Good => stream.write_all(OK).await,
            Kind::Hangs => {
                tokio::time::sleep(Duration::from_mins(1)).await;
                Ok(())
            }
            Kind::Drips => drip(&mut stream).await,
            Kind::Closes => Ok(()),
            Kind::NoHttp => stream.write_all(b"no HTTP\r\n\r\n").await,
            Kind::Fails => {
                let answer =
                    b"HTTP/1.1 500 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy";
                stream.write_all(answer).await
            }
            Kind::Redirects => {
                let answer = "HTTP/1.1 307 Elsewhere\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer.as_bytes()).await
            }
            Kind::BreaksOff => {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart";
                stream.write_all(answer).await
            }
            Kind::NeverEnds => never_end(&mut stream).await,
        };
    }

    fn heal(&self) {
        self.is_healed.store(true, Ordering::SeqCst);
    }

    fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    /// The places of a model's events in its chain, in the order of their first arrival.
    fn sequences(&self, model: &str) -> Vec<u64> {
        let mut sequences = Vec::new();
        for body in self.got.lock().unwrap().iter() {
            if body["model"] == model {
                let sequence = body["chainsequence"].as_u64().unwrap();
                if !sequences.contains(&sequence) {
                    sequences.push(sequence);
                }
            }
        }
        sequences
    }
}

async fn drip(stream: &mut TcpStream) -> std::io::Result<()> {
    for byte in OK.iter().cycle() {
        stream.write_all(&[*byte]).await?;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    Ok(())
}

async fn never_end(stream: &mut TcpStream) -> std::io::Result<()> {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
        .await?;
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..1 << 10 {
        stream.write_all(&chunk).await?;
    }
    Ok(())
}

/// The JSON body of a request; `None` if the connection ended before it.
async fn read_request(stream: &mut TcpStream) -> Option<Value> {
    let mut seen = Vec::new();
    loop {
        let mut buffer = [0; 8192];
        let read = stream
            .read(&mut buffer)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        seen.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&seen);
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            return Some(body);
        }
    }
}

async fn subscribe(world: &World, endpoint: &Endpoint) -> String {
    let body = json!({"url": endpoint.url});
    let answer = world.post("/v1/subscriptions", body).await.expect(201);
    answer["id"].as_str().unwrap().to_owned()
}

async fn describe(world: &World, model: &str, text: &str) {
    let body = json!({"description": text});
    let path = format!("/v1/models/{model}");
    world.patch(&path, body).await.expect(200);
}

/// Delivers all that waits side by side, as often as something waits.
async fn drain_side_by_side(world: &World) {
    loop {
        let waiting = world.stack.deliveries().await.unwrap();
        if waiting.is_empty() {
            return;
        }
        // Records of the stream one after the other, as the stream has them.
        let (records, messages): (Vec<_>, Vec<_>) = waiting
            .iter()
            .partition(|delivery| delivery.event["eventSource"] == "aws:dynamodb");
        for record in records {
            world.stack.deliver(&record.id).await.unwrap();
        }
        let delivering = messages
            .iter()
            .map(|message| world.stack.deliver(&message.id));
        for delivered in futures::future::join_all(delivering).await {
            delivered.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_endpoint_does_every_event_arrives_in_order() {
    let world = World::start().await;
    let kinds = [
        Kind::Good,
        Kind::Hangs,
        Kind::Drips,
        Kind::Closes,
        Kind::NoHttp,
        Kind::Fails,
        Kind::Redirects,
        Kind::BreaksOff,
        Kind::NeverEnds,
    ];
    let mut endpoints = BTreeMap::new();
    for kind in kinds {
        let endpoint = Endpoint::start(kind).await;
        let id = subscribe(&world, &endpoint).await;
        endpoints.insert(id, endpoint);
    }
    world.create_model("iris").await;
    for text in ["one", "two"] {
        describe(&world, "iris", text).await;
    }
    let began = Instant::now();
    drain_side_by_side(&world).await;
    assert!(
        began.elapsed() < Duration::from_secs(19),
        "endpoints that hang are waited for side by side"
    );
    for endpoint in endpoints.values() {
        let expected = if endpoint.kind.error().is_none() {
            3
        } else {
            1
        };
        assert_eq!(
            endpoint.sequences("iris").len(),
            expected,
            "{:?}",
            endpoint.kind
        );
        endpoint.heal();
    }
    for _ in 0..4 {
        world.clock.advance_millis(10 * 60_000);
        world.sweep().await;
        drain_side_by_side(&world).await;
    }
    for (id, endpoint) in &endpoints {
        let kind = endpoint.kind;
        assert_eq!(endpoint.sequences("iris"), [1, 2, 3], "{kind:?}");
        let path = format!("/v1/subscriptions/{id}/deliveries");
        let log = world.get(&path).await.expect(200);
        let deliveries = log["deliveries"].as_array().unwrap();
        assert!(deliveries.iter().all(|one| one["status"] == "delivered"));
        let first = &deliveries[2]["attempts"][0];
        assert_eq!(first["error"].as_str(), kind.error(), "{kind:?}: {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_hang_keep_nobody_waiting() {
    let stack = Stack::start(StackOptions {
        pump: PumpMode::Automatic,
        ..StackOptions::default()
    })
    .await
    .unwrap();
    let good = Endpoint::start(Kind::Good).await;
    let hanging = Endpoint::start(Kind::Hangs).await;
    let client = http_client();
    let post = async |path: &str, body: Value| {
        let url = format!("{}{path}", stack.url());
        let answer = client.post(url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}");
    };
    for number in 0..20 {
        let url = format!("{}/{number}", hanging.url);
        post("/v1/subscriptions", json!({ "url": url })).await;
    }
    post("/v1/subscriptions", json!({ "url": good.url })).await;
    let began = Instant::now();
    let models = 12;
    for number in 0..models {
        post("/v1/models", json!({"name": format!("m{number}")})).await;
    }
    while good.count() < models {
        // An attempt that hangs takes ten seconds.
        assert!(
            began.elapsed() < Duration::from_secs(9),
            "{} of {models} arrived, {} wait",
            good.count(),
            hanging.count()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stack.crash().await;
}

/// Numbers that look random and are the same in every run of one seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % sides as u64).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_come_twice_split_interleaved_and_reversed_arrive_in_the_order_of_the_chain() {
    const MODELS: [&str; 3] = ["iris", "lily", "rose"];
    for seed in [7, 1_412, 99_991] {
        let world = World::start().await;
        let endpoint = Endpoint::start(Kind::Good).await;
        subscribe(&world, &endpoint).await;
        for model in MODELS {
            world.create_model(model).await;
        }
        for text in ["one", "two", "three"] {
            for model in MODELS {
                describe(&world, model, text).await;
            }
        }
        let mut dice = Dice(seed);
        let mut copied = 0;
        loop {
            let waiting = world.stack.deliveries().await.unwrap();
            if waiting.is_empty() {
                break;
            }
            let any = &waiting[dice.roll(waiting.len())].id;
            if copied < 12 && !any.starts_with("copy-") && dice.roll(3) == 0 {
                world.stack.duplicate(any).unwrap();
                copied += 1;
            }
            world.stack.deliver(any).await.unwrap();
            if dice.roll(8) == 0 {
                world.clock.advance_millis(2 * 60_000);
                world.sweep().await;
            }
        }
        for model in MODELS {
            assert_eq!(
                endpoint.sequences(model),
                [1, 2, 3, 4],
                "seed {seed}, {model}"
            );
        }
    }
}
