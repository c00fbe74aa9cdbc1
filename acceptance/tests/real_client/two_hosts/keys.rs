//! The keys of volumes, over all that customer, platform and hosts have done with them: nobody but the
//! customer and the agents has had them.

use std::path::PathBuf;

use acceptance::{Environment, Outcome, Workspace};

use super::{host::Host, platform::Platform};
use crate::needles::{Needles, Watch, forms};

/// What is kept of a run until its keys are looked for.
pub(super) struct Keys {
    watch: Watch,
    keys: Vec<String>,
    /// Where they are as they were wrapped.
    wrapped: PathBuf,
    /// What the client has shown.
    shown: Vec<String>,
}

impl Keys {
    /// Watches all processes from here on, and has the client write down all that it does.
    pub(super) fn watch(workspace: &mut Workspace, wrapped: PathBuf) -> Self {
        workspace.set("TF_LOG", "TRACE");
        let trace = workspace.beside().join("trace.log").display().to_string();
        workspace.set("TF_LOG_PATH", &trace);
        Self { watch: Watch::start(), keys: Vec::new(), wrapped, shown: Vec::new() }
    }

    pub(super) fn shown(&mut self, text: String) {
        self.shown.push(text);
    }

    /// Takes the keys that these volumes have now, as their customer gets them.
    pub(super) fn take(
        &mut self,
        platform: &Platform,
        customer: &Environment,
        volumes: &[String],
    ) -> Outcome {
        for volume in volumes {
            let wrapped = self.wrapped.join(format!("{}.age", self.keys.len()));
            let key = platform.passphrase(customer, volume, &wrapped)?;
            assert_eq!(key.len(), 64, "32 bytes in hex");
            assert!(!self.keys.contains(&key), "{volume} has a key of its own here");
            self.keys.push(key);
        }
        Ok(())
    }

    /// That they are in no file, in no log, in no process' arguments or environment, and not in the
    /// memory of the broker.
    pub(super) fn are_nowhere(
        self,
        workspace: &Workspace,
        platform: &mut Platform,
        hosts: [&mut Host; 2],
        volumes: &[String],
    ) -> Outcome {
        let keys = Needles::new(self.keys.iter().flat_map(|key| forms(key)).collect());
        let known = Needles::new(volumes.iter().map(|id| id.clone().into_bytes()).collect());
        let nowhere: [PathBuf; 0] = [];
        let [east, west] = hosts;
        let folders = [workspace.folder(), workspace.beside(), &platform.data.clone()];
        for folder in folders.into_iter().chain([east.folder(), west.folder()]) {
            assert_eq!(keys.files(folder), nowhere, "{}", folder.display());
            // The search finds what is there.
            assert!(!known.files(folder).is_empty(), "{}", folder.display());
        }
        let said = [self.shown, vec![platform.said(), east.said(), west.said()]].concat();
        for said in &said {
            assert!(!keys.are_in(said.as_bytes()), "{said}");
        }
        let seen = self.watch.end();
        for seen in &seen {
            assert!(!keys.are_in(seen), "{}", String::from_utf8_lossy(seen));
        }
        assert!(seen.iter().any(|seen| known.are_in(seen)), "QEMU is called with its volumes");
        assert!(!keys.are_in_memory_of(platform.process())?, "the broker has had a key");
        assert!(known.are_in_memory_of(platform.process())?);
        Ok(())
    }
}
