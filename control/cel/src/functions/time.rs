//! Points in time, as Go reads and prints them.

/// A point in time, and the offset from UTC in which it was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Time {
    /// Since 1970.
    pub seconds: i64,
    pub nanos: u32,
    /// East of UTC, in seconds.
    pub offset: i32,
}

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
pub(crate) const MIN: i64 = -62_135_596_800;
pub(crate) const MAX: i64 = 253_402_300_799;

impl Time {
    /// Two times of the same instant are equal here.
    #[must_use]
    pub fn instant(&self) -> (i64, u32) {
        (self.seconds, self.nanos)
    }

    /// Go's zero time.
    pub(crate) fn is_zero(self) -> bool {
        self.instant() == (MIN, 0)
    }

    pub(crate) fn civil(self) -> Civil {
        let local = self.seconds + i64::from(self.offset);
        let (days, of_day) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        let (year, month, day) = date_of(days);
        Civil { days, year, month, day, of_day, nanos: self.nanos }
    }

    /// RFC 3339, with as many decimals as there are.
    pub(crate) fn text(self) -> String {
        let civil = self.civil();
        let (hour, minute, second) = (civil.of_day / 3600, civil.of_day / 60 % 60, civil.of_day % 60);
        let mut text =
            format!("{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}", civil.year, civil.month, civil.day);
        if self.nanos > 0 {
            let fraction = format!("{:09}", self.nanos);
            text.push('.');
            text += fraction.trim_end_matches('0');
        }
        if self.offset == 0 {
            text.push('Z');
        } else {
            let minutes = self.offset.abs() / 60;
            text.push(if self.offset < 0 { '-' } else { '+' });
            text += &format!("{:02}:{:02}", minutes / 60, minutes % 60);
        }
        text
    }
}

/// A time by the calendar.
pub(crate) struct Civil {
    /// Since 1970.
    pub(crate) days: i64,
    pub(crate) year: i64,
    pub(crate) month: i64,
    pub(crate) day: i64,
    /// Seconds of the day.
    pub(crate) of_day: i64,
    pub(crate) nanos: u32,
}

impl Civil {
    /// From 0, Sunday.
    pub(crate) fn weekday(&self) -> i64 {
        (self.days + 4).rem_euclid(7)
    }

    /// From 0.
    pub(crate) fn day_of_year(&self) -> i64 {
        self.days - days_of(self.year, 1, 1)
    }
}

/// Days since 1970 of a date of the Gregorian calendar.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

struct Reader<'t>(&'t [u8]);

impl Reader<'_> {
    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        let number = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
        self.0 = rest;
        number.parse().ok()
    }

    fn skip(&mut self, byte: u8) -> Option<()> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        (*first == byte).then_some(())
    }

    fn date(&mut self) -> Option<i64> {
        let year = self.digits(4)?;
        self.skip(b'-')?;
        let month = self.digits(2).filter(|month| (1..=12).contains(month))?;
        self.skip(b'-')?;
        let day = self.digits(2).filter(|day| *day >= 1 && *day <= days_in(year, month))?;
        Some(days_of(year, month, day))
    }

    /// Seconds of the day and nanoseconds. An hour may have one digit.
    fn clock(&mut self) -> Option<(i64, u32)> {
        let short = self.0.get(1).is_some_and(|b| *b == b':');
        let hour = self.digits(if short { 1 } else { 2 }).filter(|hour| *hour < 24)?;
        self.skip(b':')?;
        let minute = self.digits(2).filter(|minute| *minute < 60)?;
        self.skip(b':')?;
        let second = self.digits(2).filter(|second| *second < 60)?;
        Some((hour * 3600 + minute * 60 + second, self.fraction()))
    }

    fn fraction(&mut self) -> u32 {
        let more = matches!(self.0.first(), Some(b'.' | b',')) && self.0.get(1).is_some_and(u8::is_ascii_digit);
        if !more {
            return 0;
        }
        let digits = self.0[1..].iter().take_while(|b| b.is_ascii_digit()).count();
        let nanos = (0..9).fold(0, |sum, at| sum * 10 + if at < digits { u32::from(self.0[1 + at] - b'0') } else { 0 });
        self.0 = &self.0[1 + digits..];
        nanos
    }

    fn zone(&mut self) -> Option<i32> {
        let sign = match self.0.first()? {
            b'Z' => {
                self.0 = &self.0[1..];
                return Some(0);
            }
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        self.0 = &self.0[1..];
        let hours = self.digits(2).filter(|hours| *hours <= 24)?;
        self.skip(b':')?;
        let minutes = self.digits(2).filter(|minutes| *minutes < 60)?;
        i32::try_from(sign * (hours * 3600 + minutes * 60)).ok()
    }
}

fn read(text: &str, zoned: bool) -> Option<Time> {
    let mut reader = Reader(text.as_bytes());
    let days = reader.date()?;
    reader.skip(b'T')?;
    let (of_day, nanos) = reader.clock()?;
    let offset = if zoned { reader.zone()? } else { 0 };
    let seconds = days * 86_400 + of_day - i64::from(offset);
    reader.0.is_empty().then_some(Time { seconds, nanos, offset })
}

/// RFC 3339.
pub(crate) fn rfc3339(text: &str) -> Option<Time> {
    read(text, true)
}

/// What a schema's `date-time` takes: without a zone too; nothing is 1970.
pub(crate) fn lenient(text: &str) -> Option<Time> {
    if text.is_empty() {
        return Some(Time { seconds: 0, nanos: 0, offset: 0 });
    }
    read(text, true).or_else(|| read(text, false))
}

/// `2006-01-02`
pub(crate) fn date(text: &str) -> Option<Time> {
    let mut reader = Reader(text.as_bytes());
    let seconds = reader.date()? * 86_400;
    reader.0.is_empty().then_some(Time { seconds, nanos: 0, offset: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_there_and_back() {
        for days in (-719_162..2_932_896).step_by(17) {
            let (year, month, day) = date_of(days);
            assert_eq!(days_of(year, month, day), days);
        }
        for (text, printed) in [
            ("2024-01-01T00:00:00Z", Some("2024-01-01T00:00:00Z")),
            ("2024-02-29T23:59:59.500+01:30", Some("2024-02-29T23:59:59.5+01:30")),
            ("2024-01-01T0:00:00Z", Some("2024-01-01T00:00:00Z")),
            ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z")),
            ("2023-02-29T00:00:00Z", None),
            ("2024-01-01", None),
            ("2024-01-01t00:00:00z", None),
            ("2016-12-31T23:59:60Z", None),
        ] {
            assert_eq!(rfc3339(text).map(Time::text).as_deref(), printed, "{text}");
        }
    }
}
