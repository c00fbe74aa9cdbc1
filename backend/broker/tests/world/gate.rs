//! What freezes an agent.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use parking_lot::Mutex;

/// Holds a future still while it is closed.
#[derive(Default)]
pub struct Gate {
    closed: AtomicBool,
    opened: Mutex<Option<std::task::Waker>>,
}

impl Gate {
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
        if let Some(waker) = self.opened.lock().take() {
            waker.wake();
        }
    }

    /// The future, which stands still while this is closed.
    pub fn hold(
        self: &Arc<Self>,
        inner: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        Gated { gate: self.clone(), inner: Box::pin(inner) }
    }
}

struct Gated {
    gate: Arc<Gate>,
    inner: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.gate.closed.load(Ordering::SeqCst) {
            *self.gate.opened.lock() = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.inner.as_mut().poll(context)
    }
}
