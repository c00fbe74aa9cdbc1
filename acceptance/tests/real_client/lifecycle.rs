//! One machine's life: what changes in place, what replaces it, what is refused.

use acceptance::{Outcome, Workspace};
use serde_json::{Value, json};

use crate::with_each_client;

const ADDRESS: &str = "fairmazon_instance.it";

/// One instance with these further lines.
fn instance(lines: &str) -> String {
    format!("resource \"fairmazon_instance\" \"it\" {{\n  image = \"debian-13\"\n{lines}\n}}\n")
}

const PLAIN: &str = r#"
  name   = "one"
  flavor = "small"
  boot_volume = { size_gib = 10 }
"#;

#[test]
fn changes_in_place_keep_the_id_and_what_is_known() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace = Workspace::inline(&instance(PLAIN), cli, backend.environment())?;
        workspace.apply(&[])?;
        let before = workspace.state()?.resource(ADDRESS)?.clone();
        let volume =
            "resource \"fairmazon_volume\" \"data\" {\n  name = \"data\"\n  size_gib = 1\n}\n";
        let changes = [
            ("name", PLAIN.replace("\"one\"", "\"Zwei ü\"")),
            ("labels", format!("{PLAIN}\n labels = {{ a = \"b\" }}")),
            ("flavor", PLAIN.replace("small", "medium")),
            ("boot_volume", PLAIN.replace("10", "12")),
            ("power_state", format!("{}\n power_state = \"stopped\"", PLAIN.replace("10", "12"))),
            ("user_data", format!("{}\n user_data = \"#cloud-config\"", PLAIN.replace("10", "12"))),
            (
                "volumes",
                format!(
                    "{}\n volumes = {{ data = {{ volume_id = fairmazon_volume.data.id }} }}",
                    PLAIN.replace("10", "12")
                ),
            ),
        ];
        for (attribute, lines) in changes {
            let more = if attribute == "volumes" { volume } else { "" };
            workspace.write("main.tf", &format!("{more}{}", instance(&lines)))?;
            let plan = workspace.plan(&[])?;
            assert_eq!(plan.actions()[ADDRESS], ["update"], "{attribute}");
            workspace.apply_saved()?;
            let after = workspace.state()?.resource(ADDRESS)?.clone();
            for kept in ["id", "created_at", "boot_volume_id"] {
                assert_eq!(after[kept], before[kept], "{attribute} keeps {kept}");
            }
            workspace.expect_no_changes()?;
        }
        Ok(())
    })
}

#[test]
fn a_new_name_makes_nothing_unknown() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace = Workspace::inline(&instance(PLAIN), cli, backend.environment())?;
        workspace.apply(&[])?;
        workspace.write("main.tf", &instance(&PLAIN.replace("\"one\"", "\"two\"")))?;
        let plan = workspace.plan(&[])?;
        let unknown = plan.unknown(ADDRESS)?;
        assert!(!mentions_true(unknown), "a small change leaves all else known: {unknown}");
        Ok(())
    })
}

/// Whether `true` stands anywhere in it.
fn mentions_true(value: &Value) -> bool {
    match value {
        Value::Bool(it) => *it,
        Value::Array(items) => items.iter().any(mentions_true),
        Value::Object(members) => members.values().any(mentions_true),
        _ => false,
    }
}

#[test]
fn a_new_image_replaces_or_rebuilds_as_asked() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace = Workspace::inline(&instance(PLAIN), cli, backend.environment())?;
        workspace.apply(&[])?;
        let before = workspace.state()?.resource(ADDRESS)?.clone();

        let newer = instance(PLAIN).replace("debian-13", "ubuntu-24.04");
        workspace.write("main.tf", &newer)?;
        assert_eq!(workspace.plan(&[])?.actions()[ADDRESS], ["delete", "create"]);

        let rebuild = format!("{PLAIN}\n on_image_change = \"rebuild\"");
        let rebuild = instance(&rebuild).replace("debian-13", "ubuntu-24.04");
        workspace.write("main.tf", &rebuild)?;
        let said = workspace.try_plan(&[])?.ok()?;
        assert!(said.text().contains("rebuild"), "the plan says what it does: {}", said.text());
        workspace.apply(&[])?;
        let after = workspace.state()?.resource(ADDRESS)?.clone();
        assert_eq!((&after["id"], &after["image"]), (&before["id"], &json!("ubuntu-24.04")));
        workspace.expect_no_changes()
    })
}

#[test]
fn a_changed_placement_moves_the_machine_with_its_volume() -> Outcome {
    with_each_client(|cli, backend| {
        let volume =
            "resource \"fairmazon_volume\" \"data\" {\n  name = \"data\"\n  size_gib = 1\n}\n";
        let within = |countries: &str| {
            let attached = "volumes = { data = { volume_id = fairmazon_volume.data.id } }";
            let placed =
                format!("{PLAIN}\n {attached}\n placement = {{ countries = {countries} }}");
            format!("{volume}{}", instance(&placed))
        };
        let workspace = Workspace::inline(&within("[\"DE\"]"), cli, backend.environment())?;
        workspace.apply(&[])?;
        let before = workspace.state()?.resource(ADDRESS)?.clone();
        assert_eq!(before["country"], "DE");

        // It is there already: nothing is unknown, and nothing is warned of.
        workspace.write("main.tf", &within("[\"DE\", \"FR\"]"))?;
        let plan = workspace.plan(&[])?;
        assert!(!mentions_true(plan.unknown(ADDRESS)?), "{}", plan.unknown(ADDRESS)?);
        workspace.apply_saved()?;

        workspace.write("main.tf", &within("[\"NL\"]"))?;
        let said = workspace.try_plan(&[])?.ok()?;
        assert!(said.text().contains("may move the running machine"), "{}", said.text());
        let plan = workspace.plan(&[])?;
        assert_eq!(plan.actions()[ADDRESS], ["update"], "a move is no replacement");
        assert_eq!(plan.unknown(ADDRESS)?["country"], true);
        workspace.apply_saved()?;
        let after = workspace.state()?.resource(ADDRESS)?.clone();
        assert_eq!((&after["id"], &after["country"]), (&before["id"], &json!("NL")));
        workspace.expect_no_changes()?;
        // The volume was read before the machine had moved.
        workspace.apply(&["-refresh-only"])?;
        let volume = workspace.state()?.resource("fairmazon_volume.data")?.clone();
        assert_eq!(volume["site"], after["site"]);

        workspace.write("main.tf", &within("[\"AQ\"]"))?;
        workspace.try_apply(&[])?.fails_saying(&["can't move", "countries", "placement"])?;
        assert_eq!(workspace.state()?.resource(ADDRESS)?["country"], "NL");
        workspace.write("main.tf", &within("[\"NL\"]"))?;
        workspace.expect_no_changes()
    })
}

#[test]
fn a_reboot_is_declared_by_its_trigger() -> Outcome {
    with_each_client(|cli, backend| {
        let with = |trigger: &str| instance(&format!("{PLAIN}\n reboot_trigger = {trigger:?}"));
        let workspace = Workspace::inline(&with("monday"), cli, backend.environment())?;
        workspace.apply(&[])?;
        let id = workspace.state()?.resource(ADDRESS)?["id"].clone();
        workspace.write("main.tf", &with("tuesday"))?;
        assert_eq!(workspace.plan(&[])?.actions()[ADDRESS], ["update"]);
        workspace.apply_saved()?;
        assert_eq!(workspace.state()?.resource(ADDRESS)?["id"], id);
        workspace.expect_no_changes()
    })
}

#[test]
fn a_guest_is_waited_for() -> Outcome {
    with_each_client(|cli, backend| {
        let waits = format!(
            "{PLAIN}\n wait_for = [\"address\", \"guest_agent\", \"cloud_init\"]\n \
             timeouts = {{ create = \"60s\" }}"
        );
        let workspace = Workspace::inline(&instance(&waits), cli, backend.environment())?;
        let ended = workspace.apply(&[])?;
        assert!(!ended.text().contains("not ready yet"), "{}", ended.text());
        workspace.expect_no_changes()
    })
}

#[test]
fn outside_its_working_hours_no_address_is_waited_for() -> Outcome {
    with_each_client(|cli, backend| {
        // At any time one of the two is off.
        let main = r#"
resource "fairmazon_instance" "it" {
  for_each = toset(["03", "15"])
  name     = "one"
  flavor   = "small"
  image    = "debian-13"
  wait_for = ["address", "guest_agent"]
  timeouts = { create = "60s" }
  schedule = [{
    timezone = "UTC"
    start    = "${each.key}:00"
    stop     = "${each.key}:01"
    days     = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
  }]
}
"#;
        let workspace = Workspace::inline(main, cli, backend.environment())?;
        let ended = workspace.apply(&[])?;
        assert!(!ended.text().contains("not ready yet"), "{}", ended.text());
        workspace.expect_no_changes()
    })
}

#[test]
fn what_cannot_be_is_refused_at_plan_with_the_attribute() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace = Workspace::inline(&instance(PLAIN), cli, backend.environment())?;
        workspace.apply(&[])?;
        let refused = [
            (PLAIN.replace("10", "9"), "size_gib"),
            (PLAIN.replace("small", "no-such-flavor"), "no-such-flavor"),
            (PLAIN.replace("\"one\"", "\"\""), "name"),
            (format!("{PLAIN}\n power_state = \"paused\""), "power_state"),
            (format!("{PLAIN}\n placement = {{ countries = [\"Germany\"] }}"), "countries"),
            (format!("{PLAIN}\n stop_timeout = \"soon\""), "stop_timeout"),
        ];
        for (lines, word) in refused {
            workspace.write("main.tf", &instance(&lines))?;
            workspace.try_plan(&[])?.fails_saying(&[word])?;
        }
        Ok(())
    })
}

#[test]
fn protection_is_lifted_in_a_step_of_its_own() -> Outcome {
    with_each_client(|cli, backend| {
        let protected = format!("{PLAIN}\n deletion_protection = true");
        let workspace = Workspace::inline(&instance(&protected), cli, backend.environment())?;
        workspace.apply(&[])?;
        // Taking the resource away refuses as well: the protection is the platform's, not the file's.
        workspace.write("main.tf", "")?;
        workspace.try_apply(&[])?.fails_saying(&["deletion_protection"])?;
        workspace.write("main.tf", &instance(PLAIN))?;
        workspace.apply(&[])?;
        workspace.write("main.tf", "")?;
        workspace.apply(&[])?;
        assert_eq!(workspace.state()?.resources().count(), 0);
        Ok(())
    })
}

#[test]
fn import_by_id_and_generated_configuration_leave_nothing_to_do() -> Outcome {
    with_each_client(|cli, backend| {
        let first = Workspace::inline(&instance(PLAIN), cli, backend.environment())?;
        first.apply(&[])?;
        let id = first.state()?.resource(ADDRESS)?["id"].clone();
        let id = id.as_str().unwrap_or_default();

        let second = Workspace::inline(&instance(PLAIN), cli, backend.environment())?;
        second.run(&["import", "-no-color", "-input=false", ADDRESS, id])?.ok()?;
        second.expect_no_changes()?;

        let block = format!("import {{\n  to = fairmazon_instance.found\n  id = \"{id}\"\n}}\n");
        let third = Workspace::inline(&block, cli, backend.environment())?;
        third.try_plan(&["-generate-config-out=found.tf"])?.ok()?;
        assert!(third.read("found.tf")?.contains("\"small\""));
        third.apply(&[])?;
        third.expect_no_changes()?;

        let unknown = "ins-00000000000000000000000000";
        let fourth = Workspace::inline(&instance(PLAIN), cli, backend.environment())?;
        fourth
            .run(&["import", "-no-color", "-input=false", ADDRESS, unknown])?
            .fails_saying(&[unknown])?;
        fourth
            .run(&["import", "-no-color", "-input=false", ADDRESS, "no id at all"])?
            .fails_saying(&["no id at all", "ins-"])?;
        Ok(())
    })
}

#[test]
fn a_machine_deleted_elsewhere_is_planned_again() -> Outcome {
    with_each_client(|cli, backend| {
        let first = Workspace::inline(&instance(PLAIN), cli, backend.environment())?;
        first.apply(&[])?;
        let id = first.state()?.resource(ADDRESS)?["id"].clone();
        let second = Workspace::inline(&instance(PLAIN), cli, backend.environment())?;
        second.run(&["import", "-no-color", ADDRESS, id.as_str().unwrap_or_default()])?.ok()?;
        second.destroy()?;
        assert_eq!(first.plan(&[])?.actions()[ADDRESS], ["create"]);
        first.apply_saved()?;
        assert_ne!(first.state()?.resource(ADDRESS)?["id"], id);
        Ok(())
    })
}
