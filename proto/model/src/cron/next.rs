//! The next time of a schedule: field by field from the month down, and from the start again when one wraps around.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::TimeZone;

use super::{Fields, STAR};

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
/// A schedule without a time in this many years has none.
const YEARS: i16 = 5;

/// Seconds since 1970 with their meaning in a zone.
struct Clock<'a> {
    zone: &'a TimeZone,
    now: i64,
}

impl Clock<'_> {
    fn offset(&self, at: i64) -> Option<i64> {
        Some(i64::from(self.zone.to_offset(Timestamp::from_second(at).ok()?).seconds()))
    }

    fn local(&self) -> Option<DateTime> {
        Some(self.zone.to_datetime(Timestamp::from_second(self.now).ok()?))
    }

    /// The moment of a local time, as Go's `time.Date` chooses among those that it may mean.
    fn moment(&self, local: DateTime) -> Option<i64> {
        let unix = TimeZone::UTC.to_timestamp(local).ok()?.as_second();
        let offset = self.offset(unix)?;
        if offset == 0 {
            return Some(unix);
        }
        Some(unix - self.offset(unix - offset)?)
    }

    fn add(&mut self, seconds: i64) -> Option<()> {
        self.now = self.now.checked_add(seconds)?;
        Some(())
    }
}

/// The first time after `after`.
pub(super) fn fields(fields: &Fields, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let zone = fields.zone.as_ref().unwrap_or(zone);
    let whole = i64::try_from(after.as_nanosecond().div_euclid(1_000_000_000)).ok()?;
    let mut clock = Clock { zone, now: whole.checked_add(1)? };
    let limit = clock.local()?.year().checked_add(YEARS)?;
    // Whether a field was moved: those below it begin at their lowest then.
    let mut moved = false;
    while clock.local()?.year() <= limit {
        let found = month(fields, &mut clock, &mut moved)?
            && day(fields, &mut clock, &mut moved)?
            && hour(fields, &mut clock, &mut moved)?
            && minute(fields, &mut clock, &mut moved)?
            && second(&mut clock, &mut moved)?;
        if found {
            return Timestamp::from_second(clock.now).ok();
        }
    }
    None
}

fn has(set: u64, value: i8) -> bool {
    set & (1 << value) != 0
}

/// Moves on to a month of the set; false if the year wrapped around.
fn month(fields: &Fields, clock: &mut Clock<'_>, moved: &mut bool) -> Option<bool> {
    loop {
        let local = clock.local()?;
        if has(fields.month, local.month()) {
            return Some(true);
        }
        if !*moved {
            *moved = true;
            clock.now = clock.moment(local.date().first_of_month().to_datetime(jiff::civil::Time::midnight()))?;
        }
        let local = clock.local()?;
        clock.now = clock.moment(in_next_month(local)?)?;
        if clock.local()?.month() == 1 {
            return Some(false);
        }
    }
}

/// The same day and time of the next month. That month may be shorter: what is too much runs into the one after it.
fn in_next_month(local: DateTime) -> Option<DateTime> {
    let (year, month) = if local.month() == 12 { (local.year() + 1, 1) } else { (local.year(), local.month() + 1) };
    let first = Date::new(year, month, 1).ok()?;
    let days = jiff::Span::new().days(i64::from(local.day()) - 1);
    Some(first.checked_add(days).ok()?.to_datetime(local.time()))
}

/// Moves on to a day that fits; false if the month wrapped around.
fn day(fields: &Fields, clock: &mut Clock<'_>, moved: &mut bool) -> Option<bool> {
    loop {
        let local = clock.local()?;
        if fits(fields, local) {
            return Some(true);
        }
        if !*moved {
            *moved = true;
            clock.now = clock.moment(local.date().to_datetime(jiff::civil::Time::midnight()))?;
        }
        let tomorrow = clock.local()?.checked_add(jiff::Span::new().days(1)).ok()?;
        clock.now = clock.moment(tomorrow)?;
        // Midnight may be skipped where clocks are put forward.
        let hour = i64::from(clock.local()?.hour());
        if hour > 12 {
            clock.add((24 - hour) * HOUR)?;
        } else {
            clock.add(-hour * HOUR)?;
        }
        if clock.local()?.day() == 1 {
            return Some(false);
        }
    }
}

/// Days of the month and of the week: one of them is enough if neither was a star.
fn fits(fields: &Fields, local: DateTime) -> bool {
    let by_month = has(fields.day, local.day());
    let by_week = has(fields.weekday, local.weekday().since(Weekday::Sunday));
    if (fields.day | fields.weekday) & STAR != 0 { by_month && by_week } else { by_month || by_week }
}

fn hour(fields: &Fields, clock: &mut Clock<'_>, moved: &mut bool) -> Option<bool> {
    loop {
        let local = clock.local()?;
        if has(fields.hour, local.hour()) {
            return Some(true);
        }
        if !*moved {
            *moved = true;
            let time = jiff::civil::Time::new(local.hour(), 0, 0, 0).ok()?;
            clock.now = clock.moment(local.date().to_datetime(time))?;
        }
        clock.add(HOUR)?;
        if clock.local()?.hour() == 0 {
            return Some(false);
        }
    }
}

fn minute(fields: &Fields, clock: &mut Clock<'_>, moved: &mut bool) -> Option<bool> {
    loop {
        let local = clock.local()?;
        if has(fields.minute, local.minute()) {
            return Some(true);
        }
        if !*moved {
            *moved = true;
            clock.now -= clock.now.rem_euclid(MINUTE);
        }
        clock.add(MINUTE)?;
        if clock.local()?.minute() == 0 {
            return Some(false);
        }
    }
}

/// Schedules of five fields are due in second 0.
fn second(clock: &mut Clock<'_>, moved: &mut bool) -> Option<bool> {
    loop {
        if clock.local()?.second() == 0 {
            return Some(true);
        }
        *moved = true;
        clock.add(1)?;
        if clock.local()?.second() == 0 {
            return Some(false);
        }
    }
}
