//! One at a time for each of many: machines, volumes.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Lock = tokio::sync::Mutex<()>;

/// The locks that somebody has or waits for.
#[derive(Debug)]
pub(super) struct Locks<K>(Mutex<HashMap<K, Weak<Lock>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Copy> Locks<K> {
    /// Waits until nobody else has this one.
    pub(super) async fn lock(&self, of: K) -> OwnedMutexGuard<()> {
        self.one(of).lock_owned().await
    }

    /// As [`lock`](Self::lock); none where somebody has it.
    pub(super) fn try_lock(&self, of: K) -> Option<OwnedMutexGuard<()>> {
        self.one(of).try_lock_owned().ok()
    }

    fn one(&self, of: K) -> Arc<Lock> {
        let mut locks = self.0.lock();
        if let Some(lock) = locks.get(&of).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(Lock::default());
        locks.insert(of, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_is_locked_by_itself_and_forgotten_when_nobody_wants_it() {
        let locks = Locks::default();
        let first = locks.lock(1).await;
        assert!(locks.try_lock(1).is_none());
        let other = locks.try_lock(2).unwrap();
        drop(first);
        drop(locks.try_lock(1).unwrap());
        drop(other);
        drop(locks.lock(3).await);
        let _last = locks.lock(4).await;
        assert_eq!(locks.0.lock().len(), 1);
    }
}
