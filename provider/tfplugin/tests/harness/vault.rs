//! Boxes with secrets of every kind, and what becomes of those: in diagnostics, in the log and in
//! answers.

use serde::{Deserialize, Serialize};
use serde_json::json;
use tfplugin::{
    Action, Attr, Attribute, Context, Diagnostics, IdentitySchema, ListResource, ListSink, Offers,
    Planned, Progress, Provider, Resource, Schema, StateSink, Type, Upgrader, View, async_trait,
    harness::{Harness, Objects, as_logged},
};

struct Vault;

#[async_trait]
impl Provider for Vault {
    type Data = ();

    fn schema(&self) -> Schema {
        Schema::builder().build()
    }

    fn offers(&self) -> Offers<()> {
        Offers::new().resource(BoxResource).list(Boxes).action(Open)
    }

    async fn configure(&self, _: &Context<()>, _: View<'_>) -> Result<(), Diagnostics> {
        Ok(())
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct VaultBox {
    id: Attr<String>,
    pin: Option<u64>,
    share: Option<f64>,
    code: Option<String>,
    word_wo: Option<String>,
    note: Attr<String>,
}

struct BoxResource;

#[async_trait]
impl Resource for BoxResource {
    type Data = ();
    type Model = VaultBox;

    fn name(&self) -> &'static str {
        "vault_box"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .attribute(Attribute::string("id").computed())
            .attribute(Attribute::integer("pin").optional().sensitive())
            .attribute(Attribute::number("share").optional().sensitive())
            .attribute(Attribute::string("code").optional().sensitive())
            .attribute(Attribute::string("word_wo").optional().write_only())
            .attribute(Attribute::string("note").computed())
            .build()
    }

    fn identity(&self) -> Option<IdentitySchema> {
        let identity = IdentitySchema::new().version(2);
        let identity = identity.required("id", Type::String, "The id.");
        Some(identity.optional("zone", Type::String, "Where it is."))
    }

    fn identity_upgraders(&self) -> Vec<Upgrader> {
        // Once they had numbers.
        vec![Upgrader::from_version(1, |identity| {
            assert_ne!(identity["number"], 13, "a mistake in an upgrade");
            Ok(match identity["number"].as_u64() {
                Some(number) => json!({ "id": format!("box-{number}") }),
                None => json!({}),
            })
        })]
    }

    async fn create(
        &self,
        _: &Context<()>,
        plan: Planned<'_, VaultBox>,
        _: &mut StateSink<'_, VaultBox>,
    ) -> Result<(), Diagnostics> {
        let VaultBox { pin, share, code, .. } = plan.model;
        let told = format!(
            "pin={} {{\"share\":{}}} and the code {} are wrong.",
            pin.unwrap_or_default(),
            share.unwrap_or_default(),
            code.unwrap_or_default(),
        );
        Err(Diagnostics::error("Unable to open", told))
    }

    async fn read(
        &self,
        _: &Context<()>,
        _: VaultBox,
        _: &mut StateSink<'_, VaultBox>,
    ) -> Result<(), Diagnostics> {
        Ok(())
    }

    async fn delete(
        &self,
        _: &Context<()>,
        _: VaultBox,
        _: &mut StateSink<'_, VaultBox>,
    ) -> Result<(), Diagnostics> {
        Ok(())
    }
}

struct Boxes;

#[derive(Deserialize)]
struct BoxesConfig {
    how: String,
}

#[async_trait]
impl ListResource for Boxes {
    type Data = ();
    type Config = BoxesConfig;
    type Model = VaultBox;

    fn name(&self) -> &'static str {
        "vault_box"
    }

    fn schema(&self) -> Schema {
        Schema::builder().attribute(Attribute::string("how").required()).build()
    }

    async fn list(
        &self,
        _: &Context<()>,
        config: BoxesConfig,
        found: &mut ListSink<VaultBox>,
    ) -> Result<(), Diagnostics> {
        let one = VaultBox {
            id: Attr::Value("box-1".to_owned()),
            code: Some("c0de-of-one".to_owned()),
            word_wo: Some("never-stored".to_owned()),
            note: if config.how == "early" { Attr::Unknown } else { Attr::Null },
            ..VaultBox::default()
        };
        found.put("the box with c0de-of-one", &one).await?;
        match config.how.as_str() {
            "broken" => Err(Diagnostics::error("Unable to go on", "It refused c0de-of-one.")),
            _ => Ok(()),
        }
    }
}

struct Open;

#[derive(Deserialize)]
struct OpenConfig {
    code: String,
}

#[async_trait]
impl Action for Open {
    type Data = ();
    type Config = OpenConfig;

    fn name(&self) -> &'static str {
        "vault_open"
    }

    fn schema(&self) -> Schema {
        Schema::builder().attribute(Attribute::string("code").required().write_only()).build()
    }

    async fn invoke(
        &self,
        _: &Context<()>,
        config: OpenConfig,
        progress: &Progress,
    ) -> Result<(), Diagnostics> {
        progress.say(format!("trying {}", config.code));
        Ok(())
    }
}

async fn harness() -> Harness<Vault> {
    let harness = Harness::new(Vault);
    harness.configure(json!({})).await.expect("it can be configured");
    harness
}

#[tokio::test]
async fn numbers_and_short_texts_stay_out_of_diagnostics_and_of_the_log() {
    let mut client = harness().await;
    let config = json!({ "pin": 31_337_042, "share": 0.3125, "code": "q7" });
    let told = client.apply("vault_box.a", config).await.expect_err("it is wrong").to_string();
    let hidden = "pin=* {\"share\":*} and the code * are wrong.".replace('*', "(sensitive value)");
    assert!(told.contains(&hidden), "{told}");
    for form in ["31337042", "3.1337042e7", "0.3125", "3.125e-1", "q7"] {
        assert_eq!(as_logged(form), "(sensitive value)");
    }
    assert_eq!(as_logged("q70"), "q70");
}

#[tokio::test]
async fn a_listed_object_is_answered_as_one_that_is_read() {
    let client = harness().await;
    let list = |how: &str| client.list("vault_box", json!({ "how": how }), Objects::Whole, 0);
    let found = list("well").await.expect("a list");
    let object = found[0].object.as_ref().expect("it was asked for");
    assert_eq!((&object["id"], &object["code"]), (&json!("box-1"), &json!("c0de-of-one")));
    assert_eq!(object["word_wo"], json!(null), "{object}");
    assert_eq!(found[0].display_name, "the box with (sensitive value)");
    for secret in ["c0de-of-one", "never-stored"] {
        assert_eq!(as_logged(secret), "(sensitive value)");
    }
    let config = json!({ "how": "well" });
    let found = client.list("vault_box", config, Objects::Identities, 0).await.expect("a list");
    assert_eq!(found[0].display_name, "the box with (sensitive value)");
    let told = list("broken").await.expect_err("it is broken").to_string();
    assert!(told.contains("It refused (sensitive value)."), "{told}");
    let told = list("early").await.expect_err("a value is unknown").to_string();
    assert!(told.contains("ListResource of vault_box") && told.contains("at note"), "{told}");
}

#[tokio::test]
async fn old_identities_are_upgraded_or_refused() {
    let client = harness().await;
    let upgrade = |version, old| client.upgrade_identity("vault_box", version, old);
    let upgraded = upgrade(1, json!({ "number": 7 })).await;
    assert_eq!(upgraded, Ok(json!({ "id": "box-7", "zone": null })));
    let present = upgrade(2, json!({ "id": "box-7", "zone": "x", "colour": "red" })).await;
    assert_eq!(present, Ok(json!({ "id": "box-7", "zone": "x" })));
    for (version, old, told) in [
        (0, json!({ "id": "box-7" }), "nothing leads from 0 to 1"),
        (3, json!({ "id": "box-7" }), "The identity was written by a newer provider"),
        (1, json!({ "id": "box-7" }), "a part that every identity has is missing"),
        (1, json!({ "number": 13 }), "UpgradeResourceIdentity of vault_box panicked"),
    ] {
        let refused = upgrade(version, old).await.expect_err(told).to_string();
        assert!(refused.contains(told), "{refused}");
    }
}

#[tokio::test]
async fn an_action_tells_no_secret_on_its_way() {
    let client = harness().await;
    let said = client.invoke("vault_open", json!({ "code": "0pen-sesame" })).await;
    assert_eq!(said, Ok(vec!["trying (sensitive value)".to_owned()]));
}
