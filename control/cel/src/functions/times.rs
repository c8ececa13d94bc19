//! Parts of times and durations.

use jiff::Timestamp;
use kontiki_model::cron::zone;

use super::duration;
use super::table::{Row, row};
use super::time::{Civil, Time};
use crate::value::{EvalError, NO_OVERLOAD, Res, Value, failure};

/// A part of a time, in UTC or in the zone that the second argument names.
fn part<'a>(args: &[Value<'a>], of: fn(&Civil) -> i64) -> Res<'a> {
    let Value::Timestamp(time) = &args[0] else { return Err(NO_OVERLOAD) };
    let offset = match args.get(1) {
        Some(Value::String(zone)) => offset(*time, zone)?,
        Some(_) => return Err(NO_OVERLOAD),
        None => 0,
    };
    Ok(Value::Int(of(&Time { offset, ..*time }.civil())))
}

/// Seconds east of UTC: of a zone by name, or `+02:00`.
fn offset(time: Time, zone: &str) -> Result<i32, EvalError> {
    let Some((hours, minutes)) = zone.split_once(':') else {
        let found = zone::load(zone).map_err(failure)?;
        let at = Timestamp::from_second(time.seconds).unwrap_or(Timestamp::MIN);
        return Ok(found.to_offset(at).seconds());
    };
    let number = |text: &str| -> Result<i32, EvalError> {
        text.parse().map_err(|_| failure(format!("strconv.Atoi: parsing {}: invalid syntax", super::go::quote(text))))
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if !(0..60).contains(&minutes) {
        return Err(failure(format!("timezone offset minutes out of range [0, 59]: {zone}")));
    }
    let minutes = if zone.starts_with('-') { -minutes } else { minutes };
    Ok(hours.saturating_mul(60).saturating_add(minutes).saturating_mul(60))
}

fn year<'a>(args: &[Value<'a>]) -> Res<'a> {
    part(args, |civil| civil.year)
}

fn month<'a>(args: &[Value<'a>]) -> Res<'a> {
    part(args, |civil| civil.month - 1)
}

fn day_of_year<'a>(args: &[Value<'a>]) -> Res<'a> {
    part(args, Civil::day_of_year)
}

fn day_from_zero<'a>(args: &[Value<'a>]) -> Res<'a> {
    part(args, |civil| civil.day - 1)
}

fn day_from_one<'a>(args: &[Value<'a>]) -> Res<'a> {
    part(args, |civil| civil.day)
}

fn weekday<'a>(args: &[Value<'a>]) -> Res<'a> {
    part(args, Civil::weekday)
}

fn hours<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::Duration(nanos) => Ok(Value::Int(nanos / 3_600_000_000_000)),
        _ => part(args, |civil| civil.of_day / 3600),
    }
}

fn minutes<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::Duration(nanos) => Ok(Value::Int(nanos / 60_000_000_000)),
        _ => part(args, |civil| civil.of_day / 60 % 60),
    }
}

fn seconds<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::Duration(nanos) => Ok(Value::Int(duration::seconds(*nanos) as i64)),
        _ => part(args, |civil| civil.of_day % 60),
    }
}

fn milliseconds<'a>(args: &[Value<'a>]) -> Res<'a> {
    match &args[0] {
        Value::Duration(nanos) => Ok(Value::Int(nanos / 1_000_000)),
        _ => part(args, |civil| i64::from(civil.nanos / 1_000_000)),
    }
}

const PLAIN: &str = "timestamp.() -> int";
const ZONED: &str = "timestamp.(string) -> int";
const OF_DURATION: &str = "duration.() -> int";

pub(crate) static ROWS: &[Row] = &[
    row(0, "getFullYear", "timestamp_to_year", PLAIN, year),
    row(0, "getFullYear", "timestamp_to_year_with_tz", ZONED, year),
    row(0, "getMonth", "timestamp_to_month", PLAIN, month),
    row(0, "getMonth", "timestamp_to_month_with_tz", ZONED, month),
    row(0, "getDayOfYear", "timestamp_to_day_of_year", PLAIN, day_of_year),
    row(0, "getDayOfYear", "timestamp_to_day_of_year_with_tz", ZONED, day_of_year),
    row(0, "getDayOfMonth", "timestamp_to_day_of_month", PLAIN, day_from_zero),
    row(0, "getDayOfMonth", "timestamp_to_day_of_month_with_tz", ZONED, day_from_zero),
    row(0, "getDate", "timestamp_to_day_of_month_1_based", PLAIN, day_from_one),
    row(0, "getDate", "timestamp_to_day_of_month_1_based_with_tz", ZONED, day_from_one),
    row(0, "getDayOfWeek", "timestamp_to_day_of_week", PLAIN, weekday),
    row(0, "getDayOfWeek", "timestamp_to_day_of_week_with_tz", ZONED, weekday),
    row(0, "getHours", "timestamp_to_hours", PLAIN, hours),
    row(0, "getHours", "timestamp_to_hours_with_tz", ZONED, hours),
    row(0, "getHours", "duration_to_hours", OF_DURATION, hours),
    row(0, "getMinutes", "timestamp_to_minutes", PLAIN, minutes),
    row(0, "getMinutes", "timestamp_to_minutes_with_tz", ZONED, minutes),
    row(0, "getMinutes", "duration_to_minutes", OF_DURATION, minutes),
    row(0, "getSeconds", "timestamp_to_seconds", PLAIN, seconds),
    row(0, "getSeconds", "timestamp_to_seconds_tz", ZONED, seconds),
    row(0, "getSeconds", "duration_to_seconds", OF_DURATION, seconds),
    row(0, "getMilliseconds", "timestamp_to_milliseconds", PLAIN, milliseconds),
    row(0, "getMilliseconds", "timestamp_to_milliseconds_with_tz", ZONED, milliseconds),
    row(0, "getMilliseconds", "duration_to_milliseconds", OF_DURATION, milliseconds),
];
