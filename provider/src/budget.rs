//! The guard over the whole configuration: what everything planned costs in an hour.
//!
//! It knows what this process has planned, nothing more: resources that another configuration
//! manages are not in the sum, and neither are those whose price is not known yet.

use std::collections::HashMap;

use fairmazon_model::price::NanoEur;
use parking_lot::Mutex;
use tfplugin::Diagnostics;

/// Adds up planned prices and refuses the one that goes over the limit.
#[derive(Debug, Default)]
pub struct Budget {
    limit: Option<NanoEur>,
    planned: Mutex<Planned>,
}

#[derive(Debug, Default)]
struct Planned {
    /// Things that exist, each counted once however often it is planned.
    existing: HashMap<String, NanoEur>,
    /// Things to be made.
    new: NanoEur,
    new_count: usize,
    /// Only the first resource over the limit says so.
    told: bool,
}

impl Budget {
    /// A guard with this limit for an hour, or with none.
    pub fn new(limit: Option<NanoEur>) -> Self {
        Self { limit, planned: Mutex::default() }
    }

    /// Adds what a planned resource costs in an hour; `id` is that of one that exists.
    ///
    /// # Errors
    /// When the sum goes over the limit.
    pub fn add(&self, id: Option<&str>, hourly: NanoEur) -> Result<(), Diagnostics> {
        let Some(limit) = self.limit else { return Ok(()) };
        let mut planned = self.planned.lock();
        match id {
            Some(id) => {
                planned.existing.insert(id.to_owned(), hourly);
            }
            None => {
                planned.new = planned.new + hourly;
                planned.new_count += 1;
            }
        }
        let sum = planned.existing.values().copied().sum::<NanoEur>() + planned.new;
        if sum <= limit || planned.told {
            return Ok(());
        }
        planned.told = true;
        let count = planned.existing.len() + planned.new_count;
        Err(Diagnostics::error(
            "The plan costs more than the provider's guard allows",
            format!(
                "The {count} resources planned so far cost {sum} EUR an hour, and \
                 `max_price_per_hour` allows {limit} EUR.\n\nPlan less, or raise \
                 `max_price_per_hour` in the provider block (or FAIRMAZON_MAX_PRICE_PER_HOUR)."
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eur(text: &str) -> NanoEur {
        text.parse().unwrap()
    }

    #[test]
    fn the_sum_counts_and_is_told_once() {
        let budget = Budget::new(Some(eur("0.03")));
        budget.add(None, eur("0.01")).unwrap();
        budget.add(Some("ins-1"), eur("0.01")).unwrap();
        budget.add(Some("ins-1"), eur("0.02")).unwrap();
        let told = budget.add(None, eur("0.000001")).unwrap_err().to_string();
        assert!(told.contains("3 resources") && told.contains("0.030001 EUR"), "{told}");
        assert!(told.contains("0.03 EUR"), "{told}");
        budget.add(None, eur("1.00")).unwrap();
    }

    #[test]
    fn without_a_limit_everything_goes() {
        Budget::new(None).add(None, NanoEur(i64::MAX)).unwrap();
    }
}
