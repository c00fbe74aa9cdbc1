//! `fairmazon token`: make, list and revoke tokens, and register certificates.

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use fairmazon_broker::core::{Clock, SystemClock};
use fairmazon_model::units::UnixMs;
use fairmazon_proto::v1::{
    self, CreateTokenRequest, ListTokensRequest, Page, RegisterCertificateRequest,
    RevokeTokenRequest, tokens_service_client::TokensServiceClient,
};

use crate::{
    client::{ClientOptions, refused},
    error::CommandError,
    keys, output,
};

/// Makes, lists and revokes tokens, and registers certificates.
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token; it is shown once.
    Create {
        #[command(flatten)]
        client: ClientOptions,
        /// For people.
        #[arg(long)]
        name: String,
        /// What it may do.
        #[arg(long, value_enum)]
        role: Role,
        /// Seconds until it ends; without, it is valid until it is revoked.
        #[arg(long, default_value_t = 0)]
        lifetime_seconds: u64,
        /// For platform operators: the account it is for.
        #[arg(long, default_value = "")]
        account: String,
    },
    /// Register a client certificate, which is then a credential of the account as a token is; its id
    /// is shown.
    RegisterCertificate {
        #[command(flatten)]
        client: ClientOptions,
        /// For people.
        #[arg(long)]
        name: String,
        /// What it may do.
        #[arg(long, value_enum)]
        role: Role,
        /// The certificate in PEM form, without its key.
        file: PathBuf,
    },
    /// List the tokens and certificates of the account.
    List {
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Revoke a token or a certificate at once.
    Revoke {
        #[command(flatten)]
        client: ClientOptions,
        /// Its id.
        id: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Customer,
    HostOperator,
    PlatformOperator,
    Auditor,
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Customer => Self::Customer,
            Role::HostOperator => Self::HostOperator,
            Role::PlatformOperator => Self::PlatformOperator,
            Role::Auditor => Self::Auditor,
        }
    }
}

impl Token {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self.action {
            Action::Create { client, name, role, lifetime_seconds, account } => {
                let request = CreateTokenRequest {
                    name,
                    role: v1::Role::from(role).into(),
                    lifetime_seconds,
                    idempotency_key: keys::idempotency()?,
                    account_id: account,
                };
                create(&client, request).await
            }
            Action::RegisterCertificate { client, name, role, file } => {
                let request = RegisterCertificateRequest {
                    name,
                    role: v1::Role::from(role).into(),
                    certificate_pem: fs::read_to_string(&file)
                        .map_err(CommandError::file("read", &file))?,
                    idempotency_key: keys::idempotency()?,
                };
                register(&client, request).await
            }
            Action::List { client } => list(&client).await,
            Action::Revoke { client, id } => revoke(&client, id).await,
        }
    }
}

async fn create(client: &ClientOptions, request: CreateTokenRequest) -> Result<(), CommandError> {
    let mut tokens = TokensServiceClient::new(client.connect().await?);
    let made = tokens.create_token(request).await.map_err(refused("unable to create the token"))?;
    output::line(&made.into_inner().secret);
    Ok(())
}

async fn register(
    client: &ClientOptions,
    request: RegisterCertificateRequest,
) -> Result<(), CommandError> {
    let mut tokens = TokensServiceClient::new(client.connect().await?);
    let made = tokens.register_certificate(request).await;
    let row = made.map_err(refused("unable to register the certificate"))?.into_inner();
    output::line(&row.id);
    Ok(())
}

async fn list(client: &ClientOptions) -> Result<(), CommandError> {
    let mut tokens = TokensServiceClient::new(client.connect().await?);
    let mut token = String::new();
    loop {
        let request = ListTokensRequest { page: Some(Page { size: 0, token }) };
        let page =
            tokens.list_tokens(request).await.map_err(refused("unable to list the tokens"))?;
        let page = page.into_inner();
        for row in &page.tokens {
            let state = state(row, SystemClock.now());
            let role = row.role().as_str_name().trim_start_matches("ROLE_").to_lowercase();
            output::line(&format!("{}\t{}\t{role}\t{state}\t{}", row.id, row.kind, row.name));
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        token = page.next_page_token;
    }
}

/// By this machine's clock.
const fn state(row: &v1::Token, now: UnixMs) -> &'static str {
    if row.revoked_at_ms != 0 {
        "revoked"
    } else if row.expires_at_ms != 0 && row.expires_at_ms <= now.0 {
        "expired"
    } else {
        "valid"
    }
}

async fn revoke(client: &ClientOptions, id: String) -> Result<(), CommandError> {
    let mut tokens = TokensServiceClient::new(client.connect().await?);
    let what = format!("unable to revoke the token {id}");
    let request = RevokeTokenRequest { id, idempotency_key: keys::idempotency()? };
    let row = tokens.revoke_token(request).await.map_err(refused(what))?.into_inner();
    output::line(&format!("{} is revoked", row.id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_valid_until_it_is_revoked_or_has_expired() {
        let row = |expires_at_ms, revoked_at_ms| v1::Token {
            expires_at_ms,
            revoked_at_ms,
            ..v1::Token::default()
        };
        let now = UnixMs(100);
        for (row, expected) in [
            (row(0, 0), "valid"),
            (row(101, 0), "valid"),
            (row(100, 0), "expired"),
            (row(100, 50), "revoked"),
            (row(0, 50), "revoked"),
        ] {
            assert_eq!(state(&row, now), expected, "{row:?}");
        }
    }
}
