//! Durations in Go's notation (`1m30s`, `1.5h`, `-250ms`): what `time.ParseDuration` takes, and how Go prints them.

use std::fmt;

/// A duration in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GoDuration(pub i64);

impl GoDuration {
    /// Reads a duration.
    ///
    /// # Errors
    /// Go's sentence when the text is none, or the duration is longer than 292 years.
    pub fn parse(text: &str) -> Result<Self, String> {
        let invalid = || format!("time: invalid duration {}", crate::field_error::quote(text));
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (nanos, after) = part(rest, text)?;
            total = total.checked_add(nanos).filter(|total| *total <= 1 << 63).ok_or_else(invalid)?;
            rest = after;
        }
        match (negative, i64::try_from(total)) {
            (false, Ok(nanos)) => Ok(Self(nanos)),
            (true, _) => Ok(Self(0i64.wrapping_sub_unsigned(total))),
            (false, Err(_)) => Err(invalid()),
        }
    }
}

/// A number and its unit, in nanoseconds, and what follows.
fn part<'a>(rest: &'a str, text: &str) -> Result<(u64, &'a str), String> {
    let quote = crate::field_error::quote;
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (whole, after) = split(rest, |c| c.is_ascii_digit());
    let (fraction, after) = match after.strip_prefix('.') {
        Some(after) => split(after, |c| c.is_ascii_digit()),
        None => ("", after),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let (word, after) = split(after, |c| c != '.' && !c.is_ascii_digit());
    if word.is_empty() {
        return Err(format!("time: missing unit in duration {}", quote(text)));
    }
    let Some(unit) = unit(word) else {
        return Err(format!("time: unknown unit {} in duration {}", quote(word), quote(text)));
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let nanos = whole.checked_mul(unit).filter(|nanos| *nanos <= 1 << 63).ok_or_else(invalid)?;
    // Digits beyond what a nanosecond has of an hour say nothing.
    let digits = &fraction[..fraction.len().min(15)];
    let (mut finer, mut scale) = (0u128, 1u128);
    for digit in digits.bytes() {
        finer = finer * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    let finer = u64::try_from(finer * u128::from(unit) / scale).map_err(|_| invalid())?;
    Ok((nanos.checked_add(finer).ok_or_else(invalid)?, after))
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn unit(word: &str) -> Option<u64> {
    Some(match word {
        "ns" => 1,
        "us" | "µs" | "μs" => 1000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

impl fmt::Display for GoDuration {
    /// As Go prints it: `1h30m0s`, `1.5s`, `250ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match nanos {
            0 => f.write_str("0s"),
            1..1000 => write!(f, "{nanos}ns"),
            1000..1_000_000 => write!(f, "{}µs", decimal(nanos, 1000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", decimal(nanos, 1_000_000)),
            _ => {
                let minutes = nanos / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write!(f, "{}s", decimal(nanos % 60_000_000_000, 1_000_000_000))
            }
        }
    }
}

/// A fraction without zeros at its end.
fn decimal(value: u64, unit: u64) -> String {
    let width = usize::try_from(unit.ilog10()).unwrap_or_default();
    let text = format!("{}.{:0width$}", value / unit, value % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_are_taken_and_longer_ones_refused() {
        for (text, expect) in [
            ("2562047h47m16.854775807s", Some(i64::MAX)),
            ("-2562047h47m16.854775808s", Some(i64::MIN)),
            ("2562047h47m16.854775808s", None),
            ("99999999999999999999h", None),
            ("9223372036854775807ns1ns", None),
        ] {
            assert_eq!(GoDuration::parse(text).ok(), expect.map(GoDuration), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(nanos in any::<i64>()) {
            let duration = GoDuration(nanos);
            prop_assert_eq!(GoDuration::parse(&duration.to_string()), Ok(duration));
        }

        #[test]
        fn any_text_is_answered(text in "[-+0-9.a-zµ]{0,24}") {
            let _ = GoDuration::parse(&text);
        }
    }
}
