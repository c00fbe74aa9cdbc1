//! `fairmazon account`: open and list accounts, for the platform's operators.

use clap::{Args, Subcommand};
use fairmazon_proto::v1::{
    CreateAccountRequest, ListAccountsRequest, Page, accounts_service_client::AccountsServiceClient,
};

use crate::{
    client::{ClientOptions, refused},
    error::CommandError,
    keys, output,
};

/// Opens and lists accounts.
#[derive(Debug, Args)]
pub(crate) struct Account {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Open an account; its id and a first token of a customer are shown, the token once.
    Create {
        #[command(flatten)]
        client: ClientOptions,
        /// For people.
        #[arg(long)]
        name: String,
    },
    /// List the accounts.
    List {
        #[command(flatten)]
        client: ClientOptions,
    },
}

impl Account {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self.action {
            Action::Create { client, name } => create(&client, name).await,
            Action::List { client } => list(&client).await,
        }
    }
}

async fn create(client: &ClientOptions, name: String) -> Result<(), CommandError> {
    let mut accounts = AccountsServiceClient::new(client.connect().await?);
    let what = format!("unable to open the account {name}");
    let request = CreateAccountRequest { name, idempotency_key: keys::idempotency()? };
    let made = accounts.create_account(request).await.map_err(refused(what))?.into_inner();
    output::line(&format!("id: {}", made.account.unwrap_or_default().id));
    output::line(&format!("token: {}", made.token));
    Ok(())
}

async fn list(client: &ClientOptions) -> Result<(), CommandError> {
    let mut accounts = AccountsServiceClient::new(client.connect().await?);
    let mut token = String::new();
    loop {
        let request = ListAccountsRequest { page: Some(Page { size: 0, token }) };
        let page = accounts.list_accounts(request).await;
        let page = page.map_err(refused("unable to list the accounts"))?.into_inner();
        for row in &page.accounts {
            output::line(&format!("{}\t{}", row.id, row.name));
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        token = page.next_page_token;
    }
}
