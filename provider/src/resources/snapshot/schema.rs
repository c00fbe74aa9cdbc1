//! The attributes of `fairmazon_snapshot`.

use tfplugin::{Attribute, Schema};

use crate::resources::shared::{computed, described, labels, name, timeouts};

/// The whole schema.
pub(super) fn schema() -> Schema {
    Schema::builder()
        .describe(described(
            "What a volume was at one moment, whether it is in use or not. Nobody writes to it; it \
             is on the host of the volume, encrypted with a key of its own, and outlives the volume.",
            "snapshot",
        ))
        .attribute(computed("id", "Id of the snapshot. It stays for its whole life."))
        .attribute(name("Name for people."))
        .attribute(Attribute::string("volume_id").required().requires_replace().describe(
            "Id of the volume, which has to have been attached once. A snapshot of another volume \
             is another snapshot.",
        ))
        .attribute(Attribute::bool("deletion_protection").default(false).describe(
            "Whether the platform refuses to delete the snapshot. Switching it off is an apply of \
             its own.",
        ))
        .attributes(labels::attributes())
        .attribute(timeouts::attribute(
            "a snapshot that takes longer to create is in the state, with a warning.",
        ))
        .attribute(
            Attribute::integer("size_gib")
                .computed()
                .use_state_for_unknown()
                .describe("Size of the volume when it was made, in GiB."),
        )
        .attribute(computed("class", "Storage class of the volume."))
        .attribute(computed(
            "state",
            "`creating`, `ready`, `failed`, `deleting` or `unknown` (its host is silent).",
        ))
        .attribute(computed("site", "The site it is at."))
        .attribute(computed("country", "The country it is in."))
        .attribute(computed(
            "key_fingerprint",
            "Tells the key that it is encrypted with from others, and says nothing of it. The key \
             is made by the provider, with `key_file`.",
        ))
        .attribute(computed("price_per_hour", "What an hour costs, in EUR."))
        .attribute(computed("price_per_month", "What a month of 730 hours costs, in EUR."))
        .attribute(computed("created_at", "When it was asked for, in UTC (RFC 3339)."))
        .build()
}
