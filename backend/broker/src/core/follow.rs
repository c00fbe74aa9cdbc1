//! Following what changes: an instance as its owner sees it, what is left on a host that is being
//! emptied.

use std::{collections::HashMap, time::Duration};

use fairmazon_model::{
    DomainError,
    id::{HostId, InstanceId},
};
use fairmazon_store::Key;
use futures::{Stream, stream};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{caller::Caller, drains::DrainView, engine::Engine, view::InstanceView};

/// How often it is looked at what rings nothing, as it follows from time, from a host's stream or
/// from a try that changed no row.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two looks at all that is on a host.
const DRAINS_APART: Duration = Duration::from_millis(200);

/// Rung when a row has changed that somebody follows.
#[derive(Default)]
pub(crate) struct Bells(HashMap<Key, watch::Sender<()>>);

impl Bells {
    fn listen(&mut self, key: Key) -> watch::Receiver<()> {
        self.0.retain(|_, bell| bell.receiver_count() > 0);
        self.0.entry(key).or_default().subscribe()
    }

    /// What is seen by way of this row may have changed.
    pub(crate) fn ring(&self, key: Key) {
        if let Some(bell) = self.0.get(&key) {
            bell.send_replace(());
        }
    }
}

impl Engine {
    /// An instance as it is, and after each change; an error ends it.
    ///
    /// # Errors
    /// `NotFound` when there is none that the caller sees, also later.
    pub fn watch_instance(
        &self,
        caller: &Caller,
        id: InstanceId,
    ) -> Result<impl Stream<Item = Result<InstanceView, DomainError>> + Send + 'static, DomainError>
    {
        let (engine, caller) = (self.clone(), *caller);
        let look = move || engine.instance(&caller, id);
        look()?;
        let bell = self.state().bells.listen(id.into());
        Ok(follow(bell, look, |_| false, Duration::ZERO))
    }

    /// What is still on a host that is being emptied, and after each change, until that is nothing
    /// or the deadline has passed; an error ends it.
    ///
    /// # Errors
    /// As of [`Engine::drain`], also later.
    pub fn watch_drain(
        &self,
        caller: &Caller,
        id: HostId,
    ) -> Result<impl Stream<Item = Result<DrainView, DomainError>> + Send + 'static, DomainError>
    {
        let (engine, caller) = (self.clone(), *caller);
        let look = move || engine.drain(&caller, id);
        look()?;
        let bell = self.state().bells.listen(id.into());
        Ok(follow(bell, look, DrainView::has_ended, DRAINS_APART))
    }
}

/// What `look` sees at once and whenever that is another one than before, up to the last or an
/// error; looks are `apart` at least.
fn follow<V, L>(
    bell: watch::Receiver<()>,
    look: L,
    is_last: impl Fn(&V) -> bool + Send + 'static,
    apart: Duration,
) -> impl Stream<Item = Result<V, DomainError>> + Send + 'static
where
    V: PartialEq + Clone + Send + 'static,
    L: Fn() -> Result<V, DomainError> + Send + 'static,
{
    struct At<V> {
        bell: watch::Receiver<()>,
        told: Option<V>,
    }
    let start = Some(At { bell, told: None });
    stream::unfold((start, look, is_last), move |(at, look, is_last)| async move {
        let At { mut bell, told } = at?;
        if told.is_some() {
            sleep(apart).await;
        }
        loop {
            // Before the look: what rings after it is looked at anew.
            bell.borrow_and_update();
            match look() {
                Ok(now) if told.as_ref() == Some(&now) => {}
                Ok(now) => {
                    let told = Some(now.clone());
                    let next = (!is_last(&now)).then_some(At { bell, told });
                    return Some((Ok(now), (next, look, is_last)));
                }
                Err(error) => return Some((Err(error), (None, look, is_last))),
            }
            // It can't be closed: the bell stays as long as somebody listens.
            let _ = timeout(LOOK_EVERY, bell.changed()).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bells_that_nobody_hears_are_dropped() {
        let mut bells = Bells::default();
        let key = |number| Key::from(HostId::from_parts(1, number));
        let mut first = bells.listen(key(1));
        let second = bells.listen(key(1));
        bells.ring(key(2));
        assert!(!first.has_changed().unwrap());
        bells.ring(key(1));
        assert!(first.has_changed().unwrap() && second.has_changed().unwrap());
        first.borrow_and_update();
        drop(second);
        let _other = bells.listen(key(2));
        assert_eq!(bells.0.len(), 2, "the first still listens");
        drop(first);
        let _third = bells.listen(key(3));
        assert_eq!(bells.0.len(), 2);
    }
}
