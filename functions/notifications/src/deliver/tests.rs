//! What an attempt means, and what a receiver gets.

use super::*;
use shared::domain::Timestamp;

fn delivery(attempts: u32) -> Delivery {
    let mut delivery = Delivery {
        event_id: "e".into(),
        subscription_id: "s".into(),
        status: DeliveryStatus::Pending,
        due_at: Timestamp::from_millis(0),
        place: String::new(),
        revision: 0,
        round: 0,
        replays: 0,
        replay: None,
        attempts: Vec::new(),
    };
    for _ in 0..attempts {
        delivery.log([failed(Some(500))]);
    }
    delivery
}

fn failed(status: Option<u16>) -> Attempt {
    Attempt {
        at: Timestamp::from_millis(1_000),
        duration_ms: 500,
        status,
        error: (!status.is_some_and(|status| (200..300).contains(&status)))
            .then(|| "not_2xx".to_owned()),
        answer_start: String::new(),
    }
}

fn tried(status: Option<u16>, retry_after_ms: Option<u64>) -> Tries {
    Tries {
        earlier: Vec::new(),
        last: failed(status),
        retry_after_ms,
    }
}

#[test]
fn tries_within_an_attempt_are_logged_and_count_as_one() {
    let tries = Tries {
        earlier: vec![failed(Some(500)), failed(Some(429))],
        ..tried(Some(200), None)
    };
    let after = after_attempt(&delivery(3), tries, false, 60_000);
    let statuses: Vec<_> = after.attempts[3..].iter().map(|it| it.status).collect();
    assert_eq!(statuses, [Some(500), Some(429), Some(200)]);
    assert_eq!(after.round, 4);
    assert_eq!(after.status, DeliveryStatus::Delivered);
}

#[test]
fn an_attempt_decides_what_becomes_of_a_delivery() {
    use DeliveryStatus::{Delivered, Exhausted, Pending};
    let check = |before: u32, status: Option<u16>, expected: DeliveryStatus| {
        let after = after_attempt(&delivery(before), tried(status, None), false, 60_000);
        assert_eq!(after.status, expected, "{status:?} after {before} attempts");
        assert_eq!(after.round, before + 1);
    };
    check(0, Some(200), Delivered);
    check(0, Some(204), Delivered);
    check(MAX_ATTEMPTS - 1, Some(299), Delivered);
    check(0, Some(301), Pending);
    check(0, Some(404), Pending);
    check(0, Some(500), Pending);
    check(0, None, Pending);
    check(0, Some(410), Exhausted);
    check(MAX_ATTEMPTS - 2, None, Pending);
    check(MAX_ATTEMPTS - 1, None, Exhausted);
    let tested = after_attempt(&delivery(0), tried(None, None), true, 60_000);
    assert_eq!(tested.status, Exhausted);
}

#[test]
fn a_receiver_may_ask_for_more_time_within_bounds() {
    let due = |retry_after_ms| {
        after_attempt(
            &delivery(0),
            tried(Some(503), retry_after_ms),
            false,
            60_000,
        )
        .due_at
        .millis()
    };
    assert_eq!(due(None), 61_500);
    assert_eq!(due(Some(1_000)), 61_500);
    assert_eq!(due(Some(120_000)), 121_500);
    assert_eq!(due(Some(u64::MAX)), 1_500 + MAX_RETRY_AFTER_MILLIS);
}
