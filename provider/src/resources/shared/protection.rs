//! Deletion protection: refused in the plan, and by the broker as well.

use fairmazon_model::DomainError;

/// Why a protected thing is not destroyed.
pub fn protected() -> DomainError {
    DomainError::invalid("deletion_protection", "it is protected against deletion").advise(
        "set `deletion_protection = false` and apply that first; only then can it be destroyed or \
         replaced",
    )
}
