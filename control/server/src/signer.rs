//! Certificates that others ask for by a CertificateSigningRequest, signed with the cluster's CA.
//!
//! Invariants
//! - Who may have which certificate is decided elsewhere (`kontiki_plan::certificates`). Here it is only made sure that
//!   nobody becomes a master, and that a certificate says no more than the request's subject, its alternative names and
//!   the usages that were granted.
//! - A subject that cannot be kept as it is is refused, not shortened.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use kontiki_api::leader::Signer;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose as Extended, IsCa,
    KeyUsagePurpose as Use,
};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest, X509Name};

use crate::pki::{Pki, SERVER_PREFIX, SERVERS, dn_text, serial, set_life};

/// Clocks differ; as upstream's signers.
const BACKDATE: Duration = Duration::from_secs(300);
/// What lives shorter ends as late as was asked for, in spite of the earlier beginning.
const SHORT: Duration = Duration::from_secs(8 * 3600);
/// `id-at-organizationName`.
const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];

impl Signer for Pki {
    fn sign(&self, request_pem: &str, usages: &[String], life: Duration) -> Result<String, String> {
        let signed = params(request_pem, usages, life, Timestamp::now()).and_then(|(mut params, request)| {
            let name = params.distinguished_name.get(&DnType::CommonName).map(dn_text).unwrap_or_default();
            self.begin_anew(&mut params, &name)?;
            let key = request.public_key;
            Ok(params.signed_by(&key, self.issuer())?.pem())
        });
        signed.map_err(|error| format!("{error:#}"))
    }
}

/// What the certificate says, and the request.
fn params(
    request_pem: &str,
    usages: &[String],
    life: Duration,
    now: Timestamp,
) -> anyhow::Result<(CertificateParams, CertificateSigningRequestParams)> {
    let request = CertificateSigningRequestParams::from_pem(request_pem).context("the request cannot be read")?;
    let organizations = organizations(request_pem)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = request.params.distinguished_name.clone();
    params.distinguished_name.remove(DnType::OrganizationName);
    // The library keeps one value per type, so a second organization is named by its OID.
    for (kind, name) in
        [DnType::OrganizationName, DnType::CustomDnType(ORGANIZATION.to_vec())].into_iter().zip(&organizations)
    {
        params.distinguished_name.push(kind, name.as_str());
    }
    params.subject_alt_names = request.params.subject_alt_names.clone();
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
    params.extended_key_usages = usages.iter().filter_map(|usage| extended_usage(usage)).collect();
    params.serial_number = Some(serial());
    let rest = if life < SHORT { life } else { life.saturating_sub(BACKDATE) };
    set_life(&mut params, BACKDATE, rest, now)?;
    Ok((params, request))
}

/// The organizations of a request whose subject can be kept.
fn organizations(request_pem: &str) -> anyhow::Result<Vec<String>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(request_pem.as_bytes()).context("the request is no PEM")?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).context("the request cannot be read")?;
    let subject: &X509Name<'_> = &request.certification_request_info.subject;
    let mut counts = BTreeMap::<String, usize>::new();
    for attribute in subject.iter_attributes() {
        *counts.entry(attribute.attr_type().to_id_string()).or_default() += 1;
    }
    if counts.iter().any(|(kind, count)| *count > if kind == "2.5.4.10" { 2 } else { 1 }) {
        bail!("the subject has more than two organizations, or another attribute twice");
    }
    let text = |name: Result<&str, _>| name.map(str::to_owned).context("the subject is no text");
    let organizations: Vec<String> =
        subject.iter_organization().map(|name| text(name.as_str())).collect::<anyhow::Result<_>>()?;
    let common = subject.iter_common_name().next().map(|name| text(name.as_str())).transpose()?.unwrap_or_default();
    if organizations.iter().any(|name| name == SERVERS) || common.starts_with(SERVER_PREFIX) {
        bail!("certificates of masters are not given on request");
    }
    Ok(organizations)
}

fn key_usage(usage: &str) -> Option<Use> {
    Some(match usage {
        "signing" | "digital signature" => Use::DigitalSignature,
        "content commitment" => Use::ContentCommitment,
        "key encipherment" => Use::KeyEncipherment,
        "key agreement" => Use::KeyAgreement,
        "data encipherment" => Use::DataEncipherment,
        "cert sign" => Use::KeyCertSign,
        "crl sign" => Use::CrlSign,
        "encipher only" => Use::EncipherOnly,
        "decipher only" => Use::DecipherOnly,
        _ => return None,
    })
}

fn extended_usage(usage: &str) -> Option<Extended> {
    let pkix = |last: u64| Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, last]);
    Some(match usage {
        "any" => Extended::Any,
        "server auth" => Extended::ServerAuth,
        "client auth" => Extended::ClientAuth,
        "code signing" => Extended::CodeSigning,
        "email protection" | "s/mime" => Extended::EmailProtection,
        "ipsec end system" => pkix(5),
        "ipsec tunnel" => pkix(6),
        "ipsec user" => pkix(7),
        "timestamping" => Extended::TimeStamping,
        "ocsp signing" => Extended::OcspSigning,
        "microsoft sgc" => Extended::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => Extended::Other(vec![2, 16, 840, 1, 113_730, 4, 1]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{DistinguishedName, KeyPair};
    use x509_parser::prelude::X509Certificate;

    use super::*;
    use crate::pki::pem_der;

    fn request(names: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::new(vec!["a.example.com".to_owned()]).expect("names");
        params.distinguished_name = DistinguishedName::new();
        names.iter().for_each(|(kind, name)| params.distinguished_name.push(kind.clone(), *name));
        params.serialize_request(&KeyPair::generate().expect("key")).expect("request").pem().expect("PEM")
    }

    fn another() -> DnType {
        DnType::CustomDnType(ORGANIZATION.to_vec())
    }

    #[test]
    fn a_certificate_says_what_was_granted() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pki = Pki::open_or_create(dir.path()).expect("new PKI");
        let request = request(&[(DnType::CommonName, "u"), (DnType::OrganizationName, "g"), (another(), "h")]);
        let usages = ["digital signature", "client auth"].map(str::to_owned);
        let sign = || pki.sign(&request, &usages, Duration::from_secs(3600)).expect("signed");
        let der = pem_der(&sign()).expect("PEM");
        let (_, certificate) = X509Certificate::from_der(&der).expect("a certificate");
        let organizations: Vec<&str> =
            certificate.subject().iter_organization().map(|o| o.as_str().expect("text")).collect();
        assert_eq!(organizations, ["g", "h"]);
        assert!(!certificate.is_ca());
        let extended = certificate.extended_key_usage().expect("readable").expect("there").value;
        assert!(extended.client_auth && !extended.server_auth);
        let validity = certificate.validity();
        assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 3900);
        let other = pem_der(&sign()).expect("PEM");
        let (_, other) = X509Certificate::from_der(&other).expect("a certificate");
        assert_ne!(certificate.serial, other.serial, "each certificate has a number of its own");
    }

    #[test]
    fn nobody_becomes_a_master_and_nothing_is_lost() {
        for (what, names, expect) in [
            ("a master's group", vec![(DnType::OrganizationName, SERVERS)], "certificates of masters"),
            ("hidden", vec![(DnType::OrganizationName, "g"), (another(), SERVERS)], "certificates of masters"),
            ("a master's name", vec![(DnType::CommonName, "system:kontiki:server:a")], "certificates of masters"),
        ] {
            let error = params(&request(&names), &[], Duration::from_secs(600), Timestamp::now()).err();
            let error = error.map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains(expect), "{what}: {error}");
        }
        assert!(params("no PEM", &[], SHORT, Timestamp::now()).is_err());
    }
}
