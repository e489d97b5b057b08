//! For tests: a probe that counts what AWS calls cost, and cuts a process between two of them.

use aws_sdk_dynamodb::operation::{
    batch_get_item::BatchGetItemOutput, batch_write_item::BatchWriteItemOutput,
    delete_item::DeleteItemOutput, get_item::GetItemOutput, put_item::PutItemOutput,
    query::QueryOutput, transact_write_items::TransactWriteItemsOutput,
    update_item::UpdateItemOutput,
};
use aws_sdk_dynamodb::types::ConsumedCapacity;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef, Output,
};
use aws_smithy_runtime_api::client::interceptors::{
    Intercept, SharedInterceptor, dyn_dispatch_hint,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// One AWS call that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Such as `TransactWriteItems`.
    pub operation: String,
    /// Capacity units that it consumed; reads and writes alike.
    pub units: f64,
}

/// Where a process is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Never.
    Never,
    /// Call number `k` (from 1) is not sent, and none after it.
    Before(usize),
    /// Call number `k` is applied but its answer is lost, and none is sent after it.
    After(usize),
}

/// A call that waits before it is sent, so that a test can act in between.
#[derive(Debug)]
struct Gate {
    operation: &'static str,
    /// So many of these calls are let through before.
    passes: usize,
    reached: Sender<()>,
    go: Receiver<()>,
}

/// A test's side of a call that waits; dropped, it lets the call go on.
#[derive(Debug)]
pub struct Held {
    reached: Receiver<()>,
    _go: Sender<()>,
}

impl Held {
    /// Blocks until the call is about to be sent; `false` if it never will be.
    pub fn wait(&self) -> bool {
        self.reached.recv().is_ok()
    }
}

#[derive(Debug)]
struct State {
    calls: Vec<Call>,
    sent: usize,
    cut: Cut,
    is_dead: bool,
    gate: Option<Gate>,
}

/// Watches every AWS call of an [`App`](crate::App): counts it, and cuts the process at it.
#[derive(Debug, Clone)]
pub struct Probe(Arc<Mutex<State>>);

impl Default for Probe {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            calls: Vec::new(),
            sent: 0,
            cut: Cut::Never,
            is_dead: false,
            gate: None,
        })))
    }
}

impl Probe {
    /// The interceptor to build an app with.
    pub fn interceptor(&self) -> SharedInterceptor {
        SharedInterceptor::new(self.clone())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was counted, brings a cut process back to life, and sets where it is cut next.
    pub fn reset(&self, cut: Cut) {
        *self.state() = State {
            calls: Vec::new(),
            sent: 0,
            cut,
            is_dead: false,
            gate: None,
        };
    }

    /// Lets the call number `number` (from 1) of an operation wait, from now on, until what is answered is dropped.
    ///
    /// It blocks its thread, so that the runtime must have several.
    pub fn hold(&self, operation: &'static str, number: usize) -> Held {
        let (reached, told) = channel();
        let (free, go) = channel();
        self.state().gate = Some(Gate {
            operation,
            passes: number.saturating_sub(1),
            reached,
            go,
        });
        Held {
            reached: told,
            _go: free,
        }
    }

    /// Waits where a test holds this call.
    fn wait_at_gate(&self, operation: &str) {
        let mut state = self.state();
        let gate = match &mut state.gate {
            Some(gate) if gate.operation == operation && gate.passes == 0 => state.gate.take(),
            Some(gate) if gate.operation == operation => {
                gate.passes -= 1;
                None
            }
            _ => None,
        };
        drop(state);
        if let Some(gate) = gate {
            // A test that waits no longer lets everything pass.
            let _ = gate.reached.send(());
            // What else this thread has to do, another does meanwhile.
            let _ = tokio::task::block_in_place(|| gate.go.recv());
        }
    }

    /// The calls since the last reset.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The names of the calls since the last reset.
    pub fn operations(&self) -> Vec<String> {
        self.calls()
            .into_iter()
            .map(|call| call.operation)
            .collect()
    }

    /// Capacity units since the last reset.
    pub fn units(&self) -> f64 {
        self.calls().iter().map(|call| call.units).sum()
    }

    /// Whether the process was cut since the last reset.
    pub fn was_cut(&self) -> bool {
        self.state().is_dead
    }
}

#[dyn_dispatch_hint]
impl Intercept for Probe {
    fn name(&self) -> &'static str {
        "Probe"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.wait_at_gate(config.load::<Metadata>().map_or("?", Metadata::name));
        let mut state = self.state();
        state.sent += 1;
        if state.cut == Cut::Before(state.sent) {
            state.is_dead = true;
        }
        if state.is_dead {
            Err("the process was cut here".into())
        } else {
            Ok(())
        }
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config
            .load::<Metadata>()
            .map_or("?", Metadata::name)
            .to_owned();
        let units = context.output_or_error().map_or(0.0, units_of);
        let mut state = self.state();
        state.calls.push(Call { operation, units });
        if state.cut == Cut::After(state.sent) {
            state.is_dead = true;
            return Err("the process was cut here".into());
        }
        Ok(())
    }
}

fn units_of(output: &Output) -> f64 {
    let one = |capacity: Option<&ConsumedCapacity>| {
        capacity
            .and_then(ConsumedCapacity::capacity_units)
            .unwrap_or(0.0)
    };
    let many = |capacities: &[ConsumedCapacity]| {
        capacities
            .iter()
            .filter_map(ConsumedCapacity::capacity_units)
            .sum::<f64>()
    };
    if let Some(output) = output.downcast_ref::<GetItemOutput>() {
        return one(output.consumed_capacity());
    }
    if let Some(output) = output.downcast_ref::<PutItemOutput>() {
        return one(output.consumed_capacity());
    }
    if let Some(output) = output.downcast_ref::<UpdateItemOutput>() {
        return one(output.consumed_capacity());
    }
    if let Some(output) = output.downcast_ref::<DeleteItemOutput>() {
        return one(output.consumed_capacity());
    }
    if let Some(output) = output.downcast_ref::<QueryOutput>() {
        return one(output.consumed_capacity());
    }
    if let Some(output) = output.downcast_ref::<BatchGetItemOutput>() {
        return many(output.consumed_capacity());
    }
    if let Some(output) = output.downcast_ref::<BatchWriteItemOutput>() {
        return many(output.consumed_capacity());
    }
    if let Some(output) = output.downcast_ref::<TransactWriteItemsOutput>() {
        return many(output.consumed_capacity());
    }
    0.0
}
