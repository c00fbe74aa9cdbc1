//! Credentials over time: how many there may be.

use fairmazon_broker::core::{CoreConfig, TokenRequest};
use fairmazon_model::{ErrorKind, access::Role};

use super::kit::{Kit, host_spec, quick};

fn wanted(lifetime_ms: Option<i64>) -> TokenRequest {
    TokenRequest { name: "ci".into(), role: Role::Customer, lifetime_ms, account: None }
}

#[tokio::test]
async fn an_operator_of_many_hosts_has_tokens_left() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), CoreConfig { tokens_per_account: 2, ..quick() }).await;
    let (engine, operator) = (&kit.engine, &kit.customer);
    for number in 0..3 {
        engine.register_host(operator, host_spec(number, "DE"), &kit.key()).await.unwrap();
    }
    // The account's first one is there.
    engine.create_token(operator, &wanted(None), &kit.key()).await.unwrap();
    let error = engine.create_token(operator, &wanted(None), &kit.key()).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::LimitExceeded);
}
