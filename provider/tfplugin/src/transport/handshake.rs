//! The agreement at start-up: what the client asks for in the environment, and the one line
//! that answers it.
//!
//! Pure: the environment is handed in, and the line is handed back to be printed.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::listen::Address;

const COOKIE_NAME: &str = "TF_PLUGIN_MAGIC_COOKIE";
const COOKIE: &str = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2";
const CORE_VERSION: u32 = 1;
pub(crate) const PROTOCOL_VERSION: u32 = 6;

/// Why the plugin can not be started like this. Shown on stderr to whoever started it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum HandshakeError {
    #[error(
        "This program is a plugin of Terraform or OpenTofu and is not started by hand: they run \
         it themselves, once a configuration names the provider. To debug it, start it with \
         --debug."
    )]
    NotByAClient,
    #[error(
        "The client speaks the plugin protocol versions {offered:?}, and this plugin speaks \
         {PROTOCOL_VERSION} only. Terraform from 1.0 and OpenTofu from 1.6 speak it: please \
         upgrade the client."
    )]
    NoCommonVersion { offered: String },
    #[error("{name} is {value:?}, which is no port number between 1 and 65535.")]
    BadPort { name: &'static str, value: String },
    #[error("PLUGIN_MIN_PORT ({low}) is above PLUGIN_MAX_PORT ({high}).")]
    NoPorts { low: u16, high: u16 },
}

/// What the client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// The certificate that the client will present, PEM; without it the socket is plain.
    pub(crate) client_certificate: Option<String>,
    /// Where the socket shall be; the temporary folder when it does not matter.
    pub(crate) socket_dir: Option<PathBuf>,
    /// The ports to choose from where there are no Unix sockets, both ends included.
    pub(crate) ports: Option<(u16, u16)>,
    /// Whether the client asked for several brokered streams over one connection, and so
    /// expects the seventh field.
    pub(crate) asks_multiplexing: bool,
}

impl Wishes {
    /// Reads what the client asked for.
    pub(crate) fn read(env: impl Fn(&str) -> Option<String>) -> Result<Self, HandshakeError> {
        if env(COOKIE_NAME).as_deref() != Some(COOKIE) {
            return Err(HandshakeError::NotByAClient);
        }
        let offered = env("PLUGIN_PROTOCOL_VERSIONS").unwrap_or_default();
        let mut versions = offered.split(',').map(|version| version.trim().parse::<u32>());
        if !versions.any(|version| version == Ok(PROTOCOL_VERSION)) {
            return Err(HandshakeError::NoCommonVersion { offered });
        }
        let filled = |name| env(name).filter(|value: &String| !value.is_empty());
        Ok(Self {
            client_certificate: filled("PLUGIN_CLIENT_CERT"),
            socket_dir: filled("PLUGIN_UNIX_SOCKET_DIR").map(PathBuf::from),
            ports: ports(filled)?,
            asks_multiplexing: env("PLUGIN_MULTIPLEX_GRPC").is_some(),
        })
    }
}

fn ports(
    env: impl Fn(&'static str) -> Option<String>,
) -> Result<Option<(u16, u16)>, HandshakeError> {
    let port = |name: &'static str| {
        env(name)
            .map(|value| match value.parse::<u16>() {
                Ok(port) if port > 0 => Ok(port),
                _ => Err(HandshakeError::BadPort { name, value }),
            })
            .transpose()
    };
    match (port("PLUGIN_MIN_PORT")?, port("PLUGIN_MAX_PORT")?) {
        (Some(low), Some(high)) if low > high => Err(HandshakeError::NoPorts { low, high }),
        (Some(low), Some(high)) => Ok(Some((low, high))),
        _ => Ok(None),
    }
}

/// The line that tells the client where to connect and which certificate to expect there.
pub(crate) fn line(address: &Address, certificate: Option<&[u8]>, wishes: &Wishes) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
    let (network, place) = address.parts();
    let certificate = certificate.map(|der| STANDARD_NO_PAD.encode(der)).unwrap_or_default();
    // This plugin never opens a second connection, so there is nothing to multiplex.
    let multiplexing = if wishes.asks_multiplexing { "|false" } else { "" };
    format!("{CORE_VERSION}|{PROTOCOL_VERSION}|{network}|{place}|grpc|{certificate}{multiplexing}")
}

/// The variable to export so that a client uses a plugin that was started by hand.
pub(crate) fn reattach(provider: &str, address: &Address, process: u32) -> String {
    let (network, place) = address.parts();
    let config = json!({ provider: {
        "Protocol": "grpc",
        "ProtocolVersion": PROTOCOL_VERSION,
        "Pid": process,
        "Test": true,
        "Addr": { "Network": network, "String": place },
    }});
    format!("TF_REATTACH_PROVIDERS='{config}'")
}

/// The folder for the socket when the client has no opinion.
pub(crate) fn socket_dir(wishes: Option<&Path>) -> PathBuf {
    wishes.map_or_else(std::env::temp_dir, Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    const GOOD: [(&str, &str); 2] = [(COOKIE_NAME, COOKIE), ("PLUGIN_PROTOCOL_VERSIONS", "5,6")];

    fn with(more: &[(&'static str, &'static str)]) -> Result<Wishes, HandshakeError> {
        let all: Vec<_> = more.iter().chain(&GOOD).copied().collect();
        Wishes::read(env(&all))
    }

    #[test]
    fn the_cookie_is_asked_for_first() {
        assert_eq!(Wishes::read(env(&[])), Err(HandshakeError::NotByAClient));
        assert_eq!(with(&[(COOKIE_NAME, "else")]), Err(HandshakeError::NotByAClient));
    }

    #[test]
    fn six_must_be_among_the_versions() {
        for offered in ["5", "", "66", "x"] {
            let answer = with(&[("PLUGIN_PROTOCOL_VERSIONS", offered)]);
            let offered = offered.to_owned();
            assert_eq!(answer, Err(HandshakeError::NoCommonVersion { offered }));
        }
        assert!(with(&[("PLUGIN_PROTOCOL_VERSIONS", "6, 5")]).is_ok());
    }

    #[test]
    fn ports_are_checked() {
        assert_eq!(with(&[]).map(|wishes| wishes.ports), Ok(None));
        let range = with(&[("PLUGIN_MIN_PORT", "10"), ("PLUGIN_MAX_PORT", "12")]);
        assert_eq!(range.map(|wishes| wishes.ports), Ok(Some((10, 12))));
        let upside_down = with(&[("PLUGIN_MIN_PORT", "12"), ("PLUGIN_MAX_PORT", "10")]);
        assert_eq!(upside_down, Err(HandshakeError::NoPorts { low: 12, high: 10 }));
        assert!(matches!(
            with(&[("PLUGIN_MIN_PORT", "0")]),
            Err(HandshakeError::BadPort { name: "PLUGIN_MIN_PORT", .. })
        ));
    }

    #[test]
    fn the_line_has_six_fields_or_seven() {
        let address = Address::Unix("/tmp/p".into());
        let plain = with(&[]).expect("good wishes");
        assert_eq!(line(&address, None, &plain), "1|6|unix|/tmp/p|grpc|");
        assert_eq!(line(&address, Some(&[1, 2, 3, 4]), &plain), "1|6|unix|/tmp/p|grpc|AQIDBA");
        let asking = with(&[("PLUGIN_MULTIPLEX_GRPC", "")]).expect("good wishes");
        assert_eq!(line(&address, Some(&[1]), &asking), "1|6|unix|/tmp/p|grpc|AQ|false");
    }

    #[test]
    fn the_reattach_line_is_json_in_quotes() {
        let text = reattach("registry.terraform.io/a/b", &Address::Unix("/s".into()), 7);
        let json = text.strip_prefix("TF_REATTACH_PROVIDERS='").and_then(|t| t.strip_suffix('\''));
        let json: serde_json::Value =
            serde_json::from_str(json.expect("quoted")).expect("it is JSON");
        let entry = &json["registry.terraform.io/a/b"];
        assert_eq!(entry["Addr"], json!({ "Network": "unix", "String": "/s" }));
        assert_eq!(entry["Pid"], 7);
        assert_eq!(entry["ProtocolVersion"], 6);
    }
}
