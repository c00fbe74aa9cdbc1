//! What a resource keeps for itself beside its state: the user never sees it, the client stores
//! it untouched.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value as Json};

use crate::{Diagnostics, Explain as _};

/// Named values that the client keeps for the provider. Not encrypted: no place for secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Private {
    entries: Map<String, Json>,
    /// Bytes that another implementation of the provider left; kept as they are.
    foreign: Option<Vec<u8>>,
}

impl Private {
    /// The value of this name, when there is one of this form.
    #[must_use]
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.entries.get(name)?.clone()).ok()
    }

    /// Keeps a value.
    ///
    /// # Errors
    /// When it has no JSON form.
    pub fn set(&mut self, name: &str, value: &impl Serialize) -> Result<(), Diagnostics> {
        let value = serde_json::to_value(value).explain("Unable to keep private state")?;
        self.entries.insert(name.to_owned(), value);
        self.foreign = None;
        Ok(())
    }

    /// Forgets a value.
    pub fn remove(&mut self, name: &str) {
        self.entries.remove(name);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        match serde_json::from_slice(bytes) {
            Ok(entries) => Self { entries, foreign: None },
            Err(_) => Self { entries: Map::new(), foreign: Some(bytes.to_vec()) },
        }
    }

    pub(crate) fn encode(self) -> bytes::Bytes {
        match self.foreign {
            Some(bytes) => bytes.into(),
            None if self.entries.is_empty() => bytes::Bytes::new(),
            None => Json::Object(self.entries).to_string().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let mut private = Private::default();
        assert!(private.clone().encode().is_empty());
        private.set("revision", &7_u64).expect("a number has a form");
        let back = Private::decode(&private.encode());
        assert_eq!(back.get::<u64>("revision"), Some(7));
        assert_eq!(back.get::<String>("revision"), None);
        assert_eq!(back.get::<u64>("else"), None);
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let private = Private::decode(b"\x00\x01");
        assert_eq!(private.encode(), &b"\x00\x01"[..]);
    }
}
