//! Streams of rows and operations, as somebody follows them.

use std::time::Duration;

use fairmazon_proto::v1::{Instance, Operation, OperationState};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Shared, State};

/// How often it is looked whether a row has changed: tests change it under everybody's hands.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A row as it is, then each change, until it is gone.
pub(super) fn instance(state: Shared, id: String) -> ReceiverStream<Result<Instance, Status>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut told = None;
        while !sender.is_closed() {
            let now = state.lock().instances.get(&id).cloned();
            let Some(row) = now else {
                let _ = sender.send(Err(Status::not_found(id))).await;
                return;
            };
            if told.as_ref() != Some(&row) {
                told = Some(row.clone());
                let _ = sender.send(Ok(row)).await;
            }
            sleep(LOOK_EVERY).await;
        }
    });
    ReceiverStream::new(receiver)
}

/// An operation that never ends, or asks for keys and is done once they are given: no other one is
/// waited for here.
pub(super) fn operation(state: &State, id: String) -> ReceiverStream<Result<Operation, Status>> {
    let (asks, mut given) = (state.asks.is_some(), state.given.subscribe());
    let target_id = state.instances.keys().next_back().cloned().unwrap_or_default();
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        if asks {
            let running = Operation {
                id,
                target_id,
                state: OperationState::Running.into(),
                waits_for_keys: true,
                ..Operation::default()
            };
            let _ = sender.send(Ok(running.clone())).await;
            tokio::select! {
                // Nobody follows it any more.
                () = sender.closed() => return,
                _ = given.wait_for(|given| !given.is_empty()) => {}
            }
            let state = OperationState::Done.into();
            let _ = sender.send(Ok(Operation { state, waits_for_keys: false, ..running })).await;
        }
        sender.closed().await;
    });
    ReceiverStream::new(receiver)
}
