//! Trust in a cluster of which nothing is known but the hash of its CA's key.
//!
//! Invariants
//! - A server is trusted only if it shows a CA whose key has the hash, and its chain and name verify against that CA as
//!   rustls verifies them.
//! - That no such CA is shown is remembered: time does not heal it, as it may heal other failures to connect.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{CaHash, provider};

/// What a server showed instead of the expected CA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unpinned {
    /// A CA whose key has this hash.
    Other(CaHash),
    /// No CA besides its own certificate.
    Nothing,
}

impl fmt::Display for Unpinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(hash) => write!(f, "its CA has {hash}"),
            Self::Nothing => f.write_str("it shows no CA"),
        }
    }
}

/// Verifies a server by the hash of its CA's key.
#[derive(Debug)]
pub struct Pin {
    hash: CaHash,
    provider: Arc<CryptoProvider>,
    unpinned: Mutex<Option<Unpinned>>,
}

impl Pin {
    /// Trusts the CA whose key has `hash`, and nothing else.
    #[must_use]
    pub fn new(hash: CaHash) -> Self {
        Self { hash, provider: provider(), unpinned: Mutex::new(None) }
    }

    /// What the last server showed that did not show the expected CA.
    #[must_use]
    pub fn unpinned(&self) -> Option<Unpinned> {
        *self.unpinned.lock()
    }

    /// The pinned CA among those that a server shows.
    fn find<'a, 'b>(&self, shown: &'a [CertificateDer<'b>]) -> Result<&'a CertificateDer<'b>, Unpinned> {
        let mut other = Unpinned::Nothing;
        for der in shown {
            match CaHash::of_certificate(der) {
                Ok(hash) if hash == self.hash => return Ok(der),
                Ok(hash) => other = Unpinned::Other(hash),
                Err(_) => {}
            }
        }
        Err(other)
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = self.find(shown).map_err(|unpinned| {
            *self.unpinned.lock() = Some(unpinned);
            rustls::Error::General(format!("the CA is not the expected one: {unpinned}"))
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(leaf, shown, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

    use super::*;

    struct Ca {
        der: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Ca {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            let der = params.self_signed(&key).unwrap().der().clone();
            Self { issuer: Issuer::new(params, key), der }
        }

        fn hash(&self) -> CaHash {
            CaHash::of_certificate(&self.der).unwrap()
        }

        fn leaf(&self) -> CertificateDer<'static> {
            let mut params = CertificateParams::default();
            params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
            params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
        }
    }

    #[test]
    fn a_pin_trusts_one_ca_only() {
        let (ours, other) = (Ca::new(), Ca::new());
        let (here, there) = ("10.0.0.1", "10.0.0.2");
        let cases = [
            ("as it should be", ours.leaf(), vec![ours.der.clone()], here, true, None),
            ("among others", ours.leaf(), vec![other.der.clone(), ours.der.clone()], here, true, None),
            ("another address", ours.leaf(), vec![ours.der.clone()], there, false, None),
            ("another CA", other.leaf(), vec![other.der.clone()], here, false, Some(Unpinned::Other(other.hash()))),
            ("no CA", ours.leaf(), vec![], here, false, Some(Unpinned::Nothing)),
            ("no certificate", ours.leaf(), vec![vec![1, 2].into()], here, false, Some(Unpinned::Nothing)),
            // The right CA beside a leaf that it did not sign.
            ("a leaf of another CA", other.leaf(), vec![ours.der.clone()], here, false, None),
        ];
        for (case, leaf, shown, name, trusted, unpinned) in cases {
            let pin = Pin::new(ours.hash());
            let name = ServerName::try_from(name).unwrap();
            let verified = pin.verify_server_cert(&leaf, &shown, &name, &[], UnixTime::now());
            assert_eq!((verified.is_ok(), pin.unpinned()), (trusted, unpinned), "{case}: {verified:?}");
        }
    }
}
