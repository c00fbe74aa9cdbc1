//! Where the plugin listens: a Unix socket that only its owner may open, or a loopback port.
//!
//! The socket's file is removed when the listener is dropped.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener};

use super::connection::Connection;

/// How many names are tried before giving up; each belongs to a dead plugin that left its
/// socket behind.
const NAMES: u32 = 100;

/// Why there is nowhere to listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("could not make a Unix socket in {folder}; set TMPDIR to a folder that can hold one")]
    NoSocket {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not listen on any loopback port between {low} and {high}")]
    NoPort {
        low: u16,
        high: u16,
        #[source]
        source: io::Error,
    },
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Address {
    /// The network's name and the place on it.
    pub(crate) fn parts(&self) -> (&'static str, String) {
        match self {
            Self::Unix(path) => ("unix", path.display().to_string()),
            Self::Tcp(address) => ("tcp", address.to_string()),
        }
    }
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A place that accepts connections.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    address: Address,
}

impl Listener {
    /// A Unix socket in `folder`, named after the process.
    pub(crate) fn unix(folder: &Path, process: u32) -> Result<Self, ListenError> {
        let failed = |source| ListenError::NoSocket { folder: folder.to_path_buf(), source };
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for attempt in 0..NAMES {
            let path = folder.join(format!("plugin-{process}-{attempt}"));
            match bind_private(&path) {
                Ok(socket) => {
                    return Ok(Self { socket: Socket::Unix(socket), address: Address::Unix(path) });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(last))
    }

    /// The first free loopback port of the range, both ends included.
    pub(crate) async fn tcp(low: u16, high: u16) -> Result<Self, ListenError> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for port in low..=high {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(socket) => {
                    let address = socket.local_addr().map_err(|source| ListenError::NoPort {
                        low,
                        high,
                        source,
                    })?;
                    return Ok(Self {
                        socket: Socket::Tcp(socket),
                        address: Address::Tcp(address),
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(ListenError::NoPort { low, high, source: last })
    }

    /// Where this listens.
    pub(crate) const fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for the next connection.
    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        match &self.socket {
            Socket::Unix(socket) => {
                socket.accept().await.map(|(stream, _)| Connection::new(stream))
            }
            Socket::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Connection::new(stream))
            }
        }
    }
}

/// Binds so that the file is never open to others, not even for a moment.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    use rustix::{fs::Mode, process::umask};
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let socket = UnixListener::bind(path);
    umask(before);
    socket
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "could not remove the socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().expect("a folder");
        let one = Listener::unix(folder.path(), 1).expect("a socket");
        let two = Listener::unix(folder.path(), 1).expect("a second name");
        assert_ne!(one.address(), two.address());
        let Address::Unix(path) = one.address().clone() else { unreachable!("it is a socket") };
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(one);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_names_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep = folder.path().join("x".repeat(200));
        std::fs::create_dir(&deep).expect("a deep folder");
        let error = Listener::unix(&deep, 1).expect_err("too long");
        assert!(error.to_string().contains("TMPDIR"), "{error}");
    }

    #[tokio::test]
    async fn ports_already_taken_are_passed_over() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = taken.local_addr().expect("its address").port();
        assert!(Listener::tcp(port, port).await.is_err());
        let range = Listener::tcp(port, u16::MAX).await;
        if let Ok(listener) = range {
            assert_ne!(listener.address(), &Address::Tcp((Ipv4Addr::LOCALHOST, port).into()));
        }
    }
}
