//! Channels that are open and stand still when what led to them counts no more: they end at once,
//! at the host that hears of it, whether the other hears of it or not.

use tokio::{
    io::{AsyncWriteExt, copy, sink},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::*;

const TERM: Duration = Duration::from_millis(TERM_MS);
/// Longer than anything takes that waits for nothing.
const AT_ONCE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Unopened,
    Stands,
    EndedAt(End),
}

/// What the broker of one host tells it.
type Telling = fn(&Pair);

/// A machine on its way, whose channel is open at both hosts and carries nothing. Neither host hears
/// of the other's end of it.
struct Standing {
    pair: Pair,
    channel: watch::Receiver<Channel>,
    /// From when on the hosts hear of each other's end.
    heard: CancellationToken,
}

impl Standing {
    async fn begin() -> Self {
        let (told, mut channel) = watch::channel(Channel::Unopened);
        let heard = CancellationToken::new();
        let hears = heard.clone();
        let stands = move |ours, theirs| stand(ours, theirs, told.clone(), hears.clone());
        let led = |peers| Led(peers, AtomicUsize::new(0), stands);
        let pair = Pair::with_certificates_by(led).await;
        pair.expect_from(1, &["first"]);
        pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
        pair.send_to(2, &["second"]);
        let stands = channel.wait_for(|channel| *channel == Channel::Stands);
        timeout(TERM, stands).await.unwrap().unwrap();
        // It would stand for as long as nobody is told anything else.
        tokio::time::sleep(10 * TERM).await;
        assert_eq!(*channel.borrow(), Channel::Stands);
        assert_eq!(pair.seen(&pair.from).await, Some((RunState::Running, Halt::Leaving)));
        assert_eq!(pair.seen(&pair.to).await, Some((RunState::Incoming, Halt::Arriving)));
        Self { pair, channel, heard }
    }

    /// That it ends at this host while it stands, and nothing of the machine is left at the one that
    /// it was to come to; it runs where it was.
    async fn ends_at(&mut self, end: End) {
        let ended = self.channel.wait_for(|channel| *channel != Channel::Stands);
        let ended = timeout(AT_ONCE, ended).await.map(|ended| *ended.unwrap());
        assert_eq!(ended, Ok(Channel::EndedAt(end)));
        tokio::time::sleep(AT_ONCE).await;
        self.is_off_there().await;
        self.heard.cancel();
        tokio::time::sleep(10 * TERM).await;
        self.is_off_there().await;
        assert_eq!(self.pair.from.world.ledger().starts(instance(1)), 1);
        self.pair.is_right();
    }

    async fn is_off_there(&self) {
        let here = self.pair.seen(&self.pair.from).await;
        assert_eq!(here.map(|(run, _)| run), Some(RunState::Running));
        let there = self.pair.seen(&self.pair.to).await;
        assert!(there.is_none_or(|(run, _)| matches!(run, RunState::Off(_))), "{there:?}");
    }
}

/// Lets through what the channel is for and nothing after that, until an end of it is closed.
async fn stand(
    mut ours: DuplexStream,
    mut theirs: Box<dyn Connection>,
    told: watch::Sender<Channel>,
    heard: CancellationToken,
) {
    let length = ours.read_u32().await.unwrap();
    theirs.write_u32(length).await.unwrap();
    copy(&mut (&mut ours).take(length.into()), &mut theirs).await.unwrap();
    theirs.flush().await.unwrap();
    told.send_replace(Channel::Stands);
    let (mut nobody, mut nowhere) = (sink(), sink());
    let end = tokio::select! {
        _ = copy(&mut ours, &mut nobody) => End::Source,
        _ = copy(&mut theirs, &mut nowhere) => End::Destination,
    };
    told.send_replace(Channel::EndedAt(end));
    heard.cancelled().await;
}

#[tokio::test(start_paused = true)]
async fn an_open_channel_ends_at_whichever_host_hears_that_the_other_has_no_certificate_left() {
    for end in [End::Source, End::Destination] {
        let mut standing = Standing::begin().await;
        match end {
            End::Source => standing.pair.send_to(3, &[]),
            End::Destination => standing.pair.expect_from(2, &[]),
        }
        standing.ends_at(end).await;
        // It has another one: what was ended is begun anew.
        standing.pair.expect_from(3, &["first"]);
        standing.pair.send_to(4, &["second"]);
        standing.pair.to.broker.sees(|seen| runs(seen, &landed())).await;
        standing.pair.is_right();
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_channel_stays_while_a_certificate_counts() {
    let standing = Standing::begin().await;
    standing.pair.send_to(3, &["second", "next of the second"]);
    standing.pair.expect_from(2, &["first", "next of the first"]);
    tokio::time::sleep(10 * TERM).await;
    assert_eq!(*standing.channel.borrow(), Channel::Stands);
}

#[tokio::test(start_paused = true)]
async fn an_open_channel_ends_at_whichever_host_hears_that_the_machine_does_not_move() {
    let told: [(End, Telling); 3] = [
        (End::Source, |pair| pair.from.broker.desire(set(3, vec![machine(1)]))),
        (End::Destination, |pair| pair.to.broker.desire(arrivals(2, false))),
        // Nor is it known there any more.
        (End::Destination, |pair| pair.to.broker.desire(set(2, Vec::new()))),
    ];
    for (end, tell) in told {
        let mut standing = Standing::begin().await;
        tell(&standing.pair);
        standing.ends_at(end).await;
    }
}
