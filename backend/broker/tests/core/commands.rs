//! Each rule of the commands, without any host.

use std::collections::BTreeMap;

use fairmazon_broker::core::{
    Caller, CoreConfig, InstanceUpdate, PageRequest, TokenRequest, VolumeUpdate, hash_secret,
};
use fairmazon_model::{
    DomainError, ErrorKind,
    access::Role,
    instance::{Attachment, InstanceSpec},
    placement::Placement,
    units::Gib,
    volume::VolumeSpec,
};

use super::kit::{Hosts, Kit, host_spec, quick, spec, volume_spec};

async fn kit(folder: &tempfile::TempDir) -> Kit {
    Kit::open(folder.path(), quick()).await
}

fn field(error: &DomainError) -> &str {
    error.field.as_deref().unwrap_or_default()
}

fn with_volume(name: &str, volume_id: fairmazon_model::id::VolumeId) -> InstanceSpec {
    let attachment = Attachment { volume_id, read_only: false };
    InstanceSpec { volumes: BTreeMap::from([("data".into(), attachment)]), ..spec(name) }
}

#[tokio::test]
async fn what_the_catalogue_does_not_have_is_refused_with_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let small_disk = {
        let mut spec = spec("a");
        spec.boot_volume.size = Gib(1);
        spec
    };
    let cases = [
        (InstanceSpec { flavor: "gigantic".into(), ..spec("a") }, "flavor"),
        (InstanceSpec { flavor_fallback: vec!["x".into()], ..spec("a") }, "flavor_fallback"),
        (InstanceSpec { image: "beos".into(), ..spec("a") }, "image"),
        (InstanceSpec { name: String::new(), ..spec("a") }, "name"),
        (
            InstanceSpec { flavor: "tiny".into(), image: "ubuntu-24.04".into(), ..spec("a") },
            "flavor",
        ),
        (small_disk, "boot_volume.size_gib"),
    ];
    for (spec, blamed) in cases {
        let refused = kit.engine.create_instance(&kit.customer, spec, &kit.key()).await;
        let error = refused.unwrap_err();
        assert_eq!((error.kind, field(&error)), (ErrorKind::Invalid, blamed), "{error}");
    }
    assert!(kit.instances().is_empty());
}

#[tokio::test]
async fn a_protected_instance_or_volume_is_not_deleted_until_it_is_unprotected() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let protected = InstanceSpec { deletion_protection: true, ..spec("web") };
    let made = engine.create_instance(customer, protected, &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    let error = engine.delete_instance(customer, id, &kit.key()).await.unwrap_err();
    assert_eq!((error.kind, field(&error)), (ErrorKind::Precondition, "deletion_protection"));
    let free = InstanceUpdate { id, spec: spec("web"), expected_revision: 0, allow_rebuild: false };
    engine.update_instance(customer, free, &kit.key()).await.unwrap();
    engine.delete_instance(customer, id, &kit.key()).await.unwrap();

    let protected = VolumeSpec { deletion_protection: true, ..volume_spec("data") };
    let made = engine.create_volume(customer, protected, &kit.key()).await.unwrap();
    let id = made.volume.row.id;
    let error = engine.delete_volume(customer, id, &kit.key()).await.unwrap_err();
    assert_eq!((error.kind, field(&error)), (ErrorKind::Precondition, "deletion_protection"));
    let free = VolumeUpdate { id, spec: volume_spec("data"), expected_revision: 0 };
    engine.update_volume(customer, free, &kit.key()).await.unwrap();
    engine.delete_volume(customer, id, &kit.key()).await.unwrap();
    assert_eq!(engine.volume(customer, id).unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn nothing_shrinks_or_changes_its_class() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let made = engine.create_instance(customer, spec("web"), &kit.key()).await.unwrap();
    let volume = engine.create_volume(customer, volume_spec("data"), &kit.key()).await.unwrap();
    let mut smaller = spec("web");
    smaller.boot_volume.size = Gib(5);
    let mut other = spec("web");
    other.boot_volume.class = "fast".into();
    for (spec, blamed) in [(smaller, "boot_volume.size_gib"), (other, "boot_volume.class")] {
        let id = made.instance.row.id;
        let update = InstanceUpdate { id, spec, expected_revision: 0, allow_rebuild: false };
        let error = engine.update_instance(customer, update, &kit.key()).await.unwrap_err();
        assert_eq!((error.kind, field(&error)), (ErrorKind::Invalid, blamed));
    }
    let smaller = VolumeSpec { size: Gib(5), ..volume_spec("data") };
    let id = volume.volume.row.id;
    let update = VolumeUpdate { id, spec: smaller, expected_revision: 0 };
    let error = engine.update_volume(customer, update, &kit.key()).await.unwrap_err();
    assert_eq!((error.kind, field(&error)), (ErrorKind::Invalid, "size_gib"));
}

#[tokio::test]
async fn another_image_needs_leave_to_rebuild() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let made = kit.engine.create_instance(&kit.customer, spec("web"), &kit.key()).await.unwrap();
    let update = |allow_rebuild| InstanceUpdate {
        id: made.instance.row.id,
        spec: InstanceSpec { image: "debian-12".into(), ..spec("web") },
        expected_revision: 0,
        allow_rebuild,
    };
    let refused = kit.engine.update_instance(&kit.customer, update(false), &kit.key()).await;
    assert_eq!(field(&refused.unwrap_err()), "image");
    let changed = kit.engine.update_instance(&kit.customer, update(true), &kit.key()).await;
    assert_eq!(changed.unwrap().instance.row.rebuilds, 1);
    // The id of the image means the image of that name.
    let spec = InstanceSpec { image: "img-debian-12".into(), ..spec("web") };
    let by_id = InstanceUpdate { spec, ..update(false) };
    let changed = kit.engine.update_instance(&kit.customer, by_id, &kit.key()).await.unwrap();
    let row = &changed.instance.row;
    assert_eq!((row.rebuilds, row.spec.image.as_str()), (1, "img-debian-12"));
}

#[tokio::test]
async fn a_volume_has_one_user_and_stays_while_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let volume = engine.create_volume(customer, volume_spec("data"), &kit.key()).await.unwrap();
    let id = volume.volume.row.id;
    let first = engine.create_instance(customer, with_volume("a", id), &kit.key()).await.unwrap();
    let refused = engine.create_instance(customer, with_volume("b", id), &kit.key()).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Precondition);
    let error = engine.delete_volume(customer, id, &kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    let boot = first.instance.row.boot_volume_id;
    let error = engine.delete_volume(customer, boot, &kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    let refused = engine.create_instance(customer, with_volume("c", boot), &kit.key()).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Precondition);

    let detach = InstanceUpdate {
        id: first.instance.row.id,
        spec: spec("a"),
        expected_revision: 0,
        allow_rebuild: false,
    };
    engine.update_instance(customer, detach, &kit.key()).await.unwrap();
    engine.create_instance(customer, with_volume("b", id), &kit.key()).await.unwrap();
}

#[tokio::test]
async fn of_many_who_want_one_volume_one_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let volume =
        kit.engine.create_volume(&kit.customer, volume_spec("data"), &kit.key()).await.unwrap();
    let id = volume.volume.row.id;
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let (engine, customer, key) = (kit.engine.clone(), kit.customer, kit.key());
            let wanted = with_volume(&format!("machine{number}"), id);
            tokio::spawn(async move { engine.create_instance(&customer, wanted, &key).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(error.kind, ErrorKind::Precondition, "{error}"),
        }
    }
    assert_eq!((made, kit.instances().len()), (1, 1));
}

#[tokio::test]
async fn a_group_stays_while_it_is_named_whoever_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let labels = BTreeMap::new();
    let group = engine.create_group(customer, "apart", &labels, &kit.key()).await.unwrap();
    let placement = Placement { not_with: [group.id].into(), ..Placement::default() };
    let named = InstanceSpec { placement, ..spec("web") };
    let made = engine.create_instance(customer, named.clone(), &kit.key()).await.unwrap();
    let error = engine.delete_group(customer, group.id, &kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    let id = made.instance.row.id;
    let free = InstanceUpdate { id, spec: spec("web"), expected_revision: 0, allow_rebuild: false };
    engine.update_instance(customer, free, &kit.key()).await.unwrap();

    // A deletion and creations that name the group, all at once: both never succeed.
    let (keys, key) = ([kit.key(), kit.key()], kit.key());
    let create = |index: usize| engine.create_instance(customer, named.clone(), &keys[index]);
    let (deleted, one, other) =
        tokio::join!(engine.delete_group(customer, group.id, &key), create(0), create(1));
    assert!(deleted.is_err() || (one.is_err() && other.is_err()));
    let refused =
        engine.create_instance(customer, with_group(PLACELESS), &kit.key()).await.unwrap_err();
    assert_eq!((refused.kind, field(&refused)), (ErrorKind::NotFound, "placement.with"));
}

const PLACELESS: u128 = 7;

fn with_group(number: u128) -> InstanceSpec {
    let group = fairmazon_model::id::PlacementGroupId::from_parts(1, number);
    InstanceSpec {
        placement: Placement { with: [group].into(), ..Placement::default() },
        ..spec("web")
    }
}

#[tokio::test]
async fn counts_are_limited_also_while_creations_are_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let config = CoreConfig { instances_per_account: 3, ..quick() };
    let kit = Kit::open(folder.path(), config).await;
    let tasks: Vec<_> = (0..10)
        .map(|number| {
            let (engine, customer, key) = (kit.engine.clone(), kit.customer, kit.key());
            let wanted = spec(&format!("machine{number}"));
            tokio::spawn(async move { engine.create_instance(&customer, wanted, &key).await })
        })
        .collect();
    for task in tasks {
        if let Err(error) = task.await.unwrap() {
            assert_eq!(error.kind, ErrorKind::LimitExceeded);
        }
    }
    assert_eq!(kit.instances().len(), 3);
}

#[tokio::test]
async fn nobody_sees_or_changes_what_belongs_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let engine = &kit.engine;
    let made = engine.create_instance(&kit.customer, spec("web"), &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    let (other, token) = engine.create_account(&Caller::platform(), "other", "k").await.unwrap();
    let stranger = Caller::of(&token.credential);
    assert_eq!(stranger.account, Some(other.id));
    let refused = [
        engine.instance(&stranger, id).unwrap_err(),
        engine.delete_instance(&stranger, id, "k").await.unwrap_err(),
        engine.reboot_instance(&stranger, id, "k").await.unwrap_err(),
        engine.watch_operation(&stranger, made.operation.id).unwrap_err(),
    ];
    assert!(refused.iter().all(|error| error.kind == ErrorKind::NotFound), "{refused:?}");
    let page = PageRequest { after: None, limit: 0 };
    assert!(engine.instances(&stranger, page, &BTreeMap::new()).items.is_empty());
    let volume = engine.create_volume(&kit.customer, volume_spec("v"), &kit.key()).await.unwrap();
    let wanted = with_volume("theft", volume.volume.row.id);
    let error = engine.create_instance(&stranger, wanted, "k2").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn lists_come_in_pages_and_by_labels() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    for number in 0..7 {
        let parity = if number % 2 == 0 { "even" } else { "odd" };
        let labels = BTreeMap::from([("parity".to_owned(), parity.to_owned())]);
        let wanted = InstanceSpec { labels, ..spec(&format!("m{number}")) };
        kit.engine.create_instance(&kit.customer, wanted, &kit.key()).await.unwrap();
    }
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = PageRequest { after, limit: 3 };
        let page = kit.engine.instances(&kit.customer, page, &BTreeMap::new());
        assert!(page.items.len() <= 3 && page.revision.0 > 0);
        seen.extend(page.items.iter().map(|view| view.row.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted());
    let labels = BTreeMap::from([("parity".to_owned(), "even".to_owned())]);
    let page = PageRequest { after: None, limit: 0 };
    assert_eq!(kit.engine.instances(&kit.customer, page, &labels).items.len(), 4);
}

#[tokio::test]
async fn an_expected_revision_guards_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let made = kit.engine.create_instance(&kit.customer, spec("web"), &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    let revision = kit.engine.instance(&kit.customer, id).unwrap().row.revision.0;
    let update = |name: &str| InstanceUpdate {
        id,
        spec: spec(name),
        expected_revision: revision,
        allow_rebuild: false,
    };
    kit.engine.update_instance(&kit.customer, update("one"), &kit.key()).await.unwrap();
    let error =
        kit.engine.update_instance(&kit.customer, update("two"), &kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
}

#[tokio::test]
async fn tokens_give_no_more_than_their_maker_has_and_end_when_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let engine = &kit.engine;
    let (_, first) = engine.create_account(&Caller::platform(), "firm", "k").await.unwrap();
    let caller = Caller::of(&first.credential);
    let wanted = |role| TokenRequest { name: "ci".into(), role, lifetime_ms: None, account: None };
    for role in [Role::PlatformOperator, Role::Auditor, Role::HostOperator, Role::Host] {
        assert!(engine.create_token(&caller, &wanted(role), &format!("{role:?}")).await.is_err());
    }
    let made = engine.create_token(&caller, &wanted(Role::Customer), "a").await.unwrap();
    assert!(made.secret.starts_with("fmz_"));
    let again = engine.create_token(&caller, &wanted(Role::Customer), "a").await;
    assert_eq!(again.err().unwrap().kind, ErrorKind::AlreadyExists);
    let hash = hash_secret(made.secret.as_bytes());
    assert_eq!(engine.credential_by_hash(&hash).unwrap().id, made.credential.id);
    let mut revocations = engine.revocations();
    engine.revoke_token(&caller, made.credential.id, "b").await.unwrap();
    assert_eq!(revocations.recv().await.unwrap().id, made.credential.id);
    assert!(engine.credential_by_hash(&hash).unwrap().revoked_at.is_some());
}

#[tokio::test]
async fn a_host_leaves_when_nothing_is_on_it_and_its_token_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 1).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let taken = engine.register_host(customer, host_spec(0, "DE"), &kit.key()).await;
    assert_eq!(taken.err().unwrap().kind, ErrorKind::AlreadyExists);
    let made = engine.create_instance(customer, spec("web"), &kit.key()).await.unwrap();
    kit.done(made.operation.id).await;
    let id = hosts.hosts[0].id;
    let error = engine.remove_host(customer, id, false, &kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    let gone = engine.delete_instance(customer, made.instance.row.id, &kit.key()).await.unwrap();
    kit.done(gone.id).await;
    kit.until("its volume is gone", || {
        engine.host(customer, id).unwrap().usage.storage["standard"] == Gib(0)
    })
    .await;
    hosts.kill_agent(0).await;
    engine.remove_host(customer, id, false, &kit.key()).await.unwrap();
    assert_eq!(engine.host(customer, id).unwrap_err().kind, ErrorKind::NotFound);
    let page = PageRequest { after: None, limit: 0 };
    let tokens = engine.tokens(customer, page).items;
    assert!(tokens.iter().all(|token| token.host.is_none()));
    kit.stop().await;
}

#[tokio::test]
async fn a_token_makes_none_that_outlives_it_and_revokes_those_of_its_role_only() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let (engine, platform) = (&kit.engine, Caller::platform());
    let wanted = |role, lifetime_ms| TokenRequest {
        name: "ci".into(),
        role,
        lifetime_ms,
        account: kit.customer.account,
    };
    let short = wanted(Role::Customer, Some(60_000));
    let short = engine.create_token(&platform, &short, "short").await.unwrap().credential;
    let caller = Caller::of(&short);
    for lifetime_ms in [None, Some(3_600_000)] {
        let asked = wanted(Role::Customer, lifetime_ms);
        let made = engine.create_token(&caller, &asked, &kit.key()).await.unwrap();
        assert_eq!(made.credential.expires_at, short.expires_at);
    }
    let asked = wanted(Role::Customer, Some(1_000));
    let made = engine.create_token(&caller, &asked, "mine").await.unwrap().credential;
    assert!(made.expires_at < short.expires_at);
    let longer = wanted(Role::Customer, Some(2_000));
    let error = engine.create_token(&caller, &longer, "mine").await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Conflict, "another lifetime is another request");

    let operator = wanted(Role::HostOperator, None);
    let operator = engine.create_token(&platform, &operator, "operator").await.unwrap().credential;
    let registered = engine.register_host(&Caller::of(&operator), host_spec(0, "DE"), "h").await;
    let of_host = registered.unwrap().1.credential;
    for foreign in [operator.id, of_host.id] {
        let error = engine.revoke_token(&caller, foreign, &kit.key()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
    }
    let error = engine.revoke_token(&Caller::of(&operator), made.id, "r").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    engine.revoke_token(&caller, made.id, &kit.key()).await.unwrap();
    engine.revoke_token(&Caller::of(&operator), of_host.id, &kit.key()).await.unwrap();
    engine.revoke_token(&platform, operator.id, &kit.key()).await.unwrap();
}

#[tokio::test]
async fn a_hosts_token_is_replaced_in_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let kit = kit(&folder).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let registered = engine.register_host(customer, host_spec(0, "DE"), "h").await.unwrap();
    let (id, old) = (registered.0.row.id, registered.1);
    let mut revocations = engine.revocations();
    let new = engine.rotate_host_token(customer, id, "rotate").await.unwrap().1;
    assert_eq!(revocations.recv().await.unwrap().id, old.credential.id);
    let of = |secret: &str| engine.credential_by_hash(&hash_secret(secret.as_bytes())).unwrap();
    assert!(of(&old.secret).revoked_at.is_some());
    let row = of(&new.secret);
    assert_eq!((row.role, row.host, row.revoked_at), (Role::Host, Some(id), None));
    let again = engine.rotate_host_token(customer, id, "rotate").await.err().unwrap();
    assert_eq!(again.kind, ErrorKind::AlreadyExists, "its secret is shown once");
    assert!(of(&new.secret).revoked_at.is_none());
}

#[tokio::test]
async fn hosts_of_an_account_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), CoreConfig { hosts_per_account: 1, ..quick() }).await;
    let register = |number| {
        kit.engine.register_host(&kit.customer, host_spec(number, "DE"), ["a", "b"][number])
    };
    register(0).await.unwrap();
    assert_eq!(register(1).await.err().unwrap().kind, ErrorKind::LimitExceeded);
}
