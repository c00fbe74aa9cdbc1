//! The examples that a user copies, each walked through as its README says.

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use acceptance::{Backend, BackendOptions, Cli, Failure, Outcome, Workspace};

use crate::with_each_client;

fn quickstart(cli: &Cli, backend: &Backend) -> Outcome {
    let workspace = Workspace::example("quickstart", cli, backend.environment())?;

    let plan = workspace.plan(&[])?;
    let actions = plan.actions();
    let instances = actions.keys().filter(|a| a.starts_with("fairmazon_instance.")).count();
    let volumes = actions.keys().filter(|a| a.starts_with("fairmazon_volume.")).count();
    assert_eq!((instances, volumes), (3, 2), "{actions:?}");
    let price = plan.output("price_per_month").as_f64();
    assert!(price.is_some_and(|price| price > 0.0), "the price is known at plan: {price:?}");
    assert_eq!(plan.output("price_per_hour").as_object().map(serde_json::Map::len), Some(3));

    workspace.apply_saved()?;
    workspace.expect_no_changes()?;
    let state = workspace.state()?;
    assert_eq!(state.output("price_per_month").as_f64(), price, "the plan told the true price");
    let countries: BTreeSet<_> =
        state.resources().filter_map(|(_, values)| values["country"].as_str()).collect();
    assert_eq!(countries, BTreeSet::from(["DE", "NL"]));
    let id = state.resource("fairmazon_instance.database")?["id"].clone();

    let grown = "data_gib = 20\ndatabase_flavor = \"large\"\n";
    workspace.write("terraform.tfvars", grown)?;
    let plan = workspace.plan(&[])?;
    assert!(plan.actions().values().all(|actions| actions == &["update"]), "{:?}", plan.actions());
    workspace.apply_saved()?;
    let state = workspace.state()?;
    let database = state.resource("fairmazon_instance.database")?;
    assert_eq!(database["id"], id, "a resize keeps the machine");
    assert_eq!(database["flavor"], "large");
    workspace.expect_no_changes()?;

    workspace
        .try_destroy()?
        .fails_saying(&["deletion_protection", "fairmazon_instance.database"])?;
    assert!(workspace.state()?.resource("fairmazon_instance.database").is_ok());
    workspace.write("terraform.tfvars", &format!("{grown}protect_database = false\n"))?;
    workspace.apply(&[])?;
    workspace.destroy()?;
    assert_eq!(workspace.state()?.resources().count(), 0);
    Ok(())
}

#[test]
fn quickstart_from_prices_to_a_refused_destroy() -> Outcome {
    with_each_client(|cli, backend| quickstart(cli, backend))
}

#[test]
fn quickstart_on_the_libvirt_test_driver() -> Outcome {
    let options = BackendOptions { hypervisor: "libvirt-test", ..BackendOptions::default() };
    quickstart(&Cli::chosen()?, &Backend::start_with(options)?)
}

#[test]
fn cluster_members_come_and_go_alone() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace = Workspace::example("cluster", cli, backend.environment())?;
        workspace.apply(&[])?;
        workspace.expect_no_changes()?;
        let addresses = workspace.state()?.output("addresses").clone();
        assert_eq!(addresses.as_object().map(serde_json::Map::len), Some(3), "{addresses}");

        let members = r#"-var=members={a={},aa={},b={},c={flavor="medium"}}"#;
        let actions = workspace.plan(&[members])?.actions();
        let expected = ["fairmazon_instance.member[\"aa\"]", "fairmazon_volume.data[\"aa\"]"];
        assert_eq!(actions.keys().collect::<Vec<_>>(), expected);
        workspace.apply_saved()?;

        let actions = workspace.plan(&[])?.actions();
        assert_eq!(actions.keys().collect::<Vec<_>>(), expected);
        assert!(actions.values().all(|actions| actions == &["delete"]), "{actions:?}");
        workspace.apply_saved()?;
        workspace.destroy()?;
        Ok(())
    })
}

#[test]
fn import_changes_nothing() -> Outcome {
    with_each_client(|cli, backend| {
        let elsewhere = Workspace::inline(
            r#"resource "fairmazon_instance" "made" {
                 name        = "adopted"
                 flavor      = "small"
                 image       = "debian-13"
                 boot_volume = { size_gib = 10 }
                 labels      = { origin = "made elsewhere" }
               }"#,
            cli,
            backend.environment(),
        )?;
        elsewhere.apply(&[])?;
        let state = elsewhere.state()?;
        let id = state.resource("fairmazon_instance.made")?["id"].clone();
        let id = id.as_str().unwrap_or_default();

        let workspace = Workspace::example("import", cli, backend.environment())?;
        let variable = format!("-var=instance_id={id}");
        if cli.has_actions_and_lists() {
            let found = workspace.run(&["query", "-no-color", &variable])?.ok()?;
            assert!(found.text().contains(&format!("id={id}")), "{}", found.text());
        }
        let plan = workspace.try_plan(&[&variable])?.ok()?;
        let counts = "1 to import, 0 to add, 0 to change, 0 to destroy";
        assert!(plan.text().contains(counts), "{}", plan.text());
        workspace.apply(&[&variable])?;
        assert!(workspace.plan(&[&variable])?.is_empty());
        let state = workspace.state()?;
        assert_eq!(state.resource("fairmazon_instance.adopted")?["id"], id);
        Ok(())
    })
}

#[test]
fn schedule_saves_money_and_is_applied_at_any_hour() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace = Workspace::example("schedule", cli, backend.environment())?;
        let plan = workspace.plan(&[])?;
        let saving = plan.output("monthly_saving").as_str().and_then(|s| s.parse::<f64>().ok());
        assert!(saving.is_some_and(|saving| saving > 0.0), "the saving is known: {saving:?}");
        workspace.apply_saved()?;
        workspace.expect_no_changes()?;
        workspace.destroy()?;
        Ok(())
    })
}

/// Where a country has one host, as its size says.
fn one_host_a_site() -> Outcome<Backend> {
    let more = ["--hosts", "1"].map(ToOwned::to_owned).to_vec();
    Backend::start_with(BackendOptions { more, ..BackendOptions::default() })
}

#[test]
fn spot_machines_make_room_and_the_plan_has_nothing_to_do() -> Outcome {
    let backend = one_host_a_site()?;
    let workspace = Workspace::example("spot", &Cli::chosen()?, backend.environment())?;
    // As many as the only host of the country has room for.
    let variables = "workers = 4\nflavor = \"huge\"\n";
    workspace.write("terraform.tfvars", variables)?;
    workspace.apply(&[])?;
    workspace.expect_no_changes()?;
    let interrupted = |workspace: &Workspace| {
        let state = workspace.state()?;
        Ok::<_, Failure>(state.output("interrupted").as_object().cloned().unwrap_or_default())
    };
    assert!(interrupted(&workspace)?.is_empty());

    workspace.write("terraform.tfvars", &format!("{variables}urgent = true\n"))?;
    let actions = workspace.plan(&[])?.actions();
    assert_eq!(actions.keys().collect::<Vec<_>>(), ["fairmazon_instance.urgent[0]"]);
    workspace.apply_saved()?;
    // What the platform did meanwhile is taken over, and there is nothing to do about it.
    workspace.apply(&[])?;
    let names: Vec<_> = interrupted(&workspace)?.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 1, "never more than are needed: {names:?}");
    workspace.expect_no_changes()?;
    let state = workspace.state()?;
    assert_eq!(state.resource("fairmazon_instance.urgent[0]")?["state"], "running");
    let number = names[0].trim_start_matches("worker-");
    let worker = state.resource(&format!("fairmazon_instance.worker[{number}]"))?;
    assert_eq!((&worker["state"], &worker["power_state"]), (&"stopped".into(), &"running".into()));
    workspace.destroy()?;
    Ok(())
}

#[test]
fn a_spot_machine_that_an_interruption_deleted_is_planned_anew() -> Outcome {
    let backend = one_host_a_site()?;
    let workspace = Workspace::example("spot", &Cli::chosen()?, backend.environment())?;
    let variables = "workers = 4\nflavor = \"huge\"\non_interrupt = \"delete\"\n";
    workspace.write("terraform.tfvars", variables)?;
    workspace.apply(&[])?;
    workspace.apply(&["-var=urgent=true"])?;
    let gone = || {
        let actions = workspace.plan(&["-var=urgent=true"])?.actions();
        let created = actions.iter().filter(|(_, actions)| *actions == &["create"]);
        Ok::<_, Failure>((created.count(), actions.len()))
    };
    assert_eq!(gone()?, (1, 1), "the platform has deleted one, and a new one is planned");
    workspace.destroy()?;
    Ok(())
}

#[test]
fn review_workflow_applies_what_was_read() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace = Workspace::example("review-workflow", cli, backend.environment())?;
        let (status, said) = review(&workspace, &workspace.plan(&[])?, "50")?;
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains("fairmazon_instance.worker[0]") && said.contains("total"), "{said}");
        let (status, said) = review(&workspace, &workspace.plan(&[])?, "0.01")?;
        assert!(status == Some(1) && said.contains("refused"), "{said}");
        workspace.apply_saved()?;
        workspace.expect_no_changes()?;

        let (status, said) = review(&workspace, &workspace.plan(&["-var=machines=1"])?, "50")?;
        assert!(status == Some(1) && said.contains("destroys"), "{said}");
        workspace.destroy()?;

        // What is known at apply only costs more than nothing.
        let later = r#"
resource "terraform_data" "flavor" { input = "small" }
resource "fairmazon_instance" "later" {
  name   = "later"
  flavor = terraform_data.flavor.output
  image  = "debian-13"
}
"#;
        workspace.write("later.tf", later)?;
        let (status, said) = review(&workspace, &workspace.plan(&[])?, "50")?;
        let refused = said.contains("does not say what fairmazon_instance.later will cost");
        assert!(status == Some(1) && refused && said.contains("unknown"), "{said}");
        Ok(())
    })
}

/// Runs the example's script on a plan; gives its status and what it said.
fn review(
    workspace: &Workspace,
    plan: &acceptance::Plan,
    limit: &str,
) -> Outcome<(Option<i32>, String)> {
    let start = |source| Failure::Start { program: "review.py".into(), source };
    let mut script = Command::new("python3")
        .arg(workspace.folder().join("review.py"))
        .args(["--max-per-month", limit])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = script.stdin.take() {
        stdin.write_all(plan.document().to_string().as_bytes()).map_err(start)?;
    }
    let output = script.wait_with_output().map_err(start)?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn preferences_decide_where_machines_go_and_a_change_of_them_moves_nothing() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace = Workspace::example("preferences", cli, backend.environment())?;
        workspace.apply(&[])?;
        workspace.expect_no_changes()?;
        let state = workspace.state()?;
        let workers = || state.resources().filter(|(at, _)| at.starts_with("fairmazon_instance."));
        assert_eq!(workers().count(), 2);
        for (_, worker) in workers() {
            assert_eq!(worker["site"], "hel1");
            let why = worker["placement_reason"].as_str().unwrap_or_default();
            assert!(why.ends_with(", 0 km from eu-north"), "{why}");
        }
        let unknown = ["placement", "no site or region `mars`", "eu-north", "hel1"];
        workspace.try_apply(&["-var", "near=mars"])?.fails_saying(&unknown)?;
        workspace.try_plan(&["-var", "prefer=best"])?.fails_saying(&["prefer", "spread"])?;

        let other = ["-var", "near=ams1", "-var", "prefer=pack"];
        let plan = workspace.plan(&other)?;
        assert!(plan.actions().values().all(|does| does == &["update"]), "{:?}", plan.actions());
        assert_eq!(plan.actions().len(), 2);
        workspace.apply_saved()?;
        let after = workspace.state()?;
        for (at, worker) in workers() {
            let after = after.resource(at)?;
            for kept in ["id", "site", "lease_epoch", "placement_reason"] {
                assert_eq!(after[kept], worker[kept], "{kept} of {at}");
            }
        }
        assert!(workspace.plan(&other)?.is_empty());
        workspace.destroy()?;
        Ok(())
    })
}
