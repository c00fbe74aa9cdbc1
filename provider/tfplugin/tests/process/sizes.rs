//! How large a message may be: what is just below the limit passes in both directions, and what
//! is above it is an error of its one call.

use prost::Message as _;
use serde_json::json;
use tfplugin::proto::tfplugin6::{self as pb, provider_client::ProviderClient};
use tonic::{Code, Status, transport::Channel};

use crate::client::{Outcome, Plugin};

/// What Terraform takes, and the plugin too.
const LIMIT: usize = 64 << 20;
/// More than all that stands around a note.
const MARGIN: usize = 1 << 10;

/// A shelf with a jar whose note has this many bytes.
fn stock(folder: &std::path::Path, note: usize) -> Outcome {
    let shelf = folder.join("shelf");
    std::fs::create_dir_all(&shelf)?;
    let text = jar(note).to_string();
    std::fs::write(shelf.join("jar-jam.json"), text)?;
    Ok(())
}

fn jar(note: usize) -> serde_json::Value {
    json!({ "id": "jar-jam", "name": "jam", "grams": 500, "note": "x".repeat(note) })
}

/// Reads the jar, saying that its note had this many bytes.
async fn read(
    client: &mut ProviderClient<Channel>,
    note: usize,
) -> Result<(usize, pb::read_resource::Response), Status> {
    let state = jar(note).to_string().into();
    let request = pb::read_resource::Request {
        type_name: "pantry_jar".to_owned(),
        current_state: Some(pb::DynamicValue { json: state, ..Default::default() }),
        ..Default::default()
    };
    let asked = request.encoded_len();
    Ok((asked, client.read_resource(request).await?.into_inner()))
}

fn too_large(answer: Result<(usize, pb::read_resource::Response), Status>) -> Outcome {
    let status = answer.err().ok_or("a message above the limit has passed")?;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    for part in ["message length too large", "found 67109", "limit is: 67108864 bytes"] {
        assert!(status.message().contains(part), "{part} is not in {status}");
    }
    Ok(())
}

#[tokio::test]
async fn a_message_below_the_limit_passes_and_one_above_ends_its_call_only() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (_plugin, channel) = Plugin::connected(folder.path()).await?;
    let mut client = ProviderClient::new(channel).max_decoding_message_size(2 * LIMIT);
    let config = json!({ "folder": null }).to_string().into();
    let request = pb::configure_provider::Request {
        config: Some(pb::DynamicValue { json: config, ..Default::default() }),
        ..Default::default()
    };
    client.configure_provider(request).await?;

    stock(folder.path(), LIMIT - MARGIN)?;
    let (asked, answer) = read(&mut client, LIMIT - MARGIN).await?;
    assert_eq!(answer.diagnostics, []);
    for size in [asked, answer.encoded_len()] {
        assert!((LIMIT - MARGIN..=LIMIT).contains(&size), "{size}");
    }

    // The question is too long, then the answer.
    too_large(read(&mut client, LIMIT + MARGIN).await)?;
    stock(folder.path(), LIMIT + MARGIN)?;
    too_large(read(&mut client, 1).await)?;

    stock(folder.path(), 1)?;
    let (_, answer) = read(&mut client, 1).await?;
    assert_eq!(answer.diagnostics, []);
    assert!(answer.new_state.is_some(), "it lives on, and knows what it was configured with");
    Ok(())
}
