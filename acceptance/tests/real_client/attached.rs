//! A developer's plugin: started by hand for a debugger, or taken from where it was built.

use std::{fs, process::Command, time::Duration};

use acceptance::{Binaries, Outcome, Product, Running, Workspace};
use rustix::process::Signal;

use crate::{MACHINE, with_each_client};

const LIMIT: Duration = Duration::from_secs(20);
const VARIABLE: &str = "TF_REATTACH_PROVIDERS=";

#[test]
fn a_plugin_that_was_started_by_hand_serves_run_after_run_until_it_is_ended() -> Outcome {
    with_each_client(|cli, backend| {
        let mut workspace = Workspace::inline(MACHINE, cli, backend.environment())?;
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(&Binaries::find()?.provider);
        // Its environment is that of its own shell, not that of the client.
        command.arg("--debug").env("TMPDIR", home.path()).envs(backend.environment());
        let mut plugin = Running::start(&mut command)?;
        let line = plugin.line("what to export", LIMIT, |line| line.contains(VARIABLE))?;
        // As a shell would read it.
        let (_, value) = line.split_once(VARIABLE).unwrap_or_default();
        let mut value = value.trim().trim_matches('\'').to_owned();
        if cli.product == Product::OpenTofu {
            value = value.replace("registry.terraform.io", "registry.opentofu.org");
        }
        workspace.set("TF_REATTACH_PROVIDERS", &value);
        // There is no other plugin that the client could start.
        let installed = workspace.folder().join(".terraform/providers");
        fs::remove_dir_all(&installed).unwrap();

        workspace.apply(&[])?;
        workspace.expect_no_changes()?;
        let sockets = || fs::read_dir(home.path()).map_or(0, Iterator::count);
        assert_eq!(sockets(), 1, "it waits for the next run");
        workspace.destroy()?;

        plugin.signal(Signal::INT);
        let status = plugin.end(LIMIT)?;
        assert!(status.success(), "{status}: {}", plugin.said());
        assert_eq!(sockets(), 0, "nothing of it stays");
        workspace.try_plan(&[])?.fails_saying(&["plugin"])?;
        Ok(())
    })
}

#[test]
fn a_plugin_is_taken_from_where_it_was_built_as_the_readme_says() -> Outcome {
    const README: &str = include_str!("../../../README.md");
    const THERE: &str = "/path/to/this/repository/target/release";
    let (_, after) = README.split_once("provider_installation {").unwrap();
    let (block, _) = after.split_once("```").unwrap();
    let built = &Binaries::find()?.provider;
    let folder = built.parent().unwrap().to_str().unwrap();
    assert!(block.contains(THERE), "{block}");
    let file = format!("provider_installation {{{}", block.replace(THERE, folder));
    with_each_client(|cli, backend| {
        let mut workspace = Workspace::inline(MACHINE, cli, backend.environment())?;
        let settings = workspace.beside().join("overrides.tfrc");
        fs::write(&settings, &file).unwrap();
        // Nothing is installed, and no version chosen.
        fs::remove_dir_all(workspace.folder().join(".terraform")).unwrap();
        fs::remove_file(workspace.folder().join(".terraform.lock.hcl")).unwrap();
        workspace.configure_client(&settings);
        let applied = workspace.run(&["apply", "-auto-approve", "-input=false"])?.ok()?;
        assert!(applied.text().contains("development overrides"), "{}", applied.text());
        workspace.run(&["plan", "-detailed-exitcode", "-input=false"])?.ok()?;
        workspace.run(&["destroy", "-auto-approve", "-input=false"])?.ok()?;
        Ok(())
    })
}
