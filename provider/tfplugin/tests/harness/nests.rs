//! Objects inside of objects, in every arrangement, through a whole life: what was written in
//! them and what the provider adds to them stays, in whatever order a service keeps it.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tfplugin::{
    Attr, Attribute, Context, Crud, Diagnostics, Offers, Provider, Schema, Value, View,
    async_trait,
    harness::{ChangeAction, Harness},
    schema::Block,
};

#[derive(Clone, Serialize, Deserialize)]
struct Disk {
    name: String,
    gib: Option<u64>,
    path: Attr<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Rule {
    port: u64,
    note: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Rack {
    id: Attr<String>,
    disks: Option<Vec<Disk>>,
    slots: Option<Vec<Rule>>,
    owners: Option<BTreeMap<String, Rule>>,
    door: Option<Rule>,
    lamp: Option<Rule>,
    fan: Option<Rule>,
    open: Vec<Rule>,
    queue: Vec<Rule>,
    named: BTreeMap<String, Rule>,
}

type Racks = Arc<Mutex<BTreeMap<String, Rack>>>;

struct RackResource;

/// A service that says where disks are, and keeps no order where there need be none.
fn kept(mut rack: Rack) -> Rack {
    for disk in rack.disks.iter_mut().flatten() {
        disk.path = Attr::Value(format!("/dev/{}", disk.name));
    }
    rack.disks.iter_mut().for_each(|disks| disks.reverse());
    rack.open.reverse();
    rack
}

#[async_trait]
impl Crud for RackResource {
    type Data = Racks;
    type Model = Rack;

    fn name(&self) -> &'static str {
        "lab_rack"
    }

    fn schema(&self) -> Schema {
        let rule = || [Attribute::integer("port").required(), Attribute::string("note").optional()];
        let disk = [
            Attribute::string("name").required(),
            Attribute::integer("gib").optional(),
            Attribute::string("path").computed().use_state_for_unknown(),
        ];
        Schema::builder()
            .attribute(Attribute::string("id").computed().use_state_for_unknown())
            .attribute(Attribute::nested_set("disks", disk).optional())
            .attribute(Attribute::nested_list("slots", rule()).optional())
            .attribute(Attribute::nested_map("owners", rule()).optional())
            .attribute(Attribute::nested("door", rule()).optional())
            .block(Block::single("lamp", rule()))
            .block(Block::single("fan", rule()))
            .block(Block::set("open", rule()))
            .block(Block::list("queue", rule()))
            .block(Block::map("named", rule()))
            .build()
    }

    async fn create(&self, cx: &Context<Racks>, plan: Rack) -> Result<Rack, Diagnostics> {
        let mut racks = cx.data()?.lock();
        let id = format!("rack-{}", racks.len());
        let rack = kept(Rack { id: Attr::Value(id.clone()), ..plan });
        racks.insert(id, rack.clone());
        Ok(rack)
    }

    async fn read(&self, cx: &Context<Racks>, id: &str) -> Result<Option<Rack>, Diagnostics> {
        Ok(cx.data()?.lock().get(id).cloned())
    }

    async fn update(&self, cx: &Context<Racks>, id: &str, plan: Rack) -> Result<Rack, Diagnostics> {
        let rack = kept(plan);
        cx.data()?.lock().insert(id.to_owned(), rack.clone());
        Ok(rack)
    }

    async fn delete(&self, cx: &Context<Racks>, id: &str) -> Result<(), Diagnostics> {
        cx.data()?.lock().remove(id);
        Ok(())
    }
}

struct Lab(Racks);

#[async_trait]
impl Provider for Lab {
    type Data = Racks;

    fn schema(&self) -> Schema {
        Schema::builder().build()
    }

    fn offers(&self) -> Offers<Racks> {
        Offers::new().crud(RackResource)
    }

    async fn configure(&self, _: &Context<()>, _: View<'_>) -> Result<Racks, Diagnostics> {
        Ok(Arc::clone(&self.0))
    }
}

async fn harness() -> Harness<Lab> {
    let client = Harness::new(Lab(Racks::default()));
    client.check_schemas().await.expect("sound schemas");
    client.configure(json!({})).await.expect("it needs nothing");
    client
}

fn rule(port: u64) -> Json {
    json!({ "port": port, "note": null })
}

fn disk(name: &str, gib: u64) -> Json {
    json!({ "name": name, "gib": gib })
}

fn with_path(name: &str, gib: u64) -> Json {
    json!({ "name": name, "gib": gib, "path": format!("/dev/{name}") })
}

/// Everything there is, the disks and what is open in this order.
fn rack(disks: &[Json], open: &[Json]) -> Json {
    json!({
        "disks": disks,
        "slots": [rule(2), rule(1), rule(2)],
        "owners": { "b": rule(1), "a": rule(2) },
        "door": rule(3),
        "lamp": { "port": 4, "note": "left" },
        "open": open,
        "queue": [rule(9), rule(8), rule(9)],
        "named": { "y": rule(5), "x": rule(6) },
    })
}

#[tokio::test]
async fn every_arrangement_comes_back_as_it_was_written() {
    let mut client = harness().await;
    // A set has each element once, however often it was written.
    let written = rack(&[disk("b", 2), disk("a", 1), disk("b", 2)], &[rule(7), rule(6), rule(7)]);
    let made = client.apply("lab_rack", written.clone()).await.expect("it is created").state;
    let mut expected = written.clone();
    expected["id"] = json!("rack-0");
    expected["disks"] = json!([with_path("a", 1), with_path("b", 2)]);
    expected["open"] = json!([rule(6), rule(7)]);
    expected["fan"] = Json::Null;
    assert_eq!(made, expected);
    assert_eq!(client.refresh("lab_rack").await, Ok(expected));
    let again = rack(&[disk("a", 1), disk("b", 2)], &[rule(6), rule(7)]);
    for config in [written, again] {
        let plan = client.plan("lab_rack", config).await.expect("a plan");
        assert_eq!(plan.action, ChangeAction::None, "{:?}", plan.planned);
    }
}

#[tokio::test]
async fn only_the_element_that_changes_is_planned_anew() {
    let mut client = harness().await;
    let open = [rule(6), rule(7)];
    client.apply("lab_rack", rack(&[disk("a", 1), disk("b", 2)], &open)).await.expect("it is made");
    let config = rack(&[disk("c", 3), disk("b", 2), disk("a", 5)], &[rule(7)]);
    let plan = client.plan("lab_rack", config.clone()).await.expect("a plan");
    assert_eq!(plan.action, ChangeAction::Update);
    let disks = plan.planned.member("disks").as_elements().expect("there are disks");
    let path_of = |gib: u64| {
        let disk = disks.iter().find(|disk| disk.member("gib") == &Value::from(gib));
        disk.expect("it is planned").member("path")
    };
    assert_eq!(path_of(2).as_str(), Some("/dev/b"), "nobody touched it");
    assert!(path_of(3).is_unknown() && path_of(5).is_unknown());
    let changed = client.apply("lab_rack", config).await.expect("it is changed").state;
    let disks = json!([with_path("b", 2), with_path("c", 3), with_path("a", 5)]);
    assert_eq!((&changed["disks"], &changed["open"]), (&disks, &json!([rule(7)])));
}

#[tokio::test]
async fn what_is_empty_and_what_is_absent_are_told_apart() {
    let mut client = harness().await;
    let config = json!({ "disks": [], "open": [], "queue": [], "named": {} });
    let made = client.apply("lab_rack", config.clone()).await.expect("it is created").state;
    let expected = json!({
        "id": "rack-0", "disks": [], "slots": null, "owners": null, "door": null,
        "lamp": null, "fan": null, "open": [], "queue": [], "named": {},
    });
    assert_eq!(made, expected);
    let absent = json!({ "open": [], "queue": [], "named": {} });
    let plan = client.plan("lab_rack", absent).await.expect("a plan");
    assert_eq!(plan.action, ChangeAction::Update);
    assert_eq!(client.plan("lab_rack", config).await.expect("a plan").action, ChangeAction::None);
}
