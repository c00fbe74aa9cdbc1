//! The customer's identity: an age identity of X25519, and the recipient that belongs to it.

use std::{fmt, str::FromStr};

use age::secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use crate::KeyError;

/// What only the customer has: it opens every key that was wrapped for its recipient.
#[derive(Clone)]
pub struct Identity(pub(crate) age::x25519::Identity);

impl Identity {
    /// A new one.
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// The first identity in a text of the form that age's own tools write: one a line, `#`
    /// begins a comment.
    ///
    /// # Errors
    /// `NoIdentity` without one, `BadIdentity` for a line that is something else.
    pub fn read(text: &str) -> Result<Self, KeyError> {
        let mut lines = text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let (line, found) = lines.next().ok_or(KeyError::NoIdentity)?;
        found
            .parse()
            .map(Self)
            .map_err(|reason: &'static str| KeyError::BadIdentity { line, reason })
    }

    /// The line that it is kept as.
    pub fn line(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.to_string().expose_secret().to_owned())
    }

    /// What keys are wrapped for so that this identity opens them; no secret.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.recipient())
    }
}

/// Whom a key is wrapped for: the public part of an [`Identity`].
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(pub(crate) age::x25519::Recipient);

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

impl FromStr for Recipient {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        text.parse().map(Self).map_err(|_: &'static str| KeyError::BadRecipient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_from_a_commented_file_and_never_shown() {
        let identity = Identity::generate();
        let file = format!("# created\n\n  {}  \n# end", identity.line().as_str());
        let again = Identity::read(&file).unwrap();
        assert_eq!(again.recipient(), identity.recipient());
        let shown = format!("{identity:?}");
        assert!(shown.starts_with("Identity(age1") && !shown.contains("SECRET"), "{shown}");
        assert_eq!(identity.recipient().to_string().parse(), Ok(identity.recipient()));
    }

    #[test]
    fn what_is_none_is_told_without_its_text() {
        assert_eq!(Identity::read("# only\n\n").unwrap_err(), KeyError::NoIdentity);
        let error = Identity::read("\nage1secretlooking").unwrap_err();
        assert!(matches!(error, KeyError::BadIdentity { line: 2, .. }), "{error}");
        assert!(!error.to_string().contains("secretlooking"), "{error}");
        assert_eq!("age1".parse::<Recipient>().unwrap_err(), KeyError::BadRecipient);
    }
}
