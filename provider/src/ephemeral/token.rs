//! `fairmazon_token`: a token that lives for one run and is in no state and no plan.
//!
//! A token can't be prolonged: its lifetime has to cover the run. It is revoked at the end.

use fairmazon_proto::v1;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, Attribute, Context, Diagnostics, EphemeralResource, Opened, Private, Schema, async_trait,
    schema::validators,
};

use crate::{
    diagnostics::Attempt,
    platform::Platform,
    resources::shared::{reader::find_word, rfc3339},
};

/// The ephemeral resource.
pub struct EphemeralToken;

/// What it holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct TokenModel {
    id: Attr<String>,
    name: Attr<String>,
    role: Attr<String>,
    lifetime_seconds: Attr<u64>,
    token: Attr<String>,
    expires_at: Attr<String>,
}

const ROLES: [(&str, v1::Role); 4] = [
    ("customer", v1::Role::Customer),
    ("host_operator", v1::Role::HostOperator),
    ("platform_operator", v1::Role::PlatformOperator),
    ("auditor", v1::Role::Auditor),
];
/// Six hours: longer than a run takes.
const LIFETIME_SECONDS: u64 = 6 * 60 * 60;
/// A week.
const LIFETIME_MAX: u64 = 7 * 24 * 60 * 60;
/// What close needs.
const ID: &str = "id";

#[async_trait]
impl EphemeralResource for EphemeralToken {
    type Data = Platform;
    type Model = TokenModel;

    fn name(&self) -> &'static str {
        "fairmazon_token"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .describe(
                "A token that exists while Terraform runs: it is in no state and no plan, and is \
                 revoked at the end.",
            )
            .attribute(
                Attribute::string("name")
                    .optional()
                    .describe("Name for people, in the list of tokens. Default `terraform`."),
            )
            .attribute(
                Attribute::string("role")
                    .optional()
                    .validate(validators::one_of(ROLES.map(|(word, _)| word)))
                    .describe(
                        "What it may do (`customer`, `host_operator`, `platform_operator` or \
                         `auditor`): the role of your own credential, or any role where yours is \
                         `platform_operator`. Default `customer`.",
                    ),
            )
            .attribute(
                Attribute::integer("lifetime_seconds")
                    .optional()
                    .validate(validators::range(60..=LIFETIME_MAX))
                    .describe(
                        "Seconds after which it ends by itself, in case the run can't revoke it. \
                         Default 21600 (six hours).",
                    ),
            )
            .attribute(Attribute::string("id").computed().describe("Id of the token."))
            .attribute(Attribute::string("token").computed().sensitive().describe("The token."))
            .attribute(
                Attribute::string("expires_at")
                    .computed()
                    .describe("When it ends by itself, in UTC (RFC 3339)."),
            )
            .build()
    }

    async fn open(
        &self,
        cx: &Context<Platform>,
        config: TokenModel,
    ) -> Result<Opened<TokenModel>, Diagnostics> {
        let attempt = Attempt::new("create", "token");
        let client = cx.data()?.client()?;
        let role = config.role.get().map_or(Ok(v1::Role::Customer), |word| {
            find_word("role", word, &ROLES).map_err(|error| attempt.refused(&error))
        })?;
        let lifetime = config.lifetime_seconds.get().copied().unwrap_or(LIFETIME_SECONDS);
        let name = config.name.get().cloned().unwrap_or_else(|| "terraform".to_owned());
        let made = cx.unless_cancelled(client.create_token(name, role, lifetime)).await?;
        let (token, secret) = made.map_err(|error| attempt.failed(&error))?;
        let mut private = Private::default();
        private.set(ID, &token.id)?;
        let model = TokenModel {
            id: Attr::Value(token.id),
            token: Attr::Value(secret),
            expires_at: Attr::Value(rfc3339(token.expires_at_ms)),
            ..config
        };
        Ok(Opened { model, renew_at: None, private })
    }

    async fn close(&self, cx: &Context<Platform>, private: &Private) -> Result<(), Diagnostics> {
        let Some(id) = private.get::<String>(ID) else { return Ok(()) };
        match cx.data()?.client()?.revoke_token(&id).await {
            Err(error) if !error.is_not_found() => {
                Err(Attempt::on("revoke", "token", &id).failed(&error))
            }
            _ => Ok(()),
        }
    }
}
