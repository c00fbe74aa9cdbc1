//! A create that the platform answers with what an earlier run made. It goes on where that one was
//! cut off; or it is wrong, and only the user can tell.

use fairmazon_model::units::UnixMs;
use tfplugin::{Context, Diagnostic};

use super::rfc3339;
use crate::client::Client;

/// Warns when what a create was answered with, made at `created_at`, is not of this run.
pub fn warn<D: Send + Sync>(
    cx: &Context<D>,
    client: &Client,
    noun: &str,
    id: &str,
    created_at: UnixMs,
) {
    if !client.began_after(created_at) {
        return;
    }
    let at = rfc3339(created_at.0);
    cx.warn(Diagnostic::warning(format!("The {noun} {id} was made by an earlier run")).detail(
        format!(
            "It was made at {at} of an equal configuration, and the platform has not heard that a \
             state holds it. So none was made now: this resource takes it over. That is right when \
             the apply that made it was cut off.\n\nIt is wrong when another resource holds it, \
             which no plan has read since: that happens with `-target`. `terraform state list \
             -id={id}` names all that do. When they are two, `terraform state rm` the one of this \
             apply, before anything destroys the {noun} of both; then `terraform apply` without \
             `-target` makes another."
        ),
    ));
}
