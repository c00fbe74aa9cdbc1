//! Limits: every one that the platform enforces, stated once.
//!
//! The broker enforces them, the provider checks them at plan, the docs print them.

use std::collections::BTreeMap;

use crate::DomainError;

/// Longest name of anything, in characters.
pub const NAME_MAX: usize = 63;
/// Most labels on one thing.
pub const LABELS_MAX: usize = 64;
/// Longest key of a label, in bytes.
pub const LABEL_KEY_MAX: usize = 63;
/// Longest value of a label, in bytes.
pub const LABEL_VALUE_MAX: usize = 255;
/// Largest user data, in bytes.
pub const USER_DATA_MAX: usize = 32 * 1024;
/// Most SSH keys on one instance.
pub const SSH_KEYS_MAX: usize = 64;
/// Longest SSH public key, in bytes.
pub const SSH_KEY_MAX: usize = 16 * 1024;
/// Longest SSH public keys of one instance together, in bytes.
pub const SSH_KEYS_TOTAL_MAX: usize = 64 * 1024;
/// Most data volumes attached to one instance.
pub const ATTACHMENTS_MAX: usize = 16;
/// Smallest volume in GiB.
pub const VOLUME_GIB_MIN: u64 = 1;
/// Largest volume in GiB.
pub const VOLUME_GIB_MAX: u64 = 16 * 1024;
/// Most volumes of an account that wait for the file that they are imported from; together they
/// have [`VOLUME_GIB_MAX`] at most. They hold room before there is anything in it.
pub const IMPORTS_WAITING: u64 = 16;
/// Fewest bytes of a file that a volume is made from: less holds no header.
pub const IMPORT_BYTES_MIN: u64 = 1024 * 1024;
/// Most entries of any list in a placement (countries, regions, groups).
pub const PLACEMENT_LIST_MAX: usize = 32;
/// Most fallback flavors.
pub const FLAVOR_FALLBACK_MAX: usize = 8;
/// Most working-hours windows.
pub const SCHEDULE_WINDOWS_MAX: usize = 16;
/// The shortest time that a graceful stop is given, in ms.
pub const STOP_TIMEOUT_MS_MIN: u64 = 1_000;
/// The longest time that a graceful stop is given, in ms.
pub const STOP_TIMEOUT_MS_MAX: u64 = 60 * 60 * 1_000;
/// The shortest notice of a spot instance, in seconds.
pub const SPOT_NOTICE_SECONDS_MIN: u32 = 30;
/// The longest notice of a spot instance, in seconds.
pub const SPOT_NOTICE_SECONDS_MAX: u32 = 3_600;
/// Most instances of one account.
pub const INSTANCES_PER_ACCOUNT: u64 = 200_000;
/// Most volumes of one account, boot volumes included.
pub const VOLUMES_PER_ACCOUNT: u64 = 400_000;
/// Most placement groups of one account.
pub const PLACEMENT_GROUPS_PER_ACCOUNT: u64 = 10_000;
/// Most hosts of one account.
pub const HOSTS_PER_ACCOUNT: u64 = 20_000;
/// The least processors or memory that a host sells for what it has, in percent.
pub const OVERCOMMIT_PERCENT_MIN: u32 = 100;
/// The most processors that a host sells for what it has, in percent.
pub const CPU_OVERCOMMIT_PERCENT_MAX: u32 = 1_600;
/// The most memory that a host sells for what it has, in percent.
pub const MEMORY_OVERCOMMIT_PERCENT_MAX: u32 = 200;
/// The lowest price of a host against the catalogue's, in percent.
pub const PRICE_PERCENT_MIN: u32 = 1;
/// The highest price of a host against the catalogue's, in percent.
pub const PRICE_PERCENT_MAX: u32 = 1_000;
/// The shortest time to empty a host in, in ms.
pub const DRAIN_MS_MIN: i64 = 1_000;
/// The longest time to empty a host in, in ms.
pub const DRAIN_MS_MAX: i64 = 30 * 24 * 60 * 60 * 1_000;
/// Most features of one host.
pub const FEATURES_MAX: usize = 32;
/// Longest name of a region or a feature, in bytes.
pub const WORD_MAX: usize = 32;
/// Most valid tokens of one account; those of its hosts do not count.
pub const TOKENS_PER_ACCOUNT: u64 = 1_000;
/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_MAX: usize = 128;
/// How long an idempotency key answers with the first result, in ms.
pub const IDEMPOTENCY_KEEP_MS: i64 = 24 * 60 * 60 * 1000;
/// Most ids that are confirmed at a time.
pub const CONFIRM_MAX: usize = 1_000;
/// Most keys that are given at a time.
pub const GIVE_KEYS_MAX: usize = 1_000;
/// Most exports and imports of one account at once.
pub const TRANSFERS_PER_ACCOUNT: usize = 4;
/// Most exports and imports of one host at once.
pub const TRANSFERS_PER_HOST: usize = 8;
/// Largest page of a list call.
pub const PAGE_MAX: u32 = 1_000;
/// Largest message of the customers' API, in bytes.
pub const API_MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// Largest message on a host's stream, in bytes.
pub const HOST_MESSAGE_MAX: usize = 64 * 1024 * 1024;
/// Longest text of a host that is kept, in bytes; the rest is cut off.
pub const HOST_TEXT_MAX: usize = 1024;
/// Most images of a host; further ones are not kept.
pub const HOST_IMAGES_MAX: usize = 1_000;
/// Most addresses of one machine; further ones are not kept.
pub const ADDRESSES_MAX: usize = 16;
/// Most bytes of the specifications of what is on one host: its whole desired set is one
/// message, and half of that is left for growth of the format.
pub const HOST_SPECIFICATIONS_MAX: u64 = HOST_MESSAGE_MAX as u64 / 2;
/// What the specification of a volume takes of [`HOST_SPECIFICATIONS_MAX`] at most.
pub const VOLUME_SPECIFICATION_BYTES: u64 = 256 + crate::key::SEALED_MAX as u64;
/// How many bytes of rows a page of a list call has before it is cut off.
pub const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most operation streams that one credential may hold open.
pub const STREAMS_PER_TOKEN: usize = 2_048;
/// Most connections that one account has open, without those of its hosts.
pub const CONNECTIONS_PER_ACCOUNT: usize = 2_000;
/// Most connections that one host has open: its stream, its transfers, and those that are broken and
/// not noticed yet.
pub const CONNECTIONS_PER_HOST: usize = 64;
/// Most connections that the broker serves at once.
pub const CONNECTIONS: usize = 20_000;
/// Most connections of one address, or of one network with IPv6, that have shown no valid
/// credential yet.
pub const STRANGERS_PER_ADDRESS: usize = 1_000;
/// Sustained requests per second of one address that show no valid credential.
pub const STRANGERS_REQUESTS_PER_SECOND: u32 = 50;
/// How many of these may come at once.
pub const STRANGERS_REQUESTS_AT_ONCE: u32 = 200;
/// Sustained requests per second of one credential.
pub const REQUESTS_PER_SECOND: u32 = 5_000;

/// Checks a name: 1 to [`NAME_MAX`] characters, letters and digits of any script, spaces,
/// `.`, `_` and `-`, beginning and ending with a letter or digit.
///
/// # Errors
/// `Invalid` with the field `name`.
pub fn check_name(name: &str) -> Result<(), DomainError> {
    let wrong = |why: &str| Err(DomainError::invalid("name", why.to_owned()));
    let count = name.chars().count();
    if count == 0 {
        return wrong("a name must not be empty");
    }
    if count > NAME_MAX {
        return wrong(&format!("a name has at most {NAME_MAX} characters, this one has {count}"));
    }
    if let Some(bad) = name.chars().find(|c| !(c.is_alphanumeric() || " ._-".contains(*c))) {
        return wrong(&format!(
            "a name holds letters, digits, spaces, `.`, `_` and `-`, not {}",
            bad.escape_debug()
        ));
    }
    let edge_is_wrong = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    if edge_is_wrong(name.chars().next()) || edge_is_wrong(name.chars().next_back()) {
        return wrong("a name begins and ends with a letter or a digit");
    }
    Ok(())
}

/// Checks labels: at most [`LABELS_MAX`]; keys of 1 to [`LABEL_KEY_MAX`] bytes of ASCII
/// letters, digits and `._-/`; values of up to [`LABEL_VALUE_MAX`] bytes without control characters.
///
/// # Errors
/// `Invalid` with the field `labels`, or `labels["key"]`.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), DomainError> {
    if labels.len() > LABELS_MAX {
        return Err(DomainError::invalid(
            "labels",
            format!("at most {LABELS_MAX} labels, these are {}", labels.len()),
        ));
    }
    for (key, value) in labels {
        let path = || format!("labels[{key:?}]");
        let key_fits = (1..=LABEL_KEY_MAX).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
        if !key_fits {
            return Err(DomainError::invalid(
                path(),
                format!(
                    "a label's key has 1 to {LABEL_KEY_MAX} ASCII letters, digits, `.`, `_`, `-` and `/`"
                ),
            ));
        }
        if value.len() > LABEL_VALUE_MAX || value.chars().any(char::is_control) {
            return Err(DomainError::invalid(
                path(),
                format!(
                    "a label's value has at most {LABEL_VALUE_MAX} bytes and no control characters"
                ),
            ));
        }
    }
    Ok(())
}

/// Checks a word of the platform, as a region or a feature is: 1 to [`WORD_MAX`] small ASCII
/// letters, digits and `-`.
pub fn is_word(text: &str) -> bool {
    (1..=WORD_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Checks the size of a volume in GiB.
///
/// # Errors
/// `Invalid` with the field `size_gib`.
pub fn check_volume_size(size_gib: u64) -> Result<(), DomainError> {
    if (VOLUME_GIB_MIN..=VOLUME_GIB_MAX).contains(&size_gib) {
        return Ok(());
    }
    Err(DomainError::invalid(
        "size_gib",
        format!("a volume has {VOLUME_GIB_MIN} to {VOLUME_GIB_MAX} GiB, not {size_gib}"),
    ))
}

/// Most bytes of a file that a volume of `size_gib` GiB is made from: its data, and more than the
/// tables and headers of its format take.
pub const fn import_bytes_max(size_gib: u64) -> u64 {
    size_gib.saturating_mul((1 << 30) + (1 << 22)).saturating_add(64 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_script_but_no_tricks() {
        for good in ["web", "web-01.example", "Bücher Server 3", "名前", "a"] {
            check_name(good).unwrap();
        }
        for bad in ["", " web", "web-", "a/b", "a\u{202e}b", "a\nb", &"x".repeat(64)] {
            assert_eq!(check_name(bad).unwrap_err().field.as_deref(), Some("name"), "{bad:?}");
        }
    }

    #[test]
    fn labels_are_bounded() {
        check_labels(&BTreeMap::from([("team/env".into(), "prod ü".into())])).unwrap();
        for (key, value) in [("", "x"), ("a b", "x"), ("a", "x\ny"), ("ü", "x")] {
            assert!(
                check_labels(&BTreeMap::from([(key.into(), value.into())])).is_err(),
                "{key:?}"
            );
        }
        let many = (0..65).map(|n| (format!("k{n}"), String::new())).collect();
        assert!(check_labels(&many).is_err());
    }
}
