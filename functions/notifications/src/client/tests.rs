//! Against receivers on this machine.

use super::*;
use crate::address::PublicResolver;
use crate::dispatch::tests::subscription;
use crate::payload::Message;
use crate::send::send_message;
use crate::sign::{mlflow_signature, standard_signature};
use shared::domain::Subscription;
use shared::domain::subscription::FormerSecret;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

pub(crate) fn app() -> App {
    let config = shared::config::Config::from_lookup(&|name| {
        // What is not needed keeps its default.
        match name {
            "AWS_REGION" => Some("local".to_owned()),
            "ALLOW_LOOPBACK_WEBHOOKS" => Some("true".to_owned()),
            "PUBLIC_URL" => Some("https://registry.example".to_owned()),
            "TABLE_NAME"
            | "BUCKET_NAME"
            | "CURSOR_SECRET"
            | "AWS_ACCESS_KEY_ID"
            | "AWS_SECRET_ACCESS_KEY" => Some("x".to_owned()),
            _ => None,
        }
    });
    let clock = shared::app::Clock::fixed(Timestamp::from_millis(1_614_265_330_999));
    App::new(config.unwrap(), clock, &[])
}

/// Sends to a receiver that answers these bytes; what became of it, and the request as the receiver saw it.
async fn send_to(host: &str, answer: &'static [u8]) -> (Result<Answer, &'static str>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let receiver = tokio::spawn(receive(listener, answer));
    let app = app();
    let url = format!("http://{host}:{port}/hook?token=x");
    let sent = post(&app, &url, HeaderMap::new(), r#"{"a":1}"#.to_owned()).await;
    if sent.is_err() {
        receiver.abort();
    }
    (sent, receiver.await.unwrap_or_default())
}

async fn receive(listener: TcpListener, answer: &'static [u8]) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut seen = Vec::new();
    // The body is JSON and ends with the object.
    while !seen.ends_with(b"}") {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        seen.extend_from_slice(&buffer[..read]);
    }
    stream.write_all(answer).await.unwrap();
    String::from_utf8(seen).unwrap()
}

fn sealed(app: &App, mut subscription: Subscription, secrets: &[&str]) -> Subscription {
    let owner = crate::send::secret_owner(&subscription);
    let seal = |secret: &str| app.sealer.seal(secret, &owner).unwrap();
    subscription.secret = secrets.first().map(|secret| seal(secret));
    subscription.former_secret = secrets.get(1).map(|secret| FormerSecret {
        secret: seal(secret),
        until: app.clock.now().plus_millis(1_000),
    });
    subscription
}

#[tokio::test]
async fn a_delivery_carries_the_headers_of_both_conventions() {
    let app = app();
    let (new, old) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLSw9", "my own");
    for host in ["127.0.0.1", "localhost"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = tokio::spawn(receive(
            listener,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ));
        let mut subscription = sealed(&app, subscription("s", &[], None), &[new, old]);
        subscription.url = format!("http://{host}:{port}/hook");
        let message = Message {
            media_type: crate::payload::JSON,
            id: "01J".into(),
            subject: String::new(),
            body: r#"{"a":1}"#.into(),
        };
        let sent = send_message(&app, &subscription, &message, app.clock.now()).await;
        assert_eq!((sent.status, sent.error), (Some(200), None));
        assert_eq!(sent.answer_start, b"ok");
        let seen = receiver.await.unwrap();
        let (head, body) = seen.split_once("\r\n\r\n").unwrap();
        let secrets = [new.to_owned(), old.to_owned()];
        let standard = standard_signature(&secrets, "01J", 1_614_265_330, body);
        let mlflow = mlflow_signature(new, "01J", 1_614_265_330, body);
        for line in [
            "POST /hook HTTP/1.1".to_owned(),
            "webhook-id: 01J".to_owned(),
            "webhook-timestamp: 1614265330".to_owned(),
            format!("webhook-signature: {standard}"),
            "x-mlflow-delivery-id: 01J".to_owned(),
            "x-mlflow-timestamp: 1614265330".to_owned(),
            format!("x-mlflow-signature: {mlflow}"),
            "content-type: application/json".to_owned(),
            "user-agent: Slipway-Webhook/1".to_owned(),
        ] {
            assert!(head.lines().any(|other| other == line), "{line} in {head}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let (sent, _) = send_to(
        "127.0.0.1",
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(sent.unwrap().status, 302);
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_undo_a_status() {
    let (sent, _) = send_to(
        "127.0.0.1",
        b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 1000000\r\n\r\npart",
    )
    .await;
    let answer = sent.unwrap();
    assert_eq!((answer.status, answer.retry_after_ms), (503, Some(7_000)));
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_a_failure() {
    let (sent, _) = send_to("127.0.0.1", b"no HTTP\r\n\r\n").await;
    assert_eq!(sent.unwrap_err(), "request_failed");
}

#[tokio::test]
async fn what_cannot_be_reached_has_a_word() {
    let app = app();
    let free_port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    for (url, expected) in [
        (format!("http://127.0.0.1:{free_port}/"), "connect_failed"),
        ("http://10.0.0.1/".to_owned(), "address_forbidden"),
        (
            "https://[::ffff:169.254.169.254]/".to_owned(),
            "address_forbidden",
        ),
    ] {
        let kind = post(&app, &url, HeaderMap::new(), String::new())
            .await
            .unwrap_err();
        assert_eq!(kind, expected, "{url}");
    }
}

/// A resolver that gives the first answer once, and the other ever after.
fn changing(first: &'static str, then: &'static str, asked: Arc<AtomicUsize>) -> PublicResolver {
    PublicResolver::with_lookup(false, move |_| {
        let answer = if asked.fetch_add(1, Ordering::SeqCst) == 0 {
            first
        } else {
            then
        };
        Some(vec![std::net::SocketAddr::new(answer.parse().unwrap(), 0)])
    })
}

#[tokio::test]
async fn a_name_that_changes_its_answer_leads_nowhere_inside() {
    // A receiver that must never be reached.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    // First a public address that does not answer, then this machine: what was checked is what is connected to.
    let client = build_client(changing("192.88.98.1", "127.0.0.1", Arc::clone(&asked))).unwrap();
    let url = format!("https://rebind.example:{port}/");
    let first = client
        .post(&url)
        .timeout(Duration::from_millis(300))
        .send()
        .await
        .unwrap_err();
    assert_ne!(
        error_kind(&first),
        "address_forbidden",
        "a public address may be tried"
    );
    let second = client.post(&url).send().await.unwrap_err();
    assert_eq!(error_kind(&second), "address_forbidden");
    assert!(
        asked.load(Ordering::SeqCst) >= 2,
        "each connection asks anew"
    );
    let knocked = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(knocked.is_err(), "nobody connected");
}

#[tokio::test]
async fn one_address_inside_among_public_ones_is_refused() {
    for inside in [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "::1",
        "fd00:ec2::254",
        "::ffff:10.0.0.1",
    ] {
        let resolver = PublicResolver::with_lookup(false, move |_| {
            let parse = |text: &str| std::net::SocketAddr::new(text.parse().unwrap(), 0);
            Some(vec![parse("93.184.215.14"), parse(inside)])
        });
        let client = build_client(resolver).unwrap();
        let error = client
            .post("https://mixed.example/")
            .send()
            .await
            .unwrap_err();
        assert_eq!(error_kind(&error), "address_forbidden", "{inside}");
    }
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = Timestamp::from_millis(1_445_412_420_000);
    let check = |value: &str, expected: Option<u64>| {
        assert_eq!(parse_retry_after(value, now), expected, "{value}");
    };
    check("120", Some(120_000));
    check(" 0 ", Some(0));
    check("Wed, 21 Oct 2015 07:28:00 GMT", Some(60_000));
    check("Wed, 21 Oct 2015 07:00:00 GMT", Some(0));
    check("soon", None);
    check("-1", None);
}
