//! When credentials are replaced: ServiceAccount tokens in volumes, and the certificate of a node that starts. (When a
//! running node renews its own is a rule that masters share: `kontiki_tls::Validity`.)

use jiff::{SignedDuration, Timestamp};

/// No token is kept longer than this.
const TOKEN_MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// A certificate that ends sooner than this is not worth starting with.
const CERTIFICATE_LEAST: SignedDuration = SignedDuration::from_hours(1);

/// Whether a token is replaced: a fifth of its life is left, or it is a day old.
#[must_use]
pub fn token_is_due(given: Timestamp, expires: Timestamp, now: Timestamp) -> bool {
    let (life, age) = (expires.as_second() - given.as_second(), now.as_second() - given.as_second());
    age >= (life / 5 * 4).min(TOKEN_MAX_AGE.as_secs())
}

/// Whether a node that starts with this certificate joins anew, if it can.
#[must_use]
pub fn certificate_is_stale(to: Timestamp, now: Timestamp) -> bool {
    to < now + CERTIFICATE_LEAST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn credentials_are_replaced_in_time() {
        let day = 24 * 3600;
        for (name, life, age, expect) in [
            ("a new token", 3600, 0, false),
            ("most of its life", 3600, 2879, false),
            ("a fifth is left", 3600, 2880, true),
            ("a token for a month", 30 * day, day - 1, false),
            ("after a day", 30 * day, day, true),
        ] {
            assert_eq!(token_is_due(at(100), at(100 + life), at(100 + age)), expect, "{name}");
        }
        for (name, left, expect) in
            [("a day", day, false), ("an hour", 3600, false), ("less", 3599, true), ("none", -1, true)]
        {
            assert_eq!(certificate_is_stale(at(100_000 + left), at(100_000)), expect, "{name}");
        }
    }
}
