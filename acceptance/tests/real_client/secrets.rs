//! The keys of a run, with the client's own trace on: they are nowhere but with their customer.

use std::{fs, path::PathBuf};

use acceptance::{Outcome, Workspace};

use crate::{
    needles::{Needles, forms},
    with_each_client,
};

#[test]
fn the_keys_of_a_run_are_in_no_file_of_the_client_or_the_platform() -> Outcome {
    with_each_client(|cli, backend| {
        let mut workspace = Workspace::example("quickstart", cli, backend.environment())?;
        let beside = workspace.beside().to_owned();
        workspace.set("TF_LOG", "TRACE");
        workspace.set("TF_LOG_PATH", &beside.join("trace.log").display().to_string());
        let planned = workspace.plan(&[])?.document().to_string();
        workspace.apply_saved()?;
        let again = workspace.plan(&[])?.document().to_string();

        let state = workspace.state()?;
        let volumes: Vec<_> = state
            .resources()
            .filter_map(|(_, values)| values["boot_volume_id"].as_str().map(str::to_owned))
            .collect();
        assert!(!volumes.is_empty());
        let mut secrets = Vec::new();
        let mut known = Vec::new();
        for volume in &volumes {
            let hex = backend.passphrase(volume, &beside.join(format!("{volume}.age")))?;
            assert_eq!(hex.len(), 64, "the passphrase is 32 bytes in hex");
            secrets.extend(forms(&hex));
            known.push(volume.clone().into_bytes());
        }
        let identity = fs::read_to_string(backend.data().join("customer.key")).unwrap_or_default();
        let line = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY-"));
        let owner: Vec<_> = line.into_iter().map(|line| line.as_bytes().to_vec()).collect();
        assert_eq!(owner.len(), 1);

        let nowhere: Vec<PathBuf> = Vec::new();
        let texts = [planned, again].map(String::into_bytes);
        let needles = Needles::new([&secrets[..], &owner].concat());
        assert!(!texts.iter().any(|text| needles.are_in(text)), "in a plan");
        let (secrets, owner) = (Needles::new(secrets), Needles::new(owner));
        let known = Needles::new(known);
        for folder in [workspace.folder(), &beside, backend.data()] {
            assert_eq!(secrets.files(folder), nowhere, "a key of a volume");
        }
        for folder in [workspace.folder(), &beside] {
            assert_eq!(owner.files(folder), nowhere, "the customer's identity");
        }
        // The search finds what is there: state and trace name the volumes.
        assert!(!known.files(workspace.folder()).is_empty(), "in the state");
        assert!(!known.files(&beside).is_empty(), "in the trace");
        assert_eq!(owner.files(backend.data()), [backend.data().join("customer.key")]);
        Ok(())
    })
}
