//! Times as upstream reads and prints them: RFC 3339 with Go's liberties in, UTC with whole seconds or with exactly six
//! decimals out. Years 0000 to 9999 and what offsets make of them.

use jiff::Timestamp;

/// Layouts as Go's errors name them.
const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
const MICROS: &str = "2006-01-02T15:04:05.000000Z07:00";
const DAY: i64 = 86_400;

/// A moment: seconds since 1970, and nanoseconds.
type Moment = (i64, u32);

/// The canonical form of a `Time`.
///
/// # Errors
/// Upstream's sentence when the text is no such time.
pub fn seconds(text: &str) -> Result<String, String> {
    let (seconds, _) = moment(text, SECONDS)?;
    Ok(print(seconds, None))
}

/// The canonical form of a `MicroTime`.
///
/// # Errors
/// Upstream's sentence when the text is no time with exactly six decimals.
pub fn micros(text: &str) -> Result<String, String> {
    let (seconds, nanos) = moment(text, MICROS)?;
    Ok(print(seconds, Some(nanos / 1000)))
}

/// A time as a `Time` prints it.
#[must_use]
pub fn print_seconds(time: Timestamp) -> String {
    print(floor(time).0, None)
}

/// A time as a `MicroTime` prints it.
#[must_use]
pub fn print_micros(time: Timestamp) -> String {
    let (seconds, nanos) = floor(time);
    print(seconds, Some(nanos / 1000))
}

/// Seconds since 1970 as a `Time` prints them, with microseconds as a `MicroTime`. `None` beyond the years that have
/// four digits.
#[must_use]
pub fn print_unix(seconds: i64, micros: Option<u32>) -> Option<String> {
    (unix_of(0, 1, 1)..unix_of(10_000, 1, 1)).contains(&seconds).then(|| print(seconds, micros.map(|m| m.min(999_999))))
}

/// Seconds since 1970 and nanoseconds of a text. `None` if it is no time.
#[must_use]
pub fn unix(text: &str) -> Option<(i64, u32)> {
    moment(text, SECONDS).ok()
}

/// A text as a moment that can be reckoned with. `None` if it is no time, or one that the calendar of the clock does not
/// reach (the last day of 9999).
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    let (seconds, nanos) = unix(text)?;
    Timestamp::new(seconds, i32::try_from(nanos).ok()?).ok()
}

/// Whole seconds before the time, and what is left.
fn floor(time: Timestamp) -> Moment {
    let nanos = time.as_nanosecond();
    let seconds = nanos.div_euclid(1_000_000_000);
    (i64::try_from(seconds).unwrap_or_default(), u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or_default())
}

/// A text that is read from the left.
struct Reader<'a> {
    whole: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl<'a> Reader<'a> {
    /// What stands here is not what the layout wants.
    fn unlike(&self, wanted: &str) -> String {
        let quote = crate::field_error::quote;
        format!(
            "parsing time {} as {:?}: cannot parse {} as {wanted:?}",
            quote(self.whole),
            self.layout,
            quote(self.rest)
        )
    }

    fn beyond(&self, what: &str) -> String {
        format!("parsing time {}: {what} out of range", crate::field_error::quote(self.whole))
    }

    fn literal(&mut self, wanted: &str) -> Result<(), String> {
        self.rest = self.rest.strip_prefix(wanted).ok_or_else(|| self.unlike(wanted))?;
        Ok(())
    }

    /// As many digits as there may be, at least `least`.
    fn number(&mut self, least: usize, most: usize, wanted: &str) -> Result<i64, String> {
        let digits = self.rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
        if digits < least {
            return Err(self.unlike(wanted));
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        Ok(number.parse().unwrap_or_default())
    }

    /// A fraction of a second, in nanoseconds; what is finer is dropped. Go takes a comma too.
    fn fraction(&mut self) -> u32 {
        let Some(digits) = self.rest.strip_prefix(['.', ',']) else { return 0 };
        let count = digits.bytes().take_while(u8::is_ascii_digit).count();
        if count == 0 {
            return 0;
        }
        let (fraction, rest) = digits.split_at(count);
        self.rest = rest;
        format!("{fraction:0<9}")[..9].parse().unwrap_or_default()
    }

    /// `Z` or an offset in seconds.
    fn zone(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let bytes = self.rest.as_bytes();
        let sign = match bytes.first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(self.unlike("Z07:00")),
        };
        let two = |at: usize| match bytes.get(at..at + 2) {
            Some([tens @ b'0'..=b'9', ones @ b'0'..=b'9']) => {
                Some(i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
            }
            _ => None,
        };
        let (Some(hours), Some(b':'), Some(minutes)) = (two(1), bytes.get(3), two(4)) else {
            return Err(self.unlike("Z07:00"));
        };
        if hours > 24 {
            return Err(self.beyond("time zone offset hour"));
        }
        if minutes > 60 {
            return Err(self.beyond("time zone offset minute"));
        }
        self.rest = &self.rest[6..];
        Ok(sign * (hours * 3600 + minutes * 60))
    }
}

/// Reads a time as Go's `time.Parse` does.
fn moment(text: &str, layout: &'static str) -> Result<Moment, String> {
    let mut reader = Reader { whole: text, rest: text, layout };
    let date = date(&mut reader)?;
    reader.literal("T")?;
    let hour = reader.number(1, 2, "15")?;
    if hour > 23 {
        return Err(reader.beyond("hour"));
    }
    reader.literal(":")?;
    let minute = reader.number(2, 2, "04")?;
    if minute > 59 {
        return Err(reader.beyond("minute"));
    }
    reader.literal(":")?;
    let second = reader.number(2, 2, "05")?;
    if second > 59 {
        return Err(reader.beyond("second"));
    }
    let nanos = if layout == MICROS { micro_fraction(&mut reader)? } else { reader.fraction() };
    let offset = reader.zone()?;
    if !reader.rest.is_empty() {
        let (whole, rest) = (crate::field_error::quote(text), crate::field_error::quote(reader.rest));
        return Err(format!("parsing time {whole}: extra text: {rest}"));
    }
    let (year, month, day) = date;
    if day < 1 || day > days_in(year, month) {
        return Err(reader.beyond("day"));
    }
    Ok((unix_of(year, month, day) + hour * 3600 + minute * 60 + second - offset, nanos))
}

fn date(reader: &mut Reader<'_>) -> Result<(i64, i64, i64), String> {
    let year = reader.number(4, 4, "2006")?;
    reader.literal("-")?;
    let month = reader.number(2, 2, "01")?;
    if !(1..=12).contains(&month) {
        return Err(reader.beyond("month"));
    }
    reader.literal("-")?;
    let day = reader.number(2, 2, "02")?;
    Ok((year, month, day))
}

/// Exactly six decimals.
fn micro_fraction(reader: &mut Reader<'_>) -> Result<u32, String> {
    let digits = reader.rest.strip_prefix(['.', ',']).and_then(|rest| rest.get(..6));
    let Some(digits) = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())) else {
        return Err(reader.unlike(".000000"));
    };
    reader.rest = &reader.rest[7..];
    Ok(digits.parse::<u32>().unwrap_or_default() * 1000)
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Seconds since 1970 of a day's beginning: days are counted in 400 years that begin in March.
fn unix_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, month) = (year.div_euclid(400), (month + 9) % 12);
    let of_era = year.rem_euclid(400);
    let day = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day;
    (days - 719_468) * DAY
}

/// The day of a moment.
fn civil(seconds: i64) -> (i64, i64, i64) {
    let days = seconds.div_euclid(DAY) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (month, day) = ((month + 2) % 12 + 1, day - (153 * month + 2) / 5 + 1);
    (year + era * 400 + i64::from(month <= 2), month, day)
}

fn print(seconds: i64, micros: Option<u32>) -> String {
    let ((year, month, day), time) = (civil(seconds), seconds.rem_euclid(DAY));
    let fraction = micros.map(|micros| format!(".{micros:06}")).unwrap_or_default();
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_rfc_3339_is_a_time() {
        for (text, seconds_form) in [
            ("2001-02-03T04:05:06Z", Some("2001-02-03T04:05:06Z")),
            ("2001-02-03T04:05:06.999999999Z", Some("2001-02-03T04:05:06Z")),
            ("2001-02-03T04:05:06-01:30", Some("2001-02-03T05:35:06Z")),
            ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z")),
            ("9999-12-31T23:59:59Z", Some("9999-12-31T23:59:59Z")),
            ("9999-12-31T23:59:59-01:00", Some("10000-01-01T00:59:59Z")),
            ("0000-01-01T00:00:00+01:00", Some("-001-12-31T23:00:00Z")),
            ("2000-02-29T00:00:00Z", Some("2000-02-29T00:00:00Z")),
            ("1900-02-29T00:00:00Z", None),
            ("2001-02-03", None),
            ("2001-02-03 04:05:06Z", None),
            ("2001-02-03t04:05:06z", None),
            ("2001-02-30T04:05:06Z", None),
            ("2001-02-03T04:05:60Z", None),
            ("", None),
            ("é", None),
            ("2001-02-03T04:05:06.Z", None),
            ("2001-02-03T04:05:06+é:00", None),
        ] {
            assert_eq!(seconds(text).ok().as_deref(), seconds_form, "{text}");
        }
        assert_eq!(micros("2001-02-03T04:05:06.000007+01:00").as_deref(), Ok("2001-02-03T03:05:06.000007Z"));
        for text in [
            "2001-02-03T04:05:06Z",
            "2001-02-03T04:05:06.1Z",
            "2001-02-03T04:05:06.0000001Z",
            "2001-02-03T04:05:06.00000éZ",
        ] {
            assert!(micros(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn days_are_those_of_the_calendar(seconds in -377_705_000_000i64..253_402_000_000) {
            if let Ok(time) = Timestamp::from_second(seconds) {
                let shown = time.to_zoned(jiff::tz::TimeZone::UTC).strftime("%m-%dT%H:%M:%SZ").to_string();
                prop_assert!(print_seconds(time).ends_with(&shown));
                if let Some(text) = print_unix(seconds, None) {
                    prop_assert_eq!(unix(&text), Some((seconds, 0)));
                }
            }
        }

        #[test]
        fn any_text_is_answered(text in "[0-9TZ:.,+é-]{0,40}") {
            let _ = (seconds(&text), micros(&text));
        }
    }
}
