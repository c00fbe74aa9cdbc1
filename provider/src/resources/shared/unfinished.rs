//! A create that the platform took and nobody waited for to its end: by an interrupt, a limit, a
//! credential that ended, or a broker that went away. The thing exists, so it is no failure:
//! Terraform would destroy it and make it anew.

use fairmazon_model::ErrorKind;
use tfplugin::{Diagnostic, Diagnostics};

use crate::{client::ClientError, diagnostics::Attempt};

/// How waiting for a create ended.
#[derive(Debug)]
pub enum Waited<T> {
    /// It is as asked for.
    Done(T),
    /// It exists, and is on its way.
    Unfinished(Unfinished),
}

/// Why it was not waited for to the end.
#[derive(Debug)]
pub struct Unfinished {
    noun: &'static str,
    id: String,
    why: String,
}

/// Reads the outcome of a wait for a create that the platform had answered with an id.
///
/// # Errors
/// When the platform says that making it failed, or no key can be given to its host.
pub fn told<T>(
    done: Result<Result<T, ClientError>, Diagnostics>,
    noun: &'static str,
    id: &str,
) -> Result<Waited<T>, Diagnostics> {
    let attempt = Attempt::on("wait for", noun, id);
    let told = match done {
        Ok(Ok(done)) => return Ok(Waited::Done(done)),
        Ok(Err(error)) if ends_the_making(&error) => {
            return Err(Attempt::on("create", noun, id).failed(&error));
        }
        Ok(Err(error)) => attempt.failed(&error),
        Err(told) => told,
    };
    let why: Vec<_> = told.iter().map(Diagnostic::detail_text).collect();
    let why = why.join("\n\n");
    Ok(Waited::Unfinished(Unfinished { noun, id: id.to_owned(), why }))
}

/// Whether the thing will not come about. A credential that ends, a limit and a broker that is away
/// end only the waiting.
fn ends_the_making(error: &ClientError) -> bool {
    match error {
        // The platform has given it up; or its keys can't be made, and nobody else makes them.
        ClientError::Failed { .. } | ClientError::Keys(_) => true,
        // Who waits sends ids that the platform gave, and keys: a key is what it finds wrong.
        ClientError::Refused { error, .. } => error.kind == ErrorKind::Invalid,
        _ => false,
    }
}

impl Unfinished {
    /// One of which nothing is known yet.
    pub fn of(noun: &'static str, id: &str) -> Self {
        Self { noun, id: id.to_owned(), why: String::new() }
    }

    /// Adds what the platform says about it.
    pub fn because(&mut self, reason: &str) {
        if !reason.is_empty() {
            self.put_first(&format!("The platform says: {reason}"));
        }
    }

    /// Adds what it has not got yet, and what to do.
    pub fn lacks(&mut self, what: &str) {
        if !what.is_empty() {
            self.put_first(what);
        }
    }

    /// Adds what its guest has said last.
    pub fn said(&mut self, console: &str) {
        if !console.is_empty() {
            let lines = console.lines().map(|line| format!("\n    {line}"));
            let lines = lines.collect::<String>();
            self.why = format!("{}\n\nThe last on its serial console:{lines}", self.why);
        }
    }

    fn put_first(&mut self, what: &str) {
        let rest = if self.why.is_empty() { String::new() } else { format!("\n\n{}", self.why) };
        self.why = format!("{what}{rest}");
    }

    /// What the user reads.
    pub fn warning(self) -> Diagnostic {
        let Self { noun, id, why } = self;
        Diagnostic::warning(format!("The {noun} {id} is not ready yet")).detail(format!(
            "{why}\n\nIt was made and is in the state; the platform goes on with it. What was \
             made to follow it may need another apply: look at its `state` in the next plan."
        ))
    }

    /// What the user reads where it can't be taken for made.
    pub fn error(self, what: &str) -> Diagnostics {
        let Self { noun, id, why } = self;
        Diagnostics::error(
            format!("The {noun} {id} {what}"),
            format!(
                "{why}\n\nThe next apply removes it and makes it anew; after `terraform untaint` \
                 it is left as it is."
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_model::DomainError;

    use super::*;

    fn error(kind: ErrorKind) -> Box<DomainError> {
        Box::new(DomainError::new(kind, "no"))
    }

    fn is_unfinished(error: ClientError) -> bool {
        told::<()>(Ok(Err(error)), "instance", "ins-1").is_ok()
    }

    #[test]
    fn only_what_ends_the_thing_is_an_error() {
        use ErrorKind::*;
        let refused = |kind| ClientError::Refused { error: error(kind), request_id: String::new() };
        for kind in
            [Unauthenticated, Forbidden, LimitExceeded, Unavailable, Internal, NotFound, Conflict]
        {
            assert!(is_unfinished(refused(kind)), "{kind:?}");
            let (operation, request_id) = ("op-1".to_owned(), String::new());
            let failed = ClientError::Failed { operation, error: error(kind), request_id };
            assert!(!is_unfinished(failed), "{kind:?}");
        }
        assert!(!is_unfinished(refused(Invalid)), "a key that the platform does not take");
    }
}
