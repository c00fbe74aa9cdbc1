//! Serial consoles on their way: hands what a host has read to the customer who waits for it, and
//! keeps nothing of it.

use std::{collections::HashMap, time::Duration};

use fairmazon_model::{
    DomainError,
    console::{ConsoleRead, ReadConsole, ReadId, plain_lines},
    id::{HostId, InstanceId},
};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    asks::{Asked, cut, take_of, unavailable},
    core::{Caller, Engine, Standing, rules},
};

/// How long a host may take: a question that is lost is noticed by this.
const WITHIN: Duration = Duration::from_secs(10);

/// The customers who wait, each for one host.
#[derive(Default)]
pub(crate) struct Consoles(Mutex<HashMap<ReadId, (HostId, Answer)>>);

type Answer = oneshot::Sender<Result<Vec<u8>, String>>;

/// A customer who waits.
struct Waiting<'a> {
    consoles: &'a Consoles,
    read: ReadId,
    answer: oneshot::Receiver<Result<Vec<u8>, String>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.consoles.0.lock().remove(&self.read);
    }
}

impl Consoles {
    fn wait(&self, host: HostId, read: ReadId) -> Waiting<'_> {
        let (sender, answer) = oneshot::channel();
        self.0.lock().insert(read, (host, sender));
        Waiting { consoles: self, read, answer }
    }

    /// Takes what this host has read, if somebody waits for that.
    pub(crate) fn answer(&self, host: HostId, read: ConsoleRead) {
        if let Some(answer) = take_of(&mut self.0.lock(), host, read.read) {
            // Whoever waited may have gone at this moment.
            let _ = answer.send(read.last);
        }
    }
}

impl Engine {
    /// What the guest of an instance has written last to its serial console: lines without escape
    /// sequences and control characters. Its host is asked for it.
    ///
    /// # Errors
    /// `NotFound`; `Precondition` for an instance that has no host, or one that is lost for good,
    /// or whose console its host can't read; `Unavailable` when the host does not answer: the
    /// customer asks again.
    pub async fn console(&self, caller: &Caller, id: InstanceId) -> Result<String, DomainError> {
        let host = {
            let state = self.state();
            let row = state.world.machine(id).filter(|row| caller.sees(row.account));
            let row = row.ok_or_else(|| DomainError::not_found("instance", id))?;
            let host = row.decision.as_ref().map(|decision| decision.host).ok_or_else(|| {
                rules::precondition(format!("{id} is on no host, so it has no console"))
                    .advise("ask again when it has started")
            })?;
            state.check_machine_not_lost(row)?;
            let agent = state.hosts.agent(host);
            let agent = agent.filter(|_| state.standing(host) == Standing::Connected);
            let agent = agent.ok_or_else(|| unavailable("the instance's host is silent"))?;
            if !agent.reads_consoles {
                let text = format!("the agent of the host of {id} is too old to read consoles");
                let advice = "ask the host's operator to update it";
                return Err(rules::precondition(text).advise(advice));
            }
            host
        };
        let read = ReadId(self.inner.random.id().to_be_bytes());
        let mut waiting = self.inner.consoles.wait(host, read);
        self.inner.asks.ask(host, Asked::Console(ReadConsole { read, instance: id }))?;
        match timeout(WITHIN, &mut waiting.answer).await {
            Ok(Ok(Ok(last))) => Ok(plain_lines(&last).join("\n")),
            Ok(Ok(Err(reason))) => {
                let text = format!("the host of {id} can't read its console: {}", cut(&reason));
                Err(rules::precondition(text).advise("ask again when it runs"))
            }
            Ok(Err(_)) | Err(_) => Err(unavailable("the instance's host did not answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_host_that_was_asked_answers_and_once() {
        let consoles = Consoles::default();
        let (host, read) = (HostId::from_parts(1, 1), ReadId([1; 16]));
        let said = |text: &[u8]| ConsoleRead { read, last: Ok(text.to_vec()) };
        let mut waiting = consoles.wait(host, read);
        consoles.answer(HostId::from_parts(1, 2), said(b"forged"));
        let other = ConsoleRead { read: ReadId([2; 16]), ..said(b"another question") };
        consoles.answer(host, other);
        waiting.answer.try_recv().unwrap_err();
        consoles.answer(host, said(b"login:"));
        consoles.answer(host, said(b"once more"));
        assert_eq!((&mut waiting.answer).await.unwrap().unwrap(), b"login:");
        drop(waiting);
        let waiting = consoles.wait(host, read);
        assert_eq!(consoles.0.lock().len(), 1);
        drop(waiting);
        assert!(consoles.0.lock().is_empty(), "nobody waits any more");
    }
}
