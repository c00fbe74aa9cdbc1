//! `fairmazon audit`: export the log, and check it, by the broker or from an export alone.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use fairmazon_model::units::UnixMs;
use fairmazon_proto::v1::{
    self, ExportAuditRequest, VerifyAuditRequest, audit_service_client::AuditServiceClient,
};
use fairmazon_store::{Actor, AuditEntry, AuditHash, AuditHead, AuditRecord, PartChecker};

use crate::{
    client::{ClientOptions, refused},
    error::CommandError,
    output,
};

/// Exports or checks the audit log.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the log as lines of JSON.
    Export {
        #[command(flatten)]
        client: ClientOptions,
        /// The first entry wanted.
        #[arg(long, default_value_t = 1)]
        from: u64,
    },
    /// Ask the broker to check its log.
    Verify {
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Check an export without the broker.
    VerifyFile {
        /// The export.
        file: PathBuf,
        /// It is a part of the log: of a customer, who sees their own entries, or with `--from`.
        #[arg(long)]
        part: bool,
    },
}

impl Audit {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self.action {
            Action::Export { client, from } => export(&client, from).await,
            Action::Verify { client } => verify(&client).await,
            Action::VerifyFile { file, part } => verify_file(&file, part),
        }
    }
}

async fn export(client: &ClientOptions, from_sequence: u64) -> Result<(), CommandError> {
    let failed = || refused("unable to export the audit log");
    let mut audit = AuditServiceClient::new(client.connect().await?);
    let request = ExportAuditRequest { from_sequence };
    let mut entries = audit.export_audit(request).await.map_err(failed())?.into_inner();
    while let Some(message) = entries.message().await.map_err(failed())? {
        let record = record(message)?;
        let text = serde_json::to_string(&record)
            .map_err(|error| CommandError::Usage(format!("an entry is no JSON: {error}")))?;
        output::line(&text);
    }
    Ok(())
}

async fn verify(client: &ClientOptions) -> Result<(), CommandError> {
    let mut audit = AuditServiceClient::new(client.connect().await?);
    let verdict = audit
        .verify_audit(VerifyAuditRequest {})
        .await
        .map_err(refused("unable to check the audit log"))?
        .into_inner();
    if verdict.first_broken_sequence != 0 {
        let sequence = verdict.first_broken_sequence;
        return Err(CommandError::Usage(format!(
            "the audit log is broken at entry {sequence}: it is not as it was written"
        )));
    }
    let head = hex::encode(&verdict.head);
    output::line(&format!("{} entries are as they were written; head {head}", verdict.entries));
    Ok(())
}

fn no_entry(path: &Path, line: usize, error: &serde_json::Error) -> CommandError {
    let reason = format!(
        "line {line} is no entry of the audit log ({error}); check a file as `fairmazon audit \
         export` has written it, and where this is one, it was damaged or changed since"
    );
    CommandError::Given { path: path.to_owned(), reason }
}

fn verify_file(path: &Path, part: bool) -> Result<(), CommandError> {
    let file = File::open(path).map_err(CommandError::file("open", path))?;
    let mut checker = PartChecker::default();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.map_err(CommandError::file("read", path))?;
        let record = serde_json::from_str(&line).map_err(|error| no_entry(path, number, &error))?;
        checker.check(&record).map_err(|broken| CommandError::Usage(broken.to_string()))?;
    }
    let (entries, head, missing) = (checker.entries(), checker.head(), checker.missing());
    if missing == 0 {
        let AuditHead { sequence, hash } = head;
        output::line(&format!("{sequence} entries are as they were written; head {hash}"));
        return Ok(());
    }
    if !part {
        return Err(CommandError::Usage(format!(
            "the export is not whole: {missing} entries up to {} are missing, and the {entries} \
             that are there fit their hashes; where it is to be a part, as exported by a customer, \
             who sees their own entries, or with --from, check it with --part; otherwise entries \
             were taken out of it",
            head.sequence
        )));
    }
    let first = checker.first().unwrap_or_default();
    output::line(&format!(
        "a part of the log: {entries} entries from {first} to {} fit their hashes, and those that \
         follow each other are chained",
        head.sequence
    ));
    output::line(&format!(
        "not shown, as {missing} entries are missing: what was in those, and that an entry beside \
         one was not changed and hashed anew; an export of the whole log by the platform's \
         operators or auditors shows it"
    ));
    Ok(())
}

/// The entry as the store writes it.
fn record(message: v1::AuditEntry) -> Result<AuditRecord, CommandError> {
    let sequence = message.sequence;
    let wrong =
        |what: &str| CommandError::Usage(format!("entry {sequence} has no readable {what}"));
    let json = |text: &str, what: &str| match text {
        "" => Ok(None),
        text => serde_json::from_str(text).map(Some).map_err(|_| wrong(what)),
    };
    let hash =
        |bytes: Vec<u8>, what: &str| bytes.try_into().map(AuditHash).map_err(|_| wrong(what));
    let actor = Actor {
        credential: match message.actor.as_str() {
            "broker" => None,
            id => Some(id.parse().map_err(|_| wrong("actor"))?),
        },
        account: match message.account_id.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|_| wrong("account"))?),
        },
    };
    Ok(AuditRecord {
        sequence,
        entry: AuditEntry {
            at: UnixMs(message.at_ms),
            actor,
            verb: message.verb,
            target: message.target_id,
            before: json(&message.before, "`before`")?,
            after: json(&message.after, "`after`")?,
        },
        previous: hash(message.previous, "hash of the entry before")?,
        hash: hash(message.hash, "hash")?,
    })
}
