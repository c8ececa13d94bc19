//! Certificates from files, as etcd takes them.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// PEM files of one identity.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The CA whose certificates are trusted.
    pub ca: PathBuf,
    /// The own certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What the files hold.
pub(crate) struct Pem {
    pub ca: String,
    pub cert: String,
    pub key: String,
}

impl TlsFiles {
    pub(crate) fn read(&self) -> Result<Pem, String> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        Ok(Pem { ca: read(&self.ca)?, cert: read(&self.cert)?, key: read(&self.key)? })
    }

    fn parts(&self) -> Result<Parts, String> {
        let pem = self.read()?;
        let certificates = |text: &str, path: &PathBuf| {
            let found: Result<Vec<CertificateDer<'static>>, _> =
                CertificateDer::pem_slice_iter(text.as_bytes()).collect();
            match found {
                Ok(found) if !found.is_empty() => Ok(found),
                Ok(_) => Err(format!("{}: no certificate in it", path.display())),
                Err(error) => Err(format!("{}: {error}", path.display())),
            }
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(&pem.ca, &self.ca)? {
            roots.add(authority).map_err(|error| format!("{}: {error}", self.ca.display()))?;
        }
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes());
        let key = key.map_err(|error| format!("{}: {error}", self.key.display()))?;
        Ok(Parts { roots: Arc::new(roots), chain: certificates(&pem.cert, &self.cert)?, key })
    }
}

struct Parts {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// For serving: clients have to show a certificate of the CA.
pub(crate) fn server_config(files: &TlsFiles) -> Result<ServerConfig, String> {
    let Parts { roots, chain, key } = files.parts()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
    let verifier = verifier.map_err(|error| format!("{}: {error}", files.ca.display()))?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.map_err(|error| error.to_string())?.with_client_cert_verifier(verifier);
    let mut config = config.with_single_cert(chain, key).map_err(|e| format!("{}: {e}", files.cert.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// For talking to a server of the same CA.
///
/// # Errors
/// One line that names the file.
pub fn client_config(files: &TlsFiles) -> Result<ClientConfig, String> {
    let Parts { roots, chain, key } = files.parts()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(roots);
    let mut config = builder.with_client_auth_cert(chain, key).map_err(|e| format!("{}: {e}", files.cert.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
