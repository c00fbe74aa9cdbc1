//! `fairmazon usage`: what was used, as the hosts have measured it.

use clap::Args;
use fairmazon_model::units::UnixMs;
use fairmazon_proto::v1::{
    ListUsageRequest, Page, Usage as Sum, usage_service_client::UsageServiceClient,
};
use serde_json::json;

use crate::{
    client::{ClientOptions, refused},
    error::CommandError,
    output,
};

/// Milliseconds of an hour.
const HOUR_MS: f64 = 3_600_000.0;

/// Shows what was used, by instance and by volume.
#[derive(Debug, Args)]
pub(crate) struct Usage {
    #[command(flatten)]
    client: ClientOptions,
    /// From then on: a time as `2026-11-01T00:00:00Z`; from the beginning without. Windows of use
    /// count where they begin.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<UnixMs>,
    /// Up to then, without that moment; up to now without.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<UnixMs>,
    /// Of this instance or volume only.
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// As lines of JSON, with the counters as they are.
    #[arg(long)]
    json: bool,
}

impl Usage {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let mut usage = UsageServiceClient::new(self.client.connect().await?);
        let mut request = ListUsageRequest {
            from_ms: self.from.unwrap_or_default().0,
            until_ms: self.until.unwrap_or_default().0,
            subject_id: self.subject.unwrap_or_default(),
            page: None,
        };
        if !self.json {
            output::line(
                "ID\tCLASS\tHOURS\tVCPU_HOURS\tGIB_HOURS_MEMORY\tGIB_HOURS_DISK\tEGRESS_BYTES",
            );
        }
        loop {
            let page = usage.list_usage(request.clone()).await;
            let page = page.map_err(refused("unable to list what was used"))?.into_inner();
            for sum in &page.usage {
                output::line(&if self.json { as_json(sum) } else { as_row(sum) });
            }
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            request.page = Some(Page { size: 0, token: page.next_page_token });
        }
    }
}

fn as_row(sum: &Sum) -> String {
    // For people only: what is charged is computed from the integers.
    let hours = |ms: u64| format!("{:.3}", ms as f64 / HOUR_MS);
    let memory = format!("{:.3}", sum.mib_ms as f64 / 1_024.0 / HOUR_MS);
    let class = if sum.class.is_empty() { "-" } else { &sum.class };
    [
        &sum.subject_id,
        class,
        &hours(sum.used_ms),
        &hours(sum.vcpu_ms),
        &memory,
        &hours(sum.gib_ms),
        &sum.egress_bytes.to_string(),
    ]
    .join("\t")
}

fn as_json(sum: &Sum) -> String {
    json!({
        "subject_id": sum.subject_id,
        "account_id": sum.account_id,
        "class": sum.class,
        "from_ms": sum.from_ms,
        "until_ms": sum.until_ms,
        "windows": sum.windows,
        "used_ms": sum.used_ms,
        "unseen_ms": sum.unseen_ms,
        "vcpu_ms": sum.vcpu_ms,
        "mib_ms": sum.mib_ms,
        "gib_ms": sum.gib_ms,
        "egress_bytes": sum.egress_bytes,
    })
    .to_string()
}

fn time(text: &str) -> Result<UnixMs, String> {
    let time: jiff::Timestamp =
        text.parse().map_err(|_| "a time is written as 2026-11-01T00:00:00Z".to_owned())?;
    Ok(UnixMs(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_sums_are_shown() {
        assert_eq!(time("1970-01-01T01:00:00Z"), Ok(UnixMs(3_600_000)));
        assert!(time("yesterday").is_err());
        let sum = Sum {
            subject_id: "ins-1".into(),
            used_ms: 3_600_000,
            vcpu_ms: 7_200_000,
            mib_ms: 1_843_200_000,
            egress_bytes: 5,
            ..Sum::default()
        };
        assert_eq!(as_row(&sum), "ins-1\t-\t1.000\t2.000\t0.500\t0.000\t5");
        let json: serde_json::Value = serde_json::from_str(&as_json(&sum)).unwrap();
        assert_eq!(json["vcpu_ms"], 7_200_000);
    }
}
