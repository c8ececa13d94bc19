//! Lengths of time as Go's `time.ParseDuration` reads them: `1h30m`, `1.5h`, `-2ms`.

const UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// In nanoseconds.
///
/// # Errors
/// Go's sentence.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    let quoted = || serde_json::Value::from(text).to_string();
    let invalid = || format!("time: invalid duration {}", quoted());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quoted()));
        }
        let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {} in duration {}", serde_json::Value::from(unit), quoted()));
        };
        total = amount(whole, fraction, *nanos).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        rest = after;
    }
    signed(total, negative).ok_or_else(invalid)
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn amount(whole: &str, fraction: &str, unit: u64) -> Option<u64> {
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    // More digits than these are less than a nanosecond.
    let fraction = &fraction[..fraction.len().min(18)];
    let parts = fraction.parse::<u128>().unwrap_or(0) * u128::from(unit) / 10u128.pow(fraction.len() as u32);
    whole.checked_mul(unit)?.checked_add(u64::try_from(parts).ok()?)
}

fn signed(total: u64, negative: bool) -> Option<i64> {
    if negative { 0i64.checked_sub_unsigned(total) } else { i64::try_from(total).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        for (text, expect) in [
            ("1.5h", Ok(5_400_000_000_000)),
            (".5s", Ok(500_000_000)),
            ("1.s", Ok(1_000_000_000)),
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("00h", Ok(0)),
            ("+1h", Ok(3_600_000_000_000)),
            ("-1h30m", Ok(-5_400_000_000_000)),
            ("1µs", Ok(1_000)),
            ("1ms1us1ns", Ok(1_001_001)),
            ("1s1m", Ok(61_000_000_000)),
            ("0.1ns", Ok(0)),
            ("1.0000000009s", Ok(1_000_000_000)),
            ("100000h", Ok(360_000_000_000_000_000)),
            ("1d", Err("time: unknown unit \"d\" in duration \"1d\"")),
            ("1", Err("time: missing unit in duration \"1\"")),
            ("", Err("time: invalid duration \"\"")),
            ("s", Err("time: invalid duration \"s\"")),
            ("9999999999h", Err("time: invalid duration \"9999999999h\"")),
        ] {
            assert_eq!(parse(text), expect.map_err(str::to_owned), "{text}");
        }
    }
}
