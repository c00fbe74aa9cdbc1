//! The attributes of `fairmazon_instance`.

use std::time::Duration;

use fairmazon_model::limits;
use tfplugin::{
    Attribute, Schema, Type, Value,
    schema::{ReplaceContext, validators},
};

use super::{
    model::{ON_IMAGE_CHANGE, ON_INTERRUPT, ON_USER_DATA_CHANGE, POWER, RESTART},
    placement,
    wait::WAIT_FOR,
};
use crate::resources::shared::{computed, described, labels, name, timeouts};

/// The whole schema.
pub(super) fn schema() -> Schema {
    Schema::builder()
        .describe(described(
            "A machine.\n\nIts id never says where it runs, so a move never looks like a \
             replacement. What can be known is known at plan, prices included. A \
             change that restarts, stops or rebuilds a running machine says so in a warning.",
            "machine",
        ))
        .attributes(identity())
        .attributes(size())
        .attributes(disks())
        .attributes(guest())
        .attributes(running())
        .attributes(labels::attributes())
        .attribute(timeouts::attribute(
            "a machine that takes longer to create is in the state, with a warning, and one that \
             found no place by then is an error.",
        ))
        .attributes(observed())
        .attributes(prices())
        .build()
}

fn words<T>(words: &[(&'static str, T)]) -> validators::Check {
    validators::one_of(words.iter().map(|(word, _)| *word))
}

fn identity() -> [Attribute; 3] {
    [
        computed("id", "Id of the machine. It stays for its whole life."),
        name("Name for people. Changed while the machine runs."),
        computed("created_at", "When it was asked for, in UTC (RFC 3339)."),
    ]
}

fn size() -> [Attribute; 6] {
    [
        Attribute::string("flavor").required().describe(
            "Size of the machine, a name of the catalogue (`fairmazon_flavors`). A change resizes \
             it in place: without a restart where nothing becomes less and its guest and its host \
             can, else with one. The plan says which may be.",
        ),
        Attribute::list("flavor_fallback", Type::String)
            .optional()
            .validate(validators::length(0..=limits::FLAVOR_FALLBACK_MAX))
            .describe("Sizes to try in this order when the first has no capacity."),
        computed("actual_flavor", "The size it got."),
        Attribute::string("image")
            .required()
            .requires_replace_if("`on_image_change` is `replace`", |change| {
                chosen(change, "on_image_change") == "replace"
            })
            .describe(
                "Operating system, a name or id of the catalogue (`fairmazon_images`). Writing the \
                 id in place of the name changes nothing about the machine.",
            ),
        Attribute::string("on_image_change")
            .default(ON_IMAGE_CHANGE[0].0)
            .validate(words(&ON_IMAGE_CHANGE))
            .describe(
                "What a changed image does: `replace` makes a new machine, `rebuild` makes the \
                 boot volume anew and keeps id, addresses and data volumes.",
            ),
        placement::attribute(),
    ]
}

fn disks() -> [Attribute; 3] {
    let size = limits::VOLUME_GIB_MIN..=limits::VOLUME_GIB_MAX;
    [
        Attribute::nested(
            "boot_volume",
            [
                Attribute::integer("size_gib")
                    .optional()
                    .computed()
                    .use_state_for_unknown()
                    .validate(validators::range(size))
                    .describe(
                        "Size in GiB; grows while the machine runs and never shrinks. By default \
                         10, or what the image needs.",
                    ),
                Attribute::string("class")
                    .default("standard")
                    .requires_replace()
                    .describe("Storage class of the catalogue."),
                Attribute::bool("delete_with_instance").default(true).describe(
                    "Whether it goes with the machine; otherwise it stays as a volume of the \
                     account.",
                ),
            ],
        )
        .optional()
        .computed()
        .use_state_for_unknown()
        .describe("The volume that the machine boots from."),
        computed("boot_volume_id", "Id of the volume it boots from."),
        Attribute::nested_map(
            "volumes",
            [
                Attribute::string("volume_id").required().describe("Id of the volume."),
                Attribute::bool("read_only").default(false).describe(
                    "Attached without the right to write. While it runs, the instance then \
                         can't move to another host.",
                ),
            ],
        )
        .optional()
        .describe(
            "Attached volumes by a name of your choice. Attached and detached while the machine \
             runs.",
        ),
    ]
}

fn guest() -> [Attribute; 4] {
    [
        Attribute::string("user_data")
            .optional()
            .requires_replace_if("`on_user_data_change` is `replace`", |change| {
                chosen(change, "on_user_data_change") == "replace"
            })
            .validate(validators::string("not too long", |text| {
                let most = limits::USER_DATA_MAX;
                let given = text.len();
                if given <= most {
                    Ok(())
                } else {
                    Err(format!("it has {given} bytes, and {most} are the most"))
                }
            }))
            .describe(
                "Given to the guest at its first boot (cloud-init). It is kept in the state as it \
                 is written: put no secrets into it.",
            ),
        computed("user_data_sha256", "SHA-256 of the user data, in hex."),
        Attribute::string("on_user_data_change")
            .default(ON_USER_DATA_CHANGE[0].0)
            .validate(words(&ON_USER_DATA_CHANGE))
            .describe(
                "What changed user data does: `next_boot` takes the next start for a first boot, \
                 `ignore` nothing, `rebuild` makes the boot volume anew, `replace` makes a new \
                 machine.",
            ),
        Attribute::set("ssh_keys", Type::String)
            .optional()
            .validate(validators::length(0..=limits::SSH_KEYS_MAX))
            .describe("OpenSSH public keys that may log in. Changed without a rebuild."),
    ]
}

/// What `stop_timeout` must be.
pub(super) const STOP_TIMEOUT: &str = "a duration from 1s to 1h";
const STOP_TIMEOUT_MAX: Duration = Duration::from_millis(limits::STOP_TIMEOUT_MS_MAX);

/// Reads `stop_timeout`.
pub(super) fn stop_timeout(text: &str) -> Result<Duration, String> {
    match tfplugin::timeouts::parse(text)? {
        longer if longer > STOP_TIMEOUT_MAX => Err(format!("{text:?} is longer")),
        timeout => Ok(timeout),
    }
}

fn running() -> [Attribute; 8] {
    [
        Attribute::string("power_state").default(POWER[0].0).validate(words(&POWER)).describe(
            "`running` or `stopped`. A stop is graceful, and forced after `stop_timeout`.",
        ),
        Attribute::string("stop_timeout")
            .default("60s")
            .validate(validators::string(STOP_TIMEOUT, |text| stop_timeout(text).map(|_| ()))
            )
            .describe("How long a graceful stop may take before it is forced, `1s` to `1h`."),
        schedule(),
        spot(),
        Attribute::string("restart_policy")
            .default(RESTART[0].0)
            .validate(words(&RESTART))
            .describe(
                "When a machine that stopped by itself is started again: `always`, \
                 `on_host_failure` or `never`.",
            ),
        Attribute::bool("deletion_protection").default(false).describe(
            "Whether the platform refuses to delete the machine. Switching it off is an apply of \
             its own.",
        ),
        Attribute::string("reboot_trigger").optional().describe(
            "Any text; another text in its place restarts the machine. The first one is only \
             noted, and a machine that is off has nothing to restart: then the change is done at \
             once. The declarative twin of the action `fairmazon_reboot`.",
        ),
        Attribute::set("wait_for", Type::String)
            .default(Value::set([WAIT_FOR[0].0.into()]))
            .validate(validators::each(validators::one_of(WAIT_FOR.map(|(word, _)| word))))
            .describe(
                "What to wait for after creation: `running` (the machine is as asked for), `address` \
                 (it has an address), `guest_agent` (qemu-guest-agent in its guest has answered) and \
                 `cloud_init` (that agent says that cloud-init is done). `running` does not look \
                 into the guest. Where the time of `timeouts` is up first, or cloud-init has ended \
                 with errors, the apply fails with what is missing and what the guest has written \
                 last to its serial console, and what depends on the machine is not made; the next \
                 apply makes it anew. Outside its working hours nothing but `running` is waited \
                 for, and an empty set waits for nothing.",
            ),
    ]
}

fn schedule() -> Attribute {
    Attribute::nested_list(
        "schedule",
        [
            Attribute::string("timezone").required().describe("IANA time zone (`Europe/Berlin`)."),
            Attribute::string("start").required().describe("Local time of the start (`08:00`)."),
            Attribute::string("stop").required().describe(
                "Local time of the stop (`18:00`); on the next day where it is not after the start.",
            ),
            Attribute::set("days", Type::String)
                .required()
                .validate(validators::length(1..=7))
                .describe("Days on which it starts: `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`."),
        ],
    )
    .optional()
    .validate(validators::length(1..=limits::SCHEDULE_WINDOWS_MAX))
    .describe(
        "Working hours, one or many: outside them the machine is stopped and its compute is not \
         billed. The local clock decides: where it goes forward, what lies in the hour that is \
         left out is left out with it; where it goes back, an hour comes twice, and what begins \
         or ends within it does so twice.",
    )
}

fn spot() -> Attribute {
    Attribute::nested(
        "spot",
        [
            Attribute::string("max_price_per_hour").required().describe(
                "The most you pay for an hour of the flavor, in EUR; the machine waits above it.",
            ),
            Attribute::integer("notice_seconds")
                .default(120)
                .validate(validators::range(
                    limits::SPOT_NOTICE_SECONDS_MIN..=limits::SPOT_NOTICE_SECONDS_MAX,
                ))
                .describe(
                    "What the guest has to shut down when its capacity is taken back, in seconds: \
                     the power button is pressed when the notice begins, and the machine is \
                     forced off when it ends.",
                ),
            Attribute::string("on_interrupt")
                .default(ON_INTERRUPT[0].0)
                .validate(words(&ON_INTERRUPT))
                .describe(
                    "What an interruption does: `stop` keeps the machine with its volumes, off, \
                     until there is room for it again; `delete` deletes it, and can't go with \
                     `deletion_protection`.",
                ),
        ],
    )
    .optional()
    .requires_replace_if("it appears or vanishes", |change| {
        change.prior.is_null() != change.planned.is_null()
    })
    .describe(
        "Cheaper capacity that may be taken back: for machines that are not spot, and when the spot \
         price rises above `max_price_per_hour`. See the guide page *Spot machines*.",
    )
}

fn observed() -> [Attribute; 7] {
    [
        computed(
            "state",
            "What it does: `pending`, `starting`, `running`, `stopping`, `stopped`, \
             `failed`, `deleting` or `unknown` (its host is silent).",
        ),
        computed(
            "interruption_at",
            "While its spot capacity is taken back: when its notice ends, at the earliest. It stays \
             until the machine may start again; null otherwise.",
        ),
        computed("site", "The site it runs at."),
        computed("country", "The country it runs in."),
        computed("placement_reason", "Why it runs there."),
        Attribute::list("addresses", Type::String)
            .computed()
            .use_state_for_unknown()
            .describe("The addresses it has."),
        Attribute::integer("lease_epoch")
            .computed()
            .use_state_for_unknown()
            .describe("Counts its placements: the platform never runs two of them at a time."),
    ]
}

fn prices() -> [Attribute; 3] {
    [
        computed("price_per_hour", "What an hour of running costs, in EUR, boot volume included."),
        computed(
            "price_per_month",
            "What a month of 730 hours costs, in EUR, with its working hours.",
        ),
        computed("monthly_saving", "What the working hours save in a month, in EUR."),
    ]
}

/// The planned value of an attribute beside the one that changes.
fn chosen<'a>(change: &ReplaceContext<'a>, attribute: &str) -> &'a str {
    change.planned_state.member(attribute).as_str().unwrap_or_default()
}
