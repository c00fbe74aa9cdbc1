//! The guide on limits says what is enforced.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use fairmazon_model::limits;

const SOURCE: &str = include_str!("../src/limits.rs");
const GUIDE: &str = include_str!("../../../docs/guides/limits.md");

macro_rules! values {
    ($($name:ident)*) => {
        [$((stringify!($name), u64::try_from(limits::$name).unwrap())),*]
    };
}

/// As people write it: 16,384.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Every way in which the guide may write the value.
fn spellings(value: u64) -> Vec<String> {
    const SECOND: u64 = 1_000;
    const HOUR: u64 = 60 * 60 * SECOND;
    let units = [
        (1 << 10, "KiB", "KiB"),
        (1 << 20, "MiB", "MiB"),
        (SECOND, "second", "seconds"),
        (HOUR, "hour", "hours"),
        (24 * HOUR, "day", "days"),
    ];
    let whole = units.into_iter().filter(|(unit, ..)| value.is_multiple_of(*unit));
    let in_units = whole.map(|(unit, one, many)| match value / unit {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    });
    std::iter::once(grouped(value)).chain(in_units).collect()
}

#[test]
fn the_guide_names_every_limit_with_its_value() {
    let values = values! {
        NAME_MAX LABELS_MAX LABEL_KEY_MAX LABEL_VALUE_MAX USER_DATA_MAX SSH_KEYS_MAX SSH_KEY_MAX
        SSH_KEYS_TOTAL_MAX ATTACHMENTS_MAX VOLUME_GIB_MIN VOLUME_GIB_MAX IMPORTS_WAITING
        IMPORT_BYTES_MIN PLACEMENT_LIST_MAX FLAVOR_FALLBACK_MAX SCHEDULE_WINDOWS_MAX
        INSTANCES_PER_ACCOUNT VOLUMES_PER_ACCOUNT PLACEMENT_GROUPS_PER_ACCOUNT HOSTS_PER_ACCOUNT
        MEMORY_OVERCOMMIT_PERCENT_MAX FEATURES_MAX WORD_MAX TOKENS_PER_ACCOUNT IDEMPOTENCY_KEY_MAX
        IDEMPOTENCY_KEEP_MS PAGE_MAX API_MESSAGE_MAX HOST_MESSAGE_MAX HOST_TEXT_MAX HOST_IMAGES_MAX
        ADDRESSES_MAX HOST_SPECIFICATIONS_MAX VOLUME_SPECIFICATION_BYTES PAGE_BYTES_MAX
        OVERCOMMIT_PERCENT_MIN CPU_OVERCOMMIT_PERCENT_MAX PRICE_PERCENT_MIN PRICE_PERCENT_MAX
        DRAIN_MS_MIN DRAIN_MS_MAX STOP_TIMEOUT_MS_MIN STOP_TIMEOUT_MS_MAX SPOT_NOTICE_SECONDS_MIN
        SPOT_NOTICE_SECONDS_MAX CONFIRM_MAX GIVE_KEYS_MAX TRANSFERS_PER_ACCOUNT TRANSFERS_PER_HOST
        CONNECTIONS STRANGERS_PER_ADDRESS STRANGERS_REQUESTS_PER_SECOND STRANGERS_REQUESTS_AT_ONCE
        STREAMS_PER_TOKEN CONNECTIONS_PER_ACCOUNT CONNECTIONS_PER_HOST REQUESTS_PER_SECOND
    };
    let stated = SOURCE.lines().filter_map(|line| line.strip_prefix("pub const "));
    let stated = stated.filter_map(|rest| rest.split_once(':')).map(|(name, _)| name);
    let stated: Vec<_> = stated.filter(|name| !name.starts_with("fn ")).collect();
    let known: Vec<_> = values.iter().map(|(name, _)| *name).collect();
    assert!(stated.len() > 30);
    assert!(stated.iter().all(|name| known.contains(name)), "{stated:?} are not {known:?}");
    for (name, value) in values {
        let row = GUIDE.lines().find(|line| line.ends_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("the guide does not name {name}"));
        let told = spellings(value);
        let says = |told: &String| row.contains(&format!("| {told} |"));
        assert!(told.iter().any(says), "the guide says `{row}`, and not one of {told:?}");
    }
}
