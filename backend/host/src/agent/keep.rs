//! Which keys of a volume stay under a new set, and what the broker is told of them.
//!
//! A broker that was restored to an earlier time sends keys that open nothing any more, and may
//! have been given others since. The host has the seals of those that do open its data, so nothing
//! that a set says takes the last of them away.

use fairmazon_model::{
    key::{SealedVolumeKey, VolumeHostKey},
    machine::{HostVolume, VolumeWish},
};

use super::volume::VolumeRecord;

/// What the last set lacks of a volume's keys, and which it has in vain.
#[derive(Debug, Default)]
pub(super) struct KeptKeys {
    /// The versions of keys that the volume has here and that the set does not name.
    pub(super) untold: Vec<u32>,
    /// The next key of the set, which does not open here.
    pub(super) refused: Option<SealedVolumeKey>,
    /// The key that opens the volume, as it was last tried.
    pub(super) proven: Option<VolumeHostKey>,
}

/// Has a wish name the keys that are to be used under it, where the volume has data and had these
/// keys before. A key takes the place of the one before only when it was the next one, and so was
/// found to open the data; any other that comes later is a next one. Gives the versions of those
/// that the set did not name.
pub(super) fn keep_keys(
    had: &HostVolume,
    wish: &mut HostVolume,
    opens: impl Fn(&SealedVolumeKey) -> bool,
) -> Vec<u32> {
    let Some(key) = &had.key else { return Vec::new() };
    let next = had.next_key.as_ref().filter(|next| opens(next));
    let sent = [wish.key.take(), wish.next_key.take()];
    let [sent_key, sent_next] = [sent[0].as_ref(), sent[1].as_ref()];
    let (kept, kept_next) = if sent_key.is_some() && sent_key == next {
        (sent_key, sent_next)
    } else if next.is_none() && sent_next == Some(key) {
        // A broker that was restored to the middle of an exchange: it is told again how that ended.
        (sent_key, sent_next)
    } else {
        let unknown = sent_key.filter(|sent| sent.version > key.version);
        (Some(key), next.or(unknown).or(sent_next))
    };
    let current = kept.map_or(0, |key| key.version);
    wish.key = kept.cloned();
    wish.next_key = kept_next.filter(|next| next.version > current).cloned();
    if wish.wish == VolumeWish::Delete {
        return Vec::new();
    }
    let now_kept = wish.key.iter().chain(&wish.next_key);
    now_kept
        .filter(|kept| !sent.iter().flatten().any(|sent| sent == *kept))
        .map(|kept| kept.version)
        .collect()
}

impl VolumeRecord {
    /// The wish that names its keys: the last set's, or one of before.
    pub(super) fn had(&self) -> Option<&std::sync::Arc<HostVolume>> {
        self.desired.as_ref().or(self.unnamed.as_ref())
    }

    /// The key that opens it; none while that is being exchanged.
    pub(super) fn key_in_use(&self) -> Option<&SealedVolumeKey> {
        let wish = self.desired.as_ref()?;
        match &wish.next_key {
            None => wish.key.as_ref(),
            next => next.as_ref().filter(|next| self.change.done_with(next.version).is_some()),
        }
    }

    /// Whether the set lacks the key that opens it, and that was not shown yet to be the one.
    pub(super) fn is_unproven(&self) -> bool {
        self.untold_key().is_some() && self.key_to_tell().is_none()
    }

    /// The key that opens it, where the set does not name that.
    pub(super) fn key_to_tell(&self) -> Option<&VolumeHostKey> {
        let key = self.untold_key()?;
        let proven = self.keys.proven.as_ref()?;
        (proven.version == key.version && proven.sealed == key.sealed).then_some(proven)
    }

    fn untold_key(&self) -> Option<&SealedVolumeKey> {
        let key = self.key_in_use().filter(|_| self.seen.is_some())?;
        self.keys.untold.contains(&key.version).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::wish;
    use fairmazon_model::key::Blob;

    use super::*;

    /// Keys by version and content; content 0 does not open.
    type Named = (u32, u8);

    fn key((version, content): Named) -> SealedVolumeKey {
        SealedVolumeKey { version, sealed: Blob(vec![content]) }
    }

    fn with(keys: &[Named]) -> HostVolume {
        let at = |index: usize| keys.get(index).copied().map(key);
        HostVolume { key: at(0), next_key: at(1), ..wish(1) }
    }

    #[test]
    fn no_set_takes_away_what_may_open_the_data() {
        let (one, two, three) = ((1, 1), (2, 2), (3, 3));
        let (other, other_two) = ((1, 9), (2, 9));
        type Case<'a> = (&'a [Named], &'a [Named], &'a [Named], &'a [u32]);
        let cases: &[Case<'_>] = &[
            (&[], &[one], &[one], &[]),
            (&[one], &[one], &[one], &[]),
            // An exchange, from its request to its end.
            (&[one], &[one, two], &[one, two], &[]),
            (&[one, two], &[one, two], &[one, two], &[]),
            (&[one, two], &[two], &[two], &[]),
            (&[one, two], &[two, three], &[two, three], &[]),
            // A broker restored to before it, with another key or none given since.
            (&[one, two], &[one], &[one, two], &[2]),
            (&[one, two], &[one, other_two], &[one, two], &[2]),
            (&[two], &[one], &[two], &[2]),
            (&[two], &[one, other_two], &[two], &[2]),
            (&[two], &[], &[two], &[2]),
            (&[one], &[other], &[one], &[1]),
            (&[one], &[other, two], &[one, two], &[1]),
            // To the middle of it.
            (&[two], &[one, two], &[one, two], &[]),
            (&[two, three], &[one, two], &[two, three], &[3]),
            // To before the exchange before this one.
            (&[two, three], &[one], &[two, three], &[2, 3]),
            // A later one that was never a next one here is tried beside the one that is.
            (&[one], &[three], &[one, three], &[1]),
            // What does not open is no key.
            (&[one, (2, 0)], &[one], &[one], &[]),
            (&[one, (2, 0)], &[one, two], &[one, two], &[]),
        ];
        for (had, sent, kept, untold) in cases {
            let mut wish = with(sent);
            let found = keep_keys(&with(had), &mut wish, |key| key.sealed.0 != [0]);
            assert_eq!(wish, with(kept), "{had:?} {sent:?}");
            assert_eq!(found, *untold, "{had:?} {sent:?}");
        }
    }

    #[test]
    fn what_is_to_be_deleted_is_told_nobody() {
        let mut wish = HostVolume { wish: VolumeWish::Delete, ..with(&[]) };
        assert!(keep_keys(&with(&[(1, 1)]), &mut wish, |_| true).is_empty());
        assert_eq!(wish.key, Some(key((1, 1))), "it may not be deleted yet");
    }
}
