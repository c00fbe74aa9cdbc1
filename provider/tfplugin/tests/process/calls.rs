//! Every call of the wire once, against the running example: each is answered, and never with a
//! broken call where a diagnostic belongs.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use tfplugin::proto::tfplugin6::{self as pb, provider_client::ProviderClient};
use tonic::{Status, transport::Channel};

use crate::client::{Outcome, Plugin};

fn value(json: &Json) -> Option<pb::DynamicValue> {
    Some(pb::DynamicValue { json: json.to_string().into(), ..Default::default() })
}

fn clean(call: &str, told: &[pb::Diagnostic]) {
    assert!(told.is_empty(), "{call}: {told:?}");
}

fn refused(call: &str, told: &[pb::Diagnostic]) {
    let offered = told.iter().any(|one| one.summary.contains("not offered"));
    assert!(offered, "{call}: {told:?}");
}

async fn of_the_provider(client: &mut ProviderClient<Channel>) -> Result<(), Status> {
    let names = client.get_metadata(pb::get_metadata::Request {}).await?.into_inner();
    assert_eq!(names.functions.len(), 1);
    assert_eq!(names.list_resources[0].type_name, "pantry_jar");
    let schema =
        client.get_provider_schema(pb::get_provider_schema::Request {}).await?.into_inner();
    clean("GetProviderSchema", &schema.diagnostics);
    let offered: BTreeSet<_> = [
        schema.resource_schemas.keys().collect::<Vec<_>>(),
        schema.data_source_schemas.keys().collect(),
        schema.functions.keys().collect(),
        schema.ephemeral_resource_schemas.keys().collect(),
        schema.action_schemas.keys().collect(),
    ]
    .concat()
    .into_iter()
    .collect();
    assert_eq!(offered.len(), 5);
    let config = value(&json!({ "folder": null }));
    let request = pb::validate_provider_config::Request { config: config.clone() };
    let answer = client.validate_provider_config(request).await?.into_inner();
    clean("ValidateProviderConfig", &answer.diagnostics);
    let request = pb::configure_provider::Request { config, ..Default::default() };
    let answer = client.configure_provider(request).await?.into_inner();
    clean("ConfigureProvider", &answer.diagnostics);
    let functions = client.get_functions(pb::get_functions::Request {}).await?.into_inner();
    assert_eq!(functions.functions.len(), 1);
    let request = pb::call_function::Request {
        name: "label".to_owned(),
        arguments: [json!("jam"), json!(5)].iter().filter_map(value).collect(),
    };
    let answer = client.call_function(request).await?.into_inner();
    assert_eq!(answer.error, None);
    let schemas = pb::get_resource_identity_schemas::Request {};
    let answer = client.get_resource_identity_schemas(schemas).await?.into_inner();
    assert!(answer.identity_schemas.contains_key("pantry_jar"));
    client.stop_provider(pb::stop_provider::Request {}).await?;
    Ok(())
}

async fn of_a_resource(client: &mut ProviderClient<Channel>) -> Result<(), Status> {
    let type_name = || "pantry_jar".to_owned();
    let config = json!({ "id": null, "name": "jam", "grams": null, "note": null });
    let request = pb::validate_resource_config::Request {
        type_name: type_name(),
        config: value(&config),
        client_capabilities: None,
    };
    let answer = client.validate_resource_config(request).await?.into_inner();
    clean("ValidateResourceConfig", &answer.diagnostics);
    let request = pb::plan_resource_change::Request {
        type_name: type_name(),
        proposed_new_state: value(&config),
        config: value(&config),
        ..Default::default()
    };
    let plan = client.plan_resource_change(request).await?.into_inner();
    clean("PlanResourceChange", &plan.diagnostics);
    let request = pb::apply_resource_change::Request {
        type_name: type_name(),
        planned_state: plan.planned_state,
        config: value(&config),
        ..Default::default()
    };
    let applied = client.apply_resource_change(request).await?.into_inner();
    clean("ApplyResourceChange", &applied.diagnostics);
    let request = pb::read_resource::Request {
        type_name: type_name(),
        current_state: applied.new_state.clone(),
        current_identity: applied.new_identity.clone(),
        ..Default::default()
    };
    let read = client.read_resource(request).await?.into_inner();
    clean("ReadResource", &read.diagnostics);
    assert_eq!(read.new_state, applied.new_state);
    assert_eq!(read.new_identity, applied.new_identity);
    let request = pb::import_resource_state::Request {
        type_name: type_name(),
        identity: applied.new_identity,
        ..Default::default()
    };
    let imported = client.import_resource_state(request).await?.into_inner();
    clean("ImportResourceState", &imported.diagnostics);
    assert_eq!(imported.imported_resources[0].state, applied.new_state);
    let request =
        pb::generate_resource_config::Request { type_name: type_name(), state: applied.new_state };
    let written = client.generate_resource_config(request).await?.into_inner();
    clean("GenerateResourceConfig", &written.diagnostics);
    stored(client).await
}

async fn stored(client: &mut ProviderClient<Channel>) -> Result<(), Status> {
    let type_name = || "pantry_jar".to_owned();
    let raw =
        |json: Json| Some(pb::RawState { json: json.to_string().into(), ..Default::default() });
    let request = pb::upgrade_resource_state::Request {
        type_name: type_name(),
        version: 0,
        raw_state: raw(json!({ "id": "jar-jam", "name": "jam", "grams": 500, "note": null })),
    };
    let upgraded = client.upgrade_resource_state(request).await?.into_inner();
    clean("UpgradeResourceState", &upgraded.diagnostics);
    let request = pb::upgrade_resource_identity::Request {
        type_name: type_name(),
        version: 0,
        raw_identity: raw(json!({ "id": "jar-jam" })),
    };
    let upgraded = client.upgrade_resource_identity(request).await?.into_inner();
    clean("UpgradeResourceIdentity", &upgraded.diagnostics);
    let request = pb::move_resource_state::Request {
        source_type_name: "other".to_owned(),
        source_state: raw(json!({})),
        target_type_name: type_name(),
        ..Default::default()
    };
    let moved = client.move_resource_state(request).await?.into_inner();
    assert!(moved.diagnostics[0].detail.contains("other"), "{:?}", moved.diagnostics);
    Ok(())
}

async fn of_the_rest(client: &mut ProviderClient<Channel>) -> Result<(), Status> {
    let config = value(&json!({ "names": null }));
    let type_name = || "pantry_inventory".to_owned();
    let request = pb::validate_data_resource_config::Request {
        type_name: type_name(),
        config: config.clone(),
    };
    let answer = client.validate_data_resource_config(request).await?.into_inner();
    clean("ValidateDataResourceConfig", &answer.diagnostics);
    let request =
        pb::read_data_source::Request { type_name: type_name(), config, ..Default::default() };
    let answer = client.read_data_source(request).await?.into_inner();
    clean("ReadDataSource", &answer.diagnostics);
    ephemeral(client).await?;
    let config = value(&json!({ "prefix": "j" }));
    let request = pb::validate_list_resource_config::Request {
        type_name: "pantry_jar".to_owned(),
        config: config.clone(),
        ..Default::default()
    };
    let answer = client.validate_list_resource_config(request).await?.into_inner();
    clean("ValidateListResourceConfig", &answer.diagnostics);
    let request = pb::list_resource::Request {
        type_name: "pantry_jar".to_owned(),
        config,
        include_resource_object: true,
        limit: 10,
    };
    let mut found = client.list_resource(request).await?.into_inner();
    let jar = found.message().await?.unwrap_or_default();
    assert_eq!(jar.display_name, "jam");
    assert_eq!(found.message().await?, None);
    action(client).await
}

async fn ephemeral(client: &mut ProviderClient<Channel>) -> Result<(), Status> {
    let config = value(&json!({ "teeth": null }));
    let type_name = || "pantry_key".to_owned();
    let request = pb::validate_ephemeral_resource_config::Request {
        type_name: type_name(),
        config: config.clone(),
    };
    let answer = client.validate_ephemeral_resource_config(request).await?.into_inner();
    clean("ValidateEphemeralResourceConfig", &answer.diagnostics);
    let request = pb::open_ephemeral_resource::Request {
        type_name: type_name(),
        config,
        client_capabilities: None,
    };
    let opened = client.open_ephemeral_resource(request).await?.into_inner();
    clean("OpenEphemeralResource", &opened.diagnostics);
    let private = opened.private;
    let request =
        pb::renew_ephemeral_resource::Request { type_name: type_name(), private: private.clone() };
    let renewed = client.renew_ephemeral_resource(request).await?.into_inner();
    clean("RenewEphemeralResource", &renewed.diagnostics);
    let request = pb::close_ephemeral_resource::Request { type_name: type_name(), private };
    let closed = client.close_ephemeral_resource(request).await?.into_inner();
    clean("CloseEphemeralResource", &closed.diagnostics);
    Ok(())
}

async fn action(client: &mut ProviderClient<Channel>) -> Result<(), Status> {
    use pb::invoke_action::event::Type as Told;
    let config = value(&json!({ "times": 2 }));
    let name = || "pantry_shake".to_owned();
    let request = pb::validate_action_config::Request { type_name: name(), config: config.clone() };
    let answer = client.validate_action_config(request).await?.into_inner();
    clean("ValidateActionConfig", &answer.diagnostics);
    let request = pb::plan_action::Request {
        action_type: name(),
        config: config.clone(),
        client_capabilities: None,
    };
    let answer = client.plan_action(request).await?.into_inner();
    clean("PlanAction", &answer.diagnostics);
    let request =
        pb::invoke_action::Request { action_type: name(), config, client_capabilities: None };
    let mut events = client.invoke_action(request).await?.into_inner();
    let mut said = Vec::new();
    while let Some(event) = events.message().await? {
        match event.r#type {
            Some(Told::Progress(progress)) => said.push(progress.message),
            Some(Told::Completed(completed)) => clean("InvokeAction", &completed.diagnostics),
            None => {}
        }
    }
    assert_eq!(said, ["shaken 1 of 2", "shaken 2 of 2"]);
    Ok(())
}

async fn of_state_stores(client: &mut ProviderClient<Channel>) -> Result<(), Status> {
    let answer = client.validate_state_store_config(pb::validate_state_store::Request::default());
    refused("ValidateStateStoreConfig", &answer.await?.into_inner().diagnostics);
    let answer = client.configure_state_store(pb::configure_state_store::Request::default());
    refused("ConfigureStateStore", &answer.await?.into_inner().diagnostics);
    let answer = client.read_state_bytes(pb::read_state_bytes::Request::default());
    let chunk = answer.await?.into_inner().message().await?.unwrap_or_default();
    refused("ReadStateBytes", &chunk.diagnostics);
    let chunks = tokio_stream::once(pb::write_state_bytes::RequestChunk::default());
    let answer = client.write_state_bytes(chunks).await?.into_inner();
    refused("WriteStateBytes", &answer.diagnostics);
    let answer = client.lock_state(pb::lock_state::Request::default());
    refused("LockState", &answer.await?.into_inner().diagnostics);
    let answer = client.unlock_state(pb::unlock_state::Request::default());
    refused("UnlockState", &answer.await?.into_inner().diagnostics);
    let answer = client.get_states(pb::get_states::Request::default());
    refused("GetStates", &answer.await?.into_inner().diagnostics);
    let answer = client.delete_state(pb::delete_state::Request::default());
    refused("DeleteState", &answer.await?.into_inner().diagnostics);
    Ok(())
}

#[tokio::test]
async fn every_call_is_answered() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (_plugin, channel) = Plugin::connected(folder.path()).await?;
    let mut client = ProviderClient::new(channel);
    of_the_provider(&mut client).await?;
    of_a_resource(&mut client).await?;
    of_the_rest(&mut client).await?;
    of_state_stores(&mut client).await?;
    Ok(())
}

#[tokio::test]
async fn garbage_is_answered_with_a_diagnostic() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (_plugin, channel) = Plugin::connected(folder.path()).await?;
    let mut client = ProviderClient::new(channel);
    for garbage in [&b"\xc1"[..], b"\xdf\xff\xff\xff\xff", b"\x91\x01"] {
        let request = pb::validate_resource_config::Request {
            type_name: "pantry_jar".to_owned(),
            config: Some(pb::DynamicValue { msgpack: garbage.into(), json: Default::default() }),
            client_capabilities: None,
        };
        let answer = client.validate_resource_config(request).await?.into_inner();
        assert_eq!(answer.diagnostics.len(), 1, "{garbage:?}");
    }
    Ok(())
}
