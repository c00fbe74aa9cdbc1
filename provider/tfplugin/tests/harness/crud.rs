//! A resource of four calls: what it gets without a word about it.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tfplugin::{
    Attr, Attribute, Context, Crud, Diagnostics, Offers, Provider, Schema, View, async_trait,
    harness::{ChangeAction, Harness},
};

#[derive(Clone, Serialize, Deserialize)]
struct Note {
    number: Attr<String>,
    text: String,
    colour: String,
}

type Notes = Arc<Mutex<BTreeMap<String, Note>>>;

/// A note that can't be changed where it does not say how.
struct NoteResource;

#[async_trait]
impl Crud for NoteResource {
    type Data = Notes;
    type Model = Note;

    fn name(&self) -> &'static str {
        "lab_note"
    }

    fn key(&self) -> &'static str {
        "number"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .attribute(Attribute::string("number").computed().use_state_for_unknown())
            .attribute(Attribute::string("text").required())
            .attribute(Attribute::string("colour").default("yellow").requires_replace())
            .build()
    }

    async fn create(&self, cx: &Context<Notes>, plan: Note) -> Result<Note, Diagnostics> {
        let mut notes = cx.data()?.lock();
        let number = format!("note-{}", notes.len());
        // A service that forgets to say what it made.
        let known = plan.text != "nameless";
        let note = Note { number: known.then(|| number.clone()).into(), ..plan };
        notes.insert(number, note.clone());
        Ok(note)
    }

    async fn read(&self, cx: &Context<Notes>, key: &str) -> Result<Option<Note>, Diagnostics> {
        Ok(cx.data()?.lock().get(key).cloned())
    }

    async fn update(
        &self,
        cx: &Context<Notes>,
        key: &str,
        plan: Note,
    ) -> Result<Note, Diagnostics> {
        if plan.text == "forbidden" {
            return Err(Diagnostics::error("Forbidden", "That is no text for a note."));
        }
        cx.data()?.lock().insert(key.to_owned(), plan.clone());
        Ok(plan)
    }

    async fn delete(&self, cx: &Context<Notes>, key: &str) -> Result<(), Diagnostics> {
        cx.data()?.lock().remove(key);
        Ok(())
    }
}

struct Lab(Notes);

#[async_trait]
impl Provider for Lab {
    type Data = Notes;

    fn schema(&self) -> Schema {
        Schema::builder().build()
    }

    fn offers(&self) -> Offers<Notes> {
        Offers::new().crud(NoteResource)
    }

    async fn configure(&self, _: &Context<()>, _: View<'_>) -> Result<Notes, Diagnostics> {
        Ok(Arc::clone(&self.0))
    }
}

async fn harness() -> (Harness<Lab>, Notes) {
    let notes = Notes::default();
    let client = Harness::new(Lab(Arc::clone(&notes)));
    client.check_schemas().await.expect("sound schemas");
    client.configure(json!({})).await.expect("it needs nothing");
    (client, notes)
}

#[tokio::test]
async fn it_lives_by_four_calls() {
    let (mut client, notes) = harness().await;
    let made = client.apply("lab_note", json!({ "text": "a" })).await.expect("it is created");
    assert_eq!(made.state, json!({ "number": "note-0", "text": "a", "colour": "yellow" }));
    let changed = client.apply("lab_note", json!({ "text": "b" })).await.expect("it is changed");
    assert_eq!(
        (changed.action, &changed.state["number"]),
        (ChangeAction::Update, &json!("note-0"))
    );
    assert_eq!(notes.lock()["note-0"].text, "b");
    let told = client.apply("lab_note", json!({ "text": "forbidden" })).await;
    assert!(told.expect_err("it refuses").to_string().contains("no text for a note"));
    assert_eq!(client.state("lab_note").expect("it is stored")["text"], "b");
    let other = json!({ "text": "b", "colour": "green" });
    let plan = client.plan("lab_note", other).await.expect("a plan");
    assert_eq!(plan.action, ChangeAction::Replace);
    client.destroy("lab_note").await.expect("it is destroyed");
    assert!(notes.lock().is_empty());
}

#[tokio::test]
async fn what_is_gone_is_made_again() {
    let (mut client, notes) = harness().await;
    client.apply("lab_note", json!({ "text": "a" })).await.expect("it is created");
    notes.lock().clear();
    assert_eq!(client.refresh("lab_note").await, Ok(Json::Null));
}

#[tokio::test]
async fn imports_go_by_its_key() {
    let (mut client, _) = harness().await;
    client.apply("lab_note", json!({ "text": "a" })).await.expect("it is created");
    let by_text = client.import("lab_note.b", "note-0").await.expect("it is found");
    assert_eq!(by_text["text"], "a");
    let identity = json!({ "number": "note-0" });
    assert_eq!(client.import_identity("lab_note.c", identity).await, Ok(by_text));
    let told = client.import("lab_note.d", "note-9").await.expect_err("there is none");
    let told = told.to_string();
    assert!(told.contains("lab_note") && told.contains("number \"note-9\""), "{told}");
}

#[tokio::test]
async fn an_object_without_its_key_is_the_providers_mistake() {
    let (mut client, _) = harness().await;
    client.apply("lab_note", json!({ "text": "nameless" })).await.expect("it is created");
    let told = client.refresh("lab_note").await.expect_err("nothing to find it by").to_string();
    assert!(told.contains("lab_note has no number"), "{told}");
}
