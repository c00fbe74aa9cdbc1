//! libvirt for the hosts of `fairmazon dev` with real guests: a daemon for each host, in
//! namespaces of its own, so that several stand side by side on one machine and none sees what
//! else runs there. Needs root, as libvirt's daemon does.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use fairmazon_hypervisor_libvirt::qemu::PRIVATE_LIBVIRT;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::error::CommandError;

const SCRIPT: &str = include_str!("libvirt.sh");
/// How long libvirt may take to listen; it asks QEMU what it can do at its first start.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long its end may take.
const END_WITHIN: Duration = Duration::from_secs(10);

/// A running daemon; it and its guests end when this is dropped, and when this program ends.
#[derive(Debug)]
pub(crate) struct Libvirt {
    child: Child,
    folder: PathBuf,
    runtime: PathBuf,
}

impl Libvirt {
    /// Starts one that keeps its files in the folder.
    pub(crate) async fn start(folder: &Path) -> Result<Self, CommandError> {
        let private = fairmazon_broker::make_private_folder;
        private(folder).map_err(CommandError::file("make the folder", folder))?;
        let runtime = tempfile::Builder::new()
            .prefix("fairmazon-dev-")
            .tempdir_in("/dev/shm")
            .map_err(CommandError::file("make a folder in", "/dev/shm"))?
            .keep();
        let errors_path = folder.join("errors");
        let errors =
            File::create(&errors_path).map_err(CommandError::file("write", &errors_path))?;
        let mut child = Command::new("unshare")
            .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"])
            .args(["bash", "-c", &format!("{PRIVATE_LIBVIRT}{SCRIPT}"), "libvirt.sh"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|error| failed(format!("unshare (util-linux) can't be started: {error}")))?;
        let mut said = String::new();
        let ready = match child.stdout.take() {
            Some(stdout) => {
                let mut stdout = BufReader::new(stdout);
                timeout(READY_WITHIN, stdout.read_line(&mut said)).await
            }
            None => Ok(Ok(0)),
        };
        let libvirt = Self { child, folder: folder.to_owned(), runtime };
        if !matches!(ready, Ok(Ok(_))) || said.trim() != "ready" {
            let why = fs::read_to_string(&errors_path).unwrap_or_default();
            return Err(failed(format!(
                "libvirt's daemon did not start ({}); it needs root and the packages that \
                 `scripts/setup --for test` installs",
                why.trim().replace('\n', "; ")
            )));
        }
        Ok(libvirt)
    }

    /// How to connect to it.
    pub(crate) fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.folder.join("socket/libvirt-sock").display())
    }

    /// The folder of the sockets that its guests move through.
    pub(crate) fn moves(&self) -> PathBuf {
        self.folder.join("moves")
    }

    /// A folder in memory for what is not to be on a disk.
    pub(crate) fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// Ends it with its guests.
    pub(crate) async fn stop(mut self) {
        drop(self.child.stdin.take());
        if !matches!(timeout(END_WITHIN, self.child.wait()).await, Ok(Ok(_))) {
            tracing::warn!("libvirt's daemon was killed: it did not end by itself");
            if let Err(error) = self.child.kill().await {
                tracing::error!(%error, "libvirt's daemon can't be ended");
            }
        }
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if let Err(error) = fs::remove_dir_all(&self.runtime) {
            tracing::debug!(%error, "a folder in memory is left");
        }
    }
}

fn failed(why: String) -> CommandError {
    CommandError::Hypervisor { kind: "qemu", source: why.into() }
}
