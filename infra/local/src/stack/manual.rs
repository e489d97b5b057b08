//! Deliveries by hand: a test sees what is pending and decides what comes, when, how often, or never.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::plumbing::{Delivered, Outcome, Plumbing, Source, describe_message, describe_record};
use crate::{
    definition::{Function, STREAM},
    dynamodb::{StreamRecord, to_stream_event},
};

/// How many messages of each queue, and how many records of the stream, can be chosen from.
const IN_SIGHT: usize = 1_000;

/// An event that waits for its delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Names it for [`Stack::deliver`](super::Stack::deliver); stays the same over all attempts.
    pub id: String,
    /// Who will get it.
    pub function: Function,
    /// What it is, for a person: `ObjectCreated incoming/default/iris/1/model.onnx`.
    pub what: String,
    /// A queue message's body, or a stream record.
    pub event: Value,
    /// How often it failed until now.
    pub attempts: u32,
}

/// What manual pumping remembers beyond what the queues and the stream do.
#[derive(Debug, Default)]
pub(super) struct Manual {
    state: Mutex<State>,
    /// How much later the queues believe it is than the clock says, so that no backoff is waited for.
    pub(super) queue_time_ahead_ms: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    /// The records in sight, in order; those at the front are forgotten once they are settled.
    records: VecDeque<Record>,
    copies: Vec<Copy>,
    copies_made: u64,
}

#[derive(Debug)]
struct Record {
    change: StreamRecord,
    stage: Stage,
    attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    UnderWay,
    Settled,
}

/// A second delivery of something; nothing remembers it when it failed, because the first does.
#[derive(Debug)]
struct Copy {
    delivery: Delivery,
    event: Value,
}

impl Manual {
    /// Lists what waits: messages queue by queue, then the stream's records, then copies.
    pub(super) async fn deliveries(&self, plumbing: &Plumbing) -> anyhow::Result<Vec<Delivery>> {
        while plumbing.carry_notifications().await? > 0 {}
        let mut deliveries = Vec::new();
        for source in Source::all() {
            let waiting = plumbing.queues.waiting(source.queue_name(), IN_SIGHT)?;
            deliveries.extend(waiting.into_iter().map(|message| Delivery {
                function: source.function(),
                what: describe_message(&message.body),
                event: serde_json::from_str(&message.body).unwrap_or_default(),
                attempts: message.receive_count,
                id: message.id,
            }));
        }
        let mut state = self.state();
        state.look_ahead(plumbing)?;
        let records = state
            .records
            .iter()
            .filter(|record| record.stage == Stage::Pending);
        deliveries.extend(records.map(Record::delivery));
        deliveries.extend(state.copies.iter().map(|copy| copy.delivery.clone()));
        Ok(deliveries)
    }

    /// Names the first that waits, in the order of [`Manual::deliveries`].
    ///
    /// It looks at no other, so that draining ten thousand costs ten thousand looks.
    pub(super) async fn first(&self, plumbing: &Plumbing) -> anyhow::Result<Option<String>> {
        while plumbing.carry_notifications().await? > 0 {}
        for source in Source::all() {
            if let Some(message) = plumbing.queues.waiting(source.queue_name(), 1)?.pop() {
                return Ok(Some(message.id));
            }
        }
        let mut state = self.state();
        if state.first_record().is_none() {
            state.look_ahead(plumbing)?;
        }
        Ok(state
            .first_record()
            .or_else(|| state.copies.first().map(|copy| copy.delivery.id.clone())))
    }

    /// Delivers one.
    pub(super) async fn deliver(&self, plumbing: &Plumbing, id: &str) -> anyhow::Result<Delivered> {
        if let Some(copy) = self.take_copy(id) {
            let function = copy.delivery.function;
            let answer = plumbing
                .functions
                .call(function, plumbing.app.clone(), copy.event)
                .await;
            return Ok(Delivered {
                id: copy.delivery.id,
                function,
                what: copy.delivery.what,
                outcome: match answer {
                    Ok(answer) if has_failures(&answer) => {
                        Outcome::Retry("the function reported it as failed".to_owned())
                    }
                    Ok(_) => Outcome::Done,
                    Err(reason) => Outcome::Retry(reason),
                },
            });
        }
        if let Some(record) = self.begin_record(id) {
            let mut delivered = plumbing
                .deliver_records(std::slice::from_ref(&record))
                .await;
            let delivered = delivered.pop().context("a record has no outcome")?;
            return self.end_record(plumbing, &record, delivered);
        }
        for source in Source::all() {
            if let Some(message) = plumbing.queues.receive_one(source.queue_name(), id)? {
                let mut delivered = plumbing.deliver_messages(source, &[message]).await;
                return delivered.pop().context("a message has no outcome");
            }
        }
        bail!("nothing that waits has the id `{id}`; see `deliveries`")
    }

    /// Makes a copy of one, as if it came twice, and returns the copy's id.
    pub(super) fn duplicate(&self, plumbing: &Plumbing, id: &str) -> anyhow::Result<String> {
        let mut state = self.state();
        let found = state
            .records
            .iter()
            .find(|record| record.change.sequence_number == id)
            .map(|record| {
                (
                    record.delivery(),
                    to_stream_event(std::slice::from_ref(&record.change)),
                )
            });
        let (delivery, event) = match found {
            Some(found) => found,
            None => copy_of_message(plumbing, id)?,
        };
        state.copies_made += 1;
        let id = format!("copy-{}", state.copies_made);
        state.copies.push(Copy {
            delivery: Delivery {
                id: id.clone(),
                ..delivery
            },
            event,
        });
        Ok(id)
    }

    /// Loses one for good.
    pub(super) fn drop_delivery(&self, plumbing: &Plumbing, id: &str) -> anyhow::Result<()> {
        if self.take_copy(id).is_some() {
            return Ok(());
        }
        if self.begin_record(id).is_some() {
            return self.state().settle(plumbing, id);
        }
        for source in Source::all() {
            if let Some(message) = plumbing.queues.receive_one(source.queue_name(), id)? {
                plumbing.queues.delete(&message.receipt)?;
                return Ok(());
            }
        }
        bail!("nothing that waits has the id `{id}`; see `deliveries`")
    }

    /// Lets the queues' time pass until the next message is due, and returns whether there is one.
    pub(super) fn skip_backoff(&self, plumbing: &Plumbing) -> anyhow::Result<bool> {
        let mut earliest: Option<Duration> = None;
        for source in Source::all() {
            let queue = source.queue_name();
            if plumbing.queues.depth(queue)?.delayed > 0
                && let Some(due) = plumbing.queues.next_due(queue)?
            {
                earliest = Some(earliest.map_or(due, |earliest| earliest.min(due)));
            }
        }
        let Some(due) = earliest else {
            return Ok(false);
        };
        self.queue_time_ahead_ms.fetch_add(
            u64::try_from(due.as_millis()).unwrap_or(u64::MAX),
            Ordering::SeqCst,
        );
        Ok(true)
    }

    fn begin_record(&self, id: &str) -> Option<StreamRecord> {
        let mut state = self.state();
        let record = state
            .records
            .iter_mut()
            .find(|record| record.change.sequence_number == id && record.stage == Stage::Pending)?;
        record.stage = Stage::UnderWay;
        Some(record.change.clone())
    }

    fn end_record(
        &self,
        plumbing: &Plumbing,
        record: &StreamRecord,
        mut delivered: Delivered,
    ) -> anyhow::Result<Delivered> {
        let mut state = self.state();
        if let Outcome::Retry(reason) = &delivered.outcome {
            let attempts = state.count_failure(&record.sequence_number);
            if attempts < STREAM.max_attempts {
                return Ok(delivered);
            }
            plumbing.give_up(record, reason)?;
            delivered.outcome = Outcome::DeadLetter(reason.clone());
        }
        state.settle(plumbing, &record.sequence_number)?;
        Ok(delivered)
    }

    fn take_copy(&self, id: &str) -> Option<Copy> {
        let mut state = self.state();
        let position = state
            .copies
            .iter()
            .position(|copy| copy.delivery.id == id)?;
        Some(state.copies.remove(position))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn first_record(&self) -> Option<String> {
        self.records
            .iter()
            .find(|record| record.stage == Stage::Pending)
            .map(|record| record.change.sequence_number.clone())
    }

    /// Takes the records into sight that came since the last look.
    fn look_ahead(&mut self, plumbing: &Plumbing) -> anyhow::Result<()> {
        let newest = self
            .records
            .back()
            .map(|record| record.change.sequence_number.clone())
            .unwrap_or_default();
        let records = plumbing.stream.next_batch(IN_SIGHT)?;
        let new = records
            .into_iter()
            .filter(|record| record.sequence_number > newest);
        self.records.extend(new.map(|record| Record {
            stage: if STREAM.takes(&record.event) {
                Stage::Pending
            } else {
                Stage::Settled
            },
            change: record,
            attempts: 0,
        }));
        self.acknowledge_settled(plumbing)
    }

    /// Counts a failure of a record, and lets it wait again.
    fn count_failure(&mut self, sequence_number: &str) -> u32 {
        self.find(sequence_number).map_or(0, |record| {
            record.stage = Stage::Pending;
            record.attempts += 1;
            record.attempts
        })
    }

    /// Is done with a record; the checkpoint moves over all that are done without a gap.
    fn settle(&mut self, plumbing: &Plumbing, sequence_number: &str) -> anyhow::Result<()> {
        if let Some(record) = self.find(sequence_number) {
            record.stage = Stage::Settled;
        }
        self.acknowledge_settled(plumbing)
    }

    /// Moves the checkpoint over all records at the front that are done.
    fn acknowledge_settled(&mut self, plumbing: &Plumbing) -> anyhow::Result<()> {
        while let Some(record) = self
            .records
            .pop_front_if(|record| record.stage == Stage::Settled)
        {
            plumbing
                .stream
                .acknowledge(&record.change.sequence_number)?;
        }
        Ok(())
    }

    fn find(&mut self, sequence_number: &str) -> Option<&mut Record> {
        self.records
            .iter_mut()
            .find(|record| record.change.sequence_number == sequence_number)
    }
}

impl Record {
    fn delivery(&self) -> Delivery {
        Delivery {
            id: self.change.sequence_number.clone(),
            function: STREAM.function,
            what: describe_record(&self.change.event),
            event: self.change.event.clone(),
            attempts: self.attempts,
        }
    }
}

fn copy_of_message(plumbing: &Plumbing, id: &str) -> anyhow::Result<(Delivery, Value)> {
    for source in Source::all() {
        let waiting = plumbing.queues.waiting(source.queue_name(), IN_SIGHT)?;
        let Some(message) = waiting.into_iter().find(|message| message.id == id) else {
            continue;
        };
        let now = std::time::UNIX_EPOCH + Duration::from_millis(plumbing.app.clock.now().millis());
        // It looks as if it had been received; the receipt is no one's, so nothing can be deleted with it.
        let received = crate::queues::Message {
            id: message.id.clone(),
            receipt: "copy".to_owned(),
            body: message.body.clone(),
            receive_count: message.receive_count + 1,
            sent_at: now,
            first_received_at: now,
        };
        let delivery = Delivery {
            function: source.function(),
            what: describe_message(&message.body),
            event: serde_json::from_str(&message.body).unwrap_or_default(),
            attempts: message.receive_count,
            id: message.id,
        };
        return Ok((delivery, source.event(&[received])));
    }
    bail!("nothing that waits has the id `{id}`; see `deliveries`")
}

fn has_failures(answer: &Value) -> bool {
    answer
        .get("batchItemFailures")
        .and_then(Value::as_array)
        .is_some_and(|failures| !failures.is_empty())
}
