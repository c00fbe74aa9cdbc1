//! Prices: integers only, one function for the plan, the broker and the bill.

use std::{fmt, iter::Sum, ops::Add, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{DomainError, catalogue::Catalogue, instance::InstanceSpec, volume::VolumeSpec};

/// Hours of a month in every monthly price: 365 days × 24 h / 12.
pub const HOURS_PER_MONTH: i64 = 730;

/// Money in 10^-9 EUR, net of value added tax.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NanoEur(pub i64);

impl NanoEur {
    /// From 10^-6 EUR.
    pub const fn from_micro_eur(micro: i64) -> Self {
        Self(micro * 1_000)
    }

    /// `count` times this, or the largest value where it does not fit.
    #[must_use]
    pub const fn times(self, count: i64) -> Self {
        Self(self.0.saturating_mul(count))
    }

    /// A month of this hourly price.
    #[must_use]
    pub const fn per_month(self) -> Self {
        self.times(HOURS_PER_MONTH)
    }
}

impl Add for NanoEur {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for NanoEur {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self(0), Add::add)
    }
}

/// EUR as a decimal without trailing zeros, with two digits behind the point at least (`0.0125`).
impl fmt::Display for NanoEur {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, value) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        let mut fraction = format!("{:09}", value % 1_000_000_000);
        while fraction.len() > 2 && fraction.ends_with('0') {
            fraction.pop();
        }
        write!(f, "{sign}{}.{fraction}", value / 1_000_000_000)
    }
}

impl FromStr for NanoEur {
    type Err = DomainError;

    /// Reads a decimal number of EUR with at most nine digits behind the point.
    fn from_str(text: &str) -> Result<Self, DomainError> {
        let error = || {
            DomainError::invalid(
                "price",
                format!(
                    "`{}` is not an amount in EUR with at most nine digits behind the point",
                    text.escape_debug()
                ),
            )
        };
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty()
            || !(1..=9).contains(&fraction.len())
            || !all_digits(whole)
            || !all_digits(fraction)
        {
            return Err(error());
        }
        let whole: i64 = whole.parse().map_err(|_| error())?;
        let fraction: i64 = format!("{fraction:0<9}").parse().map_err(|_| error())?;
        let value = whole
            .checked_mul(1_000_000_000)
            .and_then(|nano| nano.checked_add(fraction))
            .ok_or_else(error)?;
        Ok(Self(if negative { -value } else { value }))
    }
}

/// What an instance costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstancePrice {
    /// An hour of running: the flavor (spot price where it is spot) and the boot volume.
    pub hourly: NanoEur,
    /// A month: compute for the hours of its schedule, the boot volume always.
    pub monthly: NanoEur,
    /// What the schedule saves in a month against running always.
    pub monthly_saving: NanoEur,
}

/// The price of an instance that runs with `flavor` (its own, or the fallback it got).
///
/// # Errors
/// `Invalid` naming the field whose value is not in the catalogue.
pub fn instance(
    catalogue: &Catalogue,
    spec: &InstanceSpec,
    flavor: &str,
) -> Result<InstancePrice, DomainError> {
    let flavor = catalogue.flavor(flavor).ok_or_else(|| unknown("flavor", flavor))?;
    let class = catalogue
        .storage_class(&spec.boot_volume.class)
        .ok_or_else(|| unknown("boot_volume.class", &spec.boot_volume.class))?;
    let compute = if spec.spot.is_some() { flavor.spot_hourly } else { flavor.hourly };
    let disk = class.hourly_per_gib.times(gib_count(spec.boot_volume.size.0));
    let always = compute.per_month();
    let scheduled = match &spec.schedule {
        Some(schedule) => NanoEur(share(always.0, schedule.minutes_per_week())),
        None => always,
    };
    Ok(InstancePrice {
        hourly: compute + disk,
        monthly: scheduled + disk.per_month(),
        monthly_saving: NanoEur(always.0 - scheduled.0),
    })
}

/// The hourly price of a volume.
///
/// # Errors
/// `Invalid` with the field `class` when the catalogue has no such class.
pub fn volume(catalogue: &Catalogue, spec: &VolumeSpec) -> Result<NanoEur, DomainError> {
    let class =
        catalogue.storage_class(&spec.class).ok_or_else(|| unknown("class", &spec.class))?;
    Ok(class.hourly_per_gib.times(gib_count(spec.size.0)))
}

fn unknown(field: &str, value: &str) -> DomainError {
    DomainError::invalid(field, format!("the catalogue has no `{}`", value.escape_debug()))
}

fn gib_count(gib: u64) -> i64 {
    i64::try_from(gib).unwrap_or(i64::MAX)
}

/// `amount` × minutes of a week that are worked / minutes of a week, rounded down.
fn share(amount: i64, minutes_per_week: u32) -> i64 {
    const WEEK: i128 = 7 * 24 * 60;
    let part = i128::from(amount) * i128::from(minutes_per_week) / WEEK;
    i64::try_from(part).unwrap_or(amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_as_people_write_it() {
        for (nano, text) in
            [(0, "0.00"), (12_500_000, "0.0125"), (-1_500_000_000, "-1.50"), (55_000, "0.000055")]
        {
            assert_eq!(NanoEur(nano).to_string(), text);
            assert_eq!(text.parse::<NanoEur>().unwrap(), NanoEur(nano));
        }
        for bad in ["", ".", "1.", "-", "1e3", "1,5", "0.0000000001", "99999999999999", "١"] {
            assert!(bad.parse::<NanoEur>().is_err(), "{bad}");
        }
    }
}
