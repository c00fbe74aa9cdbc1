//! `wait_for`: what is waited for once a machine is made, and what is told where it did not come.

use std::{sync::Arc, time::Duration};

use fairmazon_proto::v1;
use tfplugin::Attr;

use super::InstanceModel;
use crate::client::{Client, ClientError};

/// How long the console of a machine may take.
const CONSOLE_WITHIN: Duration = Duration::from_secs(5);
/// How much of it is told.
const CONSOLE_LINES: usize = 24;

/// What may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// The machine is as asked for.
    Running,
    /// It has an address.
    Address,
    /// The agent in its guest has answered.
    GuestAgent,
    /// cloud-init is done in its guest.
    CloudInit,
}

/// The words of `wait_for`.
pub(super) const WAIT_FOR: [(&str, Condition); 4] = [
    ("running", Condition::Running),
    ("address", Condition::Address),
    ("guest_agent", Condition::GuestAgent),
    ("cloud_init", Condition::CloudInit),
];

impl Condition {
    /// What of a guest it is that a machine that is off has not, in words; none of the machine's.
    pub(super) const fn of_guest(self) -> Option<&'static str> {
        match self {
            Self::Running => None,
            Self::Address => Some("address"),
            Self::GuestAgent => Some("agent in its guest"),
            Self::CloudInit => Some("cloud-init in its guest"),
        }
    }

    fn holds(self, row: &v1::Instance) -> bool {
        match self {
            Self::Running => true,
            Self::Address => !row.addresses.is_empty(),
            Self::GuestAgent => row.guest_agent,
            Self::CloudInit => row.cloud_init() != v1::CloudInit::Unspecified,
        }
    }

    /// Why it may not hold, and what to do.
    const fn advice(self) -> &'static str {
        match self {
            Self::Running => "",
            Self::Address => "It runs and has no address: look at its network configuration.",
            Self::GuestAgent => {
                "It runs, and no agent in its guest has answered: install qemu-guest-agent in its \
                 image or by its user data, or leave `guest_agent` out of `wait_for`."
            }
            Self::CloudInit => {
                "It runs, and nothing says that cloud-init is done in its guest. The platform reads \
                 /run/cloud-init/result.json there through the guest's agent: install cloud-init \
                 and qemu-guest-agent in its image, allow the agent to open files (guest-file-open, \
                 guest-file-read, guest-file-close), or leave `cloud_init` out of `wait_for`."
            }
        }
    }
}

/// What to wait for after creation, as the configuration says.
pub(super) fn conditions(model: &InstanceModel) -> Vec<Condition> {
    let Attr::Value(words) = &model.wait_for else { return Vec::new() };
    let wanted = |word: &str| words.iter().any(|each| each.get().is_some_and(|each| each == word));
    WAIT_FOR.iter().filter(|(word, _)| wanted(word)).map(|&(_, condition)| condition).collect()
}

/// Waits until the machine has what its guest brings.
pub(super) async fn for_guest(
    client: &Arc<Client>,
    id: &str,
    conditions: &[Condition],
) -> Result<v1::Instance, ClientError> {
    // Outside its working hours it is as asked for, and has no guest.
    let is_there = |row: &v1::Instance| {
        is_off(row.state()) || conditions.iter().all(|condition| condition.holds(row))
    };
    let row = client.instance_now(id).await?;
    if is_there(&row) { Ok(row) } else { client.instance_once(id, is_there).await }
}

/// The last lines that its guest has written to its serial console, for the user; empty where there
/// are none, or nobody answers soon.
pub(super) async fn last_on_console(client: &Client, id: &str) -> String {
    let text = match tokio::time::timeout(CONSOLE_WITHIN, client.console(id)).await {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => {
            tracing::info!(instance = id, error = ?error, "its console could not be read");
            return String::new();
        }
        Err(_) => return String::new(),
    };
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

/// What a running machine has not got that was waited for, and what to do; empty where that is
/// nothing.
pub(super) fn lacks(row: &v1::Instance, conditions: &[Condition]) -> String {
    if row.state() != v1::InstanceState::Running {
        return String::new();
    }
    let missing = conditions.iter().filter(|condition| !condition.holds(row));
    missing.map(|condition| condition.advice()).collect::<Vec<_>>().join("\n\n")
}

/// What went wrong in the guest of a machine that was waited for, and where to look.
pub(super) fn trouble(row: &v1::Instance, conditions: &[Condition]) -> Option<&'static str> {
    let failed = row.cloud_init() == v1::CloudInit::Failed;
    (failed && conditions.contains(&Condition::CloudInit)).then_some(
        "What went wrong is in its guest, in /var/log/cloud-init.log and in the output of \
         `cloud-init status --long`.",
    )
}

/// Whether there is nothing to restart and nothing that a guest could bring.
pub(super) const fn is_off(state: v1::InstanceState) -> bool {
    matches!(
        state,
        v1::InstanceState::Pending | v1::InstanceState::Stopped | v1::InstanceState::Failed
    )
}
