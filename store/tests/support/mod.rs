//! Certificates and configurations for members on loopback; shared by tests and benchmarks.

use std::path::Path;

use kontiki_store::{Config, PeerTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

pub struct Pki(CertifiedIssuer<'static, KeyPair>);

impl Pki {
    pub fn new() -> Self {
        // `RUST_LOG=debug` shows what the members do. A second cluster finds it set already.
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn issue(&self, organization: &str) -> PeerTls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        let cert = params.signed_by(&key, &self.0).unwrap();
        let organization = Some(PeerTls::SERVERS.to_owned());
        PeerTls {
            ca_pem: self.0.pem(),
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            organization,
            names: Vec::new(),
        }
    }

    pub fn config(&self, id: u64, dir: &Path) -> Config {
        let listen = kontiki_test_ports::one();
        Config {
            id,
            name: format!("s{id}"),
            dir: dir.join(format!("s{id}")),
            listen,
            advertise: listen.to_string(),
            tls: self.issue("kontiki:servers"),
            heartbeat: Config::HEARTBEAT,
            election: Config::ELECTION,
            max_feature_level: None,
            past: kontiki_store::Past::NONE,
        }
    }
}
