//! What a deployment consists of: table, bucket, queues, stream and schedules, as plain data.
//!
//! `template.yaml` says the same to AWS, and a test holds the two against each other. Only what makes sense on one
//! machine alone, such as a shorter pause between two sweeps, has fields of its own here.

use std::time::Duration;

use serde_json::{Value, json};

use crate::queues::QueueDefinition;

/// The table's name.
pub const TABLE: &str = "slipway";

/// The bucket's name.
pub const BUCKET: &str = "slipway";

/// The event bus's name.
pub const EVENT_BUS: &str = "slipway";

/// The region that everything claims to be in.
pub const REGION: &str = "us-east-1";

/// How old a multipart upload is that nobody completes any more; one day longer than a version may wait for its uploads.
pub const ABANDONED_UPLOADS: Duration = Duration::from_hours(8 * 24);

/// The table, as `CreateTable` and a SAM template take it; it has no secondary index.
pub fn table() -> Value {
    json!({
        "TableName": TABLE,
        "AttributeDefinitions": [
            { "AttributeName": "pk", "AttributeType": "S" },
            { "AttributeName": "sk", "AttributeType": "S" },
        ],
        "KeySchema": [
            { "AttributeName": "pk", "KeyType": "HASH" },
            { "AttributeName": "sk", "KeyType": "RANGE" },
        ],
        "BillingMode": "PAY_PER_REQUEST",
        "StreamSpecification": { "StreamViewType": "NEW_IMAGE" },
        "TimeToLiveSpecification": { "AttributeName": "ttl", "Enabled": true },
    })
}

/// A function that handles events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    /// Registers what was dropped, and ends what was abandoned.
    Register,
    /// Tells dates that have come.
    Promote,
    /// Judges the artifacts of a version.
    ArtifactValidation,
    /// Packages ready versions.
    Packaging,
    /// Publishes events.
    Notifications,
}

impl Function {
    /// Every function that handles events.
    pub const ALL: [Self; 5] = [
        Self::Register,
        Self::Promote,
        Self::ArtifactValidation,
        Self::Packaging,
        Self::Notifications,
    ];

    /// Names the function, its folder, its queue and its log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Promote => "promote",
            Self::ArtifactValidation => "artifact-validation",
            Self::Packaging => "packaging",
            Self::Notifications => "notifications",
        }
    }

    /// How long one call may take.
    pub const fn timeout(self) -> Duration {
        match self {
            Self::Register | Self::Promote => Duration::from_mins(1),
            Self::ArtifactValidation | Self::Packaging => Duration::from_mins(15),
            Self::Notifications => Duration::from_mins(2),
        }
    }
}

impl std::fmt::Display for Function {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.name())
    }
}

/// A queue of S3 events between the bucket and a function; it has the function's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Who handles its messages.
    pub function: Function,
    /// Objects created under this prefix are announced in it.
    pub prefix: &'static str,
    /// How long a message waits in AWS until it can be received; on one machine it does not wait.
    pub delay: Duration,
    /// How often a message is received before it is a dead letter.
    pub max_receive_count: u32,
    /// How many messages the function takes at once.
    pub batch_size: usize,
    /// How many calls of the function run at once on one machine.
    pub local_concurrency: usize,
}

impl Queue {
    /// The queue's name.
    pub const fn name(&self) -> &'static str {
        self.function.name()
    }

    /// How long a received message stays invisible: six times the function's timeout, as AWS advises.
    pub const fn visibility_timeout(&self) -> Duration {
        self.function.timeout().saturating_mul(6)
    }
}

/// The queues; their prefixes are disjoint from what their functions write, so that none calls itself.
pub const QUEUES: [Queue; 4] = [
    Queue {
        function: Function::ArtifactValidation,
        prefix: "incoming/",
        delay: Duration::ZERO,
        max_receive_count: 5,
        // One message tells of one file, and judging a large one may take the whole timeout.
        batch_size: 1,
        local_concurrency: 2,
    },
    Queue {
        function: Function::Packaging,
        prefix: "reports/",
        // The report is written just before the version is committed as ready.
        delay: Duration::from_secs(2),
        max_receive_count: 5,
        // Copying one large version may take the whole timeout.
        batch_size: 1,
        local_concurrency: 2,
    },
    Queue {
        function: Function::Notifications,
        prefix: "packages/",
        delay: Duration::ZERO,
        max_receive_count: 5,
        batch_size: 10,
        local_concurrency: 2,
    },
    Queue {
        function: Function::Register,
        prefix: "dropzone/",
        delay: Duration::ZERO,
        max_receive_count: 5,
        batch_size: 10,
        local_concurrency: 2,
    },
];

/// The queue of lanes whose deliveries are to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryQueue {
    /// Who sends them.
    pub function: Function,
    /// The queue's name; one that ends so is first in, first out by group, and a group is a subscription.
    pub name: &'static str,
    /// How long a received message stays invisible.
    ///
    /// Twice the function's timeout and not six times, since a subscription waits as long for a call that was killed.
    pub visibility_timeout: Duration,
    /// How often a message is received before it is a dead letter.
    pub max_receive_count: u32,
    /// How many messages the function takes at once: one, so that a call waits for one endpoint.
    pub batch_size: usize,
    /// How many calls of the function run at once on one machine.
    pub local_concurrency: usize,
}

/// The queue of deliveries.
pub const DELIVERIES: DeliveryQueue = DeliveryQueue {
    function: Function::Notifications,
    name: "deliveries.fifo",
    visibility_timeout: Function::Notifications.timeout().saturating_mul(2),
    max_receive_count: 5,
    batch_size: 1,
    local_concurrency: 50,
};

/// Finds the queue in which an object's creation is announced.
pub fn queue_of(key: &str) -> Option<&'static Queue> {
    QUEUES.iter().find(|queue| key.starts_with(queue.prefix))
}

/// How the table's stream reaches its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamMapping {
    /// Who handles the records.
    pub function: Function,
    /// What the sort keys of new items begin with that the function is called for; other changes pass by unseen.
    pub sort_keys: &'static [&'static str],
    /// How many records the function takes at once.
    pub batch_size: usize,
    /// How often a record is tried before the stream goes on without it.
    pub max_attempts: u32,
    /// Where a record goes that was given up, as a message.
    pub on_failure_queue: &'static str,
}

impl StreamMapping {
    /// Whether the function is called for a record, as the filter in the template says.
    pub fn takes(&self, record: &Value) -> bool {
        let sort_key = record["dynamodb"]["Keys"]["sk"]["S"].as_str();
        record["eventName"] == "INSERT"
            && sort_key
                .is_some_and(|key| self.sort_keys.iter().any(|prefix| key.starts_with(prefix)))
    }
}

/// The table's stream.
pub const STREAM: StreamMapping = StreamMapping {
    function: Function::Notifications,
    sort_keys: &["E#", "H#"],
    batch_size: 100,
    max_attempts: 10,
    on_failure_queue: "notifications-stream",
};

/// A schedule that calls a function, which then makes good what a lost event left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Who is called.
    pub function: Function,
    /// The pause between two calls.
    pub every: Duration,
    /// The pause on one machine, where a call costs nothing and a person waits.
    pub locally_every: Duration,
}

/// The schedules, in the order in which work travels.
pub const SCHEDULES: [Schedule; 5] = [
    Schedule {
        function: Function::Register,
        every: Duration::from_mins(1),
        // A drop is whole once its folder was quiet for a while, and only the sweep sees silence.
        locally_every: Duration::from_secs(2),
    },
    Schedule {
        function: Function::ArtifactValidation,
        every: Duration::from_mins(5),
        locally_every: Duration::from_secs(15),
    },
    Schedule {
        function: Function::Packaging,
        every: Duration::from_mins(5),
        locally_every: Duration::from_secs(15),
    },
    Schedule {
        function: Function::Promote,
        every: Duration::from_mins(1),
        locally_every: Duration::from_secs(5),
    },
    Schedule {
        function: Function::Notifications,
        every: Duration::from_mins(1),
        // The sweep also sends again what a subscriber did not take.
        locally_every: Duration::from_secs(2),
    },
];

/// All queues, as the embedded ones are opened.
pub(crate) fn queue_definitions() -> Vec<QueueDefinition> {
    QUEUES
        .iter()
        .map(|queue| QueueDefinition {
            name: queue.name().to_owned(),
            visibility_timeout: queue.visibility_timeout(),
            // Not the queue's own: here a commit follows its report within milliseconds, what comes too early is tried
            // again within a second and not after the visibility timeout, and a person waits.
            delay: Duration::ZERO,
            max_receive_count: queue.max_receive_count,
            dead_letter: true,
            batch_size: queue.batch_size,
        })
        .chain([QueueDefinition {
            name: DELIVERIES.name.to_owned(),
            visibility_timeout: DELIVERIES.visibility_timeout,
            delay: Duration::ZERO,
            max_receive_count: DELIVERIES.max_receive_count,
            dead_letter: true,
            batch_size: DELIVERIES.batch_size,
        }])
        .chain([QueueDefinition {
            name: STREAM.on_failure_queue.to_owned(),
            visibility_timeout: STREAM.function.timeout().saturating_mul(6),
            delay: Duration::ZERO,
            // A record that was given up is tried once more, outside the stream's order, and then waits for a person.
            max_receive_count: 1,
            dead_letter: true,
            batch_size: 1,
        }])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_created_object_has_at_most_one_queue() {
        for queue in &QUEUES {
            assert_eq!(queue_of(&format!("{}a/b", queue.prefix)), Some(queue));
        }
        assert_eq!(queue_of("documents/default/a.json"), None);
    }

    #[test]
    fn every_function_is_swept_once() {
        for function in Function::ALL {
            let count = SCHEDULES
                .iter()
                .filter(|schedule| schedule.function == function)
                .count();
            assert_eq!(count, 1, "{function}");
        }
    }
}
