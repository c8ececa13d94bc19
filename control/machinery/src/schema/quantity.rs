//! Quantities with upstream's canonical spelling (`0.1` is `100m`, `1024Mi` is `1Gi`, `2e3` stays
//! `2e3`) and unbounded comparison.
//!
//! Values are exact in units of 10⁻⁹ up to 10²⁸; what is larger is cut to that. Upstream rounds
//! finer values up to 10⁻⁹, so do we. The spelling a client chose (decimal suffix, binary suffix,
//! exponent) survives. `kontiki_model::Quantity` is the plain number that schedulers add up.

use std::fmt;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;
/// Larger amounts are cut to this: 10²⁸.
const MOST: i128 = 10i128.pow(37);
const WRONG: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// The canonical spelling.
///
/// # Errors
/// Upstream's sentence when the text is not a quantity.
pub fn canonical(text: &str) -> Result<String, String> {
    Amount::parse(text).map(|amount| amount.to_string()).ok_or_else(|| WRONG.to_owned())
}

/// How an amount is spelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Decimal,
    Binary,
    Exponent,
}

/// A quantity.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    nanos: i128,
    style: Style,
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, style: Style::Decimal };

    /// Reads a quantity. `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let (style, base, exponent) = suffix_of(suffix)?;
        let nanos = scaled(whole, fraction, base, exponent);
        let nanos = if style == Style::Binary { nanos.min(i128::from(i64::MAX) * NANO) } else { nanos };
        Some(Self { nanos: if negative { -nanos } else { nanos }, style })
    }

    /// Reads a JSON value: a text or a number.
    #[must_use]
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => None,
        }
    }

    /// In thousandths, rounded up and saturating as upstream's `MilliValue`.
    #[must_use]
    pub fn milli(self) -> i64 {
        let milli = div_up(self.nanos, NANO / 1000);
        i64::try_from(milli).unwrap_or(if milli < 0 { i64::MIN } else { i64::MAX })
    }

    /// Rounded up to a whole number.
    #[must_use]
    pub fn whole(self) -> i64 {
        let whole = div_up(self.nanos, NANO);
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whether `milli` leaves a fraction: upstream's test for whole numbers.
    #[must_use]
    pub fn fractional(self) -> bool {
        self.milli() % 1000 != 0
    }

    /// Rounded up to thousandths.
    #[must_use]
    pub fn round_up_milli(self) -> Self {
        Self { nanos: div_up(self.nanos, NANO / 1000).saturating_mul(NANO / 1000), ..self }
    }

    /// Below zero.
    #[must_use]
    pub fn negative(self) -> bool {
        self.nanos < 0
    }

    /// Zero.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// The sum, spelled as the first unless that is zero.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let style = if self.is_zero() { other.style } else { self.style };
        Self { nanos: self.nanos.saturating_add(other.nanos), style }
    }

    /// The larger one.
    #[must_use]
    pub fn or_more(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Amount {}

impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Amount {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

fn div_up(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

/// Style, base and exponent of a suffix.
fn suffix_of(suffix: &str) -> Option<(Style, i128, i32)> {
    let decimal = |exponent| Some((Style::Decimal, 10, exponent));
    let binary = |exponent| Some((Style::Binary, 2, exponent));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            Some((Style::Exponent, 10, exponent.parse().ok()?))
        }
    }
}

/// `whole.fraction × base^exponent` in nanos, rounded up, saturating.
fn scaled(whole: &str, fraction: &str, base: i128, exponent: i32) -> i128 {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let mut ten = 9 - i32::try_from(fraction.len()).unwrap_or(i32::MAX / 2);
    let mut value: i128 = 0;
    for digit in digits.bytes().take(38) {
        value = value.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
    }
    ten = ten.saturating_add(i32::try_from(digits.len().saturating_sub(38)).unwrap_or(i32::MAX / 4));
    if base == 2 {
        for _ in 0..exponent {
            value = value.saturating_mul(2);
        }
    } else {
        ten = ten.saturating_add(exponent);
    }
    while ten > 0 && value != 0 && value != i128::MAX {
        value = value.saturating_mul(10);
        ten -= 1;
    }
    while ten < 0 && value > 0 {
        // Rounding up at each step ends at 1 at the latest, as upstream's smallest value does.
        value = div_up(value, 10);
        ten += 1;
        if value == 1 {
            break;
        }
    }
    value.min(MOST)
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        match self.style {
            Style::Binary if self.nanos.abs() >= 1024 * NANO && self.nanos % NANO == 0 => {
                show_binary(self.nanos / NANO, f)
            }
            Style::Binary | Style::Decimal => show_decimal(self.nanos, false, f),
            Style::Exponent => show_decimal(self.nanos, true, f),
        }
    }
}

fn show_binary(mut value: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter();
    let mut suffix = suffixes.next().copied().unwrap_or("");
    while value % 1024 == 0 {
        let Some(next) = suffixes.next() else { break };
        value /= 1024;
        suffix = next;
    }
    write!(f, "{value}{suffix}")
}

fn show_decimal(mut value: i128, exponent_style: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut exponent = -9;
    while value % 1000 == 0 && exponent < 18 {
        value /= 1000;
        exponent += 3;
    }
    if exponent_style {
        return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
    }
    let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][usize::try_from((exponent + 9) / 3).unwrap_or(0)];
    write!(f, "{value}{suffix}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spells_as_upstream_does() {
        for (text, form) in [
            ("0", "0"),
            ("0.0Ki", "0"),
            ("0.1", "100m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1", "1"),
            ("1.0", "1"),
            ("01", "1"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1500", "1500"),
            ("1000k", "1M"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1001Ki", "1001Ki"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("2e3", "2e3"),
            ("2E3", "2e3"),
            ("2000e0", "2e3"),
            ("1e-3", "1e-3"),
            ("1E", "1E"),
            ("-1", "-1"),
            ("+1", "1"),
            (".5", "500m"),
            ("1.", "1"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("0.0005", "500u"),
            ("100000000000000000000", "100E"),
            ("9Ei", "9223372036854775807"),
            ("1e-50", "1e-9"),
            ("129e6", "129e6"),
            ("129M", "129M"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(form), "{text}");
        }
        for text in
            ["", "x", "1x", "1 Gi", "1..2", "--1", "e3", "1ee3", "Gi", ".", "1KiB", "1K", "1GB", "1e", "1e+", "1e1.5"]
        {
            assert!(canonical(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered_and_forms_are_fixed_points(text in "[+-]?[0-9.]{0,40}[eEinumkKMGTP]{0,2}[+-]?[0-9]{0,12}") {
            if let Some(amount) = Amount::parse(&text) {
                let form = amount.to_string();
                let _ = (amount.milli(), amount.whole());
                prop_assert_eq!(canonical(&form), Ok(form.clone()));
            }
        }
    }
}
