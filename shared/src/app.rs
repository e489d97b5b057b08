//! The world as functions see it: store, bucket, clock, ids, configuration.

use crate::aws::{Clients, Transport};
use crate::bus::Bus;
use crate::config::Config;
use crate::domain::{Event, EventType, Principal, TenantName, Timestamp};
use crate::dynamodb::Registry;
use crate::lane_queue::LaneQueue;
use crate::s3::Bucket;
use crate::seal::Sealer;
use crate::signing::Signer;
use crate::topics::Topics;
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use ulid::Ulid;

/// Everything that a function may touch; clones share it.
#[derive(Debug, Clone)]
pub struct App(Arc<World>);

impl Deref for App {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

/// What an [`App`] consists of.
#[derive(Debug)]
pub struct World {
    /// The table.
    pub registry: Registry,
    /// The bucket.
    pub bucket: Bucket,
    /// The bus for other systems.
    pub bus: Bus,
    /// The queue of those who send deliveries.
    pub lane_queue: LaneQueue,
    /// Topics that send e-mail.
    pub topics: Topics,
    /// Seals secrets.
    pub sealer: Sealer,
    /// What packages are signed with.
    pub signer: Signer,
    /// The time.
    pub clock: Clock,
    /// Unique ids.
    pub ids: Ids,
    /// The configuration.
    pub config: Arc<Config>,
}

impl App {
    /// Builds the clients; makes no call.
    ///
    /// `interceptors` see every AWS request; tests count and cut calls with them.
    pub fn new(config: Config, clock: Clock, interceptors: &[SharedInterceptor]) -> Self {
        let transport = Transport::real(&config);
        Self::over(config, clock, interceptors, transport)
    }

    /// Builds the clients over another transport than the network; tests simulate faults with one.
    pub fn over(
        config: Config,
        clock: Clock,
        interceptors: &[SharedInterceptor],
        transport: Transport,
    ) -> Self {
        let ids = match transport.seed {
            Some(seed) => Ids::seeded(clock.clone(), seed),
            None => Ids::new(clock.clone()),
        };
        let clients = Clients::new(&config, interceptors, transport);
        Self(Arc::new(World {
            registry: Registry::new(&config, &clients),
            bucket: Bucket::new(&config, &clients),
            bus: Bus::new(&config, &clients),
            lane_queue: LaneQueue::new(&config, &clients),
            topics: Topics::new(&clients),
            sealer: Sealer::new(&config),
            signer: Signer::new(&config, &clients),
            ids,
            clock,
            config: Arc::new(config),
        }))
    }

    /// Begins an event that happens now.
    pub fn event(
        &self,
        kind: EventType,
        tenant: &TenantName,
        actor: &Principal,
        request_id: &str,
    ) -> Event {
        Event {
            id: self.ids.next(),
            schema_version: crate::domain::event::SCHEMA_VERSION,
            kind,
            tenant: tenant.clone(),
            model: None,
            model_id: None,
            version: None,
            alias: None,
            sequence: None,
            actor: actor.clone(),
            reason: None,
            time: self.clock.now(),
            request_id: request_id.to_owned(),
            data: serde_json::Map::new(),
            chain: None,
        }
    }
}

/// Tells the time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    fixed: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still until it is moved.
    pub fn fixed(at: Timestamp) -> Self {
        Self {
            fixed: Some(Arc::new(AtomicU64::new(at.millis()))),
        }
    }

    /// Moves a fixed clock; the system's clock does not move.
    pub fn advance_millis(&self, millis: u64) {
        if let Some(fixed) = &self.fixed {
            fixed.fetch_add(millis, Ordering::SeqCst);
        }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        match &self.fixed {
            Some(fixed) => Timestamp::from_millis(fixed.load(Ordering::SeqCst)),
            None => Timestamp::from_millis(system_millis()),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the system's clock"
)]
fn system_millis() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| {
            u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
        })
}

/// Makes unique ids that sort by time: ULIDs, strictly increasing within one process.
#[derive(Debug, Clone)]
pub struct Ids {
    clock: Clock,
    last: Arc<Mutex<Ulid>>,
    drawn: Option<Arc<AtomicU64>>,
}

impl Ids {
    /// Ids by this clock.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            last: Arc::new(Mutex::new(Ulid::nil())),
            drawn: None,
        }
    }

    /// Ids by this clock that are the same whenever the seed is; for runs that must be repeatable.
    pub fn seeded(clock: Clock, seed: u64) -> Self {
        Self {
            drawn: Some(Arc::new(AtomicU64::new(seed))),
            ..Self::new(clock)
        }
    }

    /// The next id, 26 characters.
    pub fn next(&self) -> String {
        let random = match &self.drawn {
            Some(drawn) => spread(drawn.fetch_add(1, Ordering::SeqCst)),
            None => random_u128(),
        };
        let fresh = Ulid::from_parts(self.clock.now().millis(), random);
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = if fresh > *last {
            fresh
        } else {
            last.increment().unwrap_or(fresh)
        };
        last.to_string()
    }

    /// A secret of `N` random bytes.
    pub fn secret<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        getrandom::fill(&mut bytes).expect("the system's random source works");
        bytes
    }
}

/// A number that looks like no neighbour of its own, from one that does.
fn spread(number: u64) -> u128 {
    // The multiplier of Knuth's linear congruential generator, and the odd one nearest to 2^128 over the golden ratio.
    u128::from(
        number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1),
    )
    .wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
}

fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system's random source works");
    u128::from_le_bytes(bytes)
}
