//! How a plugin ends: asked by the client, by a signal, and not by Ctrl-C.

use tfplugin::proto::{
    plugin::{
        Empty, StdioData, grpc_controller_client::GrpcControllerClient,
        grpc_stdio_client::GrpcStdioClient,
    },
    tfplugin6::{get_metadata, provider_client::ProviderClient, stop_provider},
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::client::{Outcome, Plugin};

/// How long an end is waited for before it counts as none. The plugin itself keeps to less than
/// the two seconds after which a client kills; the rest is for a loaded machine.
const NO_END: std::time::Duration = std::time::Duration::from_secs(10);

fn signal(plugin: &Plugin, signal: rustix::process::Signal) -> Outcome {
    let id = i32::try_from(plugin.child.id().ok_or("it has ended already")?)?;
    let process = rustix::process::Pid::from_raw(id).ok_or("no process")?;
    rustix::process::kill_process(process, signal)?;
    Ok(())
}

#[tokio::test]
async fn it_ends_when_the_client_asks_for_it() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (plugin, channel) = Plugin::connected(folder.path()).await?;
    let socket = plugin.line.address().to_owned();
    // The client keeps this stream open all the time: it must not hold up the end.
    let mut stdio = GrpcStdioClient::new(channel.clone()).stream_stdio(()).await?.into_inner();
    GrpcControllerClient::new(channel).shutdown(Empty {}).await?;
    assert_eq!(stdio.message().await?, None::<StdioData>);
    let (status, out, _) = plugin.ended().await?;
    assert_eq!(status, Some(0));
    assert_eq!(out, "", "it printed something after the line");
    assert!(!std::path::Path::new(&socket).exists(), "it left its socket behind");
    Ok(())
}

#[tokio::test]
async fn it_is_healthy_and_answers_a_stop_at_once() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (_plugin, channel) = Plugin::connected(folder.path()).await?;
    let request = HealthCheckRequest { service: "plugin".to_owned() };
    let answer = HealthClient::new(channel.clone()).check(request).await?.into_inner();
    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    let mut provider = ProviderClient::new(channel);
    let stopped = provider.stop_provider(stop_provider::Request {}).await?.into_inner();
    assert_eq!(stopped.error, "");
    Ok(())
}

#[tokio::test]
async fn a_termination_ends_it_and_an_interrupt_does_not() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (plugin, channel) = Plugin::connected(folder.path()).await?;
    signal(&plugin, rustix::process::Signal::INT)?;
    let mut provider = ProviderClient::new(channel);
    let answer = provider.get_metadata(get_metadata::Request {}).await?.into_inner();
    assert_eq!(answer.resources.len(), 1);
    signal(&plugin, rustix::process::Signal::TERM)?;
    let (status, ..) = plugin.ended().await?;
    assert_eq!(status, Some(0));
    Ok(())
}

/// How a client asks for the end.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Shutdown,
    Termination,
}

/// Starts the plugin whose handlers hang, lets it hang in one, asks it to end, and waits.
async fn end_while_it_hangs(how: &str, ask: Ask) -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut command = crate::client::example("stuck")?;
    command.env("TMPDIR", folder.path()).env("TF_LOG_PROVIDER", "info");
    let mut plugin = Plugin::start(command).await?;
    let channel = plugin.connect_plain().await?;
    let mut provider = ProviderClient::new(channel.clone());
    // A change: what only looks is dropped when everything is to stop.
    let of = |value: serde_json::Value| {
        let json = value.to_string().into();
        Some(tfplugin::proto::tfplugin6::DynamicValue { json, ..Default::default() })
    };
    let thing = serde_json::json!({ "how": how });
    let request = tfplugin::proto::tfplugin6::apply_resource_change::Request {
        type_name: "stuck_thing".to_owned(),
        prior_state: of(serde_json::Value::Null),
        planned_state: of(thing.clone()),
        config: of(thing),
        ..Default::default()
    };
    let call = tokio::spawn(async move { provider.apply_resource_change(request).await });
    let mut log = BufReader::new(plugin.child.stderr.take().ok_or("no stderr")?).lines();
    loop {
        let line = log.next_line().await?.ok_or("it ended before it hung")?;
        if line.contains("it hangs from here on") {
            break;
        }
    }
    match ask {
        Ask::Shutdown => drop(GrpcControllerClient::new(channel).shutdown(Empty {}).await?),
        Ask::Termination => signal(&plugin, rustix::process::Signal::TERM)?,
    }
    let ended = tokio::time::timeout(NO_END, plugin.child.wait()).await;
    let status = ended.map_err(|_| format!("{how}, {ask:?}: it does not end"))??;
    assert_eq!(status.code(), Some(0), "{how}, {ask:?}");
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "{how}, {ask:?}: left a socket");
    assert!(call.await?.is_err(), "{how}, {ask:?}: a handler that hangs has answered");
    Ok(())
}

#[tokio::test]
async fn it_ends_in_time_while_a_handler_hangs() -> Outcome {
    let cases = ["waits", "blocks a thread"]
        .into_iter()
        .flat_map(|how| [Ask::Shutdown, Ask::Termination].map(|ask| end_while_it_hangs(how, ask)));
    futures::future::try_join_all(cases).await?;
    Ok(())
}

#[tokio::test]
async fn it_does_not_outlive_a_client_that_was_killed() -> Outcome {
    let folder = tempfile::tempdir()?;
    let plugin = crate::client::plugin()?;
    let plugin = plugin.as_std().get_program();
    let mut client = tokio::process::Command::new("sh");
    // The shell plays the client: it starts the plugin and is killed.
    client.arg("-c").arg("\"$0\" & wait").arg(plugin).env("TMPDIR", folder.path());
    crate::client::introduce(&mut client);
    let mut plugin = Plugin::start(client).await?;
    plugin.child.start_kill()?;
    // Its standard output ends with the plugin, not with the shell.
    let mut rest = String::new();
    plugin.stdout.read_to_string(&mut rest).await?;
    assert_eq!(rest, "");
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "it left its socket behind");
    Ok(())
}
