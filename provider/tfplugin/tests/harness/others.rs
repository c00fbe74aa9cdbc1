//! Data sources, functions, ephemeral resources, lists and actions.

use serde_json::{Value as Json, json};
use tfplugin::{AttributePath, harness::Objects};

use crate::lab::harness;

#[tokio::test]
async fn a_data_source_is_read() {
    let (mut client, _) = harness().await;
    client.apply("lab_thing", json!({ "name": "a" })).await.expect("it is created");
    let read = client.data("lab_count", json!({ "kind": "plain" })).await;
    assert_eq!(read, Ok(json!({ "kind": "plain", "total": 1 })));
    assert!(client.data("lab_count", json!({ "kind": "" })).await.is_err());
}

#[tokio::test]
async fn a_function_is_called() {
    let (client, _) = harness().await;
    let call = |arguments| client.call("join", arguments);
    let joined = call(vec![json!("-"), Json::Null, json!("a"), json!("b")]).await;
    assert_eq!(joined, Ok(json!("a-b")));
    assert_eq!(call(vec![json!("-"), json!(1)]).await, Ok(json!("")));
    let told = call(vec![json!("-"), json!(1), json!("a"), json!("b")]).await;
    let told = told.expect_err("there are too many");
    let third = AttributePath::root().index(2);
    assert_eq!(told.iter().next().and_then(|one| one.path()), Some(&third));
    // The client puts the full stop.
    assert!(told.to_string().ends_with("There are too many"), "{told}");
    assert!(call(vec![json!("-")]).await.is_err(), "an argument is missing");
    let told = call(vec![json!("-"), json!(-1)]).await.expect_err("not below zero");
    let second = AttributePath::root().index(1);
    assert_eq!(told.iter().next().and_then(|one| one.path()), Some(&second));
}

#[tokio::test]
async fn an_ephemeral_resource_is_opened_renewed_and_closed() {
    let (client, _) = harness().await;
    let mut opened = client.open("lab_pass", json!({ "purpose": "x" })).await.expect("it opens");
    assert_eq!(opened.result, json!({ "purpose": "x", "secret": "sesame" }));
    assert_eq!(opened.renew_at, Some(60));
    client.renew(&mut opened).await.expect("it is renewed");
    assert_eq!(opened.renew_at, Some(120));
    let once = opened.clone();
    client.close_ephemeral(once).await.expect("it is closed");
    client.renew(&mut opened).await.expect("it is renewed");
    let told = client.close_ephemeral(opened).await.expect_err("what it keeps comes along");
    assert!(told.to_string().contains("renewed twice"));
}

#[tokio::test]
async fn a_list_streams_what_is_wanted() {
    let (mut client, _) = harness().await;
    for name in ["a", "b", "c"] {
        let address = format!("lab_thing.{name}");
        client.apply(&address, json!({ "name": name })).await.expect("it is created");
    }
    let all = client.list("lab_thing", json!({}), Objects::Identities, 0).await.expect("a list");
    let names: Vec<_> = all.iter().map(|one| one.display_name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(all[0].identity, json!({ "id": "thing-0" }));
    assert_eq!(all[0].object, None);
    let two = client.list("lab_thing", json!({}), Objects::Whole, 2).await.expect("a list");
    assert_eq!(two.len(), 2);
    assert_eq!(two[1].object.as_ref().map(|object| &object["name"]), Some(&json!("b")));
    let none = client.list("lab_thing", json!({ "kind": "x" }), Objects::Whole, 0).await;
    assert_eq!(none, Ok(Vec::new()));
    let told = client.list("lab_thing", json!({ "kind": "broken" }), Objects::Whole, 0).await;
    assert!(told.expect_err("it is broken").to_string().contains("Unable to list"));
}

#[tokio::test]
async fn an_action_tells_how_far_it_got() {
    let (client, _) = harness().await;
    let said = client.invoke("lab_poke", json!({ "what": "cat" })).await.expect("it is done");
    assert_eq!(said, ["poking the cat", "poked"]);
    let told = client.invoke("lab_poke", json!({ "what": "bear" })).await;
    assert!(told.expect_err("the plan refuses").to_string().contains("at what"));
}
