//! What hosts are asked for on behalf of a customer whose call waits, beside their sets. It may be
//! lost, and who waits finds out by the time.

use std::{collections::HashMap, hash::Hash};

use fairmazon_model::{
    DomainError, ErrorKind,
    console::ReadConsole,
    id::HostId,
    limits,
    transfer::{ReceiveVolume, SendVolume},
};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Requests that wait for a host's stream.
const REQUESTS: usize = 16;

/// What a host is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To send a volume's file.
    Send(SendVolume),
    /// To take one.
    Receive(ReceiveVolume),
    /// What a guest has written last.
    Console(ReadConsole),
}

/// Ways to the hosts.
#[derive(Default)]
pub(crate) struct Asks(Mutex<HashMap<HostId, mpsc::Sender<Asked>>>);

impl Asks {
    /// What a host is asked for from now on, in the place of an earlier stream of it.
    pub(crate) fn listen(&self, host: HostId) -> mpsc::Receiver<Asked> {
        let (sender, receiver) = mpsc::channel(REQUESTS);
        let mut streams = self.0.lock();
        streams.retain(|_, stream| !stream.is_closed());
        streams.insert(host, sender);
        receiver
    }

    /// Asks a host.
    ///
    /// # Errors
    /// `Unavailable` when it has no stream, or does not take what it is asked for already.
    pub(crate) fn ask(&self, host: HostId, asked: Asked) -> Result<(), DomainError> {
        let streams = self.0.lock();
        let stream = streams.get(&host);
        if stream.is_some_and(|stream| stream.try_send(asked).is_ok()) {
            return Ok(());
        }
        Err(unavailable("its host does not listen now"))
    }
}

/// Takes who waits for what a host answers, if it is this host that was asked.
pub(crate) fn take_of<I: Hash + Eq + Copy, T>(
    waiting: &mut HashMap<I, (HostId, T)>,
    host: HostId,
    id: I,
) -> Option<T> {
    waiting.get(&id).filter(|(of, _)| *of == host)?;
    waiting.remove(&id).map(|(_, waiting)| waiting)
}

pub(crate) fn unavailable(text: impl Into<String>) -> DomainError {
    DomainError::new(ErrorKind::Unavailable, text).advise("ask again in a while")
}

/// As much of a host's text as is told.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(limits::HOST_TEXT_MAX)]
}

#[cfg(test)]
mod tests {
    use fairmazon_model::{id::VolumeId, transfer::TransferId};

    use super::*;

    #[test]
    fn a_later_stream_of_a_host_is_asked() {
        let asks = Asks::default();
        let host = HostId::from_parts(1, 1);
        let asked = Asked::Send(SendVolume {
            transfer: TransferId([1; 16]),
            volume: VolumeId::from_parts(1, 1),
            offset: 0,
        });
        assert!(asks.ask(host, asked).is_err());
        let mut first = asks.listen(host);
        let mut second = asks.listen(host);
        asks.ask(host, asked).unwrap();
        assert!(first.try_recv().is_err());
        assert_eq!(second.try_recv().unwrap(), asked);
        drop(second);
        assert_eq!(asks.ask(host, asked).unwrap_err().kind, ErrorKind::Unavailable);
    }
}
