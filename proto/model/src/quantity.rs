//! Exact arithmetic on Kubernetes quantities (`100m`, `1.5Gi`, `2e3`).
//!
//! A quantity is held in billionths (nano), upstream's own finest grain, in an `i128`; finer input
//! is rounded up, as upstream does. Format: apimachinery `pkg/api/resource/quantity.go`.

use std::{fmt, str::FromStr};

const NANO: i128 = 1_000_000_000;

/// A parsed quantity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Quantity {
    nano: i128,
}

/// The text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseQuantityError;

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0 };

    /// A whole number of units (bytes, cores, pods).
    #[must_use]
    pub fn from_units(units: i64) -> Self {
        Self { nano: i128::from(units) * NANO }
    }

    /// Thousandths (millicores).
    #[must_use]
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000) }
    }

    /// Thousandths, rounded up, saturating.
    #[must_use]
    pub fn milli(self) -> i64 {
        saturate(ceil_div(self.nano, NANO / 1000))
    }

    /// Whole units, rounded up, saturating.
    #[must_use]
    pub fn units(self) -> i64 {
        saturate(ceil_div(self.nano, NANO))
    }

    /// Whether there is nothing after the decimal point.
    #[must_use]
    pub fn is_integer(self) -> bool {
        self.nano % NANO == 0
    }

    /// Whether it is below zero.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// The sum, saturating.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_add(other.nano) }
    }

    /// The difference, saturating.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_sub(other.nano) }
    }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn ceil_div(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

/// `(multiplier numerator, denominator)` of a suffix.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANO, 1),
        "T" => (1000 * NANO, 1),
        "P" => (1_000_000 * NANO, 1),
        "E" => (NANO * NANO, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(split);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 40 {
            return Err(ParseQuantityError);
        }
        let (numerator, denominator) = scale(suffix).ok_or(ParseQuantityError)?;
        let kept = &fraction[..fraction.len().min(18)];
        let digits: i128 = format!("0{whole}{kept}").parse().map_err(|_| ParseQuantityError)?;
        let ten = 10i128.pow(u32::try_from(kept.len()).map_err(|_| ParseQuantityError)?);
        // Upstream caps what it cannot represent at the largest value it can.
        let scaled = digits.saturating_mul(numerator).saturating_mul(NANO);
        let nano = ceil_div(scaled, denominator.saturating_mul(ten));
        Ok(Self { nano: if negative { -nano } else { nano } })
    }
}

impl fmt::Display for Quantity {
    /// Decimal form without loss: whole units, else milli, else nano.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_integer() {
            write!(f, "{}", self.nano / NANO)
        } else if self.nano % (NANO / 1000) == 0 {
            write!(f, "{}m", self.nano / (NANO / 1000))
        } else {
            write!(f, "{}n", self.nano)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_manifests_hold() {
        for (text, milli) in [
            ("1", 1000),
            ("100m", 100),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1000),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("2e3", 2_000_000),
            ("2E3", 2_000_000),
            ("1e-3", 1),
            ("1n", 1),
            ("-1", -1000),
            ("+1", 1000),
        ] {
            assert_eq!(text.parse::<Quantity>().map(Quantity::milli), Ok(milli), "{text}");
        }
        for text in ["", "x", "1x", "1 Gi", "1..2", "--1", "e3", "1ee3", "Gi", ".", "1KiB"] {
            assert_eq!(text.parse::<Quantity>(), Err(ParseQuantityError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,48}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn printing_loses_nothing(milli in -1_000_000_000i64..1_000_000_000) {
            let quantity = Quantity::from_milli(milli);
            prop_assert_eq!(quantity.to_string().parse(), Ok(quantity));
        }
    }
}
