//! `fairmazon broker`: the broker alone, for a real platform.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use fairmazon_broker::{
    ApiConfig,
    api::{Authority, CertificateFiles, CurrentCertificate},
    core::{Caller, CoreConfig, Engine, SystemClock},
};
use fairmazon_model::{access::Role, conformity::UnprovenHosts};

use crate::{
    catalogue::CatalogueOptions,
    commands::host_drain::milliseconds,
    error::CommandError,
    folder::Folder,
    keys, output,
    platform::{Platform, until_ended},
    signals::Signals,
};

/// The account of those who run the platform.
const PLATFORM: &str = "platform";
/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// Where the first token of the platform is kept, in the data folder.
const TOKEN_FILE: &str = "platform-token";

/// Runs the broker. On its first start it makes an account for the platform's operators and
/// keeps their token in the data folder; SIGHUP makes it read its certificate again, and the images
/// of its catalogue.
#[derive(Debug, Args)]
pub(crate) struct Broker {
    /// Where everything is kept.
    #[arg(long, visible_alias = "data", env = "FAIRMAZON_DATA", value_name = "FOLDER")]
    data_dir: PathBuf,
    /// Where it listens.
    #[arg(
        long,
        env = "FAIRMAZON_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8443"
    )]
    listen: SocketAddr,
    /// Where the metrics listen, in plain HTTP; without, nowhere.
    #[arg(long, env = "FAIRMAZON_METRICS", value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// The broker's certificate chain, in PEM form.
    #[arg(long, env = "FAIRMAZON_CERTIFICATE", value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The private key of the certificate, in PEM form.
    #[arg(long, env = "FAIRMAZON_KEY", value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Instead of a certificate: make an authority in the data folder, and a certificate for
    /// this name or address. May be given several times.
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "certificate",
        required_unless_present = "certificate"
    )]
    own_authority_for: Vec<String>,
    /// How long a host runs its machines without hearing from the broker, in seconds.
    #[arg(long, env = "FAIRMAZON_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=3_600))]
    lease_seconds: u64,
    /// How long it keeps what was used, in days.
    #[arg(long, env = "FAIRMAZON_USAGE_DAYS", default_value_t = 400, value_parser = clap::value_parser!(i64).range(1..=36_500))]
    usage_days: i64,
    /// What becomes of hosts that have proven nothing of the host standard: they get no new
    /// machines, or count at the level that they are offered with. The latter is for trials, with
    /// hosts that run no guests.
    #[arg(
        long,
        env = "FAIRMAZON_UNPROVEN_HOSTS",
        value_enum,
        default_value_t = Unproven::NoWork,
        value_name = "WHAT"
    )]
    unproven_hosts: Unproven,
    /// How long a host must have lacked a level of the host standard before machines are moved
    /// away for it: a number with `s`, `m`, `h` or `d`.
    #[arg(long, env = "FAIRMAZON_CONFORMITY_GRACE", value_parser = milliseconds, value_name = "TIME", default_value = "15m")]
    conformity_grace: i64,
    /// By how much another host must be better before a running machine moves there of the
    /// platform's own accord, in percent of the price; 0 is never. A machine stays for a day at
    /// least where it was placed.
    #[arg(long, env = "FAIRMAZON_REBALANCE", value_parser = clap::value_parser!(u8).range(0..=100), value_name = "PERCENT", default_value_t = 10)]
    rebalance: u8,
    #[command(flatten)]
    catalogue: CatalogueOptions,
}

/// What becomes of hosts that have proven nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Unproven {
    NoWork,
    AsOffered,
}

impl From<Unproven> for UnprovenHosts {
    fn from(asked: Unproven) -> Self {
        match asked {
            Unproven::NoWork => Self::NoWork,
            Unproven::AsOffered => Self::AsOffered,
        }
    }
}

impl Broker {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let mut signals = Signals::listen()?;
        let folder = Folder::open(&self.data_dir)?;
        let certificate = self.certificate(&folder)?;
        let catalogue = self.catalogue.read()?;
        let api = ApiConfig { metrics: self.metrics, ..ApiConfig::on(self.listen) };
        let core = CoreConfig {
            lease_term: Duration::from_secs(self.lease_seconds),
            usage_keep_ms: self.usage_days * DAY_MS,
            unproven_hosts: self.unproven_hosts.into(),
            conformity_grace_ms: self.conformity_grace,
            rebalance_percent: self.rebalance,
            ..CoreConfig::default()
        };
        let platform = Platform::start(&folder, certificate.tls(), &api, core, catalogue).await?;
        let set_up = set_up(&platform.engine, &folder).await;
        if set_up.is_ok() {
            output::line(&format!("listening on https://{}", platform.address()));
            if let Some(address) = platform.metrics_address() {
                output::line(&format!("metrics: http://{address}/metrics"));
            }
            until_ended(&mut signals, &certificate, || self.catalogue.reload(&platform.engine))
                .await;
        }
        platform.stop().await;
        set_up
    }

    fn certificate(&self, folder: &Folder) -> Result<CurrentCertificate, CommandError> {
        let clock = Arc::new(SystemClock);
        let certificate = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let files = CertificateFiles { certificate: certificate.clone(), key: key.clone() };
                CurrentCertificate::in_files(files, clock)
            }
            _ => {
                let authority = Authority::in_folder(folder.tls());
                CurrentCertificate::made_by(authority, self.own_authority_for.clone(), clock)
            }
        };
        certificate.map_err(CommandError::Tls)
    }
}

/// Makes the operators' account and token where they are missing. The token is kept before it
/// counts, so a crash never leaves a platform that nobody can enter.
async fn set_up(engine: &Engine, folder: &Folder) -> Result<(), CommandError> {
    let failed = || CommandError::refused("unable to set up the platform's account");
    let account = match engine.account_named(PLATFORM) {
        Some(account) => account.id,
        None => {
            let (caller, key) = (Caller::platform(), "set-up-platform");
            let made = engine.create_account(&caller, PLATFORM, key).await.map_err(failed())?;
            let (account, first) = made;
            let first = first.credential.id;
            engine.revoke_token(&caller, first, "set-up-first").await.map_err(failed())?;
            account.id
        }
    };
    let path = folder.file(TOKEN_FILE);
    let is_new = !path.exists();
    if is_new {
        folder.write(TOKEN_FILE, &format!("{}\n", keys::token()?))?;
    }
    let wrong = |reason| CommandError::Content { path: path.clone(), reason };
    let token = token_in(&path)?.map_err(wrong)?;
    let ensured = engine.ensure_token(account, Role::PlatformOperator, PLATFORM, &token).await;
    match ensured {
        Ok(_) if is_new => {
            output::line(&format!("the platform's token is in {}", path.display()));
        }
        Ok(_) => {}
        // It was revoked: whoever did that has another one.
        Err(error) => tracing::warn!(%error, "the token in the data folder is not valid"),
    }
    Ok(())
}

/// Reads a token from a file that was named for it.
pub(crate) fn read_token(path: &Path) -> Result<String, CommandError> {
    token_in(path)?.map_err(|reason| CommandError::Given {
        path: path.to_owned(),
        reason: format!(
            "{reason}; write the token into it that `fairmazon host register` or `fairmazon host \
             rotate-token` has shown"
        ),
    })
}

/// The token in a file, or what is wrong with the file.
fn token_in(path: &Path) -> Result<Result<String, String>, CommandError> {
    let text = fs::read_to_string(path).map_err(CommandError::file("read", path))?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Ok(Err("it must hold one token and nothing else".to_owned()));
    }
    Ok(Ok(token.to_owned()))
}
