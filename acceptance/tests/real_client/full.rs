//! Disks that get full, as a customer meets it: what is told, what goes on, and that the same apply
//! is enough once there is room. Needs root, for small disks.

use std::path::Path;

use acceptance::{Backend, BackendOptions, Cli, Failure, Mount, Outcome, Workspace};

use crate::{ids_in_state, ids_on_platform};

/// So many machines, with a label to find them by.
fn machines(count: usize) -> String {
    format!(
        r#"
resource "fairmazon_instance" "it" {{
  count  = {count}
  name   = "machine-${{count.index}}"
  flavor = "tiny"
  image  = "alpine-3.22"
  labels = {{ test = "full" }}
}}
"#
    )
}

/// A platform whose data folder is here.
fn platform(data: &Path) -> Outcome<Backend> {
    let data = Some(data.to_owned());
    Backend::start_with(BackendOptions { data, ..BackendOptions::default() })
}

fn folder() -> Outcome<tempfile::TempDir> {
    tempfile::tempdir().map_err(|error| Failure::Unexpected(format!("no folder: {error}")))
}

#[test]
fn a_broker_without_room_says_so_loses_nothing_and_goes_on() -> Outcome {
    let cli = Cli::chosen()?;
    let own = folder()?;
    let data = own.path().join("data");
    let disk = Mount::small(&data, 32)?;
    // The hosts are machines of their own.
    let _hosts = Mount::of(&own.path().join("hosts"), &data.join("hosts"))?;
    let mut backend = platform(&data)?;
    let environment = backend.environment().clone();
    let workspace = Workspace::inline(&machines(2), &cli, &environment)?;
    workspace.apply(&[])?;
    let before = ids_in_state(&workspace)?;
    assert_eq!(before.len(), 2);

    disk.fill()?;
    workspace.write("main.tf", &machines(4))?;
    let words = [
        "Unable to create the instance",
        "there is no room left",
        "operator",
        "nothing was changed",
    ];
    workspace.try_apply(&[])?.fails_saying(&words)?;
    // It still reads, and has what it has said that it has.
    assert_eq!(ids_on_platform(&cli, &environment, "full")?, before);
    assert_eq!(ids_in_state(&workspace)?, before);
    assert_eq!(workspace.plan(&[])?.actions().len(), 2);

    disk.free()?;
    workspace.apply(&[])?;
    let after = ids_in_state(&workspace)?;
    assert!(after.len() == 4 && before.iter().all(|id| after.contains(id)), "{after:?}");
    assert_eq!(ids_on_platform(&cli, &environment, "full")?, after, "nothing is there twice");
    workspace.expect_no_changes()?;

    // Full and then ended without notice: what it had said is there.
    disk.fill()?;
    workspace.write("main.tf", &machines(5))?;
    workspace.try_apply(&[])?.fails_saying(&["there is no room left"])?;
    backend.kill();
    disk.free()?;
    backend.again()?;
    workspace.write("main.tf", &machines(4))?;
    workspace.expect_no_changes()?;
    assert_eq!(ids_on_platform(&cli, &environment, "full")?, after);
    workspace.destroy()?;
    backend.interrupt()
}

#[test]
fn hosts_without_room_for_their_state_begin_nothing_and_go_on_when_there_is() -> Outcome {
    let cli = Cli::chosen()?;
    let own = folder()?;
    let data = own.path().join("data");
    let disk = Mount::small(&data.join("hosts"), 4)?;
    let mut backend = platform(&data)?;
    let workspace = Workspace::inline(&machines(1), &cli, backend.environment())?;
    workspace.apply(&[])?;
    let before = ids_in_state(&workspace)?;

    disk.fill()?;
    workspace.write(
        "main.tf",
        &machines(2).replace("labels", "timeouts = { create = \"10s\" }\n  labels"),
    )?;
    let words = ["failed", "can't write down what it is told", "operator has to see to its disk"];
    workspace.try_apply(&[])?.fails_saying(&words)?;
    let said = backend.said();
    assert!(said.contains("/state: check the disk's room"), "the log says which file: {said}");

    disk.free()?;
    workspace.write("main.tf", &machines(2))?;
    workspace.apply(&[])?;
    let made = ids_in_state(&workspace)?;
    assert!(made.len() == 2 && before.iter().all(|id| made.contains(id)), "{made:?}");
    assert_eq!(ids_on_platform(&cli, backend.environment(), "full")?, made, "nothing is twice");
    workspace.expect_no_changes()?;
    workspace.destroy()?;
    backend.interrupt()
}
