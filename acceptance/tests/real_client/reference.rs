//! The small examples on the reference pages: each must work as it is printed there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use acceptance::{Cli, Failure, Outcome, State, Workspace, repository};

use crate::with_each_client;

/// The folders below `examples/terraform/KIND`, by name.
fn examples(kind: &str) -> Outcome<Vec<(String, PathBuf)>> {
    let folder = repository().join("examples/terraform").join(kind);
    let unreadable = |source| Failure::File { verb: "read", path: folder.clone(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        found.push((name.unwrap_or_default(), path));
    }
    found.sort();
    assert!(!found.is_empty(), "no example of {kind}");
    Ok(found)
}

fn text(path: PathBuf) -> Outcome<String> {
    fs::read_to_string(&path).map_err(|source| Failure::File { verb: "read", path, source })
}

#[test]
fn every_resource_is_created_and_then_left_alone() -> Outcome {
    with_each_client(|cli, backend| {
        for (name, folder) in examples("resources")? {
            let main = text(folder.join("resource.tf"))?;
            let workspace = Workspace::inline(&main, cli, backend.environment())?;
            workspace.apply(&[])?;
            workspace.expect_no_changes()?;
            let state = workspace.state()?;
            assert!(state.resources().any(|(address, _)| address.starts_with(&name)), "{name}");
        }
        Ok(())
    })
}

/// The script of an example with the id that it shows replaced by one that is there, and the
/// address that it imports to.
fn import_script(folder: &Path, state: &State) -> Outcome<(String, String)> {
    let script = text(folder.join("import.sh"))?;
    let mut words = script.split_whitespace().skip_while(|word| *word != "import").skip(1);
    let (Some(address), Some(shown)) = (words.next(), words.next()) else {
        return Err(Failure::Unexpected(format!("no address and id to import in {script:?}")));
    };
    let id = state.resource(address)?["id"].as_str().unwrap_or_default().to_owned();
    assert_eq!(id.len(), shown.len(), "{shown} does not look like {id}");
    assert_eq!(id.split('-').next(), shown.split('-').next(), "{shown} does not look like {id}");
    Ok((script.replace(shown, &id), address.to_owned()))
}

#[test]
fn every_import_script_adopts_what_was_made() -> Outcome {
    with_each_client(|cli, backend| {
        for (name, folder) in examples("resources")? {
            let main = text(folder.join("resource.tf"))?;
            let first = Workspace::inline(&main, cli, backend.environment())?;
            first.apply(&[])?;
            let made = first.state()?;
            let (script, address) = import_script(&folder, &made)?;

            let second = Workspace::inline(&main, cli, backend.environment())?;
            // What it is made of is there first.
            for (other, values) in made.resources().filter(|(other, _)| *other != address) {
                let id = values["id"].as_str().unwrap_or_default();
                second.run(&["import", "-no-color", other, id])?.ok()?;
            }
            second.script(&script)?.ok()?;
            let adopted = second.state()?;
            assert_eq!(adopted.resources().count(), made.resources().count(), "{name}");
            assert_eq!(adopted.resource(&address)?["id"], made.resource(&address)?["id"]);
            // What only Terraform keeps is written once; what exists stays as it is.
            let actions = second.plan(&[])?.actions();
            let wanted = actions.get(&address).map_or("nothing", |actions| &*actions[0]);
            let kept =
                if made.resource(&address)?["timeouts"].is_null() { "nothing" } else { "update" };
            assert_eq!((wanted, &*name), (kept, &*name), "{actions:?}");
        }
        Ok(())
    })
}

#[test]
fn every_data_source_function_and_ephemeral_resource_answers() -> Outcome {
    with_each_client(|cli, backend| {
        for (kind, file) in [
            ("data-sources", "data-source.tf"),
            ("functions", "function.tf"),
            ("ephemeral-resources", "ephemeral-resource.tf"),
        ] {
            for (_, folder) in examples(kind)? {
                let main = text(folder.join(file))?;
                let workspace = Workspace::inline(&main, cli, backend.environment())?;
                workspace.apply(&[])?;
                workspace.expect_no_changes()?;
            }
        }
        Ok(())
    })
}

#[test]
fn the_provider_block_is_valid() -> Outcome {
    for cli in Cli::all()? {
        let workspace = Workspace::example("provider", &cli, &acceptance::Environment::new())?;
        workspace.run(&["validate", "-no-color"])?.ok()?;
    }
    Ok(())
}

#[test]
fn every_list_finds_what_was_made() -> Outcome {
    with_each_client(|cli, backend| {
        if !cli.has_actions_and_lists() {
            return Ok(());
        }
        let main: Vec<_> = examples("resources")?
            .into_iter()
            .map(|(_, folder)| text(folder.join("resource.tf")))
            .collect::<Outcome<_>>()?;
        let workspace = Workspace::inline(&main.concat(), cli, backend.environment())?;
        workspace.apply(&[])?;
        let state = workspace.state()?;
        for (name, folder) in examples("list-resources")? {
            let query = text(folder.join("list-resource.tfquery.hcl"))?;
            let elsewhere = Workspace::inline("", cli, backend.environment())?;
            elsewhere.write("search.tfquery.hcl", &query)?;
            let found = elsewhere.run(&["query", "-no-color"])?.ok()?.text();
            let made: Vec<_> = state
                .resources()
                .filter(|(address, _)| address.starts_with(&name))
                .map(|(_, values)| values["id"].as_str().unwrap_or_default())
                .collect();
            for id in &made {
                assert!(found.contains(&format!("id={id}")), "{id} of {name} is not in {found}");
            }

            // What the file says beside: the configuration that it writes adopts all of it.
            elsewhere.run(&["query", "-no-color", "-generate-config-out=found.tf"])?.ok()?;
            let plan = elsewhere.plan(&[])?;
            assert!(plan.is_empty(), "{name}: {:?}", plan.actions());
            let changes = plan.document()["resource_changes"].as_array().into_iter().flatten();
            let imports: Vec<_> =
                changes.filter_map(|one| one["change"]["importing"].as_object()).collect();
            assert!(!made.is_empty() && imports.len() >= made.len(), "{name}: {imports:?}");
        }
        Ok(())
    })
}

#[test]
fn every_action_runs_when_it_is_asked_for() -> Outcome {
    with_each_client(|cli, backend| {
        if !cli.has_actions_and_lists() {
            return Ok(());
        }
        for (name, folder) in examples("actions")? {
            let main = text(folder.join("action.tf"))?;
            let workspace = Workspace::inline(&main, cli, backend.environment())?;
            workspace.apply(&[])?;
            let invoke = format!("-invoke=action.{name}.web");
            let done = workspace.try_apply(&[&invoke])?.ok()?;
            assert!(done.text().contains("1 invoked"), "{}", done.text());
            workspace.expect_no_changes()?;
        }
        Ok(())
    })
}
