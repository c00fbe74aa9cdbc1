//! What can't be made without an identity: its volumes get their keys while it is made.

use tfplugin::{Context, Diagnostic, Diagnostics};

use crate::{
    client::{Client, ClientError},
    diagnostics::{Attempt, NO_IDENTITY_ADVICE},
    platform::Platform,
};

/// Warns in the plan of something that needs an identity where there is none: a job that only
/// plans is right to have none.
pub fn warn_without_identity(cx: &Context<Platform>, platform: &Platform) {
    if platform.try_client().is_some_and(|client| !client.has_identity()) {
        cx.warn(
            Diagnostic::warning("The provider has no identity")
                .detail(format!("This plan can't be applied here. {NO_IDENTITY_ADVICE}")),
        );
    }
}

/// Refuses to make it without one: before anything is there that would wait for its keys for ever.
///
/// # Errors
/// When the provider has no identity.
pub fn require_identity(client: &Client, attempt: Attempt<'_>) -> Result<(), Diagnostics> {
    if client.has_identity() { Ok(()) } else { Err(attempt.failed(&ClientError::NoIdentity)) }
}
