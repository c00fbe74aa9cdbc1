//! Numbers as Terraform has them: decimals of any size, equal when they mean the same.
//!
//! Refuses NaN, the infinities, and numerals too long to be meant.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use bigdecimal::{BigDecimal, ToPrimitive};

/// The longest numeral that is read, in bytes.
const MAX_NUMERAL_BYTES: usize = 4096;
/// The largest power of ten, either way. Without a bound, `1e999999999` would become a
/// gigabyte of zeros as soon as somebody prints it.
const MAX_EXPONENT: i64 = 4096;

/// An exact decimal number. Two numbers of equal value are equal, however they were written.
#[derive(Clone)]
pub struct Number(Repr);

/// Each value has exactly one representation, so equality can be structural:
/// `Int` for whole numbers of 64 signed bits, else `Float` for what a double holds exactly,
/// else `Big`, normalised.
#[derive(Clone)]
enum Repr {
    Int(i64),
    Float(f64),
    Big(Box<BigDecimal>),
}

/// Why something is not a number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NumberError {
    /// NaN or an infinity.
    #[error("a number must be finite")]
    NotFinite,
    /// Text that is no decimal numeral.
    #[error("the text is no decimal number")]
    Syntax,
    /// A numeral past the limits.
    #[error(
        "a number may have {MAX_NUMERAL_BYTES} characters and powers of ten up to {MAX_EXPONENT}"
    )]
    TooLong,
}

/// How a number goes over the wire at its most compact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Compact {
    Int(i64),
    Uint(u64),
    Float(f64),
    /// Neither holds it exactly: the decimal text does.
    Text,
}

impl Number {
    /// The number that a double holds exactly, to its last binary digit. The wire means this.
    ///
    /// # Errors
    /// When the double is not finite.
    pub fn from_f64_exact(float: f64) -> Result<Self, NumberError> {
        if !float.is_finite() {
            return Err(NumberError::NotFinite);
        }
        // Both bounds are exact doubles; the upper one is 2^63 and so is excluded.
        const BOUND: f64 = 9_223_372_036_854_775_808.0;
        if float.fract() == 0.0 && (-BOUND..BOUND).contains(&float) {
            #[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
            return Ok(Self(Repr::Int(float as i64)));
        }
        Ok(Self(Repr::Float(float)))
    }

    /// The number that a program means by a double: the shortest decimal that reads back as
    /// it, so that `0.1` is one tenth, as it is in a configuration.
    ///
    /// # Errors
    /// When the double is not finite.
    pub fn from_f64(float: f64) -> Result<Self, NumberError> {
        if !float.is_finite() {
            return Err(NumberError::NotFinite);
        }
        format!("{float:e}").parse()
    }

    /// The value, when it is whole and fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self.0 {
            Repr::Int(int) => Some(int),
            Repr::Float(_) | Repr::Big(_) => None,
        }
    }

    /// The value, when it is whole and fits.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match &self.0 {
            Repr::Int(int) => u64::try_from(*int).ok(),
            _ => self.as_i128().and_then(|int| u64::try_from(int).ok()),
        }
    }

    /// The value, when it is whole and fits.
    #[must_use]
    pub fn as_i128(&self) -> Option<i128> {
        match &self.0 {
            Repr::Int(int) => Some(i128::from(*int)),
            _ => {
                let big = self.to_bigdecimal();
                big.is_integer().then(|| big.to_i128()).flatten()
            }
        }
    }

    /// The nearest double; infinite when past its range.
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        match &self.0 {
            #[expect(clippy::cast_precision_loss, reason = "the nearest double is asked for")]
            Repr::Int(int) => *int as f64,
            Repr::Float(float) => *float,
            Repr::Big(big) => nearest(big),
        }
    }

    /// The exact decimal.
    #[must_use]
    pub fn to_bigdecimal(&self) -> BigDecimal {
        match &self.0 {
            Repr::Int(int) => BigDecimal::from(*int),
            Repr::Float(float) => exact(*float),
            Repr::Big(big) => (**big).clone(),
        }
    }

    /// Whether there is no fractional part.
    #[must_use]
    pub fn is_integer(&self) -> bool {
        match &self.0 {
            Repr::Int(_) => true,
            Repr::Float(float) => float.fract() == 0.0,
            Repr::Big(big) => big.is_integer(),
        }
    }

    /// The most compact form that is exact.
    pub(crate) fn compact(&self) -> Compact {
        match &self.0 {
            Repr::Int(int) => Compact::Int(*int),
            Repr::Float(float) => Compact::Float(*float),
            Repr::Big(_) => self.as_u64().map_or(Compact::Text, Compact::Uint),
        }
    }
}

/// The nearest double. Goes through text because the parser of `core` rounds correctly.
fn nearest(big: &BigDecimal) -> f64 {
    big.to_scientific_notation().parse().unwrap_or(f64::NAN)
}

/// The value of a finite double, exactly.
fn exact(float: f64) -> BigDecimal {
    BigDecimal::try_from(float).expect("a Number holds only finite doubles")
}

impl TryFrom<BigDecimal> for Number {
    type Error = NumberError;

    fn try_from(big: BigDecimal) -> Result<Self, NumberError> {
        let big = big.normalized();
        // The exponent of the leading digit, and the number of digits, are both bounded, so
        // printing is bounded as well.
        let digits = big.digits();
        let (_, scale) = big.as_bigint_and_exponent();
        if digits > MAX_NUMERAL_BYTES as u64 || scale.abs() > 2 * MAX_EXPONENT {
            return Err(NumberError::TooLong);
        }
        if scale <= 0
            && let Some(int) = big.to_i64()
        {
            return Ok(Self(Repr::Int(int)));
        }
        let float = nearest(&big);
        if float.is_finite() && exact(float) == big {
            return Ok(Self(Repr::Float(float)));
        }
        Ok(Self(Repr::Big(Box::new(big))))
    }
}

impl FromStr for Number {
    type Err = NumberError;

    fn from_str(text: &str) -> Result<Self, NumberError> {
        if text.len() > MAX_NUMERAL_BYTES {
            return Err(NumberError::TooLong);
        }
        // Integers are nearly all there is. `i64` would also take a leading plus, as decimals do.
        if let Ok(int) = text.parse::<i64>() {
            return Ok(Self(Repr::Int(int)));
        }
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => (text, "0"),
        };
        let is_digit = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        let unsigned = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
        if !unsigned.bytes().all(is_digit) || !unsigned.bytes().any(|byte| byte.is_ascii_digit()) {
            return Err(NumberError::Syntax);
        }
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NumberError::Syntax);
        }
        let exponent: i64 = exponent.parse().map_err(|_| NumberError::TooLong)?;
        if exponent.abs() > MAX_EXPONENT {
            return Err(NumberError::TooLong);
        }
        BigDecimal::from_str(text).map_err(|_| NumberError::Syntax)?.try_into()
    }
}

macro_rules! from_int {
    ($($int:ty),*) => {$(
        impl From<$int> for Number {
            fn from(int: $int) -> Self {
                Self(Repr::Int(i64::from(int)))
            }
        }
    )*};
}
from_int!(i8, i16, i32, i64, u8, u16, u32);

macro_rules! from_wide_int {
    ($($int:ty),*) => {$(
        impl From<$int> for Number {
            fn from(int: $int) -> Self {
                match i64::try_from(int) {
                    Ok(int) => Self(Repr::Int(int)),
                    Err(_) => BigDecimal::from(int)
                        .try_into()
                        .expect("128 bits are far below the limits of a number"),
                }
            }
        }
    )*};
}
from_wide_int!(u64, i128, u128);

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Repr::Int(a), Repr::Int(b)) => a == b,
            // Canonical doubles are finite and not zero, so bits and value agree.
            (Repr::Float(a), Repr::Float(b)) => a.to_bits() == b.to_bits(),
            (Repr::Big(a), Repr::Big(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Number {}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            Repr::Int(int) => int.hash(state),
            Repr::Float(float) => float.to_bits().hash(state),
            Repr::Big(big) => big.hash(state),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Int(a), Repr::Int(b)) => a.cmp(b),
            (Repr::Float(a), Repr::Float(b)) => a.total_cmp(b),
            _ => self.to_bigdecimal().cmp(&other.to_bigdecimal()),
        }
    }
}

/// Plain decimal digits, exact, without an exponent.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Int(int) => int.fmt(f),
            Repr::Float(_) | Repr::Big(_) => f.write_str(&self.to_bigdecimal().to_plain_string()),
        }
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Number {
        text.parse().unwrap()
    }

    #[test]
    fn spelling_does_not_matter() {
        for (a, b) in [
            ("1", "1.0"),
            ("1", "10e-1"),
            ("100000000000000000000", "1e20"),
            ("0", "-0"),
            ("0", "0.000e5"),
            ("0.5", "5e-1"),
            ("0.1", "0.10"),
            ("18446744073709551615", "18446744073709551615.0"),
        ] {
            assert_eq!(number(a), number(b), "{a} and {b}");
        }
        assert_ne!(number("0.1"), Number::from_f64_exact(0.1).unwrap());
        assert_eq!(number("0.1"), Number::from_f64(0.1).unwrap());
        assert_eq!(number("0.5"), Number::from_f64_exact(0.5).unwrap());
        assert_eq!(number("1e20"), Number::from_f64_exact(1e20).unwrap());
        assert_eq!(Number::from_f64_exact(-0.0).unwrap(), Number::from(0));
    }

    #[test]
    fn the_compact_form_is_exact() {
        assert_eq!(number("-7").compact(), Compact::Int(-7));
        assert_eq!(number("18446744073709551615").compact(), Compact::Uint(u64::MAX));
        assert_eq!(number("0.5").compact(), Compact::Float(0.5));
        assert_eq!(number("0.1").compact(), Compact::Text);
        assert_eq!(number("18446744073709551617").compact(), Compact::Text);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", " 1", "1 ", "0x10", "1_000", "nan", "inf", "1e", "e1", ".", "--1", "1e1.5"]
        {
            assert_eq!(text.parse::<Number>(), Err(NumberError::Syntax), "{text:?}");
        }
        for text in ["1e999999999", "1e-999999999", "1e99999999999999999999"] {
            assert_eq!(text.parse::<Number>(), Err(NumberError::TooLong), "{text:?}");
        }
        assert_eq!("9".repeat(5000).parse::<Number>(), Err(NumberError::TooLong));
        assert_eq!(Number::from_f64(f64::NAN), Err(NumberError::NotFinite));
        assert_eq!(Number::from_f64_exact(f64::INFINITY), Err(NumberError::NotFinite));
    }

    proptest! {
        #[test]
        fn doubles_come_back(float in proptest::num::f64::NORMAL) {
            prop_assert_eq!(Number::from_f64(float).unwrap().to_f64(), float);
            prop_assert_eq!(Number::from_f64_exact(float).unwrap().to_f64(), float);
        }

        #[test]
        fn text_comes_back(int: i128, scale in -50_i64..50) {
            let number = Number::try_from(BigDecimal::new(int.into(), scale)).unwrap();
            prop_assert_eq!(&number.to_string().parse::<Number>().unwrap(), &number);
            prop_assert_eq!(number.to_bigdecimal(), BigDecimal::new(int.into(), scale));
        }

        #[test]
        fn integers_come_back(int: i64, wide: u64) {
            prop_assert_eq!(Number::from(int).as_i64(), Some(int));
            prop_assert_eq!(Number::from(wide).as_u64(), Some(wide));
        }

        #[test]
        fn order_is_that_of_the_value(a: i64, b: f64) {
            prop_assume!(b.is_finite());
            let b = Number::from_f64_exact(b).unwrap();
            let expected = BigDecimal::from(a).cmp(&b.to_bigdecimal());
            prop_assert_eq!(Number::from(a).cmp(&b), expected);
        }

        #[test]
        fn any_text_is_answered(text in ".*") {
            let _ = text.parse::<Number>();
        }
    }
}
