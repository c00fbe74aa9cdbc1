//! Serial consoles on their way to their customers.

use fairmazon_model::{
    DomainError,
    console::{CONSOLE_MAX, ConsoleRead, ReadConsole, ReadId},
};

use super::id;
use crate::host::v1;

impl From<&ReadConsole> for v1::ReadConsole {
    fn from(asked: &ReadConsole) -> Self {
        Self { read_id: asked.read.0.to_vec(), instance_id: asked.instance.to_string() }
    }
}

impl TryFrom<v1::ReadConsole> for ReadConsole {
    type Error = DomainError;

    fn try_from(message: v1::ReadConsole) -> Result<Self, DomainError> {
        Ok(Self {
            read: ReadId::read(&message.read_id)?,
            instance: id("instance_id", &message.instance_id)?,
        })
    }
}

impl From<ConsoleRead> for v1::ConsoleRead {
    fn from(read: ConsoleRead) -> Self {
        let read_id = read.read.0.to_vec();
        match read.last {
            Ok(mut last) => {
                last.drain(..last.len().saturating_sub(CONSOLE_MAX));
                Self { read_id, last, failure: String::new() }
            }
            Err(failure) => Self { read_id, last: Vec::new(), failure },
        }
    }
}

impl TryFrom<v1::ConsoleRead> for ConsoleRead {
    type Error = DomainError;

    fn try_from(message: v1::ConsoleRead) -> Result<Self, DomainError> {
        let v1::ConsoleRead { read_id, mut last, failure } = message;
        last.drain(..last.len().saturating_sub(CONSOLE_MAX));
        let last = if failure.is_empty() { Ok(last) } else { Err(failure) };
        Ok(Self { read: ReadId::read(&read_id)?, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_console_arrives_and_so_does_a_failure() {
        let read = ReadId([7; 16]);
        let mut said = vec![b'a'; CONSOLE_MAX];
        said.extend_from_slice(b"the end");
        let sent = v1::ConsoleRead::from(ConsoleRead { read, last: Ok(said.clone()) });
        assert_eq!(sent.last.len(), CONSOLE_MAX);
        // A host that sends more is believed no more of it.
        let sent = v1::ConsoleRead { last: said, ..sent };
        let got = ConsoleRead::try_from(sent).unwrap().last.unwrap();
        assert!(got.len() == CONSOLE_MAX && got.ends_with(b"the end"));
        let failed = ConsoleRead { read, last: Err("it is not there".into()) };
        let sent = v1::ConsoleRead::from(failed.clone());
        assert_eq!(ConsoleRead::try_from(sent).unwrap(), failed);
        let odd = v1::ConsoleRead { read_id: vec![1; 15], ..Default::default() };
        assert_eq!(ConsoleRead::try_from(odd).unwrap_err().field.as_deref(), Some("read_id"));
    }
}
