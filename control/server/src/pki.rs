//! The cluster's certificates: one CA, short-lived leaves, the key that signs ServiceAccount tokens.
//!
//! Invariants
//! - A leaf's subject is built here from a checked name; nothing of a request's subject, extensions
//!   or lifetime is copied into a certificate. (What CertificateSigningRequests ask for: `signer`.)
//! - Nodes' keys never come here, servers' leaf keys never leave their machine.
//! - Existing key material is read or refused, never replaced.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use kontiki_cache::Vault;
use kontiki_tls::CaHash;
use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{datadir, revoked::Revoked};

/// Organization of servers: peers of the Raft group, callers of `Relay`.
pub const SERVERS: &str = "kontiki:servers";
/// Organization of nodes.
pub const NODES: &str = "system:nodes";
/// Organization of administrators.
pub const MASTERS: &str = "system:masters";
/// What servers' names begin with.
pub(crate) const SERVER_PREFIX: &str = "system:kontiki:server:";
const NODE_PREFIX: &str = "system:node:";

const DAY: Duration = Duration::from_secs(86_400);
const CA_LIFE: Duration = Duration::from_secs(3650 * 86_400);
/// Servers' and nodes' certificates; each is renewed when two thirds are over.
pub const LEAF_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// The administrator's certificate, and the one a server shows its peers until it restarts.
pub const LONG_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Clocks differ.
const BACKDATE: Duration = Duration::from_secs(3600);
/// A request for one P-256 key takes about 500 bytes.
const MAX_CSR: usize = 8 * 1024;

/// The names of the files that all servers share.
pub const SHARED: [&str; 4] = ["ca.crt", "ca.key", "sa.key", "sa.pub"];
/// The master keys of what is sealed in the store, one a line. They are shared too; a cluster that was made without has
/// none until it is given one.
pub const ENCRYPTION_KEY: &str = "encryption.key";

/// The CA and the ServiceAccount key, as kept in `pki/`.
pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// The CA certificate.
    pub ca_pem: String,
    ca_der: CertificateDer<'static>,
    /// The key that signs ServiceAccount tokens.
    pub sa_key_pem: String,
    /// Who was expelled: what is issued begins its life later.
    revoked: RwLock<Arc<Revoked>>,
}

/// A certificate and its key.
pub struct Leaf {
    /// The certificate alone.
    pub cert_pem: String,
    /// Its key.
    pub key_pem: String,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A server, with the names and addresses it is reached by.
    Server { name: &'a str, addresses: &'a [IpAddr], domain: &'a str },
    /// A node.
    Node { name: &'a str },
    /// The administrator.
    Admin,
    /// A master that passes requests on in others' names.
    FrontProxy,
}

impl Subject<'_> {
    /// The common name.
    #[must_use]
    pub fn common_name(&self) -> String {
        match self {
            Self::Server { name, .. } => format!("{SERVER_PREFIX}{name}"),
            Self::Node { name } => format!("{NODE_PREFIX}{name}"),
            Self::Admin => "kubernetes-admin".to_owned(),
            Self::FrontProxy => FRONT_PROXY.to_owned(),
        }
    }
}

/// The name in the certificate of a master that passes requests on in others' names, of the servers' organization.
pub const FRONT_PROXY: &str = "system:kontiki:front-proxy";

/// Who shows a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// The server of this name.
    Server(String),
    /// The node of this name.
    Node(String),
    /// Somebody else.
    Other,
}

impl Pki {
    /// Reads the PKI in `dir`, or makes a new one if there is none.
    ///
    /// # Errors
    /// A part is missing or damaged, or the disk refused.
    pub fn open_or_create(dir: &Path) -> anyhow::Result<Self> {
        if !SHARED.iter().any(|name| dir.join(name).exists()) {
            Self::install(dir, &new_files()?)?;
        }
        Self::open(dir)
    }

    /// Writes `files` into `dir`, which holds none of them yet. The CA certificate comes last: where
    /// it is, the others are.
    ///
    /// # Errors
    /// The disk refused, or there is a PKI already.
    pub fn install(dir: &Path, files: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
        if dir.join("ca.crt").exists() {
            bail!("{} holds a cluster's certificates already; nothing was overwritten", dir.display());
        }
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let find = |name: &str| files.iter().find(|(n, _)| n == name).map(|(_, content)| content);
        if let Some(content) = find(ENCRYPTION_KEY) {
            datadir::write(&dir.join(ENCRYPTION_KEY), content)?;
        }
        for name in SHARED.iter().rev() {
            datadir::write(&dir.join(name), find(name).with_context(|| format!("{name} is missing"))?)?;
        }
        Ok(())
    }

    /// Reads the PKI in `dir`.
    ///
    /// # Errors
    /// A part is missing or damaged.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let damaged = |name: &str| format!("{} is damaged", dir.join(name).display());
        let (ca_pem, ca_key, sa_key_pem) = (read("ca.crt")?, read("ca.key")?, read("sa.key")?);
        let key = KeyPair::from_pem(&ca_key).with_context(|| damaged("ca.key"))?;
        KeyPair::from_pem(&sa_key_pem).with_context(|| damaged("sa.key"))?;
        let ca_der = pem_der(&ca_pem).with_context(|| damaged("ca.crt"))?;
        let spki = key.subject_public_key_info();
        if spki_of(&ca_der).with_context(|| damaged("ca.crt"))? != spki {
            bail!("{}/ca.key is not the key of ca.crt", dir.display());
        }
        let issuer = Issuer::from_ca_cert_der(&ca_der, key).with_context(|| damaged("ca.crt"))?;
        Ok(Self { dir: dir.to_owned(), issuer, ca_pem, ca_der, sa_key_pem, revoked: RwLock::default() })
    }

    /// The files that a joining server needs.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn shared_files(&self) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let read = |name: &&str| {
            let path = self.dir.join(name);
            Ok(((*name).to_owned(), fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?))
        };
        let names =
            SHARED.iter().chain(&[ENCRYPTION_KEY]).filter(|name| SHARED.contains(name) || self.dir.join(name).exists());
        names.map(read).collect()
    }

    /// From now on `revoked` is who was expelled.
    pub(crate) fn heed(&self, revoked: Arc<Revoked>) {
        *self.revoked.write() = revoked;
    }

    /// Lets the life of a certificate for `name` begin after all those that were revoked.
    pub(crate) fn begin_anew(&self, params: &mut CertificateParams, name: &str) -> anyhow::Result<()> {
        if let Some(first) = self.revoked.read().begins(name) {
            let (year, month, day, over) = parts(Timestamp::from_second(first)?);
            params.not_before = params.not_before.max(rcgen::date_time_ymd(year, month, day) + over);
        }
        Ok(())
    }

    fn params(&self, subject: &Subject<'_>, life: Duration, now: Timestamp) -> anyhow::Result<CertificateParams> {
        let mut params = params(subject, life, now)?;
        self.begin_anew(&mut params, &subject.common_name())?;
        Ok(params)
    }

    /// The CA, to sign with.
    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// The CA certificate.
    #[must_use]
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca_der
    }

    /// What joiners pin.
    #[must_use]
    pub fn ca_hash(&self) -> CaHash {
        CaHash::of_spki(&self.issuer.key().subject_public_key_info())
    }

    /// Issues a certificate with a new key.
    ///
    /// # Errors
    /// A name does not fit into a certificate.
    pub fn issue(&self, subject: &Subject<'_>, life: Duration, now: Timestamp) -> anyhow::Result<Leaf> {
        let key = KeyPair::generate()?;
        let cert = self.params(subject, life, now)?.signed_by(&key, &self.issuer)?;
        Ok(Leaf { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs a node's request. The text of an error is for the agent that sent it.
    ///
    /// # Errors
    /// The request is malformed, asks for another subject, or its key is not ECDSA P-256.
    pub fn sign_node(&self, node: &str, csr_pem: &str, now: Timestamp) -> Result<String, BadRequest> {
        let key = check_csr(node, csr_pem)?;
        let cert: Certificate = self
            .params(&Subject::Node { name: node }, LEAF_LIFE, now)
            .and_then(|params| Ok(params.signed_by(&key, &self.issuer)?))
            .map_err(|_| BadRequest("the certificate request cannot be signed".into()))?;
        Ok(cert.pem())
    }

    /// A kubeconfig with its own administrator's certificate.
    ///
    /// # Errors
    /// Issuing failed.
    pub fn admin_kubeconfig(&self, server: &str, now: Timestamp) -> anyhow::Result<String> {
        let leaf = self.issue(&Subject::Admin, LONG_LIFE, now)?;
        let (ca, cert, key) =
            (STANDARD.encode(&self.ca_pem), STANDARD.encode(leaf.cert_pem), STANDARD.encode(leaf.key_pem));
        Ok(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: kontiki\n  cluster:\n    certificate-authority-data: {ca}\n    \
             server: {server}\nusers:\n- name: kubernetes-admin\n  user:\n    client-certificate-data: {cert}\n    \
             client-key-data: {key}\ncontexts:\n- name: kubernetes-admin@kontiki\n  context:\n    cluster: kontiki\n    \
             user: kubernetes-admin\ncurrent-context: kubernetes-admin@kontiki\n"
        ))
    }
}

/// A certificate request that is refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRequest(String);

fn check_csr(node: &str, csr_pem: &str) -> Result<SubjectPublicKeyInfo, BadRequest> {
    let bad = |text: &str| BadRequest(text.to_owned());
    if csr_pem.len() > MAX_CSR {
        return Err(bad("the certificate request is too long"));
    }
    let csr = CertificateSigningRequestParams::from_pem(csr_pem)
        .map_err(|_| bad("the certificate request is malformed or not signed by its own key"))?;
    let text = |kind: &DnType| csr.params.distinguished_name.get(kind).map(dn_text);
    if text(&DnType::CommonName).as_deref() != Some(&format!("{NODE_PREFIX}{node}")) {
        return Err(BadRequest(format!("the certificate request is not for {NODE_PREFIX}{node}")));
    }
    if text(&DnType::OrganizationName).as_deref() != Some(NODES) || csr.params.distinguished_name.iter().count() != 2 {
        return Err(BadRequest(format!("the certificate request's organization is not {NODES} alone")));
    }
    if !matches!(csr.params.is_ca, IsCa::NoCa | IsCa::ExplicitNoCa) {
        return Err(bad("the certificate request asks for a CA"));
    }
    // Re-read as a P-256 point: the request's algorithm alone does not prove the curve.
    if csr.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 || csr.public_key.der_bytes().len() != 65 {
        return Err(bad("the certificate request's key is not ECDSA P-256"));
    }
    SubjectPublicKeyInfo::from_der(&csr.public_key.subject_public_key_info())
        .map_err(|_| bad("the certificate request's key is not ECDSA P-256"))
}

pub(crate) fn dn_text(value: &rcgen::DnValue) -> String {
    match value {
        rcgen::DnValue::Utf8String(text) => text.clone(),
        rcgen::DnValue::PrintableString(text) => text.as_str().to_owned(),
        rcgen::DnValue::Ia5String(text) => text.as_str().to_owned(),
        _ => String::new(),
    }
}

fn new_files() -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name = DistinguishedName::new();
    ca.distinguished_name.push(DnType::CommonName, "kontiki-ca");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    set_life(&mut ca, BACKDATE, CA_LIFE, Timestamp::now())?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let sa_key = KeyPair::generate()?;
    let text = |name: &str, text: String| (name.to_owned(), text.into_bytes());
    Ok(vec![
        text("ca.crt", ca_pem),
        text("ca.key", ca_key.serialize_pem()),
        text("sa.key", sa_key.serialize_pem()),
        text("sa.pub", sa_key.public_key_pem()),
        text(ENCRYPTION_KEY, Vault::new_key_file()?),
    ])
}

/// Year, month and day of a time, and what of the day is over, in whole seconds: what the library makes a time of.
fn parts(at: Timestamp) -> (i32, u8, u8, Duration) {
    let date = jiff::tz::TimeZone::UTC.to_datetime(at).date();
    let over = Duration::from_secs(u64::try_from(at.as_second().rem_euclid(86_400)).unwrap_or_default());
    (i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs(), over)
}

/// Lets a certificate begin `before` now and end `after` now.
pub(crate) fn set_life(
    params: &mut CertificateParams,
    before: Duration,
    after: Duration,
    now: Timestamp,
) -> anyhow::Result<()> {
    let (year, month, day, over) = parts(now.checked_sub(before)?);
    params.not_before = rcgen::date_time_ymd(year, month, day) + over;
    let (year, month, day, over) = parts(now.checked_add(after)?);
    params.not_after = rcgen::date_time_ymd(year, month, day) + over;
    Ok(())
}

/// A number of its own for each certificate. The library's depends on the key alone, which outlives certificates.
pub(crate) fn serial() -> SerialNumber {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 1; // positive, and of full length
    SerialNumber::from_slice(&serial)
}

fn params(subject: &Subject<'_>, life: Duration, now: Timestamp) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    set_life(&mut params, BACKDATE, life, now)?;
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    let name = &mut params.distinguished_name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    match *subject {
        Subject::Server { name: server, addresses, domain } => {
            name.push(DnType::OrganizationName, SERVERS);
            // A second organization: the library keeps one value per type, so it is named by its OID.
            name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), MASTERS);
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            for dns in server_names(server, domain) {
                params.subject_alt_names.push(SanType::DnsName(dns.try_into()?));
            }
            params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        }
        Subject::Node { .. } => name.push(DnType::OrganizationName, NODES),
        Subject::FrontProxy => name.push(DnType::OrganizationName, SERVERS),
        Subject::Admin => name.push(DnType::OrganizationName, MASTERS),
    }
    params.distinguished_name.push(DnType::CommonName, subject.common_name());
    Ok(params)
}

fn server_names(server: &str, domain: &str) -> Vec<String> {
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", server].map(str::to_owned).into();
    names.push(format!("kubernetes.default.svc.{domain}"));
    names
}

/// The DER in the first PEM block of `pem`.
///
/// # Errors
/// There is none.
pub fn pem_der(pem: &str) -> anyhow::Result<CertificateDer<'static>> {
    use rustls_pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| anyhow::anyhow!("not a certificate: {error}"))
}

/// The DER of a certificate's SubjectPublicKeyInfo.
///
/// # Errors
/// It is not a certificate.
pub fn spki_of(der: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|_| anyhow::anyhow!("not a certificate"))?;
    Ok(cert.public_key().raw.to_vec())
}

/// Whom a certificate that the cluster's CA signed speaks for.
#[must_use]
pub fn bearer(der: &[u8]) -> Bearer {
    let Ok((_, cert)) = X509Certificate::from_der(der) else { return Bearer::Other };
    let Some(name) = cert.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok()) else {
        return Bearer::Other;
    };
    let in_group = |group| cert.subject().iter_organization().any(|o| o.as_str().is_ok_and(|o| o == group));
    match (name.strip_prefix(SERVER_PREFIX), name.strip_prefix(NODE_PREFIX)) {
        (Some(server), _) if in_group(SERVERS) => Bearer::Server(server.to_owned()),
        (_, Some(node)) if in_group(NODES) => Bearer::Node(node.to_owned()),
        _ => Bearer::Other,
    }
}

/// How long a rotation may wait until it looks at the clock again.
pub const ROTATION_CHECK: Duration = Duration::from_secs(DAY.as_secs() / 24);

#[cfg(test)]
mod tests {
    use super::*;

    fn csr(build: impl FnOnce(&mut CertificateParams), algorithm: &'static rcgen::SignatureAlgorithm) -> String {
        let key = KeyPair::generate_for(algorithm).expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:a1");
        params.distinguished_name.push(DnType::OrganizationName, NODES);
        build(&mut params);
        params.serialize_request(&key).expect("request").pem().expect("pem")
    }

    fn pki() -> (tempfile::TempDir, Pki) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pki = Pki::open_or_create(dir.path()).expect("new PKI");
        (dir, pki)
    }

    #[test]
    fn hostile_requests_are_refused() {
        let (_dir, pki) = pki();
        let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
        let good = csr(|_| {}, p256);
        let mut flipped = good.clone().into_bytes();
        let middle = flipped.len() / 2;
        flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
        for (name, request, expect) in [
            ("as it should be", good.clone(), "ok"),
            (
                "another node",
                csr(|p| p.distinguished_name.push(DnType::CommonName, "system:node:a2"), p256),
                "not for system:node:a1",
            ),
            (
                "an administrator",
                csr(|p| p.distinguished_name.push(DnType::OrganizationName, MASTERS), p256),
                "organization",
            ),
            (
                "one more organization",
                csr(|p| p.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), MASTERS), p256),
                "organization",
            ),
            ("a CA", csr(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), p256), "asks for a CA"),
            ("another curve", csr(|_| {}, &rcgen::PKCS_ECDSA_P384_SHA384), "not ECDSA P-256"),
            ("another algorithm", csr(|_| {}, &rcgen::PKCS_ED25519), "not ECDSA P-256"),
            ("altered", String::from_utf8(flipped).expect("ascii"), "malformed"),
            ("nothing", String::new(), "malformed"),
            ("too long", "x".repeat(MAX_CSR + 1), "too long"),
            ("a certificate", pki.ca_pem.clone(), "malformed"),
        ] {
            let got = pki.sign_node("a1", &request, Timestamp::now()).map_or_else(|e| e.to_string(), |_| "ok".into());
            assert!(got.contains(expect), "{name}: {got}");
        }
    }

    #[test]
    fn certificates_say_who_bears_them() {
        let (_dir, pki) = pki();
        let now = Timestamp::now();
        let addresses = ["10.0.0.1".parse().expect("address")];
        let server = Subject::Server { name: "s1", addresses: &addresses, domain: "cluster.local" };
        for (subject, expect) in [
            (server, Bearer::Server("s1".into())),
            (Subject::Node { name: "a1" }, Bearer::Node("a1".into())),
            (Subject::Admin, Bearer::Other),
            (Subject::FrontProxy, Bearer::Other),
        ] {
            let leaf = pki.issue(&subject, LEAF_LIFE, now).expect("issued");
            let der = pem_der(&leaf.cert_pem).expect("pem");
            assert_eq!(bearer(&der), expect);
            let validity = kontiki_tls::Validity::of_certificate(&der).expect("dates");
            assert!(validity.from < now && validity.to > now && !validity.is_due(now), "{validity:?}");
            assert!(validity.is_due(now + LEAF_LIFE * 2 / 3), "{validity:?}");
        }
        assert_eq!(bearer(b"\x30\x80garbage"), Bearer::Other);
        // A node's own request cannot name more than itself.
        let signed = pki
            .sign_node(
                "a1",
                &csr(|p| p.subject_alt_names.push(SanType::IpAddress(addresses[0])), &rcgen::PKCS_ECDSA_P256_SHA256),
                now,
            )
            .expect("signed");
        let der = pem_der(&signed).expect("pem");
        let (_, cert) = X509Certificate::from_der(&der).expect("certificate");
        assert!(cert.subject_alternative_name().expect("extensions").is_none());
    }

    #[test]
    fn a_pki_survives_and_damage_is_named() {
        let (dir, first) = pki();
        let again = Pki::open_or_create(dir.path()).expect("reopened");
        assert_eq!(first.ca_hash(), again.ca_hash());
        assert!(Pki::install(dir.path(), &new_files().expect("files")).is_err(), "nothing is overwritten");
        let shared =
            |pki: &Pki| pki.shared_files().expect("read").into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(shared(&again), [&SHARED[..], &[ENCRYPTION_KEY]].concat());
        fs::remove_file(dir.path().join(ENCRYPTION_KEY)).expect("removed");
        assert_eq!(shared(&again), SHARED, "of a cluster that was made without");
        let other = new_files().expect("files");
        fs::write(dir.path().join("ca.key"), &other[1].1).expect("write");
        let error = Pki::open_or_create(dir.path()).err().expect("keys differ").to_string();
        assert!(error.contains("is not the key of ca.crt"), "{error}");
        fs::write(dir.path().join("ca.key"), "x").expect("write");
        assert!(format!("{:#}", Pki::open_or_create(dir.path()).err().expect("damaged")).contains("ca.key is damaged"));
        fs::remove_file(dir.path().join("ca.key")).expect("removed");
        assert!(format!("{:#}", Pki::open_or_create(dir.path()).err().expect("missing")).contains("cannot read"));
    }
}
