//! Reading schedules.

use super::{Fields, STAR, Schedule, duration, zone};

/// What a field may hold.
struct Bounds {
    low: u64,
    high: u64,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { low: 0, high: 59, names: &[] };
const HOURS: Bounds = Bounds { low: 0, high: 23, names: &[] };
const DAYS: Bounds = Bounds { low: 1, high: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    low: 1,
    high: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Bounds {
    fn all(&self) -> u64 {
        bits(self.low, self.high, 1) | STAR
    }
}

/// Reads a schedule with the zone before it, if there is one.
pub(super) fn schedule(text: &str) -> Result<Schedule, String> {
    if text.is_empty() {
        return Err("empty spec string".into());
    }
    let named = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="));
    let (zone, text) = match named {
        Some(rest) => {
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            let zone = zone::load(name).map_err(|error| format!("provided bad location {name}: {error}"))?;
            (Some(zone), rest.trim())
        }
        None => (None, text),
    };
    let mut schedule = if text.starts_with('@') { descriptor(text)? } else { five_fields(text)? };
    if let Schedule::Fields(fields) = &mut schedule {
        fields.zone = zone;
    }
    Ok(schedule)
}

fn descriptor(text: &str) -> Result<Schedule, String> {
    let every_day = (DAYS.all(), MONTHS.all(), WEEKDAYS.all());
    let (hour, (day, month, weekday)) = match text {
        "@yearly" | "@annually" => (1, (1 << 1, 1 << 1, WEEKDAYS.all())),
        "@monthly" => (1, (1 << 1, MONTHS.all(), WEEKDAYS.all())),
        "@weekly" => (1, (DAYS.all(), MONTHS.all(), 1)),
        "@daily" | "@midnight" => (1, every_day),
        "@hourly" => (HOURS.all(), every_day),
        other => {
            let Some(length) = other.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {other}"));
            };
            let nanos =
                duration::parse(length).map_err(|error| format!("failed to parse duration {other}: {error}"))?;
            return Ok(Schedule::Every((nanos / 1_000_000_000).max(1)));
        }
    };
    Ok(Schedule::Fields(Fields { minute: 1, hour, day, month, weekday, zone: None }))
}

fn five_fields(text: &str) -> Result<Schedule, String> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = parts[..] else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    };
    Ok(Schedule::Fields(Fields {
        minute: field(minute, &MINUTES)?,
        hour: field(hour, &HOURS)?,
        day: field(day, &DAYS)?,
        month: field(month, &MONTHS)?,
        weekday: field(weekday, &WEEKDAYS)?,
        zone: None,
    }))
}

fn field(text: &str, bounds: &Bounds) -> Result<u64, String> {
    text.split(',').filter(|part| !part.is_empty()).try_fold(0, |set, part| Ok(set | range(part, bounds)?))
}

/// `number`, `number-number`, `*` or `?`, each with `/step` if wanted.
fn range(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let mut halves = text.split('/');
    let (span, step, more) = (halves.next().unwrap_or_default(), halves.next(), halves.next().is_some());
    let ends: Vec<&str> = span.split('-').collect();
    let star = matches!(ends[0], "*" | "?");
    let (start, mut end) = match ends[..] {
        _ if star => (bounds.low, bounds.high),
        [one] => (number_or_name(one, bounds)?, number_or_name(one, bounds)?),
        [first, last] => (number_or_name(first, bounds)?, number_or_name(last, bounds)?),
        [first, ..] => {
            number_or_name(first, bounds)?;
            return Err(format!("too many hyphens: {text}"));
        }
        [] => unreachable!("a split text has a part"),
    };
    if more {
        return Err(format!("too many slashes: {text}"));
    }
    let width = step.map_or(Ok(1), number)?;
    if step.is_some() && ends.len() == 1 {
        end = bounds.high;
    }
    check(text, (start, end, width), bounds)?;
    let mark = if star && width == 1 { STAR } else { 0 };
    Ok(bits(start, end, width) | mark)
}

fn check(text: &str, (start, end, step): (u64, u64, u64), bounds: &Bounds) -> Result<(), String> {
    let Bounds { low, high, .. } = bounds;
    if start < *low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {text}"));
    }
    if end > *high {
        return Err(format!("end of range ({end}) above maximum ({high}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

fn bits(start: u64, end: u64, step: u64) -> u64 {
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    (start..=end).step_by(step.max(1)).fold(0, |set, bit| set | 1 << bit)
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let lower = text.to_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(at) => Ok(bounds.low + at as u64),
        None => number(text),
    }
}

/// A number as Go's `strconv.Atoi` reads it.
fn number(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let wrong = |why: &str| {
        let quoted = serde_json::Value::from(text);
        Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {quoted}: {why}"))
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return wrong("invalid syntax");
    }
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(number.unsigned_abs()),
        Err(_) => wrong("value out of range"),
    }
}
