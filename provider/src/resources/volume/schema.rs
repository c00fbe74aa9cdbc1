//! The attributes of `fairmazon_volume`.

use fairmazon_model::{key::FIRST_KEY_VERSION, limits};
use tfplugin::{Attribute, Schema, schema::validators};

use crate::resources::shared::{computed, described, labels, name, name_in, placement, timeouts};

/// The whole schema.
pub(super) fn schema() -> Schema {
    Schema::builder()
        .describe(described(
            "A disk that outlives machines. It gets its place when it is first attached, and goes \
             along when its machine moves.",
            "volume",
        ))
        .attribute(computed("id", "Id of the volume. It stays for its whole life."))
        .attribute(name("Name for people."))
        .attribute(
            Attribute::integer("size_gib")
                .required()
                .validate(validators::range(limits::VOLUME_GIB_MIN..=limits::VOLUME_GIB_MAX))
                .describe("Size in GiB; grows while it is in use and never shrinks."),
        )
        .attribute(
            Attribute::string("class")
                .default("standard")
                .requires_replace()
                .describe("Storage class of the catalogue."),
        )
        .attribute(source())
        .attribute(
            Attribute::integer("key_version")
                .default(u64::from(FIRST_KEY_VERSION))
                .validate(validators::range(u64::from(FIRST_KEY_VERSION)..=u64::from(u32::MAX)))
                .describe(
                    "Raise it to have the key of the volume exchanged for a new one, wrapped for \
                     the identity that `key_file` holds now; machines run on meanwhile. It is \
                     never lowered. See the guide on keys for what this does and does not \
                     withdraw.",
                ),
        )
        .attribute(placement::attribute(
            "volume",
            "They count for the machine that it is attached to as well. A volume moves with its \
             machine: change the `placement` of that one.",
        ))
        .attribute(Attribute::bool("deletion_protection").default(false).describe(
            "Whether the platform refuses to delete the volume. Switching it off is an apply of \
             its own.",
        ))
        .attribute(name_in("final_snapshot").optional().describe(
            "Name of a snapshot that is made of the volume before it is destroyed or replaced; \
             when it can't be made the volume stays. A volume that was never attached holds \
             nothing that could be kept. No state holds the snapshot: it is there, and costs, \
             until it is deleted, and the list resource `fairmazon_snapshot` finds it. As a \
             destroy goes by the state, it counts once it was applied.",
        ))
        .attributes(labels::attributes())
        .attribute(timeouts::attribute(
            "a volume that takes longer to create is in the state, with a warning.",
        ))
        .attribute(computed(
            "state",
            "`available` (never attached), `creating`, `ready`, `failed`, `deleting` or `unknown` \
             (its host is silent).",
        ))
        .attribute(computed("site", "The site it is at, once it was attached."))
        .attribute(computed("country", "The country it is in, once it was attached."))
        .attribute(computed("attached_to", "Id of the machine it is attached to."))
        .attribute(computed(
            "key_fingerprint",
            "Tells the key that its data is encrypted with from others, and says nothing of it; \
             once it was attached. The key is made by the provider, with `key_file`.",
        ))
        .attribute(computed("price_per_hour", "What an hour costs, in EUR."))
        .attribute(computed("price_per_month", "What a month of 730 hours costs, in EUR."))
        .attribute(computed("created_at", "When it was asked for, in UTC (RFC 3339)."))
        .build()
}

fn source() -> Attribute {
    Attribute::nested(
        "source",
        [
            Attribute::string("snapshot_id").optional().describe("Id of a `fairmazon_snapshot`."),
            Attribute::string("volume_id")
                .optional()
                .describe("Id of a volume, of which it is what that is while this one is made."),
            Attribute::string("image").optional().validate(validators::length(1..=limits::NAME_MAX)).describe(
                "Name or id of an image of the catalogue (`fairmazon_images`), which it is filled \
                 from when it is first attached.",
            ),
        ],
    )
    .optional()
    .requires_replace_if("it names something else", |change| {
        let id = |source: &tfplugin::Value| {
            let named = |name: &str| source.member(name).as_str().map(str::to_owned);
            named("snapshot_id").or_else(|| named("volume_id")).or_else(|| named("image"))
        };
        id(change.prior) != id(change.planned)
    })
    .describe(
        "What it is made of: one of these. A copy of a volume or of a snapshot is made on the host \
         of its source.",
    )
}
