//! Applies that do not come to their end, and the apply after: nothing twice, nothing lost.

use std::time::Duration;

use acceptance::{Backend, Cli, Outcome, Running, Workspace};
use rustix::process::Signal;

use crate::{ids_in_state, ids_on_platform, with_each_client};

const LIMIT: Duration = Duration::from_secs(120);
const MACHINES: usize = 12;

fn machines(label: &str, count: usize) -> String {
    format!(
        r#"
resource "fairmazon_instance" "many" {{
  count  = {count}
  name   = "{label}-${{count.index}}"
  flavor = "tiny"
  image  = "debian-13"
  labels = {{ test = "{label}" }}
}}
"#
    )
}

const APPLY: &[&str] = &["apply", "-json", "-input=false", "-auto-approve", "-parallelism=3"];

/// Waits until `nth` machines have come to `event` (`apply_start`, `apply_complete`).
fn reach(running: &mut Running, event: &str, nth: usize) -> Outcome {
    let marker = format!("\"type\":\"{event}\"");
    for _ in 0..nth {
        running.line(event, LIMIT, |line| line.contains(&marker))?;
    }
    Ok(())
}

/// After the next apply the platform has exactly the machines that the state has.
fn settle(workspace: &Workspace, cli: &Cli, backend: &Backend, label: &str) -> Outcome {
    workspace.apply(&[])?;
    let kept = ids_in_state(workspace)?;
    assert_eq!(kept.len(), MACHINES, "{label}: each machine is in the state");
    let there = ids_on_platform(cli, backend.environment(), label)?;
    assert_eq!(there, kept, "{label}: the platform has these and no others");
    workspace.expect_no_changes()
}

#[test]
fn terraform_killed_anywhere_in_an_apply_and_applied_again() -> Outcome {
    with_each_client(|cli, backend| {
        let moments =
            [("apply_start", 1), ("apply_start", 5), ("apply_complete", 1), ("apply_complete", 7)];
        for (event, nth) in moments {
            let label = format!("{}-{nth}", event.replace('_', "-"));
            let main = machines(&label, MACHINES);
            let workspace = Workspace::inline(&main, cli, backend.environment())?;
            let mut running = workspace.start(APPLY)?;
            reach(&mut running, event, nth)?;
            running.signal(Signal::KILL);
            running.end(LIMIT)?;
            drop(running);
            settle(&workspace, cli, backend, &label)?;
        }
        Ok(())
    })
}

#[test]
fn an_interrupt_ends_the_apply_in_order() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace =
            Workspace::inline(&machines("interrupt", MACHINES), cli, backend.environment())?;
        let mut running = workspace.start(APPLY)?;
        reach(&mut running, "apply_complete", 1)?;
        running.signal_group(Signal::INT);
        let status = running.end(LIMIT)?;
        assert!(status.code().is_some(), "it ended by itself: {status}");
        let said = running.said();
        assert!(!said.contains("panic") && !said.contains("crash"), "{said}");
        drop(running);
        let before = ids_in_state(&workspace)?;
        settle(&workspace, cli, backend, "interrupt")?;
        // What was under way is well: none of it is made anew.
        let after = ids_in_state(&workspace)?;
        assert!(before.iter().all(|id| after.contains(id)), "{before:?} became {after:?}");
        Ok(())
    })
}

#[test]
fn the_broker_killed_in_an_apply_and_started_again() -> Outcome {
    with_each_client(|cli, backend| {
        let label = "broker-killed";
        let workspace = Workspace::inline(&machines(label, MACHINES), cli, backend.environment())?;
        let mut running = workspace.start(APPLY)?;
        reach(&mut running, "apply_complete", 2)?;
        backend.kill();
        backend.again()?;
        // Whether the plugin rode it out or gave up with an error is its own decision.
        running.end(LIMIT)?;
        drop(running);
        settle(&workspace, cli, backend, label)
    })
}

#[test]
fn machines_survive_the_end_of_the_platform() -> Outcome {
    with_each_client(|cli, backend| {
        let label = "restart";
        let workspace = Workspace::inline(&machines(label, MACHINES), cli, backend.environment())?;
        workspace.apply(&[])?;
        let before = ids_in_state(&workspace)?;
        backend.interrupt()?;
        backend.again()?;
        workspace.expect_no_changes()?;
        backend.kill();
        backend.again()?;
        workspace.expect_no_changes()?;
        assert_eq!(ids_on_platform(cli, backend.environment(), label)?, before);
        Ok(())
    })
}

#[test]
fn equal_machines_of_one_count_are_that_many() -> Outcome {
    with_each_client(|cli, backend| {
        let label = "equal";
        let main = machines(label, MACHINES).replace("-${count.index}", "");
        let workspace = Workspace::inline(&main, cli, backend.environment())?;
        settle(&workspace, cli, backend, label)
    })
}

/// Two aliases of one account are two processes of the plugin.
fn aliases(label: &str) -> String {
    let alias = |alias: &str, provider: &str| {
        format!(
            r#"
resource "fairmazon_instance" "{alias}" {{
  count    = {}
  provider = {provider}
  name     = "{label}"
  flavor   = "tiny"
  image    = "debian-13"
  labels   = {{ test = "{label}" }}
}}
"#,
            MACHINES / 2
        )
    };
    let other = "provider \"fairmazon\" {\n  alias = \"other\"\n}\n";
    [other, &alias("one", "fairmazon"), &alias("two", "fairmazon.other")].concat()
}

#[test]
fn equal_machines_of_two_aliases_are_two() -> Outcome {
    with_each_client(|cli, backend| {
        let workspace = Workspace::inline(&aliases("aliases"), cli, backend.environment())?;
        settle(&workspace, cli, backend, "aliases")
    })
}

#[test]
fn equal_machines_of_two_aliases_are_found_after_a_kill() -> Outcome {
    with_each_client(|cli, backend| {
        for nth in [1, 4] {
            let label = format!("killed-{nth}");
            let workspace = Workspace::inline(&aliases(&label), cli, backend.environment())?;
            let mut running = workspace.start(APPLY)?;
            reach(&mut running, "apply_complete", nth)?;
            running.signal(Signal::KILL);
            running.end(LIMIT)?;
            drop(running);
            settle(&workspace, cli, backend, &label)?;
        }
        Ok(())
    })
}
