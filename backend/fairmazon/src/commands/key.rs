//! `fairmazon key`: the customer's identity, and the keys that hosts wait for.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use fairmazon_keys::{
    Identity, KeyError, Keyring, KnownHostsFile, VolumeKey, WrappedKey, read_identity_file,
};
use fairmazon_model::{
    id::{HostId, VolumeId},
    key::{GivenKey, KeyRequest},
    units::UnixMs,
};
use fairmazon_proto::v1::{
    self, GetWrappedKeyRequest, GiveKeysRequest, ListKeyRequestsRequest, Page,
    volumes_service_client::VolumesServiceClient,
};
use tonic::Code;
use zeroize::Zeroizing;

use crate::{
    client::{Client, ClientOptions, refused},
    commands::with_ending,
    error::CommandError,
    output,
    platform::now_ms,
};

/// How often the keys that are wanted are asked for anew when others answer at the same time.
const CONFLICTS: usize = 8;
/// What is said when an identity is made, since nobody can help once it is lost.
const WARNING: &str = "\
This file is the only thing that opens your volumes. Nobody else has it, the platform neither:
  - keep a copy in a place of its own, offline, before you make the first volume;
  - whoever has it can read your data: show it to nobody, commit it nowhere;
  - when it is lost with all its copies, your volumes can't be opened any more, by anybody.";

/// Makes and uses the customer's identity.
#[derive(Debug, Args)]
pub(crate) struct Key {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make an identity in a new file; one that is there is never touched.
    Init {
        /// Where; for `key_file` of the Terraform provider, or FAIRMAZON_KEY_FILE.
        file: PathBuf,
    },
    /// Show whom keys are wrapped for with an identity: no secret.
    Show {
        #[command(flatten)]
        identity: IdentityOptions,
    },
    /// Give the keys that hosts wait for, as an apply does: after a machine was placed anew.
    Give {
        #[command(flatten)]
        client: ClientOptions,
        #[command(flatten)]
        identity: IdentityOptions,
        /// The authority that signs for the platform's hosts [default: that of --ca-certificate].
        #[arg(long, env = "FAIRMAZON_HOST_AUTHORITY", value_name = "FILE")]
        host_authority: Option<PathBuf>,
    },
    /// Show the passphrase of a volume's LUKS header: a secret, for opening an exported volume.
    Passphrase {
        #[command(flatten)]
        identity: IdentityOptions,
        /// The volume.
        volume: VolumeId,
        /// The wrapped key of the volume, as `fairmazon key fetch` wrote it.
        wrapped: PathBuf,
    },
    /// Fetch the copy of a volume's key that is wrapped for its customer; useless without the
    /// identity.
    Fetch {
        #[command(flatten)]
        client: ClientOptions,
        /// The volume.
        volume: VolumeId,
        /// Where to.
        file: PathBuf,
    },
}

/// Which identity.
#[derive(Debug, Args)]
struct IdentityOptions {
    /// The file with the identity.
    #[arg(long, env = "FAIRMAZON_KEY_FILE", value_name = "FILE")]
    key_file: PathBuf,
}

impl Key {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self.action {
            Action::Init { file } => init(&file),
            Action::Show { identity } => {
                output::line(&identity.read()?.recipient().to_string());
                Ok(())
            }
            Action::Give { client, identity, host_authority } => {
                give(&client, &identity, host_authority).await
            }
            Action::Passphrase { identity, volume, wrapped } => {
                passphrase(&identity, volume, &wrapped)
            }
            Action::Fetch { client, volume, file } => fetch(&client, volume, &file).await,
        }
    }
}

impl IdentityOptions {
    fn read(&self) -> Result<Identity, CommandError> {
        read_identity(&self.key_file)
    }
}

/// The identity in a file.
pub(crate) fn read_identity(path: &Path) -> Result<Identity, CommandError> {
    let text = read_identity_file(path).map_err(CommandError::file("read", path))?;
    Identity::read(&text).map_err(|error| {
        CommandError::Usage(format!(
            "{}: {error}; put the file back from a copy: an identity that is made anew opens none \
             of the volumes that this one was used for",
            path.display()
        ))
    })
}

fn init(file: &Path) -> Result<(), CommandError> {
    let recipient = make_identity(file)?;
    output::line(&format!("{} is made; keys are wrapped for {recipient}", file.display()));
    output::line("");
    output::line(WARNING);
    Ok(())
}

/// Makes an identity in a new file; whom keys are wrapped for with it.
pub(crate) fn make_identity(file: &Path) -> Result<String, CommandError> {
    let identity = Identity::generate();
    let recipient = identity.recipient().to_string();
    let text = Zeroizing::new(format!(
        "# Opens your volumes; keep it secret and keep a copy.\n# public key: {recipient}\n{}\n",
        identity.line().as_str()
    ));
    let write = || -> io::Result<()> {
        let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        made.write_all(text.as_bytes())?;
        made.sync_all()
    };
    match write() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(CommandError::Usage(format!(
                "{} is there already and is not touched: it may be the only thing that opens your \
                 volumes. Give another path",
                file.display()
            )))
        }
        written => written.map_err(CommandError::file("write", file)).map(|()| recipient),
    }
}

async fn give(
    client: &ClientOptions,
    identity: &IdentityOptions,
    host_authority: Option<PathBuf>,
) -> Result<(), CommandError> {
    let mut giver = Giver::new(client, &identity.key_file, host_authority)?;
    let mut volumes = VolumesServiceClient::new(client.connect().await?);
    let (given, not_believed) = giver.give(&mut volumes, &Default::default(), None).await?;
    ended(given, &not_believed, giver.known_hosts.path())
}

/// Makes the keys that hosts wait for.
pub(crate) struct Giver {
    keyring: Keyring,
    known_hosts: KnownHostsFile,
}

impl Giver {
    /// Who gives with the identity of a file, to hosts that an authority has signed for: that of
    /// the broker's certificate unless another one is named.
    pub(crate) fn new(
        client: &ClientOptions,
        identity: &Path,
        host_authority: Option<PathBuf>,
    ) -> Result<Self, CommandError> {
        let authority = host_authority.or_else(|| client.ca_certificate().cloned());
        let authority = authority.ok_or_else(|| {
            CommandError::Usage(
                "nothing says who signs for the platform's hosts: give --host-authority".into(),
            )
        })?;
        let authorities =
            fs::read_to_string(&authority).map_err(CommandError::file("read", &authority))?;
        let known_hosts = KnownHostsFile::beside(identity);
        let path = known_hosts.path();
        let known = known_hosts.read().map_err(CommandError::file("read", path))?;
        let keyring = Keyring::new(read_identity(identity)?, authorities, &known)
            .map_err(|error| CommandError::Usage(format!("{}: {error}", path.display())))?;
        Ok(Self { keyring, known_hosts })
    }

    /// Gives all keys that hosts wait for of what is asked about, new ones unless there is one: how
    /// many, and the hosts that are not believed.
    async fn give(
        &mut self,
        volumes: &mut VolumesServiceClient<Client>,
        of: &ListKeyRequestsRequest,
        key: Option<&VolumeKey>,
    ) -> Result<(usize, BTreeMap<HostId, KeyError>), CommandError> {
        let path = self.known_hosts.path();
        let (mut of, mut not_believed) = (of.clone(), BTreeMap::new());
        let (mut rounds, mut conflicts) = (Rounds::default(), 0);
        loop {
            let (wanted, next) = wanted(volumes, of.clone()).await?;
            let mut keys = Vec::with_capacity(wanted.len());
            for request in wanted {
                let now = UnixMs(now_ms());
                let answer = match key {
                    Some(key) => self.keyring.answer_with(&request, key, now),
                    None => self.keyring.answer(&request, now),
                };
                let answer = match answer {
                    Ok(answer) => answer,
                    // The others are not to wait for this one.
                    Err(error) => {
                        not_believed.entry(request.host).or_insert(error);
                        continue;
                    }
                };
                if let Some(line) = answer.first_seen {
                    self.known_hosts.note(&line).map_err(CommandError::file("write", path))?;
                }
                let KeyRequest { volume, host, .. } = request;
                keys.push(GivenKey { volume, host, key: answer.key }.into());
            }
            let number = keys.len();
            if number > 0 {
                let idempotency_key = crate::keys::idempotency()?;
                match volumes.give_keys(GiveKeysRequest { keys, idempotency_key }).await {
                    Ok(_) => rounds.given += number,
                    // An apply gave one first, or a machine was placed elsewhere: asked anew.
                    Err(status) if status.code() == Code::Aborted && conflicts < CONFLICTS => {
                        conflicts += 1;
                        continue;
                    }
                    Err(status) => return Err(refused("unable to give the keys")(status)),
                }
            }
            let Some(token) = rounds.page_after(next) else {
                return Ok((rounds.given, not_believed));
            };
            if token.is_empty() {
                not_believed.clear();
            }
            of.page = Some(Page { size: 0, token });
        }
    }

    /// Gives the key of one volume: this one, or a new one.
    pub(crate) async fn give_of(
        &mut self,
        volumes: &mut VolumesServiceClient<Client>,
        volume: &str,
        key: Option<&VolumeKey>,
    ) -> Result<(), CommandError> {
        let of = ListKeyRequestsRequest { volume_id: volume.to_owned(), ..Default::default() };
        let (given, not_believed) = self.give(volumes, &of, key).await?;
        if not_believed.is_empty() {
            return Ok(());
        }
        ended(given, &not_believed, self.known_hosts.path())
    }
}

/// The pages of the wanted keys, over and over until there is nothing more to give.
#[derive(Debug, Default)]
struct Rounds {
    /// Keys that were given by now.
    given: usize,
    /// And at the end of the round before.
    before: usize,
}

impl Rounds {
    /// The page to ask for after one that says which is `next`; none after a whole round in which
    /// nothing was given.
    fn page_after(&mut self, next: String) -> Option<String> {
        if next.is_empty() {
            if self.given == self.before {
                return None;
            }
            self.before = self.given;
        }
        Some(next)
    }
}

/// How giving ends: with an error when hosts were given no key.
fn ended(
    given: usize,
    not_believed: &BTreeMap<HostId, KeyError>,
    known_hosts: &Path,
) -> Result<(), CommandError> {
    if not_believed.is_empty() {
        output::line(&format!("{given} keys given; no host waits for one"));
        return Ok(());
    }
    output::line(&format!("{given} keys given"));
    let reasons: Vec<_> = not_believed.values().map(|error| format!("\n  {error}")).collect();
    Err(CommandError::Usage(format!(
        "hosts that wait for keys were given none:{}\nthe hosts that are known stand in {}",
        reasons.concat(),
        known_hosts.display()
    )))
}

/// A page of the keys that are wanted, and the token of the next one.
async fn wanted(
    volumes: &mut VolumesServiceClient<Client>,
    of: ListKeyRequestsRequest,
) -> Result<(Vec<KeyRequest>, String), CommandError> {
    let what = "unable to ask which keys hosts wait for";
    let answer = volumes.list_key_requests(of).await;
    let page = answer.map_err(refused(what))?.into_inner();
    let read = |request: v1::KeyRequest| request.try_into();
    let requests = page.requests.into_iter().map(read).collect::<Result<_, _>>();
    Ok((requests.map_err(CommandError::refused(what))?, page.next_page_token))
}

async fn fetch(client: &ClientOptions, volume: VolumeId, file: &Path) -> Result<(), CommandError> {
    let mut volumes = VolumesServiceClient::new(client.connect().await?);
    let request = GetWrappedKeyRequest { volume_id: volume.to_string() };
    let answer = volumes.get_wrapped_key(request).await;
    let key = answer.map_err(refused(format!("unable to fetch the key of {volume}")))?.into_inner();
    keep(file, &key.wrapped, &key.fingerprint)?;
    let Some(next) = key.next else { return Ok(()) };
    let beside = with_ending(file, ".next");
    keep(&beside, &next.wrapped, &next.fingerprint)?;
    output::line(
        "the key is being exchanged: one of the two opens the volume, in the end the second",
    );
    Ok(())
}

fn keep(file: &Path, wrapped: &[u8], fingerprint: &str) -> Result<(), CommandError> {
    fairmazon_broker::write_private(file, wrapped).map_err(CommandError::file("write", file))?;
    output::line(&format!("{}: the wrapped key {fingerprint}", file.display()));
    Ok(())
}

fn passphrase(
    identity: &IdentityOptions,
    volume: VolumeId,
    wrapped: &Path,
) -> Result<(), CommandError> {
    let bytes = fs::read(wrapped).map_err(CommandError::file("read", wrapped))?;
    let key = WrappedKey::from_bytes(bytes)
        .open(volume, &identity.read()?)
        .map_err(|error| CommandError::Usage(error.to_string()))?;
    output::line(&key.passphrase());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_a_key_to_give_does_not_end_a_round() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.page_after("b".into()).as_deref(), Some("b"), "no host was believed");
        rounds.given += 1;
        assert_eq!(rounds.page_after(String::new()).as_deref(), Some(""), "from the beginning");
        assert_eq!(rounds.page_after("b".into()).as_deref(), Some("b"));
        assert_eq!(rounds.page_after(String::new()), None);
    }

    #[test]
    fn an_identity_is_made_once_and_for_the_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let recipient = make_identity(&file).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(Identity::read(&text).unwrap().recipient().to_string(), recipient);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = make_identity(&file).unwrap_err().to_string();
        assert!(again.contains("is not touched"), "{again}");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}
