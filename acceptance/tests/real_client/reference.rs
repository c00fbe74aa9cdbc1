//! The small examples on the reference pages: each must work as it is printed there.

use std::{fs, path::PathBuf};

use acceptance::{Cli, Failure, Outcome, Workspace, repository};

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
            let import = text(folder.join("import.sh"))?;
            assert!(import.starts_with(&format!("terraform import {name}.")), "{import}");
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
        let group = text(examples("resources")?[1].1.join("resource.tf"))?;
        let workspace = Workspace::inline(&group, cli, backend.environment())?;
        workspace.apply(&[])?;
        for (name, folder) in examples("list-resources")? {
            workspace
                .write("search.tfquery.hcl", &text(folder.join("list-resource.tfquery.hcl"))?)?;
            let found = workspace.run(&["query", "-no-color"])?.ok()?;
            assert!(found.text().contains(&format!("list.{name}.all")), "{}", found.text());
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
