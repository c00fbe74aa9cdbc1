//! A plugin that a developer has started by hand, for a debugger, and the client that uses it.

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
