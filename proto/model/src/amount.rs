//! Quantities with upstream's canonical spelling (`0.1` is `100m`, `1024Mi` is `1Gi`, `2e3` stays
//! `2e3`) and unbounded comparison.
//!
//! Values are exact in units of 10⁻⁹ up to 10²⁸; what is larger is cut to that, though spelled as it is. Upstream rounds
//! finer values up to 10⁻⁹, so do we. The spelling a client chose (decimal suffix, binary suffix,
//! exponent) survives, and what upstream takes for canonical at first sight (`+5`, `00012`, `1.`) is kept to the letter.
//! [`crate::Quantity`] is the plain number that schedulers add up.

use std::fmt;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;
/// Larger amounts are cut to this: 10²⁸.
const MOST: i128 = 10i128.pow(37);
const WRONG: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const SUFFIX: &str = "unable to parse quantity's suffix";

/// The spelling under which a quantity is stored.
///
/// # Errors
/// Upstream's sentence when the text is not a quantity.
pub fn canonical(text: &str) -> Result<String, String> {
    let parts = Parts::of(text)?;
    if parts.settled() {
        return Ok(text.to_owned());
    }
    match parts.style {
        Style::Binary => Ok(parts.amount().to_string()),
        style => Ok(parts.decimal(style == Style::Exponent).unwrap_or_else(|| parts.amount().to_string())),
    }
}

/// A quantity taken apart.
struct Parts<'a> {
    negative: bool,
    /// Without leading zeros.
    whole: &'a str,
    fraction: &'a str,
    style: Style,
    base: i128,
    exponent: i32,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(WRONG.to_owned());
        }
        let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
        let rest = rest.trim_start_matches('0');
        let (whole, rest) = digits(rest);
        let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), digits);
        let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let number = if letters.is_empty() { letters } else { letters.strip_prefix(['-', '+']).unwrap_or(letters) };
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(WRONG.to_owned());
        }
        let (style, base, exponent) = suffix_of(suffix).ok_or(SUFFIX)?;
        Ok(Self { negative: text.starts_with('-'), whole, fraction, style, base, exponent })
    }

    /// Whether upstream keeps the text as it is: small enough for its quick way, and not obviously longer than it need be.
    fn settled(&self) -> bool {
        let whole = if self.whole.is_empty() { "0" } else { self.whole };
        let length = whole.len() + self.fraction.len();
        if self.style == Style::Binary {
            let exponent = usize::try_from(self.exponent).unwrap_or_default();
            let room = 14usize.checked_sub(exponent * 3 / 10);
            let odd = whole.parse::<i64>().is_ok_and(|value| value & 7 != 0);
            return self.fraction.is_empty() && room.is_some_and(|room| whole.len() <= room) && odd;
        }
        let scale = i64::from(self.exponent) - i64::try_from(self.fraction.len()).unwrap_or(i64::MAX / 2);
        let zeros = format!("{whole}{}", self.fraction).ends_with("000");
        length <= 18 && scale >= -9 && scale % 3 == 0 && !zeros && !whole.starts_with('0')
    }

    /// The canonical spelling of a decimal amount that need not be rounded; `None` if it has to be, or has no suffix.
    fn decimal(&self, exponent_style: bool) -> Option<String> {
        let digits = format!("{}{}", self.whole, self.fraction);
        let digits = digits.trim_start_matches('0');
        let short = digits.trim_end_matches('0');
        if short.is_empty() {
            return Some("0".to_owned());
        }
        let scale = i64::from(self.exponent) - i64::try_from(self.fraction.len()).ok()?;
        let mut power = scale + i64::try_from(digits.len() - short.len()).ok()?;
        if power < -9 {
            return None;
        }
        let mut number = short.to_owned();
        let most = if exponent_style { i64::MAX } else { 18 };
        let target = power.min(most).div_euclid(3) * 3;
        // Nobody means a number with a thousand digits.
        if power - target > 1000 {
            return None;
        }
        while power > target {
            number.push('0');
            power -= 1;
        }
        let sign = if self.negative { "-" } else { "" };
        Some(match (exponent_style, power) {
            (_, 0) => format!("{sign}{number}"),
            (true, power) => format!("{sign}{number}e{power}"),
            (false, power) => format!("{sign}{number}{}", decimal_suffix(power)),
        })
    }

    fn amount(&self) -> Amount {
        let nanos = scaled(self.whole, self.fraction, self.base, self.exponent);
        let nanos = if self.style == Style::Binary { nanos.min(i128::from(i64::MAX) * NANO) } else { nanos };
        Amount { nanos: if self.negative { -nanos } else { nanos }, style: self.style }
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
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
        Parts::of(text).ok().map(|parts| parts.amount())
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

    /// In billionths.
    #[must_use]
    pub fn nanos(self) -> i128 {
        self.nanos
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

    /// The difference, but not less than zero, spelled as the first.
    #[must_use]
    pub fn minus_to_zero(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_sub(other.nanos).max(0), ..self }
    }

    /// As a floating point number: for ratios.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a ratio is a ratio")]
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// A whole number, spelled with decimal suffixes.
    #[must_use]
    pub fn count(count: i64) -> Self {
        Self { nanos: i128::from(count) * NANO, style: Style::Decimal }
    }

    /// Rounded up to a whole number.
    #[must_use]
    pub fn round_up(self) -> Self {
        Self { nanos: div_up(self.nanos, NANO).saturating_mul(NANO), ..self }
    }

    /// The difference, spelled as the first unless that is zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.plus(Self { nanos: -other.nanos, ..other })
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

/// Away from zero.
fn div_up(value: i128, by: i128) -> i128 {
    let more = i128::from(value % by != 0);
    value / by + if value < 0 { -more } else { more }
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
            // Beyond what any exponent is good for, but within what can be reckoned with.
            let most: i64 = exponent.parse().ok()?;
            Some((Style::Exponent, 10, i32::try_from(most.clamp(-1_000_000, 1_000_000)).ok()?))
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
    let mut exponent: i64 = -9;
    while value % 1000 == 0 && (exponent < 18 || exponent_style) {
        value /= 1000;
        exponent += 3;
    }
    if exponent_style {
        return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
    }
    write!(f, "{value}{}", decimal_suffix(exponent))
}

/// The suffix of a power of ten, a multiple of three from -9 to 18.
fn decimal_suffix(power: i64) -> &'static str {
    let at = usize::try_from((power + 9) / 3).unwrap_or(0);
    ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"].get(at).copied().unwrap_or_default()
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
            ("01", "01"),
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
            ("2E3", "2E3"),
            ("2000e0", "2e3"),
            ("+5", "+5"),
            ("+1000", "1k"),
            ("1e-3", "1e-3"),
            ("1E", "1E"),
            ("-1", "-1"),
            ("+1", "+1"),
            (".5", "500m"),
            ("1.", "1."),
            (".", "0"),
            ("1000E", "1000E"),
            ("1e40", "10e39"),
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
        for text in ["", "x", "1x", "1 Gi", "1..2", "--1", "1ee3", "1KiB", "1K", "1GB", "1e", "1e+", "1e1.5"] {
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
