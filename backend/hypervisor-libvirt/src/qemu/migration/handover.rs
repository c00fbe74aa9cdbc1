//! How the host that a guest leaves knows that it has left, before its own libvirt says so: the
//! other host's libvirt has said that all of it is there, and the QEMU that sent it has ended.
//!
//! libvirt looks only every 200 ms whether a QEMU has ended that it has told to, and the guest
//! stands still meanwhile. Nothing here ends anything: libvirt does that in its own way, and where
//! this sees nothing, what libvirt says in the end counts alone.

use std::{
    future::pending,
    io,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fairmazon_hypervisor::Connection;
use fairmazon_model::id::InstanceId;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    sync::watch,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    calls::{Arguments, LONGEST_ANSWER, procedure},
    rpc::{CALL, Head, KEEP_ALIVE, Message, OK, REMOTE, REPLY},
};
use crate::qemu::process::Living;

/// How long libvirt may take to end a migration whose other host it does not reach any more.
const SAYS_WITHIN: Duration = Duration::from_secs(5);
/// No call: their numbers have 32 bits.
const NONE: u64 = u64::MAX;

/// A machine that is being sent, as its agent hears it in what it carries.
#[derive(Debug)]
pub(super) struct Handover {
    stage: watch::Sender<Stage>,
    /// The QEMU that sends it.
    sender: OnceLock<Living>,
    /// The two libvirts no longer speak with each other.
    parted: CancellationToken,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is being sent, and may go on here.
    Goes,
    /// The other host's libvirt has said that all of it is there. This host's ends it now, unless it
    /// does not hear that.
    Taken,
    /// This host's libvirt has said something since, or has gone: it has ended the guest by then, or
    /// has let it go on. Which of the two, it says itself.
    Over,
}

impl Default for Handover {
    fn default() -> Self {
        Self {
            stage: watch::Sender::new(Stage::Goes),
            sender: OnceLock::new(),
            parted: CancellationToken::new(),
        }
    }
}

impl Handover {
    /// A process of this host sends what is in a disk of the machine: its QEMU. Its memory is sent
    /// over a connection that libvirt has made, which shows nobody else.
    pub(super) fn sends(&self, instance: InstanceId, stream: &UnixStream) {
        if self.sender.get().is_some() {
            return;
        }
        let id = stream.peer_cred().map(|peer| peer.pid().unwrap_or_default());
        match id.and_then(|id| Living::machine(instance, id)) {
            // Whoever was first is the same.
            Ok(living) => drop(self.sender.set(living)),
            Err(error) => {
                tracing::info!(%instance, %error, "its end will be seen by libvirt alone");
            }
        }
    }

    /// Carries the connection of this host's libvirtd to the other's, until either ends.
    pub(super) async fn carry(&self, near: UnixStream, far: impl Connection) -> io::Result<()> {
        let (near_says, to_near) = near.into_split();
        let (far_says, to_far) = tokio::io::split(far);
        let finish = AtomicU64::new(NONE);
        let carried = tokio::select! {
            asked = self.ask(near_says, to_far, &finish) => asked,
            answered = self.answer(far_says, to_near, &finish) => answered,
        };
        self.stage.send_replace(Stage::Over);
        self.parted.cancel();
        carried
    }

    async fn ask(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        finish: &AtomicU64,
    ) -> io::Result<()> {
        while let Some(message) = Message::read(&mut from, LONGEST_ANSWER).await? {
            let Head { program, procedure, kind, serial, .. } = message.head;
            if program != KEEP_ALIVE {
                self.stage.send_if_modified(|stage| {
                    let was_taken = *stage == Stage::Taken;
                    if was_taken {
                        *stage = Stage::Over;
                    }
                    was_taken
                });
            }
            let finishes = (program, procedure, kind) == (REMOTE, procedure::MIGRATE_FINISH, CALL);
            if finishes {
                let arguments = Arguments::of_finish(&message.body);
                let goes = arguments.is_some_and(|arguments| arguments.cancelled == Some(0));
                let serial = if goes { u64::from(serial) } else { NONE };
                finish.store(serial, Ordering::SeqCst);
            }
            to.write_all(&message.bytes()).await?;
            to.flush().await?;
        }
        Ok(())
    }

    async fn answer(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        finish: &AtomicU64,
    ) -> io::Result<()> {
        while let Some(message) = Message::read(&mut from, LONGEST_ANSWER).await? {
            let Head { program, procedure, kind, serial, status, .. } = message.head;
            let is_taken = (program, procedure, kind, status)
                == (REMOTE, procedure::MIGRATE_FINISH, REPLY, OK)
                && finish.swap(NONE, Ordering::SeqCst) == u64::from(serial);
            if is_taken {
                // Before libvirt hears it, so that whatever it says comes afterwards.
                self.stage.send_replace(Stage::Taken);
            }
            to.write_all(&message.bytes()).await?;
            to.flush().await?;
        }
        Ok(())
    }

    /// Returns when the two libvirts have had no connection with each other for so long that this
    /// host's should have said what has become of the migration, which can't go on without.
    pub(super) async fn overdue(&self) {
        self.parted.cancelled().await;
        sleep(SAYS_WITHIN).await;
    }

    /// Returns when the guest has left: all of it is at the other host, and what ran it here has
    /// ended, without this host's libvirt having let it go on in between. Never returns where that
    /// is not seen.
    ///
    /// libvirt lets a guest go on when it has not heard or not understood that it was taken: it drops
    /// its connection then, or goes on to speak over it.
    pub(super) async fn done(&self) {
        let mut stage = self.stage.subscribe();
        let taken = stage.wait_for(|stage| *stage == Stage::Taken).await.is_ok();
        let ended = match self.sender.get() {
            Some(sender) if taken => sender.ended().await.is_ok(),
            _ => false,
        };
        if !ended || *self.stage.borrow() != Stage::Taken {
            pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use fairmazon_hypervisor::contract::instance;
    use tokio::{io::DuplexStream, time::timeout};

    use super::*;
    use crate::qemu::migration::{
        FLAGS,
        rpc::{MESSAGE, Writer},
    };

    const FINISH: u32 = procedure::MIGRATE_FINISH;
    const SERIAL: u32 = 9;

    /// A migration whose two libvirts are the test, and a process in the place of its QEMU.
    struct Sending {
        handover: std::sync::Arc<Handover>,
        near: UnixStream,
        far: DuplexStream,
        qemu: Child,
    }

    impl Sending {
        fn begin() -> Self {
            let handover = std::sync::Arc::<Handover>::default();
            let qemu = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
            let living = Living::hold(i32::try_from(qemu.id()).unwrap()).unwrap();
            handover.sender.set(living).unwrap();
            let (near, carried_near) = UnixStream::pair().unwrap();
            let (far, carried_far) = tokio::io::duplex(64 * 1024);
            let carries = std::sync::Arc::clone(&handover);
            tokio::spawn(async move { carries.carry(carried_near, carried_far).await });
            Self { handover, near, far, qemu }
        }

        /// This host's libvirt says something, which the other one hears.
        async fn says(&mut self, message: &Message) {
            self.near.write_all(&message.bytes()).await.unwrap();
            assert_eq!(heard(&mut self.far).await, *message);
        }

        /// The other host's libvirt answers, which this one hears.
        async fn answers(&mut self, message: &Message) {
            self.far.write_all(&message.bytes()).await.unwrap();
            assert_eq!(heard(&mut self.near).await, *message);
        }

        fn qemu_ends(&mut self) {
            self.qemu.kill().unwrap();
            self.qemu.wait().unwrap();
        }

        /// Whether it has left, after everything that was said.
        async fn has_left(&self) -> bool {
            tokio::select! {
                biased;
                () = self.handover.done() => true,
                () = idle() => false,
            }
        }
    }

    impl Drop for Sending {
        fn drop(&mut self) {
            self.qemu_ends();
        }
    }

    /// Until all tasks of this thread, and all events that there are, have had their turns.
    async fn idle() {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
    }

    async fn heard(from: &mut (impl AsyncRead + Unpin)) -> Message {
        Message::read(from, LONGEST_ANSWER).await.unwrap().unwrap()
    }

    fn message(procedure: u32, kind: u32, body: Vec<u8>) -> Message {
        let head =
            Head { program: REMOTE, version: 1, procedure, kind, serial: SERIAL, status: OK };
        Message { head, body }
    }

    fn finish(cancelled: u32) -> Message {
        let mut writer = Writer::default();
        let name = instance(1).to_string();
        writer.texts(&[("destination_name", name.as_str())]);
        writer.bytes(b"");
        writer.number(FLAGS);
        writer.number(cancelled);
        message(FINISH, CALL, writer.bytes)
    }

    fn taken() -> Message {
        message(FINISH, REPLY, b"what it is like there".to_vec())
    }

    fn ping() -> Message {
        let mut ping = message(procedure::PING, MESSAGE, Vec::new());
        ping.head.program = KEEP_ALIVE;
        ping
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_overdue_some_time_after_the_connection_has_ended() {
        let mut sending = Sending::begin();
        let handover = std::sync::Arc::clone(&sending.handover);
        let overdue = handover.overdue();
        tokio::pin!(overdue);
        let long = SAYS_WITHIN * 1_000;
        assert!(timeout(long, &mut overdue).await.is_err(), "a guest takes as long as it takes");
        // The other host's libvirt has gone.
        sending.far = tokio::io::duplex(1).0;
        assert!(timeout(SAYS_WITHIN / 2, &mut overdue).await.is_err());
        timeout(SAYS_WITHIN, overdue).await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_has_left_when_it_is_there_and_its_qemu_has_ended() {
        let mut sending = Sending::begin();
        sending.says(&message(procedure::MIGRATE_PREPARE, CALL, Vec::new())).await;
        sending.says(&finish(0)).await;
        assert!(!sending.has_left().await);
        sending.answers(&taken()).await;
        // Signs of life say nothing.
        sending.says(&ping()).await;
        sending.answers(&ping()).await;
        assert!(!sending.has_left().await, "its QEMU is there");
        sending.qemu_ends();
        assert!(sending.has_left().await);
    }

    #[tokio::test]
    async fn a_guest_whose_qemu_has_ended_has_not_left_for_that() {
        let mut sending = Sending::begin();
        sending.says(&finish(0)).await;
        sending.qemu_ends();
        assert!(!sending.has_left().await);
        sending.answers(&taken()).await;
        assert!(sending.has_left().await, "all of it was there at its end");
    }

    #[tokio::test]
    async fn a_guest_that_is_not_taken_has_not_left() {
        let failed = Message { head: Head { status: 1, ..taken().head }, ..taken() };
        let of_another = Message { head: Head { serial: SERIAL + 1, ..taken().head }, ..taken() };
        let another = message(procedure::MIGRATE_PREPARE, REPLY, Vec::new());
        let unasked = message(FINISH, CALL, Vec::new());
        for (asked, answer) in [
            (finish(1), taken()),
            (unasked, taken()),
            (finish(0), failed),
            (finish(0), of_another),
            (finish(0), another),
        ] {
            let mut sending = Sending::begin();
            sending.says(&asked).await;
            sending.answers(&answer).await;
            sending.qemu_ends();
            assert!(!sending.has_left().await, "{asked:?} {answer:?}");
        }
    }

    #[tokio::test]
    async fn a_guest_that_libvirt_may_have_let_go_on_has_not_left() {
        // It speaks again, or has gone.
        for speaks in [true, false] {
            let mut sending = Sending::begin();
            sending.says(&finish(0)).await;
            sending.answers(&taken()).await;
            if speaks {
                sending.says(&message(procedure::CONNECT_CLOSE, CALL, Vec::new())).await;
            } else {
                sending.near.shutdown().await.unwrap();
                assert_eq!(Message::read(&mut sending.far, LONGEST_ANSWER).await.unwrap(), None);
            }
            sending.qemu_ends();
            assert!(!sending.has_left().await, "{speaks}");
        }
    }

    #[tokio::test]
    async fn what_something_else_sends_shows_nothing() {
        let handover = Handover::default();
        let (stream, _other) = UnixStream::pair().unwrap();
        // The test is no QEMU.
        handover.sends(instance(1), &stream);
        assert!(handover.sender.get().is_none());
    }
}
