//! What another host's libvirtd may say to this host's: a connection to a libvirtd is power over
//! its whole host, so no more than the calls of a migration of one machine passes, and those with
//! this host's own text of what the machine is. Anything else ends the connection.

use std::{collections::BTreeSet, io};

use fairmazon_hypervisor::Connection;
use fairmazon_model::id::InstanceId;
use roxmltree::Document;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
};
use virt_sys as sys;

use super::{
    Channel, FLAGS,
    calls::{Arguments, LONGEST_ANSWER, LONGEST_CALL, procedure},
    rpc::{CALL, Head, KEEP_ALIVE, MESSAGE, Message, OK, REMOTE, REPLY, Writer, Xdr},
    tree::{self, Tree, has_declarations},
};
use crate::xml;

/// What libvirt keeps to itself of how a machine moves, and does not tell the next host's.
const OF_THE_SOURCE: u32 = sys::VIR_MIGRATE_ABORT_ON_ERROR | sys::VIR_MIGRATE_AUTO_CONVERGE;
/// The version of both programs.
const VERSION: u32 = 1;

/// What a libvirtd calls itself.
const SYSTEM: &str = "qemu:///system";
/// The parts of what libvirts tell each other about a migration. None of them can describe another
/// machine; the one that could, `domain`, is not among them.
const COOKIE: [&str; 9] =
    ["name", "uuid", "hostname", "hostuuid", "feature", "nbd", "cpu", "capabilities", "statistics"];

/// What may be said in the migration of one machine.
#[derive(Debug)]
pub(super) struct Rules {
    instance: InstanceId,
    /// The machine as this host has described it.
    domain: String,
    same: Tree,
    /// Its disks that come along.
    disks: BTreeSet<String>,
}

/// Why something was not let through.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refusal(String);

impl Refusal {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl Rules {
    /// The rules for a machine that is described so; none when that is not XML.
    pub(super) fn new(
        instance: InstanceId,
        domain: String,
        disks: BTreeSet<String>,
    ) -> Option<Self> {
        let same = shape(&domain)?;
        Some(Self { instance, domain, same, disks })
    }

    /// The machine's devices.
    pub(super) fn devices(&self) -> Option<Tree> {
        Tree::read_child(&self.domain, "devices")
    }

    /// What this host's libvirtd is told when the other's says this.
    fn judge(&self, message: Message) -> Result<Message, Refusal> {
        let Head { program, version, procedure, kind, status, .. } = message.head;
        if version != VERSION || status != OK {
            return Err(Refusal::new("a message that is no call"));
        }
        let body = &message.body;
        let allowed = match (program, kind, procedure) {
            (KEEP_ALIVE, MESSAGE, procedure::PING | procedure::PONG)
            | (
                REMOTE,
                CALL,
                procedure::CONNECT_CLOSE
                | procedure::AUTH_LIST
                | procedure::CONNECT_REGISTER_CLOSE_CALLBACK
                | procedure::CONNECT_UNREGISTER_CLOSE_CALLBACK,
            ) => body.is_empty(),
            (REMOTE, CALL, procedure::CONNECT_SUPPORTS_FEATURE) => body.len() == 4,
            (REMOTE, CALL, procedure::CONNECT_OPEN) => opens_the_system(body),
            (REMOTE, CALL, procedure::MIGRATE_PREPARE | procedure::MIGRATE_FINISH) => {
                let body = self.migrate(procedure == procedure::MIGRATE_FINISH, body)?;
                return Ok(Message { body, ..message });
            }
            _ => {
                let which = format!("program {program:#x}, kind {kind}, procedure {procedure}");
                return Err(Refusal::new(format!("what is not part of a migration ({which})")));
            }
        };
        if allowed {
            Ok(message)
        } else {
            Err(Refusal::new(format!("other arguments for procedure {procedure}")))
        }
    }

    /// The arguments of a migration's beginning or end, with this host's own text of the machine
    /// in the place of the one that came: two parsers need not read a text alike.
    fn migrate(&self, finish: bool, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let read = if finish { Arguments::of_finish(body) } else { Arguments::of_prepare(body) };
        let Arguments { texts, cookie, flags, cancelled } =
            read.ok_or_else(|| Refusal::new("other arguments than a migration has"))?;
        if flags | OF_THE_SOURCE != FLAGS {
            return Err(Refusal::new(format!("a migration of another kind ({flags:#x})")));
        }
        self.cookie(cookie)?;
        let mut disks = BTreeSet::new();
        let mut own = Vec::with_capacity(texts.len());
        for &(name, text) in &texts {
            let as_told = match name {
                "destination_xml" => shape(text).is_some_and(|tree| tree == self.same),
                "destination_name" => text == self.instance.to_string(),
                "migrate_uri" => text == Channel::Memory.uri(self.instance),
                "disks_uri" => text == Channel::Disks.uri(self.instance),
                "migrate_disks" => self.disks.contains(text) && disks.insert(text.to_owned()),
                _ => false,
            };
            if !as_told {
                return Err(Refusal::new(format!("another `{name}` than it was told")));
            }
            own.push((name, if name == "destination_xml" { &self.domain } else { text }));
        }
        let given = |name| texts.iter().filter(|(each, _)| *each == name).count() == 1;
        let whole = if finish {
            given("destination_name")
        } else {
            let texts = ["destination_xml", "migrate_uri", "disks_uri"];
            texts.into_iter().all(given) && disks == self.disks
        };
        if !whole {
            return Err(Refusal::new("less than it was told"));
        }
        let mut writer = Writer::default();
        writer.texts(&own);
        writer.bytes(cookie);
        writer.number(flags);
        if let Some(cancelled) = cancelled {
            writer.number(cancelled);
        }
        Ok(writer.bytes)
    }

    /// Refuses a cookie that is not about this machine, or holds more than cookies do.
    fn cookie(&self, cookie: &[u8]) -> Result<(), Refusal> {
        let refused = || Refusal::new("something else than a migration's cookie");
        let text = std::str::from_utf8(cookie).map_err(|_| refused())?;
        let text = text.strip_suffix('\0').unwrap_or(text).trim_end();
        if text.is_empty() {
            return Ok(());
        }
        if !text.is_ascii() || has_declarations(text) {
            return Err(refused());
        }
        let document = Document::parse(text).map_err(|_| refused())?;
        let root = document.root_element();
        let says = |name: &str| {
            let mut named = root.children().filter(|each| each.has_tag_name(name));
            match (named.next(), named.next()) {
                (Some(one), None) => one.text(),
                _ => None,
            }
        };
        let known = root
            .children()
            .filter(roxmltree::Node::is_element)
            .all(|each| COOKIE.contains(&each.tag_name().name()));
        let (name, uuid) = (self.instance.to_string(), xml::uuid(self.instance.ulid()));
        let ours = says("name") == Some(&name) && says("uuid") == Some(&uuid);
        if root.has_tag_name("qemu-migration") && known && ours { Ok(()) } else { Err(refused()) }
    }
}

/// What a machine is, but for how much of its memory it has at the moment: the other host's libvirt
/// knows that better, and this one's asks QEMU.
fn shape(domain: &str) -> Option<Tree> {
    if has_declarations(domain) {
        return None;
    }
    Tree::read(&tree::without(domain, "currentMemory")?)
}

fn opens_the_system(body: &[u8]) -> bool {
    let mut xdr = Xdr::new(body);
    xdr.optional_text() == Some(Some(SYSTEM)) && xdr.number() == Some(0) && xdr.is_empty()
}

/// How far a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// This host's libvirtd has made it ready to be sent.
    Prepared,
    /// All of it has come, or it was given up.
    Finished,
}

/// Looks at a machine before the other host is told how far it is.
pub(super) trait Look {
    /// Whether it is as it has to be then.
    fn look(&self, stage: Stage) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// Carries a connection of the other host's libvirtd to this host's, until either ends or says what
/// it may not, or the machine is not as it has to be.
pub(super) async fn carry(
    theirs: impl Connection,
    ours: UnixStream,
    rules: &Rules,
    machine: &impl Look,
) -> io::Result<()> {
    let (their_end, to_them) = tokio::io::split(theirs);
    let (our_end, to_us) = ours.into_split();
    tokio::select! {
        asked = ask(their_end, to_us, rules) => asked,
        answered = answer(our_end, to_them, machine) => answered,
    }
}

async fn ask(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    rules: &Rules,
) -> io::Result<()> {
    while let Some(message) = Message::read(&mut from, LONGEST_CALL).await? {
        let message = rules.judge(message).map_err(io::Error::other)?;
        to.write_all(&message.bytes()).await?;
    }
    Ok(())
}

async fn answer(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    machine: &impl Look,
) -> io::Result<()> {
    while let Some(message) = Message::read(&mut from, LONGEST_ANSWER).await? {
        let Head { program, procedure, kind, status, .. } = message.head;
        let stage = match procedure {
            procedure::MIGRATE_PREPARE => Some(Stage::Prepared),
            procedure::MIGRATE_FINISH => Some(Stage::Finished),
            _ => None,
        };
        if let Some(stage) = stage.filter(|_| (program, kind, status) == (REMOTE, REPLY, OK)) {
            machine.look(stage).await.map_err(io::Error::other)?;
        }
        to.write_all(&message.bytes()).await?;
        to.flush().await?;
    }
    Ok(())
}

impl From<fairmazon_hypervisor::HypervisorError> for Refusal {
    fn from(error: fairmazon_hypervisor::HypervisorError) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Self(cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")))
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::instance;
    use proptest::prelude::*;

    use super::*;

    const DOMAIN: &str = "<domain type='qemu'><devices><emulator>/usr/bin/qemu</emulator>\
        <disk type='file'><driver type='qcow2'/><source file='/v'><encryption format='luks'/></source></disk>\
        </devices></domain>";

    /// Changes the texts of a call.
    type Change = Box<dyn Fn(&mut Vec<(&'static str, String)>)>;

    fn rules() -> Rules {
        let disks = ["vda".to_owned(), "vdb".to_owned()].into();
        Rules::new(instance(1), DOMAIN.into(), disks).unwrap()
    }

    fn call(procedure: u32, body: Vec<u8>) -> Message {
        let head =
            Head { program: REMOTE, version: 1, procedure, kind: CALL, serial: 7, status: OK };
        Message { head, body }
    }

    fn cookie() -> String {
        let (name, uuid) = (instance(1), xml::uuid(instance(1).ulid()));
        format!(
            "<qemu-migration>\n<name>{name}</name><uuid>{uuid}</uuid><nbd/></qemu-migration>\n\0"
        )
    }

    /// A call as the other host's libvirt makes it; with these changes.
    fn prepare(change: impl Fn(&mut Vec<(&'static str, String)>)) -> Vec<u8> {
        arguments(change, &cookie(), 0x63, None)
    }

    fn arguments(
        change: impl Fn(&mut Vec<(&'static str, String)>),
        cookie: &str,
        flags: u32,
        cancelled: Option<u32>,
    ) -> Vec<u8> {
        let mut texts = vec![
            ("destination_xml", DOMAIN.replace("><", ">\n  <")),
            ("migrate_uri", Channel::Memory.uri(instance(1))),
            ("migrate_disks", "vda".to_owned()),
            ("migrate_disks", "vdb".to_owned()),
            ("disks_uri", Channel::Disks.uri(instance(1))),
        ];
        if cancelled.is_some() {
            texts.push(("destination_name", instance(1).to_string()));
        }
        change(&mut texts);
        let texts: Vec<_> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let mut writer = Writer::default();
        writer.texts(&texts);
        writer.bytes(cookie.as_bytes());
        writer.number(flags);
        if let Some(cancelled) = cancelled {
            writer.number(cancelled);
        }
        writer.bytes
    }

    fn passes(message: Message) -> bool {
        rules().judge(message).is_ok()
    }

    #[test]
    fn a_migration_passes_with_this_hosts_own_text() {
        let told = rules().judge(call(procedure::MIGRATE_PREPARE, prepare(|_| {}))).unwrap();
        let mut xdr = Xdr::new(&told.body);
        let texts = xdr.texts().unwrap();
        assert_eq!(texts[0], ("destination_xml", DOMAIN));
        assert_eq!((texts.len(), xdr.bytes().unwrap()), (5, cookie().as_bytes()));
        for cancelled in [0, 1] {
            let finish = arguments(|_| {}, &cookie(), 0x63, Some(cancelled));
            assert!(passes(call(procedure::MIGRATE_FINISH, finish)));
        }
        let mut open = Writer::default();
        open.number(1);
        open.bytes(SYSTEM.as_bytes());
        open.number(0);
        assert!(passes(call(procedure::CONNECT_OPEN, open.bytes)));
        for procedure in [2, 66, 360, 361] {
            assert!(passes(call(procedure, Vec::new())));
        }
        assert!(passes(call(procedure::CONNECT_SUPPORTS_FEATURE, vec![0, 0, 0, 4])));
        for procedure in [procedure::PING, procedure::PONG] {
            let mut ping = call(procedure, Vec::new());
            (ping.head.program, ping.head.kind) = (KEEP_ALIVE, MESSAGE);
            assert!(passes(ping));
        }
    }

    #[test]
    fn no_other_call_passes() {
        let known = [1, 2, 60, 66, 303, 306, 360, 361];
        for procedure in (0..1_000).filter(|procedure| !known.contains(procedure)) {
            assert!(!passes(call(procedure, Vec::new())), "{procedure}");
        }
        for kind in 1..8 {
            let mut message = call(procedure::AUTH_LIST, Vec::new());
            message.head.kind = kind;
            assert!(!passes(message), "{kind}");
        }
        for program in [0, REMOTE + 1, 0x2000_8087, KEEP_ALIVE] {
            let mut message = call(procedure::AUTH_LIST, Vec::new());
            message.head.program = program;
            assert!(!passes(message), "{program:#x}");
        }
        for (name, flags) in [("test:///default", 0), ("qemu:///session", 0), (SYSTEM, 1)] {
            let mut open = Writer::default();
            open.number(1);
            open.bytes(name.as_bytes());
            open.number(flags);
            assert!(!passes(call(procedure::CONNECT_OPEN, open.bytes)), "{name}");
        }
        assert!(!passes(call(procedure::CONNECT_CLOSE, vec![0; 4])));
    }

    #[test]
    fn a_machine_passes_with_some_of_its_memory_and_is_told_as_it_is_here() {
        let less = DOMAIN.replacen("<devices>", "<currentMemory>192</currentMemory><devices>", 1);
        let changed = |text: &str| prepare(|texts| texts[0].1 = text.to_owned());
        let told = rules().judge(call(procedure::MIGRATE_PREPARE, changed(&less))).unwrap();
        let as_here = rules().judge(call(procedure::MIGRATE_PREPARE, changed(DOMAIN))).unwrap();
        assert_eq!(told.body, as_here.body);
        let elsewhere = DOMAIN.replacen("</devices>", "<currentMemory/></devices>", 1);
        assert!(!passes(call(procedure::MIGRATE_PREPARE, changed(&elsewhere))));
    }

    #[test]
    fn no_other_machine_passes() {
        for (had, has) in [
            ("/v", "/etc/shadow"),
            ("/usr/bin/qemu", "/bin/sh"),
            ("<encryption format='luks'/>", ""),
            ("qcow2", "raw"),
            ("</devices>", "<hostdev/></devices>"),
            ("</devices>", "</devices><commandline/>"),
            ("<domain", "<?xml version='1.0'?><domain"),
            ("<domain", "<!DOCTYPE x><domain"),
            ("</devices>", "<!-- --></devices>"),
        ] {
            let changed = DOMAIN.replacen(had, has, 1);
            assert_ne!(changed, DOMAIN);
            let body = prepare(|texts| texts[0].1.clone_from(&changed));
            assert!(!passes(call(procedure::MIGRATE_PREPARE, body)), "{changed}");
        }
    }

    #[test]
    fn no_other_arguments_pass() {
        let refused: [(&str, Change); 9] = [
            ("a place of the source's choice", Box::new(|texts| texts[1].1 = "tcp://0:1".into())),
            ("a disk that is none", Box::new(|texts| texts[2].1 = "sda".into())),
            ("a disk twice", Box::new(|texts| texts[2].1 = "vdb".into())),
            ("a disk less", Box::new(|texts| drop(texts.remove(2)))),
            ("no place for disks", Box::new(|texts| drop(texts.remove(4)))),
            ("two machines", Box::new(|texts| texts.push(texts[0].clone()))),
            (
                "another name",
                Box::new(|texts| texts.push(("destination_name", instance(2).to_string()))),
            ),
            (
                "a definition to keep",
                Box::new(|texts| texts.push(("persistent_xml", DOMAIN.into()))),
            ),
            ("a place to listen", Box::new(|texts| texts.push(("listen_address", "::".into())))),
        ];
        for (what, change) in refused {
            assert!(!passes(call(procedure::MIGRATE_PREPARE, prepare(change))), "{what}");
        }
        // To keep the machine, not to leave it paused, through libvirt's own connection.
        for flags in [0x63 | 8, 0x63 & !0x20, 0x63 | 4, 0x63 | 1 << 20, 0] {
            let body = arguments(|_| {}, &cookie(), flags, None);
            assert!(!passes(call(procedure::MIGRATE_PREPARE, body)), "{flags:#x}");
            let body = arguments(|_| {}, &cookie(), flags, Some(0));
            assert!(!passes(call(procedure::MIGRATE_FINISH, body)), "{flags:#x}");
        }
        let body = [prepare(|_| {}), vec![0; 4]].concat();
        assert!(!passes(call(procedure::MIGRATE_PREPARE, body)));
        let unnamed = arguments(|texts| texts.truncate(5), &cookie(), 0x63, Some(0));
        assert!(!passes(call(procedure::MIGRATE_FINISH, unnamed)));
    }

    #[test]
    fn no_other_cookie_passes() {
        let whole = cookie();
        for cookie in [
            whole.replace("<nbd/>", "<domain type='qemu'/>"),
            whole.replace(&instance(1).to_string(), &instance(2).to_string()),
            whole.replace("<nbd/>", "<uuid>x</uuid>"),
            whole.replace("qemu-migration", "domain"),
            format!("<?xml version='1.0' encoding='UTF-7'?>{whole}"),
            "<qemu-migration/>".into(),
            "x".into(),
        ] {
            let body = arguments(|_| {}, &cookie, 0x63, None);
            assert!(!passes(call(procedure::MIGRATE_PREPARE, body)), "{cookie}");
        }
        // One that gives up has nothing to say.
        assert!(passes(call(procedure::MIGRATE_FINISH, arguments(|_| {}, "", 0x63, Some(1)))));
    }

    proptest! {
        #[test]
        fn any_arguments_are_judged(procedure in 0..400_u32, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = rules().judge(call(procedure, body));
        }
    }
}
