//! Values that are not known yet, wrong, huge or in another script, as a real client sends them.

use acceptance::{Outcome, Workspace};

use crate::with_each_client;

#[test]
fn values_that_are_known_only_later_are_accepted_everywhere() -> Outcome {
    with_each_client(|cli, backend| {
        // Every value comes from a resource that is made in the same apply.
        let main = r##"
resource "terraform_data" "later" {
  input = {
    name    = "later"
    flavor  = "small"
    image   = "debian-13"
    size    = 10
    country = "DE"
    key     = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJzr5Gk0example0key0not0in0use0anywhere0 x"
    data    = "#cloud-config"
    label   = "prod"
    off     = false
  }
}
locals { later = terraform_data.later.output }

resource "fairmazon_volume" "data" {
  name     = local.later.name
  size_gib = local.later.size
  placement = { countries = [local.later.country] }
  labels   = { env = local.later.label }
}
resource "fairmazon_instance" "it" {
  name                = local.later.name
  flavor              = local.later.flavor
  image               = local.later.image
  boot_volume         = { size_gib = local.later.size }
  placement           = { countries = [local.later.country] }
  volumes             = { data = { volume_id = fairmazon_volume.data.id } }
  ssh_keys            = [local.later.key]
  user_data           = local.later.data
  deletion_protection = local.later.off
  labels              = { env = local.later.label }
}
"##;
        let workspace = Workspace::inline(main, cli, backend.environment())?;
        workspace.run(&["validate", "-no-color"])?.ok()?;
        let plan = workspace.plan(&[])?;
        assert_eq!(plan.actions().len(), 3);
        workspace.apply_saved()?;
        workspace.expect_no_changes()?;
        workspace.destroy()?;
        Ok(())
    })
}

#[test]
fn null_where_a_value_is_needed_and_values_of_the_platform_are_refused() -> Outcome {
    with_each_client(|cli, backend| {
        let wrong = [
            ("id = \"ins-1\"", "id, which can't be set"),
            ("site = \"muc1\"", "site, which can't be set"),
            ("volumes = { d = { volume_id = null } }", "volumes[\"d\"].volume_id"),
            ("volumes = { d = null }", "volumes[\"d\"]"),
            ("spot = { max_price_per_hour = null }", "spot.max_price_per_hour"),
            (
                "schedule = [{ timezone = \"UTC\", start = null, stop = \"18:00\", days = [\"mon\"] }]",
                "schedule[0].start",
            ),
            ("flavor = null", "flavor"),
        ];
        for (line, part) in wrong {
            let flavor = if line.starts_with("flavor") { "" } else { "flavor = \"small\"" };
            let main = format!(
                "resource \"fairmazon_instance\" \"it\" {{\n  name = \"one\"\n  image = \"debian-13\"\n  \
                 {flavor}\n  {line}\n}}\n"
            );
            let workspace = Workspace::inline(&main, cli, backend.environment())?;
            workspace.run(&["validate", "-no-color"])?.fails_saying(&[part])?;
        }
        Ok(())
    })
}

#[test]
fn an_endpoint_that_is_known_later_still_gives_a_plan() -> Outcome {
    with_each_client(|cli, backend| {
        let endpoint = &backend.environment()["FAIRMAZON_ENDPOINT"];
        let main = format!(
            r#"
resource "terraform_data" "platform" {{ input = "{endpoint}" }}
provider "fairmazon" {{ endpoint = terraform_data.platform.output }}
resource "fairmazon_instance" "it" {{
  name   = "one"
  flavor = "small"
  image  = "debian-13"
}}
"#
        );
        let mut environment = backend.environment().clone();
        environment.remove("FAIRMAZON_ENDPOINT");
        let workspace = Workspace::inline(&main, cli, &environment)?;
        let plan = workspace.plan(&[])?;
        assert_eq!(plan.actions()["fairmazon_instance.it"], ["create"]);
        workspace.apply_saved()?;
        workspace.expect_no_changes()
    })
}

#[test]
fn other_scripts_and_large_texts_survive() -> Outcome {
    with_each_client(|cli, backend| {
        let large = "x".repeat(30_000);
        let main = format!(
            r##"
resource "fairmazon_instance" "it" {{
  name      = "Bücher 名前 7"
  flavor    = "tiny"
  image     = "alpine-3.22"
  user_data = "#cloud-config {large}"
  labels    = {{ city = "Łódź – Ελλάδα" }}
}}
"##
        );
        let workspace = Workspace::inline(&main, cli, backend.environment())?;
        workspace.apply(&[])?;
        workspace.expect_no_changes()?;
        let state = workspace.state()?;
        let values = state.resource("fairmazon_instance.it")?;
        assert_eq!(values["name"], "Bücher 名前 7");
        assert_eq!(values["labels"]["city"], "Łódź – Ελλάδα");

        let too_large = main.replace(&large, &"x".repeat(40_000));
        workspace.write("main.tf", &too_large)?;
        workspace.try_plan(&[])?.fails_saying(&["user_data", "32768"])?;
        Ok(())
    })
}

#[test]
fn a_wrong_type_names_the_attribute() -> Outcome {
    with_each_client(|cli, backend| {
        let main = r#"
resource "fairmazon_instance" "it" {
  name        = "one"
  flavor      = ["small"]
  image       = "debian-13"
  boot_volume = { size_gib = "much" }
}
"#;
        let workspace = Workspace::inline(main, cli, backend.environment())?;
        workspace.try_plan(&[])?.fails_saying(&["flavor", "string required"])?;
        Ok(())
    })
}

#[test]
fn null_is_as_good_as_absent() -> Outcome {
    with_each_client(|cli, backend| {
        let main = r#"
resource "fairmazon_instance" "it" {
  name        = "one"
  flavor      = "small"
  image       = "debian-13"
  boot_volume = null
  volumes     = null
  ssh_keys    = null
  user_data   = null
  placement   = null
  labels      = null
  timeouts    = null
  schedule    = null
  spot        = null
}
"#;
        let workspace = Workspace::inline(main, cli, backend.environment())?;
        workspace.apply(&[])?;
        workspace.expect_no_changes()?;
        let absent: String =
            main.lines().filter(|l| !l.contains("null")).map(|l| format!("{l}\n")).collect();
        workspace.write("main.tf", &absent)?;
        workspace.expect_no_changes()
    })
}
