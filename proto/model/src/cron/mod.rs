//! Cron schedules as Kubernetes reads them: the five fields and the descriptors of `robfig/cron` v3, and its `Next`.
//!
//! Invariants
//! - A time that a zone skips is skipped, one that it repeats comes twice.
//! - Zones come from the IANA database that is compiled in, so that every master computes the same times.
//!
//! Sources: `github.com/robfig/cron/v3` (`parser.go`, `spec.go`, `constantdelay.go`), Go's `time.Date` and
//! `time.ParseDuration`.

pub(crate) mod duration;
mod next;
mod parse;
pub mod zone;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use zone::load as load_zone;

/// When something is due.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// At the times whose fields are all in the sets.
    Fields(Fields),
    /// Again and again after this many whole seconds.
    Every(i64),
}

/// Sets of minutes, hours and so on, a bit for each member. The highest bit says that a star stood there.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// The zone that the text itself names.
    zone: Option<TimeZone>,
}

/// Marks a set that was given by a star.
const STAR: u64 = 1 << 63;

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// Upstream's sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::schedule(text)
    }

    /// The first time after `after`, in the schedule's own zone or else in `zone`. `None` if none comes in five years.
    #[must_use]
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Fields(fields) => next::fields(fields, after, zone),
            Self::Every(seconds) => {
                let whole = i64::try_from(after.as_nanosecond().div_euclid(1_000_000_000)).ok()?;
                Timestamp::from_second(whole.checked_add(*seconds)?).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `schedule | zone | from | what comes, or the error`: as upstream's own library answers.
    const TABLE: &str = include_str!("../../data/cron.txt");

    fn answer(text: &str, zone: &str, from: &str, count: usize) -> Result<Vec<String>, String> {
        let zone = load_zone(zone)?;
        let schedule = Schedule::parse(text)?;
        let mut at: Timestamp = from.parse().map_err(|error: jiff::Error| error.to_string())?;
        let mut out = Vec::new();
        for _ in 0..count {
            at = schedule.next(at, &zone).ok_or("never")?;
            let shown = at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
            out.push(shown.replace("+00:00", "Z"));
        }
        Ok(out)
    }

    #[test]
    fn schedules_come_when_upstreams_do() {
        let mut rows = 0;
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let [text, zone, from, expect] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let got = answer(text, zone, from, expect.split(' ').count());
            match expect.strip_prefix("ERR ") {
                Some(error) => assert_eq!(got.err().as_deref(), Some(error), "{text}"),
                None => assert_eq!(got.map(|times| times.join(" ")).as_deref(), Ok(expect), "{text} in {zone}"),
            }
            rows += 1;
        }
        assert!(rows > 50, "{rows} rows");
    }

    #[test]
    fn what_never_comes_is_none() {
        let schedule = Schedule::parse("59 23 31 2 *").expect("its fields are legal");
        assert_eq!(schedule.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
        let last = Schedule::parse("* * * * *").expect("legal");
        assert_eq!(last.next(Timestamp::MAX, &TimeZone::UTC), None, "beyond the end of time");
    }

    #[test]
    fn zones_are_named_exactly() {
        for (name, known) in
            [("UTC", true), ("Europe/Berlin", true), ("europe/berlin", false), ("Mars/Olympus", false), ("", true)]
        {
            let loaded = load_zone(name);
            assert_eq!(loaded.is_ok(), known, "{name}");
            if let Err(error) = loaded {
                assert_eq!(error, format!("unknown time zone {name}"));
            }
        }
    }

    proptest! {
        /// Whatever is asked, the answer comes after it and its minute is in the set.
        #[test]
        fn time_goes_forward(from in 0i64..4_000_000_000, step in 1u8..30, zone in 0usize..4) {
            let name = ["UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"][zone];
            let zone = load_zone(name).expect("a zone");
            let schedule = Schedule::parse(&format!("*/{step} * * * *")).expect("a schedule");
            let after = Timestamp::from_second(from).expect("in range");
            let next = schedule.next(after, &zone).expect("each hour has one");
            prop_assert!(next > after);
            prop_assert!(next.as_second() - after.as_second() <= 2 * 3600);
            let minute = next.to_zoned(zone).minute();
            prop_assert_eq!(minute % i8::try_from(step).expect("small"), 0);
        }

        #[test]
        fn nothing_makes_it_panic(text in "[-*/,?@a-zA-Z0-9+= .]{0,24}") {
            if let Ok(schedule) = Schedule::parse(&text) {
                let _ = schedule.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC);
            }
        }
    }
}
