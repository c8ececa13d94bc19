//! An API that is served over TLS, and clients of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use kontiki_api::Api;
use kontiki_gate::Gate;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use super::{Authority, World};

pub type TlsClient = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// A served API; it ends when this is dropped.
pub struct Served {
    address: SocketAddr,
    roots: Arc<rustls::RootCertStore>,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn pair((cert, key): &(String, String)) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let cert = CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM");
    (vec![cert], PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM"))
}

fn roots(authority: &Authority) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a CA");
    Arc::new(roots)
}

/// Serves `api` behind `gate`.
pub async fn serve(world: &World, api: &Api, gate: Gate) -> Served {
    let roots = roots(&world.authority);
    let verifier = rustls::server::WebPkiClientVerifier::builder(roots.clone());
    let (chain, key) = pair(&world.authority.issue("server", "kontiki:servers"));
    let server = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier.allow_unauthenticated().build().expect("verifier"))
        .with_single_cert(chain, key)
        .expect("server");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, stop) = (listener.local_addr().expect("address"), CancellationToken::new());
    let (api, token) = (api.clone(), stop.clone());
    tokio::spawn(async move { api.serve(listener, Arc::new(server), gate, token).await });
    Served { address, roots, stop }
}

impl Served {
    /// A TLS connection of the bearer of a certificate and key.
    pub async fn connect(&self, bearer: &(String, String)) -> io::Result<TlsClient> {
        let (chain, key) = pair(bearer);
        let client = rustls::ClientConfig::builder().with_root_certificates(self.roots.clone());
        let client = client.with_client_auth_cert(chain, key).expect("client");
        let socket = tokio::net::TcpStream::connect(self.address).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        connector.connect(std::net::IpAddr::from([127, 0, 0, 1]).into(), socket).await
    }
}
