//! Formats of texts, as kube-openapi's `pkg/validation/strfmt` judges them. A format that is not known restricts nothing.

use std::{net::IpAddr, sync::OnceLock};

use regex::Regex;

use crate::schema::duration::GoDuration;

/// Whether a text has a format.
pub(super) fn fits(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "datetime" => is_date_time(text),
        "date" => is_date(text),
        "duration" => is_duration(text),
        "ipv4" => text.contains('.') && ip(text).is_some(),
        "ipv6" => text.contains(':') && ip(text).is_some(),
        "cidr" => is_cidr(text),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "k8sshortname" => crate::meta::dns1123_label(text).is_empty(),
        "k8slongname" => crate::meta::dns1123_subdomain(text).is_empty(),
        known => PATTERNS.iter().position(|(name, _)| *name == known).is_none_or(|at| matches(at, text)),
    }
}

/// Formats that are patterns.
const PATTERNS: [(&str, &str); 11] = [
    ("uuid", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
    ("uuid3", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
    ("uuid4", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
    ("uuid5", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
    ("byte", "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$"),
    ("mac", "(?i)^([0-9a-f]{2}([:-][0-9a-f]{2}){5}|[0-9a-f]{2}([:-][0-9a-f]{2}){7}|[0-9a-f]{4}(\\.[0-9a-f]{4}){2,3})$"),
    ("ssn", "^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$"),
    ("hexcolor", "(?i)^#?([0-9a-f]{3}|[0-9a-f]{6})$"),
    (
        "rgbcolor",
        "^rgb\\(\\s*(0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])\\s*,\\s*(0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])\\s*,\\s*(0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])\\s*\\)$",
    ),
    ("bsonobjectid", "(?i)^[0-9a-f]{24}$"),
    ("password", ""),
];

fn matches(at: usize, text: &str) -> bool {
    static COMPILED: [OnceLock<Option<Regex>>; PATTERNS.len()] = [const { OnceLock::new() }; PATTERNS.len()];
    let compiled = COMPILED[at].get_or_init(|| Regex::new(PATTERNS[at].1).ok());
    compiled.as_ref().is_none_or(|regex| regex.is_match(text))
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok() && text.is_ascii() && text.as_bytes()[4] == b'-'
}

/// RFC 3339, with any character before a fraction.
fn is_date_time(text: &str) -> bool {
    static TIME: OnceLock<Option<Regex>> = OnceLock::new();
    let lower = text.to_lowercase();
    let Some((date, rest)) = lower.split_once('t') else { return false };
    // What follows another `t` is not looked at.
    let clock = rest.split('t').next().unwrap_or_default();
    let time =
        TIME.get_or_init(|| Regex::new("^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$").ok());
    let Some(found) = time.as_ref().and_then(|time| time.captures(clock)) else { return false };
    is_date(date) && &found[1] <= "23" && &found[2] <= "59" && &found[3] <= "59"
}

/// What Go reads, or numbers with units in words.
fn is_duration(text: &str) -> bool {
    const UNITS: [&str; 24] = [
        "ns",
        "nano",
        "us",
        "µs",
        "micro",
        "ms",
        "milli",
        "s",
        "sec",
        "m",
        "min",
        "h",
        "hr",
        "hour",
        "d",
        "day",
        "w",
        "wk",
        "week",
        "nanosecond",
        "microsecond",
        "millisecond",
        "minute",
        "second",
    ];
    /// Units that may go on: `minutes`, `hours`.
    const STEMS: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    static WORDS: OnceLock<Option<Regex>> = OnceLock::new();
    if GoDuration::parse(text).is_ok() {
        return true;
    }
    let words = WORDS.get_or_init(|| Regex::new("[0-9]+\\s*([A-Za-zµ]+)").ok());
    let Some(words) = words else { return true };
    words.captures_iter(text).any(|found| {
        let unit = found[1].to_lowercase();
        UNITS.contains(&unit.as_str()) || STEMS.iter().any(|stem| unit.starts_with(stem))
    })
}

/// An address; parts of one of version 4 may begin with zeros.
fn ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok();
    }
    let part = |part: &str| {
        let plain = !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| part.parse::<u8>().ok()).flatten()
    };
    let parts: Vec<u8> = text.split('.').map(part).collect::<Option<_>>()?;
    let parts: [u8; 4] = parts.try_into().ok()?;
    Some(parts.into())
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = if address.contains(':') { 128 } else { 32 };
    let plain = !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit());
    ip(address).is_some() && plain && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

/// An absolute URI or an absolute path.
fn is_uri(text: &str) -> bool {
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) || !has_whole_escapes(text) {
        return false;
    }
    let scheme = text.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    if text.starts_with(':') || (scheme.is_none() && !text.starts_with('/')) {
        return false;
    }
    let rest = scheme.map_or(text, |scheme| &text[scheme.len() + 1..]);
    let Some(authority) = rest.strip_prefix("//") else { return true };
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let port = host.rsplit_once(':').filter(|_| !host.ends_with(']')).map_or("", |(_, port)| port);
    !host.contains([' ', '"', '<', '>', '\\', '^', '`', '{', '|', '}']) && port.bytes().all(|b| b.is_ascii_digit())
}

/// Whether two digits follow each percent sign.
fn has_whole_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let atom = |text: &str| {
        !text.is_empty()
            && !text.starts_with('.')
            && !text.ends_with('.')
            && !text.contains("..")
            && !text.chars().any(|c| c.is_control() || " ()<>[]:;@\\,\"".contains(c))
    };
    let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"');
    (quoted || atom(local)) && atom(domain)
}

fn is_hostname(text: &str) -> bool {
    static NAME: OnceLock<Option<Regex>> = OnceLock::new();
    let name = NAME.get_or_init(|| {
        Regex::new(
            "^([a-zA-Z0-9\\p{S}\\p{L}]((-?[a-zA-Z0-9\\p{S}\\p{L}]{0,62})?)|([a-zA-Z0-9\\p{S}\\p{L}](([a-zA-Z0-9\\-\\p{S}\\p{L}]{0,61}[a-zA-Z0-9\\p{S}\\p{L}])?)(\\.)){1,}([a-zA-Z\\p{L}]){2,63})$",
        )
        .ok()
    });
    let fits = name.as_ref().is_none_or(|name| name.is_match(text));
    fits && text.len() <= 255 && text.split('.').all(|label| label.len() <= 63)
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter(|c| *c != '-' && *c != ' ').map(|c| c.to_digit(10).unwrap_or(99)).collect()
}

fn is_isbn10(text: &str) -> bool {
    let (head, last) = match text.strip_suffix(['X', 'x']) {
        Some(head) => (head, Some(10)),
        None => (text, None),
    };
    let numbers: Vec<u32> = digits(head).into_iter().chain(last).collect();
    let sum: u32 = numbers.iter().zip(1..).map(|(digit, weight)| digit * weight).sum();
    numbers.len() == 10 && numbers.iter().all(|digit| *digit <= 10) && sum.is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let numbers = digits(text);
    let sum: u32 = numbers.iter().zip([1, 3].into_iter().cycle()).map(|(digit, weight)| digit * weight).sum();
    numbers.len() == 13 && numbers.iter().all(|digit| *digit <= 9) && sum.is_multiple_of(10)
}

fn is_credit_card(text: &str) -> bool {
    let numbers = digits(text);
    let doubled = |(i, digit): (usize, &u32)| match (i % 2, digit * 2) {
        (0, _) => *digit,
        (_, twice) if twice > 9 => twice - 9,
        (_, twice) => twice,
    };
    let sum: u32 = numbers.iter().rev().enumerate().map(doubled).sum();
    (13..=19).contains(&numbers.len()) && numbers.iter().all(|digit| *digit <= 9) && sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn formats_are_judged_as_upstream_does() {
        for (format, good, bad) in [
            (
                "date-time",
                "2024-01-01t00:00:00z 2024-01-01T00:00:00.5+01:00",
                "2024-13-01T00:00:00Z 2024-01-01T24:00:00Z nope",
            ),
            ("date", "2024-02-29", "2023-02-29 20240229 x"),
            ("duration", "1d 3w 1.5h -5m 3days 1h30m", "x 5 d"),
            ("ipv4", "1.2.3.4 01.2.3.4", "1.2.3 1.2.3.256 ::1"),
            ("ipv6", "::1 fe80::1", "1.2.3.4 x:y"),
            ("cidr", "1.2.3.0/24 ::/0", "1.2.3.4 1.2.3.0/33 ::/129"),
            ("uri", "https://a/b?c mailto:x /a", "foo http://a:b/ :x %zz"),
            ("email", "a@b.c", "a b@ @c a@b@"),
            ("hostname", "a a.example", "a_b -a"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "x 123e"),
            ("byte", "aGk= aGkK", "??? a"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("isbn10", "0-306-40615-2", "0-306-40615-3"),
            ("isbn13", "978-0-306-40615-7", "978-0-306-40615-8"),
            ("creditcard", "4111111111111111", "4111111111111112 1"),
            ("hexcolor", "#fff 00ff00", "#ff"),
            ("k8s-short-name", "a-b", "A a."),
            ("semver", "anything", ""),
        ] {
            for text in good.split_whitespace() {
                assert!(fits(format, text), "{format}: {text}");
            }
            for text in bad.split_whitespace() {
                assert!(!fits(format, text), "{format}: {text}");
            }
        }
    }
}
