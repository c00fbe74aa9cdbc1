//! Keys in minisign's form: the makers of images sign with one, hosts trust the other.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use minisign::{KeyPair, PublicKey as MadeKey, SecretKey, SecretKeyBox};
use minisign_verify::{PublicKey, Signature};

use crate::{ImageError, Result};

/// What ends the name of a public key's file.
const PUBLIC: &str = "pub";

/// A maker's secret key.
pub struct SigningKey(SecretKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl SigningKey {
    /// Makes a key pair: `path`, for this user only and without a password, and the public key
    /// under the same name with `.pub` added.
    ///
    /// # Errors
    /// When one of the files is there already or can't be written.
    pub fn make(path: &Path) -> Result<Self> {
        let unusable = |error: minisign::PError| key_error(path, error.to_string());
        let pair = KeyPair::generate_unencrypted_keypair().map_err(unusable)?;
        let secret = pair.sk.to_box(None).map_err(unusable)?.into_string();
        let public = pair.pk.to_box().map_err(unusable)?.into_string();
        // The public half first: with the secret one there, the pair is whole.
        for (path, text, mode) in [(public_path(path), public, 0o644), (path.into(), secret, 0o600)]
        {
            let mut options = OpenOptions::new();
            let written =
                options.write(true).create_new(true).mode(mode).open(&path).and_then(|mut file| {
                    file.write_all(text.as_bytes())?;
                    file.sync_all()
                });
            written.map_err(ImageError::file("write the key", path))?;
        }
        Ok(Self(pair.sk))
    }

    /// Reads a secret key. One that minisign has protected with a password asks for it at the
    /// terminal.
    ///
    /// # Errors
    /// When the file can't be read or holds no secret key, or the password is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read(path)?;
        let boxed = || {
            let boxed = SecretKeyBox::from_string(&text);
            boxed.map_err(|error| key_error(path, error.to_string()))
        };
        if let Ok(key) = boxed()?.into_unencrypted_secret_key() {
            return Ok(Self(key));
        }
        let key = boxed()?.into_secret_key(None);
        key.map(Self).map_err(|error| key_error(path, error.to_string()))
    }

    /// The public half, for hosts to trust.
    ///
    /// # Errors
    /// When the secret key is broken.
    pub fn trusted(&self) -> Result<TrustedKey> {
        let broken = |reason: String| key_error(Path::new("the secret key"), reason);
        let public =
            MadeKey::from_secret_key(&self.0).map_err(|error| broken(error.to_string()))?;
        public.to_base64().parse().map_err(broken)
    }

    /// A detached signature of these bytes.
    pub(crate) fn sign(&self, bytes: &[u8], comment: &str) -> std::result::Result<String, String> {
        let signed = minisign::sign(None, &self.0, bytes, Some(comment), None);
        signed.map(|signature| signature.into_string()).map_err(|error| error.to_string())
    }
}

/// A maker's public key, which is trusted here.
#[derive(Debug, Clone)]
pub struct TrustedKey {
    key: PublicKey,
    id: String,
}

impl TrustedKey {
    /// Reads a public key.
    ///
    /// # Errors
    /// When the file can't be read or holds no public key.
    pub fn read(path: &Path) -> Result<Self> {
        read(path)?.parse().map_err(|reason| key_error(path, reason))
    }

    /// Whether the signature is one by this key over these bytes.
    pub(crate) fn has_signed(&self, bytes: &[u8], signature: &Signature) -> bool {
        self.key.verify(bytes, signature, false).is_ok()
    }

    /// What minisign calls it by: 16 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// As the file `minisign.pub` has it, or its second line alone.
impl FromStr for TrustedKey {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = text.trim();
        let key = text.split_once('\n').map_or(text, |(_, key)| key.trim());
        let known = PublicKey::from_base64(key).map_err(|error| error.to_string())?;
        // What verifies does not say the id.
        let named = MadeKey::from_base64(key).map_err(|error| error.to_string())?;
        let digits = named.keynum().iter().rev().map(|byte| format!("{byte:02X}"));
        Ok(Self { key: known, id: digits.collect() })
    }
}

/// The pair of keys in a folder: `image.key` and `image.key.pub`, made where they are missing.
///
/// # Errors
/// When they are there and can't be used, or can't be made.
pub fn key_pair(folder: &Path) -> Result<(SigningKey, TrustedKey)> {
    let path = folder.join("image.key");
    let key = if path.exists() {
        SigningKey::read(&path)?
    } else {
        // One without its secret half is left from a process that was killed.
        let _ = fs::remove_file(public_path(&path));
        SigningKey::make(&path)?
    };
    let trusted = key.trusted()?;
    Ok((key, trusted))
}

fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(PUBLIC);
    name.into()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(ImageError::file("read the key", path))
}

fn key_error(path: &Path, reason: String) -> ImageError {
    ImageError::Key { path: path.into(), reason }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_pair_is_made_once_and_is_for_this_user_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.key");
        fs::write(public_path(&path), "left from a process that was killed").unwrap();
        let (key, _) = key_pair(folder.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let signature = Signature::decode(&key.sign(b"text", "comment").unwrap()).unwrap();
        let (_, again) = key_pair(folder.path()).unwrap();
        let read = TrustedKey::read(&public_path(&path)).unwrap();
        for trusted in [again, read, key.trusted().unwrap()] {
            assert!(trusted.has_signed(b"text", &signature));
            assert!(!trusted.has_signed(b"texts", &signature));
        }
        SigningKey::make(&path).unwrap_err();
        let shown = format!("{key:?}");
        assert_eq!(shown, "SigningKey(..)");
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for text in ["", "x", "untrusted comment: x\nAAAA", "x\ny\nz"] {
            fs::write(&path, text).unwrap();
            let refused = TrustedKey::read(&path).unwrap_err().to_string();
            assert!(refused.contains(&path.display().to_string()), "{refused}");
        }
        TrustedKey::read(&folder.path().join("none")).unwrap_err();
    }
}
