//! Durations, as Go reads and prints them.

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1000),
    ("µs", 1000),
    ("μs", 1000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];
const SECOND: i64 = 1_000_000_000;

/// Go's `time.ParseDuration`, in nanoseconds; `None` where it fails.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (part, after) = part(rest)?;
        total = total.checked_add(part).filter(|total| *total <= 1 << 63)?;
        rest = after;
    }
    if negative { Some(0i64.wrapping_sub_unsigned(total)) } else { i64::try_from(total).ok() }
}

/// A number and its unit in nanoseconds, and what follows.
fn part(text: &str) -> Option<(u64, &str)> {
    let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (unit, rest) = rest.split_at(rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len()));
    let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1.unsigned_abs();
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(scale).filter(|nanos| *nanos <= 1 << 63)?;
    let mut place = scale as f64;
    let mut finer = 0f64;
    for digit in fraction.bytes().take(18) {
        place /= 10.0;
        finer += f64::from(digit - b'0') * place;
    }
    nanos = nanos.checked_add((finer + 1e-6) as u64)?;
    Some((nanos, rest))
}

/// What a schema's `duration` takes: Go's, or numbers with units wherever they stand.
pub(crate) fn lenient(text: &str) -> Result<i64, String> {
    if let Some(nanos) = parse(text) {
        return Ok(nanos);
    }
    let mut found: Option<i64> = None;
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let after = after.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
        let unit = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic() && c != 'µ').unwrap_or(after.len()));
        rest = unit.1;
        if unit.0.is_empty() {
            continue;
        }
        let number: i64 = number.parse().map_err(|_| format!("unable to parse {text} as duration"))?;
        if let Some(scale) = long_unit(&unit.0.to_lowercase()) {
            found = Some(found.unwrap_or(0).wrapping_add(number.wrapping_mul(scale)));
        }
    }
    found.ok_or_else(|| format!("unable to parse {text} as duration"))
}

fn long_unit(unit: &str) -> Option<i64> {
    const LONG: [(&[&str], &str, i64); 8] = [
        (&["ns"], "nano", 1),
        (&["us", "µs"], "micro", 1000),
        (&["ms"], "milli", 1_000_000),
        (&["s"], "sec", SECOND),
        (&["m"], "min", 60 * SECOND),
        (&["h", "hr"], "hour", 3600 * SECOND),
        (&["d"], "day", 86_400 * SECOND),
        (&["w", "wk"], "week", 7 * 86_400 * SECOND),
    ];
    LONG.iter().find(|(short, long, _)| short.contains(&unit) || unit.starts_with(long)).map(|(_, _, scale)| *scale)
}

/// As `string()` spells it: in seconds.
pub(crate) fn seconds_text(nanos: i64) -> String {
    format!("{}s", seconds(nanos))
}

pub(crate) fn seconds(nanos: i64) -> f64 {
    (nanos / SECOND) as f64 + (nanos % SECOND) as f64 / 1e9
}

/// As Go prints it: `1h30m0s`.
pub(crate) fn go_text(nanos: i64) -> String {
    let magnitude = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let decimal = |value: u64, unit: u64| {
        let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        if unit == 1 || fraction.is_empty() {
            (value / unit).to_string()
        } else {
            format!("{}.{fraction}", value / unit)
        }
    };
    match magnitude {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{magnitude}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(magnitude, 1000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(magnitude, 1_000_000)),
        _ => {
            let (minutes, rest) = (magnitude / 60_000_000_000, magnitude % 60_000_000_000);
            let seconds = decimal(rest, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, nanos) in [
            ("1h30m", Some(5_400 * SECOND)),
            ("1.5h", Some(5_400 * SECOND)),
            ("-1.5h", Some(-5_400 * SECOND)),
            ("+1h", Some(3_600 * SECOND)),
            ("1µs", Some(1000)),
            ("0", Some(0)),
            ("5", None),
            ("1d", None),
            ("1h1", None),
            ("", None),
        ] {
            assert_eq!(parse(text), nanos, "{text}");
        }
        assert_eq!(lenient("1d"), Ok(86_400 * SECOND));
        assert_eq!(lenient("3 days"), Ok(3 * 86_400 * SECOND));
        assert_eq!(lenient("P1D"), Ok(86_400 * SECOND));
        assert_eq!(lenient("0.5d"), Ok(5 * 86_400 * SECOND));
        assert!(lenient("x").is_err());
        assert_eq!(go_text(5_400 * SECOND), "1h30m0s");
        assert_eq!(go_text(1_500_000), "1.5ms");
        assert_eq!(seconds_text(5_400 * SECOND), "5400s");
    }
}
