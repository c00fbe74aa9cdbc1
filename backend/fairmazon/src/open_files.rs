//! How many files this process may have open, connections included: as many as it is allowed, and
//! no more connections than leave room for the rest.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are open beside connections: the store, the log, what listens.
const BESIDE: u64 = 256;

/// Raises the limit as far as this process may; how many files it may have open then, none for any
/// number.
pub(crate) fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "unable to raise the limit of open files");
            limit.current
        }
    }
}

/// How many connections to serve of those that are wanted. Says so where it is fewer.
pub(crate) fn connections(limit: Option<u64>, wanted: usize) -> usize {
    let fitting = fitting(limit, wanted);
    if fitting < wanted {
        let needed = wanted as u64 + BESIDE;
        tracing::warn!(
            "at most {fitting} connections are served at once instead of {wanted}, as this process \
             may have only {} files open: raise its hard limit to {needed} (LimitNOFILE={needed} \
             of a unit of systemd, or `ulimit -Hn`)",
            limit.unwrap_or_default()
        );
    }
    fitting
}

fn fitting(limit: Option<u64>, wanted: usize) -> usize {
    let Some(limit) = limit else { return wanted };
    // Of next to nothing, half.
    let room = limit.saturating_sub(BESIDE).max(limit / 2).max(1);
    usize::try_from(room).map_or(wanted, |room| room.min(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_other_files() {
        for (limit, fits) in [
            (None, 20_000),
            (Some(u64::MAX), 20_000),
            (Some(20_256), 20_000),
            (Some(20_255), 19_999),
            (Some(1_024), 768),
            (Some(300), 150),
            (Some(1), 1),
        ] {
            assert_eq!(fitting(limit, 20_000), fits, "{limit:?}");
        }
    }
}
