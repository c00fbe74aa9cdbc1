//! `fairmazon host list` and `show`: what the platform knows of hosts, for their operators.

use clap::Args;
use fairmazon_proto::v1::{
    FailedCheck, GetHostRequest, Host, HostImage, HostImages, HostSpec, ListHostsRequest, Page,
    hosts_service_client::HostsServiceClient,
};

use crate::{
    client::{ClientOptions, refused},
    error::CommandError,
    output,
};

/// One of the account's hosts.
#[derive(Debug, Args)]
pub(super) struct HostShow {
    #[command(flatten)]
    client: ClientOptions,
    /// Its id.
    host: String,
}

impl HostShow {
    pub(super) async fn run(self) -> Result<(), CommandError> {
        let mut hosts = HostsServiceClient::new(self.client.connect().await?);
        let what = format!("unable to read the host {}", self.host);
        let shown =
            hosts.get_host(GetHostRequest { id: self.host }).await.map_err(refused(what))?;
        lines(&shown.into_inner()).iter().for_each(|line| output::line(line));
        Ok(())
    }
}

/// A line for each of the account's hosts.
pub(super) async fn list(client: &ClientOptions) -> Result<(), CommandError> {
    let mut hosts = HostsServiceClient::new(client.connect().await?);
    let mut token = String::new();
    loop {
        let request = ListHostsRequest { page: Some(Page { size: 0, token }) };
        let page = hosts.list_hosts(request).await.map_err(refused("unable to list the hosts"))?;
        let page = page.into_inner();
        for row in &page.hosts {
            let spec = row.spec.clone().unwrap_or_default();
            output::line(&format!(
                "{}\t{}\t{}\t{}\t{}\t{} machines\t{} vCPU and {} MiB used\t{}",
                row.id,
                spec.name,
                spec.site,
                spec.country,
                state(row),
                row.machines,
                row.vcpus_used,
                row.memory_mib_used,
                level(row)
            ));
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        token = page.next_page_token;
    }
}

fn state(row: &Host) -> String {
    let connected = match (row.lost, row.connected) {
        (true, _) => "lost",
        (false, true) => "connected",
        (false, false) => "silent",
    };
    let is_closed = row.spec.as_ref().is_some_and(|spec| !spec.schedulable);
    let closed = if is_closed { ", closed for new machines" } else { "" };
    match row.drain_reason.as_str() {
        "" => format!("{connected}{closed}"),
        why => format!("{connected}{closed}, being emptied: {why}"),
    }
}

/// The level that counts, or why there is none.
fn level(row: &Host) -> String {
    let fails = row.conformity.as_ref().is_some_and(|known| known.failing_since_ms > 0);
    match row.level {
        Some(level) => format!("level {level}"),
        None if fails => "does not conform to the host standard".into(),
        None => "nothing proven of the host standard".into(),
    }
}

/// All that is known of it.
pub(super) fn lines(row: &Host) -> Vec<String> {
    let spec = row.spec.clone().unwrap_or_default();
    let mut lines = vec![
        format!("{} ({})", row.id, spec.name),
        format!(
            "place: {}, {}, {}, {} ({}, {})",
            spec.site, spec.town, spec.country, spec.region, spec.latitude, spec.longitude
        ),
        format!("state: {}", state(row)),
        format!("offered: {}", offered(&spec)),
        format!(
            "used: {} machines, {} vCPU, {} MiB",
            row.machines, row.vcpus_used, row.memory_mib_used
        ),
        format!("host standard: {} (offered: level {})", level(row), spec.conformity),
    ];
    if let Some(HostImages { images }) = &row.images {
        let images: Vec<_> = images.iter().map(image).collect();
        let none = "none of the catalogue".to_owned();
        lines.push(format!("images: {}", if images.is_empty() { none } else { images.join(", ") }));
    }
    if row.level.is_none() {
        lines.push("it gets no new machines".into());
    }
    let Some(known) = &row.conformity else { return lines };
    if !known.unproven.is_empty() {
        lines.push(format!("nothing is proven: {}", known.unproven));
    }
    for failed in &known.failed {
        lines.push(format!("  {}: {}", failed.check, keeps_from(failed)));
        lines.push(format!("    to do: {}", failed.remedy));
    }
    lines
}

fn image(has: &HostImage) -> String {
    if has.current { has.id.clone() } else { format!("{} in another version", has.id) }
}

fn offered(spec: &HostSpec) -> String {
    let mut parts = vec![
        format!("{} threads sold at {} %", spec.vcpus, spec.cpu_overcommit_percent),
        format!("{} MiB sold at {} %", spec.memory_mib, spec.memory_overcommit_percent),
    ];
    parts.extend(spec.storage_gib.iter().map(|(class, size)| format!("{class} {size} GiB")));
    parts.extend(spec.features.iter().cloned());
    parts.push(format!("{} % of the catalogue's price", spec.price_percent));
    parts.join(", ")
}

fn keeps_from(failed: &FailedCheck) -> String {
    match failed.allows {
        None => "wanted of every host".into(),
        Some(level) => format!("allows level {level} and no more"),
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_proto::v1::HostConformity;

    use super::*;

    #[test]
    fn what_fails_is_shown_with_what_to_do() {
        let failed = |check: &str, allows| FailedCheck {
            check: check.into(),
            allows,
            remedy: format!("put {check} right"),
        };
        let known = HostConformity {
            failed: vec![failed("no-swap", None), failed("disk-sync", Some(1))],
            failing_since_ms: 7,
            ..HostConformity::default()
        };
        let reason = "it does not conform to the host standard: no-swap";
        let row = Host {
            connected: true,
            conformity: Some(known),
            drain_reason: reason.into(),
            images: Some(HostImages {
                images: vec![
                    HostImage { id: "img-1".into(), sha256: String::new(), current: true },
                    HostImage { id: "img-2".into(), sha256: String::new(), current: false },
                ],
            }),
            ..Host::default()
        };
        let said = lines(&row).join("\n");
        for part in [
            "state: connected, being emptied: it does not conform to the host standard: no-swap",
            "does not conform to the host standard (offered: level 0)",
            "images: img-1, img-2 in another version",
            "it gets no new machines",
            "no-swap: wanted of every host\n    to do: put no-swap right",
            "disk-sync: allows level 1 and no more",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        let row = Host { level: Some(2), ..Host::default() };
        assert_eq!((state(&row), level(&row)), ("silent".into(), "level 2".into()));
        assert_eq!(level(&Host::default()), "nothing proven of the host standard");
    }
}
