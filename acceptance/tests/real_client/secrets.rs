//! The keys of a run, with the client's own trace on: they are nowhere but with their customer.

use std::{
    fs,
    path::{Path, PathBuf},
};

use acceptance::{Outcome, Workspace};

use crate::with_each_client;

/// The files below these folders that hold one of these, whatever they are.
fn files_with(folder: &Path, needles: &[Vec<u8>]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() {
            found.extend(files_with(&path, needles));
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            let holds = |needle: &Vec<u8>| bytes.windows(needle.len()).any(|part| part == needle);
            if needles.iter().any(holds) {
                found.push(path);
            }
        }
    }
    found
}

/// The key in the forms in which somebody may write it, from its hex digits.
fn forms(hex: &str) -> Vec<Vec<u8>> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap_or_default();
    let raw: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
    vec![hex.as_bytes().to_vec(), hex.to_uppercase().into_bytes(), raw]
}

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
        for folder in [workspace.folder(), &beside, backend.data()] {
            assert_eq!(files_with(folder, &secrets), nowhere, "a key of a volume");
        }
        for folder in [workspace.folder(), &beside] {
            assert_eq!(files_with(folder, &owner), nowhere, "the customer's identity");
        }
        for secret in secrets.iter().chain(&owner) {
            let text = String::from_utf8_lossy(secret);
            assert!(!planned.contains(&*text) && !again.contains(&*text), "in a plan");
        }
        // The search finds what is there: state and trace name the volumes.
        assert!(!files_with(workspace.folder(), &known).is_empty(), "in the state");
        assert!(!files_with(&beside, &known).is_empty(), "in the trace");
        assert_eq!(files_with(backend.data(), &owner), [backend.data().join("customer.key")]);
        Ok(())
    })
}
