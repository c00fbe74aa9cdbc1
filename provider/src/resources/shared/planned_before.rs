//! Which existing thing a plan is about. A client that replaces plans twice, as a change and then
//! as a creation, and hands the private data of the first plan to the second.

use tfplugin::{Change, Diagnostics};

const PLANNED: &str = "planned_id";

/// The id of the thing that is changed, or that the planned one replaces; nothing for a new one.
///
/// # Errors
/// When the id can't be noted.
pub fn planned_before(
    change: &mut Change<'_>,
    id: Option<String>,
) -> Result<Option<String>, Diagnostics> {
    let Some(id) = id else {
        let before = change.private().get(PLANNED);
        // What is made has an id of its own.
        change.private().remove(PLANNED);
        return Ok(before);
    };
    change.private().set(PLANNED, &id)?;
    Ok(Some(id))
}
