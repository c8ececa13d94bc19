//! Who was expelled: certificates that are good by signature and date, and let nobody in any more.
//!
//! ```text
//! /kontiki/revoked/name/<common name>   no certificate of this name whose life began by then
//! /kontiki/revoked/serial/<hex>         not this one
//! ```
//!
//! Invariants
//! - The list lies in the log, so every master has it. Each enforces it at its gate: in handshakes, and on connections
//!   that are there already, as soon as it applies the record.
//! - Somebody may come back under a name: what is issued for it later begins its life after the record's time, if need
//!   be a moment in the future. See [`Revoked::begins`].
//! - A record is forgotten when nothing that it concerns can still be valid.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use kontiki_gate::Gate;
use kontiki_store::{Op, Snapshot, Store, Txn, WatchItem, WriteError};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::pki::Pki;

const PREFIX: &str = "/kontiki/revoked/";
const NAME: &str = "name/";
const SERIAL: &str = "serial/";
/// Nothing that is issued lives longer: a record may go then.
const LONGEST_LIFE: Duration = Duration::from_secs(3650 * 86_400);
/// Pause before the list is watched anew.
const RETRY: Duration = Duration::from_millis(200);

/// What is to be expelled.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// Whatever was issued for this common name until now.
    Name(String),
    /// One certificate, by its serial number in hexadecimal digits.
    Serial(String),
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Unix seconds. Of a name: until when the lives began that are over.
    at: i64,
}

/// The list as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    names: HashMap<String, i64>,
    serials: HashSet<String>,
}

impl Target {
    fn key(&self) -> String {
        match self {
            Self::Name(name) => format!("{PREFIX}{NAME}{name}"),
            Self::Serial(serial) => format!("{PREFIX}{SERIAL}{}", canonical(serial)),
        }
    }

    /// Whether it can be meant.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Name(name) if name.is_empty() || name.len() > 253 => Err("the name is empty or too long".to_owned()),
            Self::Serial(serial) => {
                let digits = canonical(serial);
                let fits = !digits.is_empty() && digits.len() <= 40 && digits.bytes().all(|c| c.is_ascii_hexdigit());
                fits.then_some(()).ok_or_else(|| "a serial number has up to 40 hexadecimal digits".to_owned())
            }
            Self::Name(_) => Ok(()),
        }
    }
}

/// However it is written: `0A:b1` is `ab1`.
fn canonical(serial: &str) -> String {
    let digits: String = serial.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    digits.trim_start_matches('0').to_owned()
}

impl Revoked {
    /// The list in the store.
    #[must_use]
    pub fn read(snapshot: &Snapshot) -> Self {
        let mut list = Self::default();
        for entry in snapshot.range(PREFIX.as_bytes()) {
            let key = std::str::from_utf8(&entry.key).ok().and_then(|key| key.strip_prefix(PREFIX));
            let Ok(record) = serde_json::from_slice::<Record>(&entry.value) else { continue };
            match key.map(|key| (key.strip_prefix(NAME), key.strip_prefix(SERIAL))) {
                Some((Some(name), _)) => drop(list.names.insert(name.to_owned(), record.at)),
                Some((_, Some(serial))) => drop(list.serials.insert(serial.to_owned())),
                _ => {}
            }
        }
        list
    }

    /// Whether a certificate (DER) is on it. What is no certificate is not.
    #[must_use]
    pub fn bars(&self, certificate: &[u8]) -> bool {
        if self.names.is_empty() && self.serials.is_empty() {
            return false;
        }
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        let serial = certificate.raw_serial_as_string();
        let began = certificate.validity().not_before.timestamp();
        let mut names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        self.serials.contains(&canonical(&serial))
            || names.any(|name| self.names.get(name).is_some_and(|at| began <= *at))
    }

    /// The first second (Unix) at which the life of a certificate for `name` may begin, so that it is not barred.
    #[must_use]
    pub fn begins(&self, name: &str) -> Option<i64> {
        self.names.get(name).map(|at| at + 1)
    }

    /// The list for people: each with the time of its record.
    #[must_use]
    pub fn show(&self) -> serde_json::Value {
        let time = |at: i64| Timestamp::from_second(at).map(|at| at.to_string()).unwrap_or_default();
        let mut names: Vec<_> = self.names.iter().collect();
        let mut serials: Vec<_> = self.serials.iter().collect();
        names.sort();
        serials.sort();
        let names: Vec<_> =
            names.iter().map(|(name, at)| serde_json::json!({"name": name, "issuedUntil": time(**at)})).collect();
        serde_json::json!({ "names": names, "serials": serials })
    }
}

/// Writes a record. Once it returns, every master that is with the group knows it within a moment.
///
/// # Errors
/// The store could not be written.
pub async fn add(store: &Store, target: &Target, now: Timestamp) -> Result<(), WriteError> {
    let record = serde_json::to_vec(&Record { at: now.as_second() }).expect("a record is plain data");
    let expires = now.as_second().unsigned_abs() + LONGEST_LIFE.as_secs();
    store.txn(Txn::write(vec![Op::put_until(target.key(), record, Some(expires))])).await?;
    info!(?target, "certificates were revoked");
    Ok(())
}

/// Enforces the list as it is now.
pub fn enforce(store: &Store, gate: &Gate, pki: &Pki) {
    let list = Arc::new(Revoked::read(&store.snapshot()));
    pki.heed(Arc::clone(&list));
    gate.bar(Arc::new(move |certificate| list.bars(certificate)));
}

/// Enforces the list whenever it changes, until `stop`.
pub async fn follow(store: Store, gate: Gate, pki: Arc<Pki>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        // Never ends; it only reads the store.
        () = watch(&store, &gate, &pki) => {}
    }
}

async fn watch(store: &Store, gate: &Gate, pki: &Pki) {
    loop {
        match store.watch(Bytes::from_static(PREFIX.as_bytes()), None) {
            Ok(mut watch) => {
                // What came before the watch is not told by it.
                enforce(store, gate, pki);
                while let Some(item) = watch.next().await {
                    match item {
                        WatchItem::Events(_) => enforce(store, gate, pki),
                        WatchItem::Progress(_) => {}
                        WatchItem::Lagged => break,
                    }
                }
            }
            Err(error) => debug!(%error, "cannot watch the list of revoked certificates"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{LEAF_LIFE, Subject, pem_der};

    #[test]
    fn serial_numbers_are_one_however_they_are_written() {
        for (text, expect) in [("0A:b1", "ab1"), ("ab1", "ab1"), ("00", ""), ("00:0ab1", "ab1")] {
            assert_eq!(canonical(text), expect, "{text}");
        }
        for (target, ok) in [
            (Target::Serial("0A:B1".into()), true),
            (Target::Serial("xyz".into()), false),
            (Target::Serial("0".into()), false),
            (Target::Serial("1".repeat(41)), false),
            (Target::Name("system:node:a1".into()), true),
            (Target::Name(String::new()), false),
        ] {
            assert_eq!(target.check().is_ok(), ok, "{target:?}");
        }
    }

    #[test]
    fn who_is_on_the_list_is_barred_and_may_come_back() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pki = Pki::open_or_create(dir.path()).expect("new PKI");
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().expect("time");
        let issue = |subject: &Subject<'_>, at: Timestamp| {
            pem_der(&pki.issue(subject, LEAF_LIFE, at).expect("issued").cert_pem).expect("PEM")
        };
        let (node, other) = (Subject::Node { name: "a1" }, Subject::Node { name: "a2" });
        let (stolen, others) = (issue(&node, now), issue(&other, now));
        let (admin, colleague) = (issue(&Subject::Admin, now), issue(&Subject::Admin, now));
        let (_, parsed) = X509Certificate::from_der(&admin).expect("a certificate");
        let list = Revoked {
            names: [("system:node:a1".to_owned(), now.as_second())].into(),
            serials: [canonical(&parsed.raw_serial_as_string())].into(),
        };
        for (what, certificate, expect) in [
            ("the stolen one", &stolen, true),
            ("another node's", &others, false),
            ("one administrator's", &admin, true),
            ("another one's of the same name", &colleague, false),
            ("nobody's", &vec![1, 2, 3].into(), false),
        ] {
            assert_eq!(list.bars(certificate), expect, "{what}");
            assert!(!Revoked::default().bars(certificate), "{what}");
        }
        // At the same moment: the lives of certificates begin an hour before they are issued, but not this one's.
        assert!(list.bars(&issue(&node, now)), "as long as it is not known here");
        pki.heed(Arc::new(list.clone()));
        assert!(!list.bars(&issue(&node, now)));
        assert!(!list.bars(&issue(&node, now + LEAF_LIFE)));
    }
}
