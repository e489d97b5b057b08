//! Counts of requests and bytes for each operation, for budget tests.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// What one operation was asked for so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperationCount {
    /// Requests that passed authentication, whatever their answer.
    pub calls: u64,
    /// Bytes of answers' bodies.
    pub bytes_out: u64,
    /// Bytes of requests' bodies as they came over the wire, chunk framing included.
    pub bytes_in: u64,
}

#[derive(Debug, Default)]
struct Totals {
    calls: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
}

/// Counts by the operation's S3 name, such as `GetObject`.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Mutex<BTreeMap<String, Arc<Totals>>>>);

impl Counters {
    /// Answers the counts up to this moment.
    pub fn snapshot(&self) -> BTreeMap<String, OperationCount> {
        let totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        totals
            .iter()
            .map(|(name, totals)| {
                let count = OperationCount {
                    calls: totals.calls.load(Ordering::Relaxed),
                    bytes_out: totals.bytes_out.load(Ordering::Relaxed),
                    bytes_in: totals.bytes_in.load(Ordering::Relaxed),
                };
                (name.clone(), count)
            })
            .collect()
    }

    /// Notes a call and tells its meter where to count.
    pub(super) fn count(&self, operation: &str, meter: Option<&Meter>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = all.entry(operation.to_owned()).or_default();
        totals.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(Meter(slot)) = meter {
            slot.get_or_init(|| Arc::clone(totals));
        }
    }
}

/// Travels with a request; learns its operation once it is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter(Arc<OnceLock<Arc<Totals>>>);

/// Which way a body goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    In,
    Out,
}

/// A body that counts itself.
#[derive(Debug)]
pub(super) struct Metered<B> {
    pub(super) body: B,
    pub(super) meter: Meter,
    pub(super) direction: Direction,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Metered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let (Some(data), Some(totals)) = (frame.data_ref(), self.meter.0.get())
        {
            let count = match self.direction {
                Direction::In => &totals.bytes_in,
                Direction::Out => &totals.bytes_out,
            };
            count.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
