//! Boxes with secrets of every kind, and what becomes of those: in diagnostics, in the log and in
//! answers.

use serde::{Deserialize, Serialize};
use serde_json::json;
use tfplugin::{
    Attr, Attribute, Context, Diagnostics, Offers, Planned, Provider, Resource, Schema, StateSink,
    View, async_trait,
    harness::{Harness, as_logged},
};

struct Vault;

#[async_trait]
impl Provider for Vault {
    type Data = ();

    fn schema(&self) -> Schema {
        Schema::builder().build()
    }

    fn offers(&self) -> Offers<()> {
        Offers::new().resource(BoxResource)
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
            .build()
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
