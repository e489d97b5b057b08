//! The automatic pumps: each source of events has a task that waits for it and delivers what comes.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use time::OffsetDateTime;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::plumbing::{Outcome, Plumbing, Source, chain};
use crate::definition::{ABANDONED_UPLOADS, SCHEDULES, STREAM, Schedule};
use crate::dynamodb::StreamRecord;

/// How long a pump waits after its source failed, which it does when the disk is full, for instance.
const PAUSE: Duration = Duration::from_secs(1);

/// The wait before a failed record comes again; each later wait is twice as long.
const FIRST_STREAM_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_STREAM_BACKOFF: Duration = Duration::from_secs(5);

/// How long records gather after a batch that was not full, as an event source mapping's batching window lets them: what
/// a batch costs beyond its records is then paid for many of them at once.
const GATHER: Duration = Duration::from_millis(25);

/// How often items expire and old stream records are forgotten.
const TIDY_INTERVAL: Duration = Duration::from_mins(1);

/// Tells when to stop; dropping its sender stops as well.
pub(super) type Stop = watch::Receiver<bool>;

/// Resolves when it is time to stop.
pub(super) async fn stopped(mut stop: Stop) {
    // An error means that the sender is gone, which is as good a reason.
    let _ = stop.wait_for(|is_over| *is_over).await;
}

/// Starts all pumps.
pub(super) fn start(tasks: &mut JoinSet<()>, plumbing: &Arc<Plumbing>, stop: &Stop) {
    tasks.spawn(pump_notifications(Arc::clone(plumbing), stop.clone()));
    for source in Source::all() {
        tasks.spawn(pump_queue(Arc::clone(plumbing), source, stop.clone()));
    }
    tasks.spawn(pump_stream(Arc::clone(plumbing), stop.clone()));
    for schedule in &SCHEDULES {
        tasks.spawn(pump_schedule(Arc::clone(plumbing), schedule, stop.clone()));
    }
    tasks.spawn(tidy(Arc::clone(plumbing), stop.clone()));
}

/// Waits for something, unless it is time to stop.
async fn unless_stopped<T>(stop: &Stop, waiting: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stopped(stop.clone()) => None,
        answer = waiting => Some(answer),
    }
}

async fn pump_notifications(plumbing: Arc<Plumbing>, stop: Stop) {
    while !*stop.borrow() {
        let carried = plumbing.carry_notifications().await;
        let went_on = match carried {
            Ok(0) => unless_stopped(&stop, plumbing.notifications.raised()).await,
            Ok(_) => Some(()),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "S3 events wait");
                unless_stopped(&stop, sleep(PAUSE)).await
            }
        };
        if went_on.is_none() {
            return;
        }
    }
}

async fn pump_queue(plumbing: Arc<Plumbing>, source: Source, stop: Stop) {
    let queue = source.queue_name();
    let mut calls = JoinSet::new();
    while !*stop.borrow() {
        if calls.len() >= source.concurrency() {
            calls.join_next().await;
            continue;
        }
        let Some(found) = unless_stopped(&stop, plumbing.queues.wait(queue)).await else {
            break;
        };
        let received = found.and_then(|()| plumbing.queues.receive(queue, source.batch_size()));
        match received {
            Ok(messages) if messages.is_empty() => {}
            Ok(messages) => {
                let plumbing = Arc::clone(&plumbing);
                calls.spawn(async move {
                    plumbing.deliver_messages(source, &messages).await;
                });
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "The queue `{queue}` waits");
                unless_stopped(&stop, sleep(PAUSE)).await;
            }
        }
        // Whatever is over needs no place any more.
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
}

async fn pump_stream(plumbing: Arc<Plumbing>, stop: Stop) {
    // How often the record at the head of the stream failed; a restart begins to count anew.
    let mut failures = 0;
    while !*stop.borrow() {
        match unless_stopped(&stop, plumbing.stream.wait()).await {
            None => return,
            Some(waited) => {
                let went_on = match waited {
                    Ok(()) => advance_stream(&plumbing, &mut failures).await,
                    Err(error) => Err(error.into()),
                };
                let pause = match went_on {
                    Ok(_) if failures > 0 => backoff(failures),
                    Ok(count) if count >= STREAM.batch_size => continue,
                    Ok(_) => GATHER,
                    Err(error) => {
                        tracing::error!(error = format!("{error:#}"), "The table's stream waits");
                        PAUSE
                    }
                };
                unless_stopped(&stop, sleep(pause)).await;
            }
        }
    }
}

/// Delivers the next records, moves the checkpoint over those that are done or given up, and counts them.
async fn advance_stream(plumbing: &Plumbing, failures: &mut u32) -> anyhow::Result<usize> {
    // A record that failed comes alone, so that it cannot hold up its neighbors for longer than itself.
    let limit = if *failures == 0 { STREAM.batch_size } else { 1 };
    let records = plumbing.stream.next_batch(limit)?;
    let wanted: Vec<StreamRecord> = records
        .iter()
        .filter(|record| STREAM.takes(&record.event))
        .cloned()
        .collect();
    let delivered = if wanted.is_empty() {
        Vec::new()
    } else {
        plumbing.deliver_records(&wanted).await
    };
    let mut outcomes = delivered.iter();
    let mut last_settled = None;
    for record in &records {
        if !STREAM.takes(&record.event) {
            last_settled = Some(record);
            continue;
        }
        // The outcomes end with the first that failed.
        let Some(delivered) = outcomes.next() else {
            break;
        };
        match &delivered.outcome {
            Outcome::Done => {
                *failures = 0;
                last_settled = Some(record);
            }
            Outcome::Retry(reason) | Outcome::DeadLetter(reason) => {
                *failures += 1;
                if *failures >= STREAM.max_attempts {
                    plumbing.give_up(record, reason)?;
                    *failures = 0;
                    last_settled = Some(record);
                }
                break;
            }
        }
    }
    if let Some(record) = last_settled {
        plumbing.stream.acknowledge(&record.sequence_number)?;
    }
    Ok(records.len())
}

fn backoff(failures: u32) -> Duration {
    FIRST_STREAM_BACKOFF
        .saturating_mul(1 << failures.saturating_sub(1).min(8))
        .min(LONGEST_STREAM_BACKOFF)
}

async fn pump_schedule(plumbing: Arc<Plumbing>, schedule: &'static Schedule, stop: Stop) {
    // The first call comes at once: after a restart there may be something to make good.
    while !*stop.borrow() {
        // A failure is logged, and the next call is another attempt.
        let _ = plumbing.fire_schedule(schedule.function).await;
        unless_stopped(&stop, sleep(schedule.locally_every)).await;
    }
}

async fn tidy(plumbing: Arc<Plumbing>, stop: Stop) {
    while unless_stopped(&stop, sleep(TIDY_INTERVAL)).await.is_some() {
        let now = UNIX_EPOCH + Duration::from_millis(plumbing.app.clock.now().millis());
        let limit = OffsetDateTime::from(now) - ABANDONED_UPLOADS;
        if let Err(error) = plumbing.s3.abort_uploads_begun_before(limit).await {
            tracing::warn!(%error, "Abandoned uploads stay a while longer");
        }
        let plumbing = Arc::clone(&plumbing);
        let tidied = tokio::task::spawn_blocking(move || plumbing.tidy()).await;
        if let Ok(Err(error)) = tidied {
            tracing::warn!(
                error = format!("{error:#}"),
                "Expired items stay a while longer"
            );
        }
    }
}
