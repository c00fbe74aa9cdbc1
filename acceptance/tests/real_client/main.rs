//! What a user meets, with a real client, the built plugin and a running backend.
//!
//! Every test starts a backend of its own with simulated hosts (unless it says otherwise) and
//! runs with each client on this machine.

mod attached;
mod capture;
mod damage;
mod examples;
mod faults;
mod features;
mod full;
mod guests;
mod interrupted;
mod lifecycle;
mod needles;
mod reference;
mod secrets;
mod two_hosts;
mod values;

use acceptance::{Backend, Cli, Environment, Outcome, Workspace};

/// One machine, and nothing else.
const MACHINE: &str = r#"
resource "fairmazon_instance" "it" {
  name   = "one"
  flavor = "small"
  image  = "debian-13"
}
"#;

/// Runs a test with every client, each against a backend of its own.
fn with_each_client(test: impl Fn(&Cli, &mut Backend) -> Outcome) -> Outcome {
    for cli in Cli::all()? {
        let mut backend = Backend::start()?;
        test(&cli, &mut backend)?;
    }
    Ok(())
}

/// The ids of all instances with this label, as the platform itself lists them.
fn ids_on_platform(cli: &Cli, environment: &Environment, label: &str) -> Outcome<Vec<String>> {
    let main = format!(
        "data \"fairmazon_instances\" \"all\" {{\n  labels = {{ test = \"{label}\" }}\n}}\n\
         output \"ids\" {{\n  value = data.fairmazon_instances.all.instances[*].id\n}}\n"
    );
    let workspace = Workspace::inline(&main, cli, environment)?;
    workspace.apply(&[])?;
    let state = workspace.state()?;
    let ids = state.output("ids").as_array().into_iter().flatten();
    let mut ids: Vec<String> = ids.filter_map(|id| id.as_str().map(str::to_owned)).collect();
    ids.sort();
    Ok(ids)
}

/// The ids of all instances in a workspace's state.
fn ids_in_state(workspace: &Workspace) -> Outcome<Vec<String>> {
    let state = workspace.state()?;
    let mut ids: Vec<String> = state
        .resources()
        .filter(|(address, _)| address.starts_with("fairmazon_instance."))
        .filter_map(|(_, values)| values["id"].as_str().map(str::to_owned))
        .collect();
    ids.sort();
    Ok(ids)
}
