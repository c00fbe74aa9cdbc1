//! What two agents say about a machine that moves: messages of JSON, each after its length.

use std::{io, time::Duration};

use fairmazon_hypervisor::Connection;
use fairmazon_model::key::Blob;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Opening;

/// Bytes of a message at most.
const MESSAGE_MOST: u32 = 4 << 20;
/// Bytes of an opening at most: whoever sends it is not judged yet.
const OPENING_MOST: u32 = 4 << 10;
/// How long whoever opens a connection may take to say what for.
const OPENING_WITHIN: Duration = Duration::from_secs(10);

/// What the agents say, in this order: each answers the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// The host that the machine leaves: this is what it is.
    Describe {
        /// The hypervisor's own text.
        description: Blob,
    },
    /// The same of a machine that is off, and is to be off at the other host. A word of its own: an
    /// agent of an earlier version, which would let it run, does not know it.
    DescribeOff {
        /// The hypervisor's own text.
        description: Blob,
    },
    /// The host that it comes to: it may come.
    Come {
        /// The hypervisor's own text.
        description: Blob,
    },
    /// The host that it comes to: it may not come, not now or not at all.
    Refuse {
        /// Why, for the log of the other host.
        why: String,
    },
    /// The host that it leaves: it is off here for good, so let it run there, or be off.
    Left,
    /// The host that it comes to: it runs, or is off there as it shall be.
    Runs,
}

/// One end of what two agents say to each other.
pub(crate) struct Conversation(Box<dyn Connection>);

impl Conversation {
    /// Over a connection that was opened for it.
    pub(crate) fn new(connection: Box<dyn Connection>) -> Self {
        Self(connection)
    }

    /// Says something.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(crate) async fn say(&mut self, word: Word) -> io::Result<()> {
        write(&mut self.0, &word).await
    }

    /// Hears the next word.
    ///
    /// # Errors
    /// When the connection has ended, or something else is said.
    pub(crate) async fn hear(&mut self) -> io::Result<Word> {
        read(&mut self.0, MESSAGE_MOST).await
    }
}

/// Says what a connection is for.
///
/// # Errors
/// When the connection has ended.
pub async fn say_opening(to: &mut Box<dyn Connection>, opening: &Opening) -> io::Result<()> {
    write(to, opening).await
}

/// Hears what a connection is for.
///
/// # Errors
/// When it is not said in time, or something else is.
pub(crate) async fn take_opening(from: &mut Box<dyn Connection>) -> io::Result<Opening> {
    tokio::time::timeout(OPENING_WITHIN, read(from, OPENING_MOST)).await?
}

async fn write<T: Serialize + Sync>(to: &mut Box<dyn Connection>, message: &T) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    to.write_u32(length).await?;
    to.write_all(&text).await?;
    to.flush().await
}

async fn read<T: DeserializeOwned>(from: &mut Box<dyn Connection>, most: u32) -> io::Result<T> {
    let length = from.read_u32().await?;
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    // As it comes: nothing is kept free for what is only announced.
    let mut text = Vec::new();
    from.take(length.into()).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Box<dyn Connection>, Box<dyn Connection>) {
        let (one, other) = tokio::io::duplex(16);
        (Box::new(one), Box::new(other))
    }

    #[tokio::test]
    async fn words_arrive_and_nonsense_is_an_error() {
        let (one, other) = pair();
        let (mut one, mut other) = (Conversation::new(one), Conversation::new(other));
        let word = Word::Describe { description: Blob(vec![0, 255, 10]) };
        let (said, heard) = tokio::join!(one.say(word.clone()), other.hear());
        said.unwrap();
        assert_eq!(heard.unwrap(), word);

        for bytes in [&[0, 0, 0, 2, b'{', b'}'][..], &[255; 8], &[0, 0, 0, 9, b'"']] {
            let (mut one, other) = pair();
            let mut other = Conversation::new(other);
            let (said, heard) =
                tokio::join!(async move { one.write_all(bytes).await }, other.hear());
            said.unwrap();
            heard.unwrap_err();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for() {
        let (_silent, mut other) = pair();
        let error = take_opening(&mut other).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
