//! What a plugin writes to its standard error: lines that the client shows, and no secret.

use serde_json::{Value as Json, json};
use tfplugin::proto::{
    plugin::{Empty, grpc_controller_client::GrpcControllerClient},
    tfplugin6::{self as pb, provider_client::ProviderClient},
};
use tonic::transport::Channel;

use crate::client::{Outcome, Plugin, example, plugin};

/// Ends the plugin and takes its log apart.
async fn log(plugin: Plugin, channel: Channel) -> Outcome<(String, Vec<Json>)> {
    GrpcControllerClient::new(channel).shutdown(Empty {}).await?;
    let (_, _, text) = plugin.ended().await?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Json>, _>>()?;
    Ok((text, lines))
}

fn value(json: &Json) -> Option<pb::DynamicValue> {
    Some(pb::DynamicValue { json: json.to_string().into(), ..Default::default() })
}

#[tokio::test]
async fn its_log_is_in_the_form_that_the_client_shows() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut command = plugin()?;
    command.env("TMPDIR", folder.path()).env("TF_LOG_PROVIDER", "trace");
    let plugin = Plugin::start(command).await?;
    let channel = plugin.connect_plain().await?;
    let mut provider = ProviderClient::new(channel.clone());
    let request = pb::validate_resource_config::Request {
        type_name: "pantry_jar".to_owned(),
        ..Default::default()
    };
    provider.validate_resource_config(request).await?;
    let (_, lines) = log(plugin, channel).await?;
    let call = lines.iter().find(|line| line["tf_rpc"] == "ValidateResourceConfig");
    let call = call.ok_or("the call is not in the log")?;
    assert_eq!(call["tf_resource_type"], "pantry_jar");
    assert!(call["tf_req_id"].is_string() && call["@timestamp"].is_string());
    Ok(())
}

#[tokio::test]
async fn no_value_that_is_secret_is_in_the_log_at_any_level() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut command = example("leaky")?;
    let key = "-----BEGIN KEY-----\nwhat-stands-in-a-key\n-----END KEY-----\n";
    command.env("TMPDIR", folder.path()).env("TF_LOG", "trace").env("LEAKY_KEY", key);
    let plugin = Plugin::start(command).await?;
    let channel = plugin.connect_plain().await?;
    let mut provider = ProviderClient::new(channel.clone());
    let request = pb::configure_provider::Request {
        config: value(&json!({ "pass": "of-the-provider" })),
        ..Default::default()
    };
    provider.configure_provider(request).await?;
    let config = json!({ "name": "plain", "pass": "in \"the\" state", "pass_wo": "in-no-state" });
    let planned = json!({ "name": "plain", "pass": "in \"the\" state", "pass_wo": null });
    let request = pb::apply_resource_change::Request {
        type_name: "leaky_thing".to_owned(),
        config: value(&config),
        planned_state: value(&planned),
        prior_state: value(&Json::Null),
        ..Default::default()
    };
    let applied = provider.apply_resource_change(request).await?.into_inner();
    assert_eq!(applied.diagnostics, []);
    let (text, lines) = log(plugin, channel).await?;
    for level in ["error", "warn", "info", "debug", "trace"] {
        let told = lines.iter().filter(|line| line["@level"] == level && line["what"].is_string());
        assert_eq!(told.count(), 2, "{level}: {text}");
    }
    assert!(text.contains("plain"), "what is no secret is told: {text}");
    for secret in ["of-the-provider", "the\\", "in-no-state", "what-stands-in-a-key"] {
        assert!(!text.contains(secret), "{secret} is in the log: {text}");
    }
    Ok(())
}
