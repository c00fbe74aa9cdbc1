//! `fairmazon host drain`: empties a host and says what becomes of what is on it.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use fairmazon_proto::v1::{
    CancelDrainRequest, Drain, DrainHostRequest, DrainItem, DrainState, WatchDrainRequest,
    hosts_service_client::HostsServiceClient,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::{
    client::{Client, ClientOptions, refused},
    error::CommandError,
    keys, output,
};

/// How long a broker that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts to reach it.
const PAUSE: Duration = Duration::from_secs(1);

/// Empty a host: it takes nothing new, and its machines move to other hosts, running or off as they
/// are. Follows until nothing is left or the deadline has passed; interrupted, the host goes on.
#[derive(Debug, Args)]
pub(super) struct HostDrain {
    #[command(flatten)]
    client: ClientOptions,
    /// Its id.
    host: String,
    /// How long machines are moved: a number with `s`, `m`, `h` or `d`.
    #[arg(long, value_parser = milliseconds, value_name = "TIME", default_value = "30m")]
    deadline: i64,
    /// Print what is left as JSON, and nothing before.
    #[arg(long)]
    json: bool,
    /// Let the host take new machines again. What is on its way goes on.
    #[arg(long, conflicts_with_all = ["deadline", "json"])]
    cancel: bool,
}

impl HostDrain {
    pub(super) async fn run(self) -> Result<(), CommandError> {
        let mut hosts = HostsServiceClient::new(self.client.connect().await?);
        let id = self.host;
        if self.cancel {
            let what = format!("unable to let the host {id} take machines again");
            let request =
                CancelDrainRequest { id: id.clone(), idempotency_key: keys::idempotency()? };
            hosts.cancel_drain(request).await.map_err(refused(what))?;
            output::line(&format!("{id} takes new machines again"));
            return Ok(());
        }
        let request = DrainHostRequest {
            id: id.clone(),
            deadline_ms: self.deadline,
            idempotency_key: keys::idempotency()?,
        };
        let what = format!("unable to empty the host {id}");
        hosts.drain_host(request).await.map_err(refused(what))?;
        let mut known = Known::default();
        let report = follow(&mut hosts, &id, |report| {
            let changes = known.take(report);
            if !self.json {
                changes.iter().for_each(|line| output::line(line));
            }
        })
        .await?;
        if self.json {
            output::line(&as_json(&id, &report)?);
        } else {
            summary(&id, &report).iter().for_each(|line| output::line(line));
        }
        if is_empty(&report) {
            return Ok(());
        }
        let (machines, volumes) = (report.machines.len(), report.volumes.len());
        Err(CommandError::NotEmpty { host: id, machines, volumes })
    }
}

/// Follows what is left on the host until nothing is, or the deadline has passed; also over a
/// broker that is away for a while, as the host is emptied all the same.
async fn follow(
    hosts: &mut HostsServiceClient<Client>,
    id: &str,
    mut tell: impl FnMut(&Drain),
) -> Result<Drain, CommandError> {
    let mut heard = Instant::now();
    loop {
        let request = WatchDrainRequest { id: id.to_owned() };
        let ended = match hosts.watch_drain(request).await {
            Ok(answer) => {
                let mut reports = answer.into_inner();
                loop {
                    match reports.message().await {
                        Ok(Some(report)) => {
                            heard = Instant::now();
                            tell(&report);
                            if report.is_over || is_empty(&report) {
                                return Ok(report);
                            }
                        }
                        Ok(None) => break Status::unavailable("the broker has hung up"),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        let error = refused(format!("unable to follow what is left on the host {id}"))(ended);
        if !error.is_passing() || heard.elapsed() > PATIENCE {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

const fn is_empty(report: &Drain) -> bool {
    report.machines.is_empty() && report.volumes.is_empty()
}

/// What was printed already.
#[derive(Default)]
struct Known(BTreeMap<String, (String, String)>);

impl Known {
    /// A line for each thing that is not as it was.
    fn take(&mut self, report: &Drain) -> Vec<String> {
        let mut lines = Vec::new();
        let mut now = BTreeMap::new();
        for item in report.machines.iter().chain(&report.volumes) {
            let said = told(item);
            if self.0.get(&item.id).is_none_or(|(_, before)| *before != said) {
                lines.push(format!("{} ({}): {said}", item.name, item.id));
            }
            now.insert(item.id.clone(), (item.name.clone(), said));
        }
        for (id, (name, _)) in &self.0 {
            if !now.contains_key(id) {
                lines.push(format!("{name} ({id}): not here any more"));
            }
        }
        self.0 = now;
        lines
    }
}

fn told(item: &DrainItem) -> String {
    format!("{}: {}", state(item), item.reason)
}

fn state(item: &DrainItem) -> &'static str {
    match item.state() {
        DrainState::Migrating => "migrating",
        DrainState::Staying => "staying",
        DrainState::Waiting | DrainState::Unspecified => "waiting",
    }
}

fn summary(id: &str, report: &Drain) -> Vec<String> {
    if is_empty(report) {
        return vec![format!("{id} is empty")];
    }
    let mut lines = vec![format!("left on {id}:")];
    let items = report.machines.iter().chain(&report.volumes);
    lines.extend(items.map(|item| format!("  {} ({}): {}", item.name, item.id, told(item))));
    lines
}

/// A machine or a volume as programs read it.
#[derive(Serialize)]
struct Item<'a> {
    id: &'a str,
    name: &'a str,
    state: &'static str,
    reason: &'a str,
}

impl<'a> From<&'a DrainItem> for Item<'a> {
    fn from(item: &'a DrainItem) -> Self {
        Self { id: &item.id, name: &item.name, state: state(item), reason: &item.reason }
    }
}

fn as_json(id: &str, report: &Drain) -> Result<String, CommandError> {
    #[derive(Serialize)]
    struct Whole<'a> {
        host: &'a str,
        empty: bool,
        since_ms: i64,
        deadline_at_ms: i64,
        machines: Vec<Item<'a>>,
        volumes: Vec<Item<'a>>,
    }
    serde_json::to_string_pretty(&Whole {
        host: id,
        empty: is_empty(report),
        since_ms: report.since_ms,
        deadline_at_ms: report.deadline_at_ms,
        machines: report.machines.iter().map(Item::from).collect(),
        volumes: report.volumes.iter().map(Item::from).collect(),
    })
    .map_err(|error| CommandError::System(error.into()))
}

/// A number with its unit, in milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<i64, String> {
    let odd = || format!("`{text}` is no time: write a number with s, m, h or d, as in 30m");
    let unit = text.chars().next_back().ok_or_else(odd)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(odd()),
    };
    let number = text.strip_suffix(unit).ok_or_else(odd)?;
    let number: i64 = number.parse().map_err(|_| odd())?;
    number.checked_mul(seconds * 1_000).filter(|ms| *ms > 0).ok_or_else(odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, state: DrainState, reason: &str) -> DrainItem {
        DrainItem {
            id: id.into(),
            name: format!("name of {id}"),
            state: state.into(),
            reason: reason.into(),
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(milliseconds("90s"), Ok(90_000));
        assert_eq!(milliseconds("30m"), Ok(30 * 60_000));
        assert_eq!(milliseconds("2h"), Ok(2 * 3_600_000));
        assert_eq!(milliseconds("1d"), Ok(86_400_000));
        for odd in ["", "30", "m", "-1m", "0s", "3ü", "99999999999999999d"] {
            assert!(milliseconds(odd).unwrap_err().contains("as in 30m"), "{odd}");
        }
    }

    #[test]
    fn each_change_is_told_once() {
        let mut known = Known::default();
        let mut report = Drain {
            machines: vec![item("a", DrainState::Waiting, "others move first")],
            volumes: vec![item("v", DrainState::Staying, "it is attached to nothing")],
            ..Drain::default()
        };
        let lines = known.take(&report);
        assert_eq!(lines[0], "name of a (a): waiting: others move first");
        assert_eq!(lines.len(), 2);
        assert!(known.take(&report).is_empty());
        report.machines[0] = item("a", DrainState::Migrating, "to fra1");
        assert_eq!(known.take(&report), ["name of a (a): migrating: to fra1"]);
        report.machines.clear();
        assert_eq!(known.take(&report), ["name of a (a): not here any more"]);
        assert_eq!(summary("hst-1", &report).len(), 2);
        let json = as_json("hst-1", &report).unwrap();
        assert!(json.contains("\"empty\": false") && json.contains("\"state\": \"staying\""));
    }
}
