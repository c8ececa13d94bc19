//! How long a certificate is good for, and when it is renewed.

use jiff::Timestamp;
use x509_parser::{
    prelude::{FromDer as _, X509Certificate},
    time::ASN1Time,
};

use crate::NotACertificate;

/// The time in which a certificate is good, whole seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// Its first moment.
    pub from: Timestamp,
    /// Its last one.
    pub to: Timestamp,
}

impl Validity {
    /// A certificate's own.
    ///
    /// # Errors
    /// `der` is not a certificate.
    pub fn of_certificate(der: &[u8]) -> Result<Self, NotACertificate> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NotACertificate)?;
        let moment = |time: ASN1Time| Timestamp::from_second(time.timestamp()).map_err(|_| NotACertificate);
        let validity = certificate.validity();
        Ok(Self { from: moment(validity.not_before)?, to: moment(validity.not_after)? })
    }

    /// Whether it is time to renew it: two thirds of its life are over. The last third is for trying again.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let (from, to) = (self.from.as_second(), self.to.as_second());
        now.as_second() >= from + (to - from) / 3 * 2
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn certificates_are_renewed_in_time() {
        let validity = Validity { from: at(100), to: at(130) };
        for (name, age, expect) in [
            ("not yet valid", -5, false),
            ("half", 15, false),
            ("nearly", 19, false),
            ("two thirds", 20, true),
            ("over", 40, true),
        ] {
            assert_eq!(validity.is_due(at(100 + age)), expect, "{name}");
        }
    }

    #[test]
    fn a_certificate_says_how_long_it_is_good_for() {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2026, 1, 31));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let expect =
            Validity { from: "2026-01-01T00:00:00Z".parse().unwrap(), to: "2026-01-31T00:00:00Z".parse().unwrap() };
        assert_eq!(Validity::of_certificate(certificate.der()), Ok(expect));
        assert_eq!(Validity::of_certificate(b"\x30\x80garbage"), Err(NotACertificate));
    }
}
