//! The certificates of a server that others than its own ports show: renewed while it runs, and all of them told.
//!
//! Invariants
//! - Each is renewed when two thirds of its life are over, whether or not anybody starts anything anew.
//! - A renewed one is used by the next handshake; connections that are there stay.
//! - An administrator's file that somebody has changed is left alone: it is theirs.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use kontiki_model::metrics::{Kind, heading, sample};
use kontiki_store::Store;
use kontiki_tls::Validity;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    datadir,
    pki::{self, Pki, pem_der},
    tls::ServerCertificate,
};

/// Everything that ends by date.
pub struct Rotation {
    pub pki: Arc<Pki>,
    pub store: Store,
    /// What the ports show.
    pub certificate: Arc<ServerCertificate>,
    /// What members are shown.
    pub peer: Mutex<Validity>,
    /// The administrator's file, and the address that it names.
    pub kubeconfig: PathBuf,
    pub address: String,
}

/// When the administrator's certificate in a kubeconfig of ours begins and ends.
fn validity_in(kubeconfig: &str) -> anyhow::Result<Validity> {
    let config: Value = serde_yaml_ng::from_str(kubeconfig).context("not a kubeconfig")?;
    let data = config["users"][0]["user"]["client-certificate-data"].as_str().context("no certificate in it")?;
    let pem = String::from_utf8(STANDARD.decode(data)?)?;
    Validity::of_certificate(&pem_der(&pem)?).context("its certificate")
}

impl Rotation {
    /// Renews whatever is due, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // A dropped timer loses nothing: the clock is looked at anew each time.
                () = tokio::time::sleep(pki::ROTATION_CHECK) => {}
            }
            self.turn(Timestamp::now());
        }
    }

    /// Renews what is due at a time.
    pub fn turn(&self, now: Timestamp) {
        let outcomes = [("peer", self.renew_peer(now)), ("administrator", self.renew_kubeconfig(now))];
        for (what, outcome) in outcomes {
            match outcome {
                Ok(false) => {}
                Ok(true) => info!(what, "a certificate was renewed"),
                Err(error) => error!(what, error = format!("{error:#}"), "a certificate could not be renewed"),
            }
        }
    }

    fn renew_peer(&self, now: Timestamp) -> anyhow::Result<bool> {
        if !self.peer.lock().is_due(now) {
            return Ok(false);
        }
        let leaf = self.certificate.issue(pki::LONG_LIFE, now)?;
        let validity = Validity::of_certificate(&pem_der(&leaf.cert_pem)?)?;
        self.store.renew_certificate(&leaf.cert_pem, &leaf.key_pem)?;
        *self.peer.lock() = validity;
        Ok(true)
    }

    fn renew_kubeconfig(&self, now: Timestamp) -> anyhow::Result<bool> {
        renew_kubeconfig(&self.pki, &self.kubeconfig, &self.address, now)
    }

    /// Writes the series.
    pub fn write(&self, out: &mut String) {
        let of = |der: &[u8]| Validity::of_certificate(der).ok();
        let kubeconfig = fs::read_to_string(&self.kubeconfig).ok().and_then(|text| validity_in(&text).ok());
        let all = [
            ("ca", of(self.pki.ca_der())),
            ("server", self.certificate.validity()),
            ("peer", Some(*self.peer.lock())),
            ("administrator", kubeconfig),
        ];
        let name = "kontiki_certificate_expiration_timestamp_seconds";
        heading(out, name, Kind::Gauge, "When a certificate ends, in Unix time.");
        for (certificate, validity) in all {
            if let Some(validity) = validity {
                sample(out, name, &[("certificate", certificate)], validity.to.as_second());
            }
        }
    }
}

fn renew_kubeconfig(pki: &Pki, path: &std::path::Path, address: &str, now: Timestamp) -> anyhow::Result<bool> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let Ok(validity) = validity_in(&text) else { return Ok(false) };
    if !validity.is_due(now) {
        return Ok(false);
    }
    datadir::write(path, pki.admin_kubeconfig(address, now)?.as_bytes())?;
    Ok(true)
}

/// How long what a PEM text holds is good for.
pub fn validity(pem: &str) -> anyhow::Result<Validity> {
    Ok(Validity::of_certificate(&pem_der(pem)?)?)
}

/// As long as renewing takes at most is far shorter than what is left of any life by then.
const _: () = assert!(pki::ROTATION_CHECK.as_secs() * 24 < pki::LONG_LIFE.as_secs() / 3);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_administrators_file_outlives_its_certificate() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pki = Pki::open_or_create(dir.path()).expect("new PKI");
        let (path, began) = (dir.path().join("admin.kubeconfig"), Timestamp::now());
        let write = |at| fs::write(&path, pki.admin_kubeconfig("https://10.0.0.1:6443", at).expect("made"));
        let read = || fs::read_to_string(&path).expect("readable");
        write(began).expect("written");
        let day = Duration::from_secs(86_400);
        // Four years, looked at once a week.
        let mut renewed = 0;
        for week in 0..208 {
            let now = began + day * 7 * week;
            renewed += usize::from(renew_kubeconfig(&pki, &path, "https://10.0.0.1:6443", now).expect("renewed"));
            let validity = validity_in(&read()).expect("readable");
            assert!(validity.from <= now && now + day * 90 < validity.to, "week {week}: {validity:?}");
        }
        assert_eq!(renewed, 5, "at each two thirds of a year");
        fs::write(&path, "somebody: else's").expect("written");
        assert!(!renew_kubeconfig(&pki, &path, "https://10.0.0.1:6443", began + day * 4000).expect("left alone"));
        assert_eq!(read(), "somebody: else's");
    }
}
