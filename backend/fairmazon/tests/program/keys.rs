//! A host that joins a broker, and the keys of the volumes on it, from command to command.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
};

use fairmazon_keys::VolumeKey;
use fairmazon_proto::v1::{self, GetVolumeRequest, volumes_service_client::VolumesServiceClient};
use tempfile::TempDir;

use crate::{
    dev::create_and_wait,
    process::{Environment, Running, ask, client, own_broker, run},
};

/// Without a guest there is nothing to prove.
const JOIN: [&str; 4] = ["host", "join", "--hypervisor", "simulated"];

/// A broker and hosts that have joined it, each in a process of its own.
pub(crate) struct Platform {
    folder: TempDir,
    broker: Running,
    pub(crate) agents: Vec<Running>,
    /// The customer's.
    pub(crate) customer: Environment,
    operator: Environment,
    hosts: Vec<Host>,
}

/// A host that has joined.
struct Host {
    name: &'static str,
    id: String,
    /// Of its sealing key, as it was shown when it joined.
    fingerprint: String,
}

impl Platform {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let unproven = ["--unproven-hosts", "as-offered"];
        let arguments = [&own_broker(&data)[..], &unproven].concat();
        let log = folder.path().join("broker.log");
        let mut broker = Running::start(&arguments, &verbose(), &log);
        let token_file = broker.told("the platform's token is in ");
        let endpoint = broker.told("listening on ");
        let as_token = |token: &str| {
            let authority = data.join("tls/ca.pem").display().to_string();
            Environment::from([
                ("FAIRMAZON_ENDPOINT".into(), endpoint.clone()),
                ("FAIRMAZON_TOKEN".into(), token.trim().into()),
                ("FAIRMAZON_CA_CERTIFICATE".into(), authority),
            ])
        };
        let platform = as_token(&fs::read_to_string(token_file).unwrap());
        let opened = ask(&["account", "create", "--name", "customer"], &platform);
        let customer = as_token(line(&opened, "token: "));
        let opened = ask(&["account", "create", "--name", "hosts"], &platform);
        let (account, role) = (line(&opened, "id: "), "host-operator");
        let create = ["token", "create", "--name", "hosts", "--role", role, "--account", account];
        let operator = as_token(&ask(&create, &platform));
        let (agents, hosts) = (Vec::new(), Vec::new());
        let mut made = Self { folder, broker, agents, customer, operator, hosts };
        made.add_host("one");
        made
    }

    /// Registers a host that has room for two machines, joins it and starts its agent.
    pub(crate) fn add_host(&mut self, name: &'static str) {
        let offer = format!(
            "host register --name {name} --site muc1 --town Munich --country DE --region \
             eu-central --latitude 48.1 --longitude 11.6 --vcpus 8 --memory-mib 16384 --storage \
             standard=10"
        );
        let registered = ask(&offer.split_whitespace().collect::<Vec<_>>(), &self.operator);
        fs::write(self.path(&format!("{name}.token")), line(&registered, "token: ")).unwrap();
        let joined = run(&JOIN, &self.of_host(name));
        assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
        let said = String::from_utf8(joined.stdout).unwrap();
        let driver = fs::read_to_string(self.path(name).join("driver")).unwrap();
        assert_eq!(driver, "simulated\n", "the agent keeps it");
        let fingerprint = said.lines().find(|line| line.starts_with("SHA256:")).unwrap();
        let id = line(&registered, "id: ").to_owned();
        self.hosts.push(Host { name, id, fingerprint: fingerprint.to_owned() });
        self.start_agent(self.hosts.len() - 1);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The variables of a host's own commands.
    fn of_host(&self, name: &str) -> Environment {
        let mut environment = verbose();
        let authority = self.customer["FAIRMAZON_CA_CERTIFICATE"].clone();
        let token = self.path(&format!("{name}.token"));
        environment.extend([
            ("FAIRMAZON_BROKER".into(), self.customer["FAIRMAZON_ENDPOINT"].clone()),
            ("FAIRMAZON_CA_CERTIFICATE".into(), authority),
            ("FAIRMAZON_HOST_STATE".into(), self.path(name).display().to_string()),
            ("FAIRMAZON_HOST_TOKEN_FILE".into(), token.display().to_string()),
        ]);
        environment
    }

    /// Starts the agent of a host without a token, and waits until the broker has heard of it.
    pub(crate) fn start_agent(&mut self, index: usize) {
        let Host { name, id, .. } = &self.hosts[index];
        let mut environment = self.of_host(name);
        environment.remove("FAIRMAZON_HOST_TOKEN_FILE");
        let arguments = ["host", "--hypervisor", "simulated", "--host-id", id];
        let log = self.path(&format!("{name}.log"));
        let mut agent = Running::start(&arguments, &environment, &log);
        agent.told("the agent of ");
        self.agents.insert(index, agent);
        let is_connected = |line: &str| line.starts_with(id) && line.contains("\tconnected\t");
        while !ask(&["host", "list"], &self.operator).lines().any(is_connected) {}
    }

    /// The customer's variables with an identity.
    pub(crate) fn with_identity(&self, file: &Path) -> Environment {
        let mut environment = self.customer.clone();
        environment.insert("FAIRMAZON_KEY_FILE".into(), file.display().to_string());
        environment
    }

    async fn volume(&self, id: &str) -> v1::Volume {
        let mut volumes = VolumesServiceClient::new(client(&self.customer).await);
        volumes.get_volume(GetVolumeRequest { id: id.into() }).await.unwrap().into_inner()
    }

    pub(crate) fn end(self) {
        for agent in self.agents {
            assert!(agent.end().success());
        }
        assert!(self.broker.end().success());
    }
}

fn verbose() -> Environment {
    Environment::from([("FAIRMAZON_LOG".into(), "trace".into())])
}

/// The rest of the line that begins so.
fn line<'a>(text: &'a str, beginning: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(beginning)).unwrap()
}

/// What a command says that must fail.
pub(crate) fn fail(arguments: &[&str], environment: &Environment) -> String {
    let output = run(arguments, environment);
    assert!(!output.status.success(), "{arguments:?} must fail");
    String::from_utf8(output.stderr).unwrap()
}

/// The key that a passphrase is of.
fn key_of(passphrase: &str) -> [u8; 32] {
    let bytes: Vec<_> = (0..32)
        .map(|at| u8::from_str_radix(&passphrase[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

#[test]
fn an_agent_has_its_memory_locked_or_says_that_it_may_not() {
    let platform = Platform::start();
    let of_process = |id: u32, name: &str| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        line(&status, name).trim().trim_end_matches(" kB").to_owned()
    };
    let number = |name: &str| of_process(platform.agents[0].id(), name).parse::<u64>().unwrap();
    let log = fs::read_to_string(platform.path("one.log")).unwrap();
    if log.contains("unable to lock this process's memory") {
        let may = u64::from_str_radix(&of_process(std::process::id(), "CapEff:"), 16).unwrap();
        assert_eq!(may & (1 << 14), 0, "with CAP_IPC_LOCK it may");
        assert_eq!(number("VmLck:"), 0);
    } else {
        assert!(number("VmLck:") > 0, "all that it maps counts as locked");
        assert_eq!(number("VmSwap:"), 0);
    }
    platform.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_joins_and_gets_the_keys_of_its_volumes() {
    let mut platform = Platform::start();
    let file = platform.path("customer.key");
    let init = ["key", "init", file.to_str().unwrap()];
    let made = ask(&init, &Environment::new());
    let (environment, text) = (platform.with_identity(&file), fs::read(&file).unwrap());
    let recipient = ask(&["key", "show"], &environment);
    assert!(recipient.starts_with("age1") && made.contains(recipient.trim()), "{made}");
    for told in ["keep a copy", "before you make the first volume", "can't be opened any more"] {
        assert!(made.contains(told), "what its loss means is told before it can happen: {made}");
    }
    assert!(fail(&init, &Environment::new()).contains("is not touched"));
    assert_eq!(fs::read(&file).unwrap(), text);

    let machine = create_and_wait(&client(&platform.customer).await, "first").await;
    let volume = machine.boot_volume_id.as_str();
    let wrapped = platform.path("wrapped");
    let fetch = ["key", "fetch", volume, wrapped.to_str().unwrap()];
    assert!(fail(&fetch, &environment).contains("no key yet"));
    assert!(ask(&["key", "give"], &environment).starts_with("1 keys given"));
    assert!(ask(&["key", "give"], &environment).starts_with("0 keys given"));
    let known = fs::read_to_string(platform.path("customer.key.hosts")).unwrap();
    let of_one = format!("{} {}\n", platform.hosts[0].id, platform.hosts[0].fingerprint);
    assert_eq!(known, of_one);

    let fingerprint = platform.volume(volume).await.key_fingerprint;
    assert!(ask(&fetch, &environment).contains(&fingerprint));
    let open = ["key", "passphrase", volume, wrapped.to_str().unwrap()];
    let passphrase = ask(&open, &environment);
    let key = VolumeKey::new(&key_of(passphrase.trim()));
    assert_eq!(key.fingerprint(), fingerprint);
    let other = platform.path("other.key");
    ask(&["key", "init", other.to_str().unwrap()], &Environment::new());
    let said = fail(&open, &platform.with_identity(&other));
    assert!(said.contains("does not open with this identity"), "{said}");

    // A host that shows another key than it is known with gets none; others do not wait for it.
    let second = create_and_wait(&client(&platform.customer).await, "second").await;
    platform.add_host("two");
    let third = create_and_wait(&client(&platform.customer).await, "third").await;
    let changed = format!("{} SHA256:{}\n", platform.hosts[0].id, "A".repeat(43));
    fs::write(platform.path("customer.key.hosts"), &changed).unwrap();
    let said = fail(&["key", "give"], &environment);
    assert!(said.contains(&platform.hosts[0].id) && said.contains("has changed"), "{said}");
    assert_eq!(platform.volume(&second.boot_volume_id).await.key_fingerprint, "");
    assert_ne!(platform.volume(&third.boot_volume_id).await.key_fingerprint, "");
    let of_two = format!("{} {}\n", platform.hosts[1].id, platform.hosts[1].fingerprint);
    let known = fs::read_to_string(platform.path("customer.key.hosts")).unwrap();
    assert_eq!(known, changed + &of_two);
    fs::write(platform.path("customer.key.hosts"), of_one + &of_two).unwrap();
    assert!(ask(&["key", "give"], &environment).starts_with("1 keys given"));
    assert_ne!(platform.volume(&second.boot_volume_id).await.key_fingerprint, fingerprint);

    // The token is used up; that it is refused costs the host nothing.
    let of_host = platform.of_host("one");
    assert!(fail(&JOIN, &of_host).contains("another host agent"), "one runs there");
    assert!(platform.agents.remove(0).end().success());
    let certificate = fs::read(platform.path("one/host.pem")).unwrap();
    let said = fail(&JOIN, &of_host);
    assert!(said.contains("revoked"), "{said}");
    assert_eq!(fs::read(platform.path("one/host.pem")).unwrap(), certificate);
    for secret in ["one/host.key", "one/sealing.key", "customer.key"] {
        let mode = fs::metadata(platform.path(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    platform.start_agent(0);
    platform.end();
}

/// What is searched for: names and texts.
struct Searched(Vec<(&'static str, Vec<u8>)>);

impl Searched {
    /// The names of those that are in the bytes.
    fn found_in(&self, bytes: &[u8]) -> BTreeSet<&'static str> {
        let mut begins = [false; 256];
        for (_, text) in &self.0 {
            begins[usize::from(text[0])] = true;
        }
        let mut found = BTreeSet::new();
        for (at, byte) in bytes.iter().enumerate() {
            if begins[usize::from(*byte)] {
                let here = self.0.iter().filter(|(_, text)| bytes[at..].starts_with(text));
                found.extend(here.map(|(name, _)| *name));
            }
        }
        found
    }

    /// The same for the files of a folder and of those in it, by file.
    fn found_below(&self, folder: &Path) -> BTreeMap<PathBuf, BTreeSet<&'static str>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(self.found_below(&path));
            } else {
                // A file of the store may have gone meanwhile.
                let bytes = fs::read(&path).unwrap_or_default();
                found.insert(path, self.found_in(&bytes));
            }
        }
        found
    }

    /// The same for all that is in the memory of a process.
    fn found_in_memory(&self, process: u32) -> BTreeSet<&'static str> {
        const CHUNK: usize = 4 << 20;
        let longest = self.0.iter().map(|(_, text)| text.len()).max().unwrap();
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        let memory = File::open(format!("/proc/{process}/mem")).unwrap();
        let (mut bytes, zero) = (vec![0; CHUNK + longest], vec![0; CHUNK + longest]);
        let mut found = BTreeSet::new();
        for map in maps.lines() {
            let mut fields = map.split_whitespace();
            let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
            if !rights.starts_with('r') {
                continue;
            }
            let (from, to) = range.split_once('-').unwrap();
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            let (mut at, to) = (hex(from), hex(to));
            while at < to {
                let length = usize::try_from(to - at).unwrap_or(usize::MAX).min(bytes.len());
                // What the kernel keeps for itself can't be read.
                let read = memory.read_at(&mut bytes[..length], at).unwrap_or(0);
                if bytes[..read] != zero[..read] {
                    found.extend(self.found_in(&bytes[..read]));
                }
                at += CHUNK as u64;
            }
        }
        found
    }
}

/// The forms in which a key may have got somewhere.
fn forms(key: &[u8; 32], passphrase: &str, identity: &str) -> Searched {
    let numbers = |between: &str| key.map(|byte| byte.to_string()).join(between).into_bytes();
    Searched(vec![
        ("the key", key.to_vec()),
        ("the key in hexadecimal", passphrase.as_bytes().to_vec()),
        ("the key in capital hexadecimal", passphrase.to_uppercase().into_bytes()),
        ("the key as a list", numbers(",")),
        ("the key as a list for people", numbers(", ")),
        ("the customer's identity", identity.as_bytes().to_vec()),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_nowhere_but_with_its_customer() {
    let platform = Platform::start();
    // All else of the platform is in its folder, which is searched.
    let own = tempfile::tempdir().unwrap();
    let (file, wrapped) = (own.path().join("key"), own.path().join("wrapped"));
    ask(&["key", "init", file.to_str().unwrap()], &Environment::new());
    let environment = platform.with_identity(&file);
    let machine = create_and_wait(&client(&platform.customer).await, "first").await;
    ask(&["key", "give"], &environment);
    let sealed = Searched(vec![("sealed", b"\"sealed\":\"".to_vec())]);
    while !sealed.found_below(&platform.path("one")).values().any(|found| !found.is_empty()) {}

    let volume = machine.boot_volume_id.as_str();
    ask(&["key", "fetch", volume, wrapped.to_str().unwrap()], &environment);
    let open = ["key", "passphrase", volume, wrapped.to_str().unwrap()];
    let passphrase = ask(&open, &environment);
    let key = key_of(passphrase.trim());
    let identity = fs::read_to_string(&file).unwrap();
    let identity = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    let secrets = forms(&key, passphrase.trim(), identity);
    // Searching finds what is there.
    let fingerprint = platform.volume(volume).await.key_fingerprint;
    assert_eq!(VolumeKey::new(&key).fingerprint(), fingerprint);
    let told = Searched(vec![("fingerprint", fingerprint.into_bytes())]);
    let of = |searched: &Searched, process| searched.found_in_memory(process).len();
    let (broker, agent) = (platform.broker.id(), platform.agents[0].id());
    assert_eq!(of(&told, broker), 1, "the broker's memory has the fingerprint");
    // The broker tells hosts no fingerprint: the agent has it from the key, so it was opened.
    while of(&told, agent) == 0 {}
    let in_store = told.found_below(&platform.path("data"));
    assert!(in_store.values().any(|found| !found.is_empty()), "{in_store:?}");
    let calls = Searched(vec![("calls", b"VolumesService/GiveKeys".to_vec())]);
    assert_eq!(calls.found_in(&fs::read(platform.path("broker.log")).unwrap()).len(), 1);
    assert!(fs::metadata(platform.path("one.log")).unwrap().len() > 0);

    let none = BTreeSet::new();
    assert_eq!(secrets.found_in_memory(broker), none, "the broker's memory");
    // The simulator keeps no key, so what was opened has been wiped.
    assert_eq!(secrets.found_in_memory(agent), none, "the agent's memory");
    let searched = |folder: &Path| {
        let found = secrets.found_below(folder);
        assert!(found.len() > 10, "{found:?}");
        found.into_iter().filter(|(_, found)| !found.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(searched(platform.folder.path()), []);
    let Platform { folder, agents, broker, .. } = platform;
    for agent in agents {
        assert!(agent.end().success());
    }
    assert!(broker.end().success());
    assert_eq!(searched(folder.path()), [], "after the end");
}

#[test]
fn a_host_that_joins_anew_has_another_key_for_tls_and_the_same_for_seals() {
    let mut platform = Platform::start();
    let (id, fingerprint) = (platform.hosts[0].id.clone(), platform.hosts[0].fingerprint.clone());
    let key = |platform: &Platform| fs::read(platform.path("one/host.key")).unwrap();
    let first = key(&platform);
    let rotated = ask(&["host", "rotate-token", &id], &platform.operator);
    assert!(platform.agents.remove(0).end().success());
    fs::write(platform.path("one.token"), "fmz_wrong").unwrap();
    assert!(!run(&JOIN, &platform.of_host("one")).status.success());
    assert!(key(&platform) == first, "a token that is refused changes nothing");
    fs::write(platform.path("one.token"), line(&rotated, "token: ")).unwrap();
    let joined = ask(&JOIN, &platform.of_host("one"));
    assert!(joined.contains(&fingerprint), "{joined}");
    let anew = key(&platform);
    assert!(anew != first, "whoever knows the first key has nothing of it");
    let again = run(&JOIN, &platform.of_host("one"));
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && said.contains("start its agent"), "{said}");
    assert!(key(&platform) == anew, "so is a token that was used");
    platform.start_agent(0);
}
