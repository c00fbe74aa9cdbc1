//! Places, so many for each holder, which are given back when they are dropped.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;

/// The places that are held, by holder.
#[derive(Debug)]
pub(crate) struct Places<K> {
    held: Mutex<HashMap<K, usize>>,
}

impl<K: Hash + Eq + Clone> Places<K> {
    /// All free.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { held: Mutex::default() })
    }

    /// Takes one of the so many that this holder has; none where all are taken.
    pub(crate) fn take(self: &Arc<Self>, holder: K, most: usize) -> Option<Place<K>> {
        let mut held = self.held.lock();
        let count = held.entry(holder.clone()).or_default();
        if *count >= most {
            // Also where there are none at all.
            if *count == 0 {
                held.remove(&holder);
            }
            return None;
        }
        *count += 1;
        Some(Place { of: self.clone(), holder })
    }

    /// Whether this holder has any.
    pub(crate) fn has(&self, holder: &K) -> bool {
        self.held.lock().contains_key(holder)
    }
}

/// A place until this is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Hash + Eq> {
    of: Arc<Places<K>>,
    holder: K,
}

impl<K: Hash + Eq> Place<K> {
    /// Whose it is.
    pub(crate) fn holder(&self) -> &K {
        &self.holder
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut held = self.of.held.lock();
        if let Some(count) = held.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holder_has_its_places_and_nothing_is_kept_of_who_has_none() {
        let places = Places::new();
        let [first, second] = [1, 2].map(|_| places.take("one", 2).unwrap());
        assert!(places.take("one", 2).is_none());
        let other = places.take("other", 1).unwrap();
        assert!(places.has(&"other") && !places.has(&"none"));
        assert_eq!(other.holder(), &"other");
        drop(first);
        let third = places.take("one", 2).unwrap();
        assert!(places.take("none", 0).is_none());
        drop((second, third, other));
        assert!(places.held.lock().is_empty());
    }
}
