//! Credentials over time: how many there may be, and which of them are forgotten.

use fairmazon_broker::core::{
    Caller, CoreConfig, MadeCertificate, PageRequest, TokenRequest, hash_secret,
};
use fairmazon_model::{
    ErrorKind,
    access::Role,
    id::TokenId,
    key::{Blob, HostSealing},
    units::UnixMs,
};

use super::kit::{Kit, host_spec, quick};

const HOUR_MS: i64 = 60 * 60 * 1_000;

fn wanted(lifetime_ms: Option<i64>) -> TokenRequest {
    TokenRequest { name: "ci".into(), role: Role::Customer, lifetime_ms, account: None }
}

/// Whether the platform knows of all of these, in the order of the list.
fn known(kit: &Kit, ids: &[TokenId]) -> Vec<bool> {
    let page = PageRequest { after: None, limit: 0 };
    let listed: Vec<_> =
        kit.engine.tokens(&kit.customer, page).items.iter().map(|row| row.id).collect();
    let shown = ids.iter().map(|id| listed.contains(id));
    let known: Vec<_> = ids.iter().map(|id| kit.engine.credential(*id).is_some()).collect();
    assert_eq!(shown.collect::<Vec<_>>(), known);
    known
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

#[tokio::test]
async fn tokens_that_have_ended_or_were_revoked_are_forgotten_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), CoreConfig { credential_keep_ms: HOUR_MS, ..quick() }).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let mut ids = Vec::new();
    for lifetime_ms in [None, Some(HOUR_MS), None, Some(30 * HOUR_MS)] {
        let made = engine.create_token(customer, &wanted(lifetime_ms), &kit.key()).await.unwrap();
        ids.push(made.credential.id);
    }
    for revoked in &ids[2..] {
        engine.revoke_token(customer, *revoked, &kit.key()).await.unwrap();
    }
    kit.clock.forward(HOUR_MS + HOUR_MS / 2);
    kit.until("the revoked ones are forgotten", || known(&kit, &ids) == [true, true, false, false])
        .await;
    kit.clock.forward(HOUR_MS);
    kit.until("so is the one that has ended", || known(&kit, &ids) == [true, false, false, false])
        .await;
    let error = engine.revoke_token(customer, ids[2], &kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    for (id, there) in ids.iter().zip(known(&kit, &ids)) {
        let changes = kit.own_changes(id).await;
        let verbs: Vec<_> = changes.iter().map(|entry| entry.verb.as_str()).collect();
        assert_eq!(verbs, if there { &[][..] } else { &["broker.remove_token"] });
        assert!(changes.iter().all(|it| it.before.is_some() && it.after.is_none()), "{changes:?}");
    }
    kit.stop().await;
    let kit = Kit::open(folder.path(), quick()).await;
    assert_eq!(
        kit.engine.tokens(&kit.customer, PageRequest { after: None, limit: 0 }).items.len(),
        2
    );
}

#[tokio::test]
async fn a_host_that_renews_its_certificate_leaves_none_behind() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), CoreConfig { credential_keep_ms: HOUR_MS, ..quick() }).await;
    kit.start();
    let engine = &kit.engine;
    let (view, token) =
        engine.register_host(&kit.customer, host_spec(0, "DE"), &kit.key()).await.unwrap();
    let host = view.row.id;
    let mut caller = Caller::of(&token.credential);
    let mut ids = vec![token.credential.id];
    for number in 0..3 {
        kit.clock.forward(i64::from(number) * 10 * HOUR_MS);
        let made = MadeCertificate {
            sha256: format!("{number:064x}"),
            public_key: String::new(),
            expires_at: UnixMs(kit.clock_ms() + 30 * HOUR_MS),
            sealing: HostSealing { key: Blob(vec![1; 32]), certificate: String::new() },
        };
        let made = engine.join_host(&caller, made, &kit.key()).await.unwrap();
        let credential = engine.credential_by_hash(&made.sha256).unwrap();
        caller = Caller::of(&credential);
        ids.push(credential.id);
        engine.has_joined(&caller).await.unwrap();
    }
    // 30 hours have passed. The certificate before the last one is revoked, and has not ended.
    kit.clock.forward(5 * HOUR_MS);
    kit.until("the older ones are forgotten", || known(&kit, &ids) == [false, false, true, true])
        .await;
    kit.clock.forward(7 * HOUR_MS);
    kit.until("so is the next", || known(&kit, &ids) == [false, false, false, true]).await;
    kit.clock.forward(20 * HOUR_MS);
    kit.until("so is the last", || known(&kit, &ids) == [false, false, false, false]).await;
    let rotated = engine.rotate_host_token(&kit.customer, host, &kit.key()).await.unwrap().1;
    assert_eq!(known(&kit, &[rotated.credential.id]), [true]);
    kit.stop().await;
}

#[tokio::test]
async fn what_a_token_joined_with_outlives_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let spec = host_spec(0, "DE");
    let (_, token) = kit.engine.register_host(&kit.customer, spec, &kit.key()).await.unwrap();
    let caller = Caller::of(&token.credential);
    let made = |number: u32, tls_key: &str, sealing_key: u8| MadeCertificate {
        sha256: format!("{number:064x}"),
        public_key: tls_key.to_owned(),
        expires_at: UnixMs(i64::MAX),
        sealing: HostSealing { key: Blob(vec![sealing_key; 32]), certificate: String::new() },
    };
    let first = kit.engine.join_host(&caller, made(0, "one", 1), &kit.key()).await.unwrap();
    kit.stop().await;

    let kit = Kit::open(folder.path(), quick()).await;
    for (tls_key, sealing_key) in [("other", 1), ("one", 2), ("other", 2)] {
        let made = made(1, tls_key, sealing_key);
        let error = kit.engine.join_host(&caller, made, "again").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Forbidden, "{error}");
    }
    let certificate = |sha256: &str| kit.engine.credential_by_hash(sha256);
    assert_eq!(certificate(&first.sha256).unwrap().revoked_at, None);
    let last = kit.engine.join_host(&caller, made(2, "one", 1), "again").await.unwrap();
    assert_eq!(certificate(&first.sha256), None, "it was never shown");
    kit.engine.has_joined(&Caller::of(&certificate(&last.sha256).unwrap())).await.unwrap();
    let error = kit.engine.join_host(&caller, made(3, "one", 1), &kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    kit.stop().await;
}

#[tokio::test]
async fn a_revocation_is_kept_while_the_same_could_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), CoreConfig { credential_keep_ms: HOUR_MS, ..quick() }).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let account = customer.account.unwrap();
    let secret = format!("fmz_{}", "ab".repeat(32));
    let brought = engine.ensure_token(account, Role::Customer, "kept", &secret).await.unwrap();
    // One that is registered with a short token is refused before it ends by itself.
    let short = engine.create_token(customer, &wanted(Some(HOUR_MS)), &kit.key()).await.unwrap();
    let (sha256, ends) = (hash_secret(b"certificate"), UnixMs(kit.clock_ms() + 100 * HOUR_MS));
    let register = async |caller: &Caller, key: &str| {
        engine.register_certificate(caller, &wanted(None), &sha256, ends, key).await
    };
    let certificate = register(&Caller::of(&short.credential), "first").await.unwrap();
    assert!(certificate.expires_at.unwrap() < ends);
    let ids = [brought.id, certificate.id, short.credential.id];
    for id in [brought.id, certificate.id] {
        engine.revoke_token(customer, id, &kit.key()).await.unwrap();
    }
    kit.clock.forward(50 * HOUR_MS);
    kit.until("the short one is forgotten", || known(&kit, &ids) == [true, true, false]).await;
    let again = engine.ensure_token(account, Role::Customer, "kept", &secret).await;
    assert_eq!(again.unwrap_err().kind, ErrorKind::Conflict, "it would be valid again");
    register(customer, "second").await.unwrap_err();
    kit.clock.forward(52 * HOUR_MS);
    kit.until("the certificate is, too", || known(&kit, &ids) == [true, false, false]).await;
    kit.clock.forward(100_000 * HOUR_MS);
    let other = engine.create_token(customer, &wanted(Some(1)), &kit.key()).await.unwrap();
    kit.clock.forward(2 * HOUR_MS);
    kit.until("a later one is", || engine.credential(other.credential.id).is_none()).await;
    assert_eq!(known(&kit, &ids), [true, false, false]);
    kit.stop().await;
}
