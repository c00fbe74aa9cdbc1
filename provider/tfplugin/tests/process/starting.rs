//! How a plugin starts, and whom it lets in.

use std::os::unix::fs::PermissionsExt as _;

use tfplugin::proto::tfplugin6::{get_provider_schema, provider_client::ProviderClient};
use tokio::io::AsyncBufReadExt as _;
use tonic::transport::Channel;

use crate::client::{Identity, Outcome, Plugin, connect_plain, plugin};

async fn resource_types(channel: Channel) -> Outcome<Vec<String>> {
    let mut client = ProviderClient::new(channel);
    let answer = client.get_provider_schema(get_provider_schema::Request {}).await?;
    Ok(answer.into_inner().resource_schemas.into_keys().collect())
}

#[tokio::test]
async fn the_schema_comes_over_mutual_tls() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (plugin, channel) = Plugin::connected(folder.path()).await?;
    assert_eq!(plugin.line.fields[..3], ["1", "6", "unix"]);
    assert_eq!(plugin.line.fields[4], "grpc");
    assert_eq!(plugin.line.fields.len(), 6);
    let mode = std::fs::metadata(plugin.line.address())?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(plugin.line.address().starts_with(&*folder.path().to_string_lossy()));
    assert_eq!(resource_types(channel).await?, ["pantry_jar"]);
    Ok(())
}

#[tokio::test]
async fn only_the_holder_of_the_certificate_is_let_in() -> Outcome {
    let folder = tempfile::tempdir()?;
    let identity = Identity::new()?;
    let mut command = plugin()?;
    command.env("PLUGIN_CLIENT_CERT", &identity.pem).env("TMPDIR", folder.path());
    let plugin = Plugin::start(command).await?;
    let (forged, stolen) = (identity.forged()?, identity.stolen()?);
    let strangers = [("another", Some(&forged)), ("a stolen", Some(&stolen)), ("no", None)];
    for (which, stranger) in strangers {
        // With TLS 1.3 a refused client learns of it only when it reads.
        let answer = match plugin.connect(stranger).await {
            Ok(channel) => resource_types(channel).await,
            Err(error) => Err(error),
        };
        assert!(answer.is_err(), "let in with {which} certificate");
    }
    let plain = match plugin.connect_plain().await {
        Ok(channel) => resource_types(channel).await,
        Err(error) => Err(error),
    };
    assert!(plain.is_err(), "let in without TLS");
    assert_eq!(resource_types(plugin.connect(Some(&identity)).await?).await?, ["pantry_jar"]);
    Ok(())
}

#[tokio::test]
async fn without_a_certificate_it_is_plain() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut command = plugin()?;
    command.env("TMPDIR", folder.path()).env("PLUGIN_MULTIPLEX_GRPC", "true");
    let plugin = Plugin::start(command).await?;
    assert_eq!(plugin.line.fields[5..], ["", "false"]);
    assert_eq!(resource_types(plugin.connect_plain().await?).await?, ["pantry_jar"]);
    Ok(())
}

#[tokio::test]
async fn a_port_serves_where_no_socket_can_be() -> Outcome {
    let identity = Identity::new()?;
    let mut command = plugin()?;
    command
        .env("PLUGIN_CLIENT_CERT", &identity.pem)
        .env("PLUGIN_UNIX_SOCKET_DIR", "/nonexistent/folder")
        .env("PLUGIN_MIN_PORT", "20000")
        .env("PLUGIN_MAX_PORT", "60000");
    let plugin = Plugin::start(command).await?;
    assert_eq!(plugin.line.fields[2], "tcp");
    assert!(plugin.line.address().starts_with("127.0.0.1:"));
    assert_eq!(resource_types(plugin.connect(Some(&identity)).await?).await?, ["pantry_jar"]);
    Ok(())
}

/// What is changed about an environment in which the plugin would start.
enum Change {
    Without(&'static str),
    With(&'static str, &'static str),
    Argument(&'static str),
}

#[tokio::test]
async fn a_start_that_can_not_be_is_explained() -> Outcome {
    use Change::{Argument, With, Without};
    let cases = [
        (Without("TF_PLUGIN_MAGIC_COOKIE"), "is a plugin"),
        (With("TF_PLUGIN_MAGIC_COOKIE", "wrong"), "is a plugin"),
        (With("PLUGIN_PROTOCOL_VERSIONS", "4,5"), "\"4,5\""),
        (With("PLUGIN_CLIENT_CERT", "no PEM"), "PLUGIN_CLIENT_CERT"),
        (With("PLUGIN_UNIX_SOCKET_DIR", "/nonexistent"), "/nonexistent"),
        (Argument("--what"), "--what"),
    ];
    for (change, expected) in cases {
        let mut command = plugin()?;
        match change {
            Without(name) => command.env_remove(name),
            With(name, value) => command.env(name, value),
            Argument(argument) => command.arg(argument),
        };
        let output = command.output().await?;
        let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        assert_eq!(output.status.code(), Some(1), "{expected}");
        assert_eq!(out, "", "{expected}");
        assert!(err.contains(expected), "{expected} is not in {err}");
    }
    Ok(())
}

#[tokio::test]
async fn started_by_hand_it_says_how_to_reach_it() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut command = plugin()?;
    command.env_remove("TF_PLUGIN_MAGIC_COOKIE").env("TMPDIR", folder.path()).arg("--debug");
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().ok_or("no stdout")?;
    let mut lines = tokio::io::BufReader::new(stdout).lines();
    let variable = loop {
        let line = lines.next_line().await?.ok_or("it ended without the variable")?;
        if let Some(rest) = line.trim().strip_prefix("TF_REATTACH_PROVIDERS='") {
            break rest.trim_end_matches('\'').to_owned();
        }
    };
    let config: serde_json::Value = serde_json::from_str(&variable)?;
    let entry = &config["registry.terraform.io/example/pantry"];
    assert_eq!(entry["Pid"].as_u64(), child.id().map(u64::from));
    let address = entry["Addr"]["String"].as_str().ok_or("no address")?;
    assert_eq!(resource_types(connect_plain(address).await?).await?, ["pantry_jar"]);
    // Whoever started it by hand ends it by hand.
    let id = i32::try_from(child.id().ok_or("it has ended already")?)?;
    let process = rustix::process::Pid::from_raw(id).ok_or("no process")?;
    rustix::process::kill_process(process, rustix::process::Signal::INT)?;
    assert_eq!(child.wait().await?.code(), Some(0));
    assert!(!std::path::Path::new(address).exists(), "it left its socket behind");
    Ok(())
}
