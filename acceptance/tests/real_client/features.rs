//! What is there beside resources: functions, short-lived tokens, guards, labels, logs.

use acceptance::{Outcome, Workspace};

use crate::{MACHINE, with_each_client};

#[test]
fn functions_answer_and_blame_their_argument() -> Outcome {
    with_each_client(|cli, backend| {
        let main = r#"
output "distance" { value = provider::fairmazon::distance_km(50.11, 8.68, 52.37, 4.90) }
output "noun"     { value = provider::fairmazon::parse_id("vol-01jd0000000000000000000000").noun }
"#;
        let workspace = Workspace::inline(main, cli, backend.environment())?;
        workspace.apply(&[])?;
        let state = workspace.state()?;
        let distance = state.output("distance").as_f64().unwrap_or_default();
        assert!((355.0..370.0).contains(&distance), "Frankfurt to Amsterdam: {distance}");
        assert_eq!(state.output("noun"), "volume");

        workspace
            .write("main.tf", "output \"x\" { value = provider::fairmazon::parse_id(\"x\") }")?;
        workspace.try_plan(&[])?.fails_saying(&["parse_id"])?;
        Ok(())
    })
}

#[test]
fn a_short_lived_token_works_and_is_in_no_file() -> Outcome {
    with_each_client(|cli, backend| {
        let main = format!(
            r#"
ephemeral "fairmazon_token" "run" {{ lifetime_seconds = 600 }}
provider "fairmazon" {{
  alias = "short"
  token = ephemeral.fairmazon_token.run.token
}}
{}"#,
            MACHINE.replace("name ", "provider = fairmazon.short\n  name ")
        );
        let workspace = Workspace::inline(&main, cli, backend.environment())?;
        workspace.apply(&[])?;
        let state = workspace.state()?.text();
        assert!(!state.contains("fmz_"), "no token in the state");
        assert!(!workspace.read("terraform.tfstate")?.contains("fmz_"));
        workspace.expect_no_changes()
    })
}

#[test]
fn no_secret_in_the_logs_at_any_level() -> Outcome {
    with_each_client(|cli, backend| {
        let mut workspace = Workspace::inline(MACHINE, cli, backend.environment())?;
        workspace.set("TF_LOG", "TRACE");
        let ended = workspace.apply(&[])?;
        assert!(ended.stderr.contains("ApplyResourceChange"), "the log is there");
        let token = backend.environment()["FAIRMAZON_TOKEN"].clone();
        assert!(!ended.stderr.contains(&token), "the token is not in it");
        // The platform shows it once, in the line to export.
        assert_eq!(backend.said().matches(&token).count(), 1);
        Ok(())
    })
}

#[test]
fn the_log_of_a_run_names_each_call_by_the_platforms_id() -> Outcome {
    with_each_client(|cli, backend| {
        let mut workspace = Workspace::inline(MACHINE, cli, backend.environment())?;
        workspace.set("TF_LOG_PROVIDER", "DEBUG");
        let ended = workspace.apply(&[])?;
        let mut lines = ended.stderr.lines().filter(|line| line.contains("CreateInstanceRequest"));
        assert!(lines.any(|line| line.contains("req-")), "{}", ended.stderr);
        Ok(())
    })
}

#[test]
fn the_price_guard_refuses_a_plan_above_it() -> Outcome {
    with_each_client(|cli, backend| {
        let guarded = |limit: &str| {
            format!("provider \"fairmazon\" {{ max_price_per_hour = \"{limit}\" }}\n{MACHINE}")
        };
        let workspace = Workspace::inline(&guarded("0.001"), cli, backend.environment())?;
        workspace.try_plan(&[])?.fails_saying(&["max_price_per_hour", "0.001"])?;
        // Enough for one: what is replaced does not count beside what replaces it.
        workspace.write("main.tf", &guarded("0.006"))?;
        workspace.apply(&[])?;
        workspace.try_apply(&["-replace=fairmazon_instance.it"])?.ok()?;
        workspace.expect_no_changes()
    })
}

#[test]
fn default_labels_are_added_and_can_be_overridden() -> Outcome {
    with_each_client(|cli, backend| {
        let main = format!(
            "provider \"fairmazon\" {{ default_labels = {{ team = \"a\", env = \"dev\" }} }}\n{}",
            MACHINE.replace("name ", "labels = { env = \"prod\" }\n  name ")
        );
        let workspace = Workspace::inline(&main, cli, backend.environment())?;
        workspace.apply(&[])?;
        let state = workspace.state()?;
        let labels = &state.resource("fairmazon_instance.it")?["effective_labels"];
        assert_eq!((&labels["team"], &labels["env"]), (&"a".into(), &"prod".into()));
        workspace.expect_no_changes()
    })
}

#[test]
fn no_room_says_which_rule_excluded_whom() -> Outcome {
    with_each_client(|cli, backend| {
        let main = MACHINE.replace(
            "name ",
            "placement = { countries = [\"AQ\"] }\n  timeouts = { create = \"5s\" }\n  name ",
        );
        let workspace = Workspace::inline(&main, cli, backend.environment())?;
        let ended = workspace.try_apply(&[])?.fails_saying(&["countr", "AQ"])?;
        assert!(ended.text().contains("hosts"), "{}", ended.text());
        Ok(())
    })
}

#[test]
fn many_machines_are_planned_and_read_at_once() -> Outcome {
    with_each_client(|cli, backend| {
        let main =
            MACHINE.replace("name   = \"one\"", "count = 200\n  name = \"m-${count.index}\"");
        let workspace =
            Workspace::inline(&main.replace("small", "tiny"), cli, backend.environment())?;
        workspace.apply(&["-parallelism=64"])?;
        workspace.expect_no_changes()?;
        assert_eq!(crate::ids_in_state(&workspace)?.len(), 200);
        Ok(())
    })
}

#[test]
fn what_a_destroyed_volume_held_makes_another_one() -> Outcome {
    with_each_client(|cli, backend| {
        let volume = |source: &str| {
            format!(
                r#"
resource "fairmazon_volume" "it" {{
  name           = "orders"
  size_gib       = 2
  final_snapshot = "orders-at-the-end"
  {source}
}}
{}"#,
                MACHINE.replace(
                    "}",
                    "  volumes = { data = { volume_id = fairmazon_volume.it.id } }\n}"
                )
            )
        };
        let workspace = Workspace::inline(&volume(""), cli, backend.environment())?;
        workspace.apply(&[])?;
        workspace.expect_no_changes()?;
        workspace.destroy()?;
        let listed = backend.ask("env", &["volume", "list"])?;
        let id = listed.split_whitespace().find(|word| word.starts_with("vol-")).unwrap_or("");
        assert!(listed.contains("orders-at-the-end"), "{listed}");

        let again = volume(&format!("source = {{ snapshot_id = \"{id}\" }}"));
        workspace.write("main.tf", &again)?;
        workspace.apply(&[])?;
        workspace.expect_no_changes()?;
        workspace.destroy()?;
        let listed = backend.ask("env", &["volume", "list"])?;
        assert_eq!(listed.matches("orders-at-the-end").count(), 2, "{listed}");
        Ok(())
    })
}
