//! A certificate authority for one test, and the files that etcd's flags want.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// An authority whose files live in one directory.
pub struct Pki {
    dir: PathBuf,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// One party's files, in PEM.
#[derive(Clone, Debug)]
pub struct Certs {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pki {
    /// A new authority; writes `ca.crt` into `dir`, which is created.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("store tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(dir.join("ca.crt"), ca.pem())?;
        Ok(Self { dir: dir.to_owned(), ca })
    }

    /// A certificate for both ends of a connection, good for `hosts` and the loopback's names.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn issue(&self, name: &str, hosts: &[IpAddr]) -> Result<Certs> {
        self.issue_in(name, None, hosts)
    }

    /// The same for a member of an organization.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn issue_in(&self, name: &str, organization: Option<&str>, hosts: &[IpAddr]) -> Result<Certs> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let others = hosts.iter().copied().filter(|host| *host != loopback);
        params.subject_alt_names.extend(std::iter::once(loopback).chain(others).map(SanType::IpAddress));
        params.distinguished_name = named(name);
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certs = Certs {
            ca: self.dir.join("ca.crt"),
            cert: self.dir.join(format!("{name}.crt")),
            key: self.dir.join(format!("{name}.key")),
        };
        fs::write(&certs.cert, params.signed_by(&key, &self.ca)?.pem())?;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&certs.key)?;
        std::io::Write::write_all(&mut file, key.serialize_pem().as_bytes())?;
        Ok(certs)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}
