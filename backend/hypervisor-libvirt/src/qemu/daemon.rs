//! What libvirt's daemon says of itself: asked as the agent reaches it, and never waited for
//! without an end. Decides nothing about levels of the host standard.

use std::{collections::BTreeSet, error::Error, sync::mpsc, thread, time::Duration};

use fairmazon_hypervisor::{HypervisorError, Result};
use parking_lot::Mutex;
use roxmltree::{Document, Node};
use virt::connect::Connect;

use super::{Accelerator, session::KEEP_ALIVE};
use crate::{
    error::{failed, is_unsupported},
    events::start_loop,
};

const ATTEMPTED: &str = "tell what guests it runs";
/// The architecture of guests.
const ARCHITECTURE: &str = "x86_64";

/// Those that have not answered yet: asked again, each would cost another thread.
static ASKED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What libvirt's daemon says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Its version, the first two numbers.
    pub version: (u32, u32),
    /// How it can run guests of the platform's architecture.
    pub runs: Vec<Accelerator>,
    /// The number of the user that it runs QEMU as; none where it does not say.
    pub qemu_user: Option<u32>,
    /// Whether it has the part that holds the keys of volumes in use: its driver for secrets.
    pub keeps_secrets: bool,
}

impl Daemon {
    /// Connects to the daemon at `uri` as the agent does, and asks it. Blocks, for no longer than
    /// `within`.
    ///
    /// # Errors
    /// When it can't be reached or answers with an error; `Timeout` when it has not answered in
    /// time, and while it has not answered to an earlier call.
    pub fn ask(uri: &str, within: Duration) -> Result<Self> {
        let late = || HypervisorError::late(ATTEMPTED, within);
        let odd = |source: Box<dyn Error + Send + Sync>| HypervisorError::Driver {
            attempted: ATTEMPTED.into(),
            source,
        };
        start_loop().map_err(|error| odd(error.into()))?;
        let asked = Asked::of(uri).ok_or_else(late)?;
        let (answer, answered) = mpsc::sync_channel(1);
        let ask = move || {
            let said = say(&asked.0);
            drop(asked);
            // Whoever asked may have given up.
            let _ = answer.send(said);
        };
        let thread = thread::Builder::new().name("libvirt-asked".into()).spawn(ask);
        thread.map_err(|error| odd(error.into()))?;
        let said = answered.recv_timeout(within).map_err(|_| late())??;
        Self::read(&said).map_err(|error| odd(error.into()))
    }

    fn read(said: &Said) -> std::result::Result<Self, roxmltree::Error> {
        let Said { version, keeps_secrets, .. } = *said;
        let document = Document::parse(&said.capabilities)?;
        let root = document.root_element();
        Ok(Self {
            // libvirt counts in millions and thousands.
            version: (version / 1_000_000, version / 1_000 % 1_000),
            runs: [Accelerator::Kvm, Accelerator::Tcg]
                .into_iter()
                .filter(|accelerator| runs(root, *accelerator))
                .collect(),
            qemu_user: qemu_user(root),
            keeps_secrets,
        })
    }
}

/// A daemon that is asked, until this is dropped.
struct Asked(String);

impl Asked {
    fn of(uri: &str) -> Option<Self> {
        ASKED.lock().insert(uri.to_owned()).then(|| Self(uri.to_owned()))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        ASKED.lock().remove(&self.0);
    }
}

/// A daemon's answers, as they come.
struct Said {
    version: u32,
    capabilities: String,
    keeps_secrets: bool,
}

fn say(uri: &str) -> Result<Said> {
    let connection = Connect::open(Some(uri)).map_err(failed(format!("connect to {uri}")))?;
    // A driver within this process has none, and needs none.
    let _ = connection.set_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1);
    let version = connection.lib_version().map_err(failed(ATTEMPTED))?;
    let capabilities = connection.capabilities().map_err(failed(ATTEMPTED))?;
    let keeps_secrets = match connection.num_of_secrets() {
        Ok(_) => true,
        Err(error) if is_unsupported(&error) => false,
        Err(error) => return Err(failed(ATTEMPTED)(error)),
    };
    Ok(Said { version, capabilities, keeps_secrets })
}

fn children<'a>(node: Node<'a, 'a>, name: &'static str) -> impl Iterator<Item = Node<'a, 'a>> {
    node.children().filter(move |child| child.has_tag_name(name))
}

fn runs(root: Node<'_, '_>, accelerator: Accelerator) -> bool {
    let of_guests = children(root, "guest")
        .filter(|guest| children(*guest, "os_type").any(|kind| kind.text() == Some("hvm")))
        .flat_map(|guest| children(guest, "arch"))
        .filter(|arch| arch.attribute("name") == Some(ARCHITECTURE));
    let mut kinds = of_guests.flat_map(|arch| children(arch, "domain"));
    kinds.any(|kind| kind.attribute("type") == Some(accelerator.domain_type()))
}

/// Of the security driver that sets users: `+USER:+GROUP`.
fn qemu_user(root: Node<'_, '_>) -> Option<u32> {
    let models = children(root, "host").flat_map(|host| children(host, "secmodel"));
    let mut of_users =
        models.filter(|model| children(*model, "model").any(|name| name.text() == Some("dac")));
    let label = children(of_users.next()?, "baselabel").next()?.text()?;
    label.split(':').next()?.trim_start_matches('+').parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixListener,
        time::{Duration, Instant},
    };

    use super::*;

    /// Longer than anything takes that answers, on a busy machine too.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn at(socket: &std::path::Path) -> String {
        format!("qemu+unix:///system?socket={}", socket.display())
    }

    #[test]
    fn a_driver_that_runs_no_guests_answers_that_it_runs_none() {
        let found = Daemon::ask("test:///default", PATIENCE).unwrap();
        assert!(found.version >= (9, 0), "{found:?}");
        assert_eq!((found.runs, found.qemu_user), (Vec::new(), None));
        assert!(!found.keeps_secrets, "libvirt's test driver has none for secrets");
    }

    #[test]
    fn what_a_daemon_says_is_read() {
        let text = |kinds: &str, label: &str| {
            format!(
                "<capabilities><host><secmodel><model>apparmor</model><doi>0</doi></secmodel>\
                 <secmodel><model>dac</model>{label}</secmodel></host>\
                 <guest><os_type>hvm</os_type><arch name='i686'><domain type='kvm'/></arch></guest>\
                 <guest><os_type>hvm</os_type><arch name='x86_64'><machine>pc</machine>{kinds}</arch>\
                 </guest><guest><os_type>xen</os_type><arch name='x86_64'><domain type='kvm'/></arch>\
                 </guest></capabilities>"
            )
        };
        let user =
            "<baselabel type='kvm'>+64055:+109</baselabel><baselabel type='qemu'>+1:+1</baselabel>";
        let both = "<domain type='qemu'/><domain type='kvm'/>";
        let read = |version, capabilities: &str, keeps_secrets| {
            let capabilities = capabilities.to_owned();
            Daemon::read(&Said { version, capabilities, keeps_secrets })
        };
        let found = read(11_003_002, &text(both, user), true).unwrap();
        let runs = vec![Accelerator::Kvm, Accelerator::Tcg];
        let qemu_user = Some(64_055);
        assert_eq!(found, Daemon { version: (11, 3), runs, qemu_user, keeps_secrets: true });
        let found = read(9_000_000, &text("<domain type='qemu'/>", ""), false).unwrap();
        let runs = vec![Accelerator::Tcg];
        assert_eq!(found, Daemon { version: (9, 0), runs, qemu_user: None, keeps_secrets: false });
        assert_eq!(read(9_000_000, &text("", user), true).unwrap().runs, []);
        read(9_000_000, "no XML", true).unwrap_err();
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_an_error_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("dead");
        drop(UnixListener::bind(&socket).unwrap());
        for place in [socket, folder.path().join("missing")] {
            let error = Daemon::ask(&at(&place), PATIENCE).unwrap_err();
            let name = place.to_str().unwrap();
            assert!(matches!(error, HypervisorError::Driver { .. }), "{error:?}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_daemon_that_never_answers_is_given_up_and_asked_no_second_time_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("silent");
        let listener = UnixListener::bind(&socket).unwrap();
        let error = Daemon::ask(&at(&socket), Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, HypervisorError::Timeout { .. }), "{error:?}");
        let (taken, _) = listener.accept().unwrap();
        // At once, however long one would wait.
        let error = Daemon::ask(&at(&socket), Duration::MAX).unwrap_err();
        assert!(matches!(error, HypervisorError::Timeout { .. }), "{error:?}");
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "nobody has connected again");
        // When it has gone, it is asked anew.
        drop((taken, listener));
        let until = Instant::now() + PATIENCE;
        let mut error = Daemon::ask(&at(&socket), PATIENCE).unwrap_err();
        while matches!(error, HypervisorError::Timeout { .. }) && Instant::now() < until {
            thread::yield_now();
            error = Daemon::ask(&at(&socket), PATIENCE).unwrap_err();
        }
        assert!(matches!(error, HypervisorError::Driver { .. }), "{error:?}");
    }
}
