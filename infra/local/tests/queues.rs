//! What the functions rely on in SQS, checked on the embedded queues.

#![expect(clippy::unwrap_used, reason = "a helper that fails ends its test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use local::{
    clock::Clock,
    data_folder::DataFolder,
    queues::{
        Depth, Error, Failure, LONGEST_BACKOFF, QueueDefinition, Queues, failed_items, to_sqs_event,
    },
};
use serde_json::{Value, json};

const START: Duration = Duration::from_hours(500_000);

/// A clock that stands still until it is moved.
#[derive(Clone, Default)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn pass(&self, duration: Duration) {
        self.0.fetch_add(
            u64::try_from(duration.as_millis()).unwrap(),
            Ordering::SeqCst,
        );
    }

    fn clock(&self) -> Clock {
        let time = self.clone();
        Arc::new(move || UNIX_EPOCH + START + Duration::from_millis(time.0.load(Ordering::SeqCst)))
    }
}

fn definition(name: &str) -> QueueDefinition {
    QueueDefinition {
        name: name.to_owned(),
        visibility_timeout: Duration::from_secs(30),
        delay: Duration::ZERO,
        max_receive_count: 3,
        dead_letter: true,
        batch_size: 10,
    }
}

fn open(folder: &DataFolder, time: &Time) -> Queues {
    Queues::open(
        folder,
        vec![definition("validation"), definition("other")],
        time.clock(),
    )
    .unwrap()
}

fn queues() -> (Queues, Time) {
    let time = Time::default();
    (open(&DataFolder::temporary().unwrap(), &time), time)
}

#[test]
fn a_message_is_received_in_order_and_deleted_once() {
    let (queues, _) = queues();
    for body in ["a", "b", "c"] {
        queues.send("validation", body).unwrap();
    }
    let messages = queues.receive("validation", 2).unwrap();
    assert_eq!(
        messages
            .iter()
            .map(|message| &*message.body)
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert!(queues.delete(&messages[0].receipt).unwrap());
    assert!(!queues.delete(&messages[0].receipt).unwrap());
    assert_eq!(queues.receive("validation", 9).unwrap()[0].body, "c");
    assert!(queues.receive("other", 9).unwrap().is_empty());
}

#[test]
fn a_received_message_is_invisible_until_its_timeout_and_its_old_receipt_is_void() {
    let (queues, time) = queues();
    queues.send("validation", "a").unwrap();
    let first = queues.receive("validation", 1).unwrap().remove(0);
    assert_eq!(first.receive_count, 1);
    time.pass(Duration::from_secs(29));
    assert!(queues.receive("validation", 1).unwrap().is_empty());
    assert_eq!(
        queues.depth("validation").unwrap(),
        Depth {
            in_flight: 1,
            ..Depth::default()
        }
    );
    time.pass(Duration::from_secs(1));
    let second = queues.receive("validation", 1).unwrap().remove(0);
    assert_eq!((second.id, second.receive_count), (first.id, 2));
    assert_eq!(second.first_received_at, first.first_received_at);
    assert!(!queues.delete(&first.receipt).unwrap());
    assert_eq!(
        queues.fail(&first.receipt, "late").unwrap(),
        Failure::OutOfDate
    );
    assert!(queues.delete(&second.receipt).unwrap());
    assert!(queues.depth("validation").unwrap().is_drained());
}

#[test]
fn a_delay_hides_a_message_and_a_release_shows_it_when_asked() {
    let time = Time::default();
    let folder = DataFolder::temporary().unwrap();
    let delayed = QueueDefinition {
        delay: Duration::from_secs(5),
        ..definition("delayed")
    };
    let queues = Queues::open(&folder, vec![delayed], time.clock()).unwrap();
    queues.send("delayed", "a").unwrap();
    assert!(queues.receive("delayed", 1).unwrap().is_empty());
    assert_eq!(
        queues.depth("delayed").unwrap(),
        Depth {
            delayed: 1,
            ..Depth::default()
        }
    );
    assert_eq!(
        queues.next_due("delayed").unwrap(),
        Some(Duration::from_secs(5))
    );
    time.pass(Duration::from_secs(5));
    let message = queues.receive("delayed", 1).unwrap().remove(0);
    assert!(queues.release(&message.receipt, Duration::ZERO).unwrap());
    assert_eq!(queues.receive("delayed", 1).unwrap().len(), 1);
}

#[test]
fn a_failing_message_backs_off_then_dies_with_its_error_and_can_be_redriven() {
    let (queues, time) = queues();
    let id = queues.send("validation", "poison").unwrap();
    for wait in [1, 2] {
        let message = queues.receive("validation", 1).unwrap().remove(0);
        let wait = Duration::from_secs(wait);
        assert_eq!(
            queues.fail(&message.receipt, "no").unwrap(),
            Failure::Retry(wait)
        );
        assert!(queues.receive("validation", 1).unwrap().is_empty());
        time.pass(wait);
    }
    let message = queues.receive("validation", 1).unwrap().remove(0);
    assert_eq!(
        queues.fail(&message.receipt, "still no").unwrap(),
        Failure::DeadLetter
    );

    let letters = queues.dead_letters().unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (
            &*letters[0].id,
            &*letters[0].queue,
            &*letters[0].last_error,
            letters[0].receive_count
        ),
        (&*id, "validation", "still no", 3)
    );
    assert_eq!(queues.depth("validation").unwrap().dead_letters, 1);

    assert!(queues.redrive(&id).unwrap());
    assert!(!queues.redrive(&id).unwrap());
    assert_eq!(queues.receive("validation", 1).unwrap()[0].receive_count, 1);
}

#[test]
fn a_message_that_nobody_reports_on_dies_too() {
    let (queues, time) = queues();
    queues.send("validation", "a").unwrap();
    queues.send("other", "b").unwrap();
    for _ in 0..3 {
        assert_eq!(queues.receive("validation", 1).unwrap().len(), 1);
        time.pass(Duration::from_secs(30));
    }
    assert!(queues.receive("validation", 1).unwrap().is_empty());
    assert!(
        queues.dead_letters().unwrap()[0]
            .last_error
            .contains("visibility timeout")
    );
    assert_eq!(queues.redrive_all("other").unwrap(), 0);
    assert_eq!(queues.redrive_all("validation").unwrap(), 1);
    assert!(queues.dead_letters().unwrap().is_empty());
}

#[test]
fn a_backoff_is_capped() {
    let time = Time::default();
    let folder = DataFolder::temporary().unwrap();
    let endless = QueueDefinition {
        dead_letter: false,
        ..definition("endless")
    };
    let queues = Queues::open(&folder, vec![endless], time.clock()).unwrap();
    queues.send("endless", "a").unwrap();
    let mut last = Failure::OutOfDate;
    for _ in 0..40 {
        let message = queues.receive("endless", 1).unwrap().remove(0);
        last = queues.fail(&message.receipt, "no").unwrap();
        time.pass(LONGEST_BACKOFF);
    }
    assert_eq!(last, Failure::Retry(LONGEST_BACKOFF));
}

#[test]
fn what_was_in_flight_when_the_process_ended_is_visible_again_at_once() {
    let time = Time::default();
    let parent = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(parent.path()).unwrap();
    let queues = open(&folder, &time);
    queues.send("validation", "in flight").unwrap();
    queues.send("validation", "backing off").unwrap();
    let messages = queues.receive("validation", 2).unwrap();
    queues.fail(&messages[1].receipt, "no").unwrap();
    drop((queues, folder));

    let queues = open(&DataFolder::open(parent.path()).unwrap(), &time);
    let again = queues.receive("validation", 9).unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!((&*again[0].body, again[0].receive_count), ("in flight", 2));
    assert!(!queues.delete(&messages[0].receipt).unwrap());
}

#[tokio::test]
async fn a_waiting_receiver_is_woken_by_a_message() {
    let (queues, _) = queues();
    let waiting = tokio::spawn({
        let queues = queues.clone();
        async move {
            queues.wait("validation").await.unwrap();
            queues.receive("validation", 1).unwrap().remove(0).body
        }
    });
    tokio::task::yield_now().await;
    queues.send("validation", "a").unwrap();
    assert_eq!(waiting.await.unwrap(), "a");
}

#[test]
fn an_unknown_queue_is_named_with_the_known_ones() {
    let (queues, _) = queues();
    let error = queues.send("validaton", "a").unwrap_err();
    assert!(matches!(error, Error::UnknownQueue { .. }));
    assert_eq!(
        error.to_string(),
        "there is no queue `validaton`; the queues are `other`, `validation`"
    );
}

#[test]
fn concurrent_receivers_never_share_a_message() {
    let (queues, _) = queues();
    for number in 0..200 {
        queues.send("validation", &number.to_string()).unwrap();
    }
    let mut bodies: Vec<u32> = std::thread::scope(|scope| {
        let receivers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut bodies = Vec::new();
                    loop {
                        let messages = queues.receive("validation", 3).unwrap();
                        if messages.is_empty() {
                            return bodies;
                        }
                        bodies.extend(
                            messages
                                .iter()
                                .map(|message| message.body.parse::<u32>().unwrap()),
                        );
                    }
                })
            })
            .collect();
        receivers
            .into_iter()
            .flat_map(|receiver| receiver.join().unwrap())
            .collect()
    });
    bodies.sort_unstable();
    assert_eq!(bodies, (0..200).collect::<Vec<_>>());
}

#[test]
fn an_event_looks_as_it_does_in_lambda() {
    let (queues, time) = queues();
    queues.send("validation", "hello").unwrap();
    time.pass(Duration::from_millis(7));
    let messages = queues.receive("validation", 1).unwrap();
    assert_eq!(messages[0].sent_at, SystemTime::UNIX_EPOCH + START);
    assert_eq!(
        to_sqs_event(&messages, "validation"),
        json!({ "Records": [{
            "messageId": messages[0].id,
            "receiptHandle": messages[0].receipt,
            "body": "hello",
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": "1800000000000",
                "SenderId": "000000000000",
                "ApproximateFirstReceiveTimestamp": "1800000000007",
            },
            "messageAttributes": {},
            "md5OfBody": "5d41402abc4b2a76b9719d911017c592",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:validation",
            "awsRegion": "us-east-1",
        }]})
    );
}

#[test]
fn a_report_of_failed_items_is_read_as_lambda_reads_it() {
    let batch = ["a", "b", "c"];
    let check = |answer: Value, expected: &[&str]| {
        assert_eq!(failed_items(&answer, &batch), expected, "{answer}");
    };
    check(Value::Null, &[]);
    check(json!({}), &[]);
    check(json!({ "batchItemFailures": null }), &[]);
    check(json!({ "batchItemFailures": [] }), &[]);
    check(
        json!({ "batchItemFailures": [{ "itemIdentifier": "b" }] }),
        &["b"],
    );
    check(
        json!({ "batchItemFailures": [{ "itemIdentifier": "c" }, { "itemIdentifier": "a" }] }),
        &["a", "c"],
    );
    check(
        json!({ "batchItemFailures": [{ "itemIdentifier": "" }] }),
        &batch,
    );
    check(
        json!({ "batchItemFailures": [{ "itemIdentifier": "unknown" }] }),
        &batch,
    );
    check(json!({ "batchItemFailures": [{ "wrong": "b" }] }), &batch);
    check(json!({ "batchItemFailures": "b" }), &batch);
}

#[test]
fn a_message_is_looked_at_in_place_and_received_out_of_turn() {
    let (queues, time) = queues();
    for body in ["a", "b", "c"] {
        queues.send("validation", body).unwrap();
    }
    let waiting = queues.waiting("validation", 2).unwrap();
    assert_eq!(
        waiting
            .iter()
            .map(|message| (&*message.body, message.receive_count))
            .collect::<Vec<_>>(),
        [("a", 0), ("b", 0)]
    );
    let second = queues
        .receive_one("validation", &waiting[1].id)
        .unwrap()
        .unwrap();
    assert_eq!((&*second.body, second.receive_count), ("b", 1));
    assert_eq!(queues.receive_one("validation", &second.id).unwrap(), None);
    assert_eq!(
        queues.receive_one("other", &waiting[0].id).unwrap(),
        None,
        "it is in another queue"
    );
    assert_eq!(queues.waiting("validation", 9).unwrap().len(), 2);
    time.pass(Duration::from_secs(30));
    assert_eq!(queues.waiting("validation", 9).unwrap()[1].receive_count, 1);
}
