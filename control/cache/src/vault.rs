//! Values of sealed kinds, as they lie in the store: ciphertext.
//!
//! ```text
//! key file      one line each: a master key, 32 bytes in base64. The first wraps, all unwrap. On the masters only.
//! data keys     /kontiki/data-keys/<number>: a random key, wrapped. The one with the highest number seals.
//! a value       0x00, version 1, number of the data key (u32, big endian), nonce (12 bytes), ciphertext and tag
//! ```
//!
//! All of it is AES-256-GCM. A value is bound to its key in the store, so that none can be put in another's place.
//!
//! Invariants
//! - What begins with a zero byte is sealed, anything else is as it was written: objects are JSON. So kinds become sealed,
//!   and values come under newer keys, one by one, while all stay readable.
//! - A data key is never changed and never removed: history may need it.
//! - Keys are never shown; `Debug` has nothing of them.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kontiki_model::{GroupResource, key};
use parking_lot::RwLock;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

/// Where the data keys lie.
pub(crate) const DATA_KEYS: &str = "/kontiki/data-keys/";
const KEY_BYTES: usize = 32;
const SEALED: [u8; 2] = [0, 1];
/// Of a value, before its nonce.
const HEAD: usize = SEALED.len() + 4;

/// What is wrong with keys; one line. Says nothing of the keys themselves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The file is not one of keys.
    #[error("line {0} is not a key: 32 bytes in base64")]
    Malformed(usize),
    /// There is no key in it.
    #[error("there is no key in it")]
    Empty,
    /// The data key was wrapped by a master key that is not there.
    #[error("data key {number} needs the master key {master}, which is not in the key file")]
    NoMaster {
        /// Number of the data key.
        number: u32,
        /// The master key's name.
        master: String,
    },
    /// What is stored is not what was written.
    #[error("data key {0} is damaged")]
    Damaged(u32),
    /// The system has no randomness.
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// A data key as it lies in the store.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Name of the master key that wraps it.
    master: String,
    /// Nonce, ciphertext and tag, base64.
    wrapped: String,
}

struct Master {
    name: String,
    key: LessSafeKey,
}

/// A data key, ready for use.
#[derive(Clone)]
pub(crate) struct DataKey {
    pub number: u32,
    key: Arc<LessSafeKey>,
}

/// See the module.
pub struct Vault {
    masters: Vec<Master>,
    /// Prefixes of the keys of sealed kinds.
    kinds: Vec<String>,
    unwrapped: RwLock<HashMap<u32, DataKey>>,
    random: SystemRandom,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vault({:?})", self.kinds)
    }
}

fn aead(key: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

/// Nonce, ciphertext and tag.
fn encrypt(random: &SystemRandom, key: &LessSafeKey, aad: &[u8], head: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    random.fill(&mut nonce).ok()?;
    let mut out = Vec::with_capacity(head.len() + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
    out.extend_from_slice(head);
    out.extend_from_slice(&nonce);
    let start = out.len();
    out.extend_from_slice(plain);
    let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut out[start..]);
    out.extend_from_slice(tag.ok()?.as_ref());
    Some(out)
}

fn decrypt(key: &LessSafeKey, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
    let mut out = rest.to_vec();
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let length = key.open_in_place(nonce, Aad::from(aad), &mut out).ok()?.len();
    out.truncate(length);
    Some(out)
}

/// What a wrapped data key is bound to.
fn wrapping(number: u32) -> String {
    format!("kontiki data key {number}")
}

/// The number of the data key that a value is sealed under, if it is.
pub(crate) fn sealed_under(value: &[u8]) -> Option<u32> {
    let number = value.strip_prefix(&SEALED)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*number))
}

/// Why a value that [`Backend`](crate::Backend) hands out cannot be read as an object; `None` if it may be one, which its
/// reader finds out.
#[must_use]
pub fn unreadable(value: &[u8]) -> Option<String> {
    if let Some(number) = sealed_under(value) {
        return Some(format!("it is sealed under data key {number}, which cannot be used here"));
    }
    (value.trim_ascii_start().first() != Some(&b'{')).then(|| "it is no JSON object".to_owned())
}

/// Where a data key lies.
pub(crate) fn data_key(number: u32) -> String {
    format!("{DATA_KEYS}{number:010}")
}

/// The number of a data key by where it lies.
pub(crate) fn number_of(key: &[u8]) -> Option<u32> {
    std::str::from_utf8(key).ok()?.strip_prefix(DATA_KEYS)?.parse().ok()
}

impl Vault {
    /// The text of a key file with one new random key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new_key_file() -> Result<String, VaultError> {
        let mut key = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut key).map_err(|_| VaultError::NoRandom)?;
        Ok(format!("{}\n", STANDARD.encode(key)))
    }

    /// A vault for `kinds`, with the master keys of a key file.
    ///
    /// # Errors
    /// The text is not one of a key file.
    pub fn new(key_file: &str, kinds: &[GroupResource<'_>]) -> Result<Self, VaultError> {
        let lines = key_file.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        let master = |(at, line): (usize, &str)| {
            let bytes = STANDARD.decode(line).ok().filter(|bytes| bytes.len() == KEY_BYTES);
            let bytes = bytes.ok_or(VaultError::Malformed(at + 1))?;
            let name = digest(&SHA256, &bytes).as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Master { name, key: aead(&bytes).ok_or(VaultError::Malformed(at + 1))? })
        };
        let masters = lines.map(master).collect::<Result<Vec<_>, _>>()?;
        if masters.is_empty() {
            return Err(VaultError::Empty);
        }
        let kinds = kinds.iter().map(|kind| key::prefix(*kind, None)).collect();
        Ok(Self { masters, kinds, unwrapped: RwLock::default(), random: SystemRandom::new() })
    }

    /// Prefixes of the keys in the store whose values are sealed.
    pub(crate) fn kinds(&self) -> &[String] {
        &self.kinds
    }

    /// Whether the value of a key is sealed.
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        self.kinds.iter().any(|kind| key.starts_with(kind.as_bytes()))
    }

    /// A new data key's record.
    pub(crate) fn make_data_key(&self, number: u32) -> Result<Bytes, VaultError> {
        let mut plain = [0; KEY_BYTES];
        self.random.fill(&mut plain).map_err(|_| VaultError::NoRandom)?;
        let Master { name, key } = &self.masters[0];
        let wrapped = encrypt(&self.random, key, wrapping(number).as_bytes(), &[], &plain);
        let wrapped = STANDARD.encode(wrapped.ok_or(VaultError::NoRandom)?);
        let record = Record { master: name.clone(), wrapped };
        Ok(serde_json::to_vec(&record).expect("a record is plain data").into())
    }

    /// The data key of a record.
    pub(crate) fn unwrap(&self, number: u32, record: &[u8]) -> Result<DataKey, VaultError> {
        if let Some(known) = self.known(number) {
            return Ok(known);
        }
        let damaged = || VaultError::Damaged(number);
        let Record { master, wrapped } = serde_json::from_slice(record).map_err(|_| damaged())?;
        let found = self.masters.iter().find(|known| known.name == master);
        let Master { key, .. } = found.ok_or(VaultError::NoMaster { number, master })?;
        let wrapped = STANDARD.decode(wrapped).map_err(|_| damaged())?;
        let plain = decrypt(key, wrapping(number).as_bytes(), &wrapped).ok_or_else(damaged)?;
        let data_key = DataKey { number, key: Arc::new(aead(&plain).ok_or_else(damaged)?) };
        self.unwrapped.write().insert(number, data_key.clone());
        Ok(data_key)
    }

    /// A data key that has been unwrapped before.
    pub(crate) fn known(&self, number: u32) -> Option<DataKey> {
        self.unwrapped.read().get(&number).cloned()
    }

    /// The value of `key` as it is stored.
    pub(crate) fn seal(&self, under: &DataKey, key: &[u8], value: &[u8]) -> Result<Bytes, VaultError> {
        let mut head = [0; HEAD];
        head[..SEALED.len()].copy_from_slice(&SEALED);
        head[SEALED.len()..].copy_from_slice(&under.number.to_be_bytes());
        let sealed = encrypt(&self.random, &under.key, key, &head, value);
        sealed.map(Bytes::from).ok_or(VaultError::NoRandom)
    }

    /// The value of `key` as it was written; `None` if it is not what was sealed.
    pub(crate) fn open(&self, under: &DataKey, key: &[u8], sealed: &[u8]) -> Option<Bytes> {
        decrypt(&under.key, key, sealed.get(HEAD..)?).map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRETS: GroupResource<'static> = GroupResource { group: "", resource: "secrets" };
    const KEY: &[u8] = b"/registry/core/secrets/a/b";

    fn vault(key_file: &str) -> Vault {
        Vault::new(key_file, &[SECRETS]).expect("a key file")
    }

    #[test]
    fn a_value_is_ciphertext_that_only_its_place_and_key_open() {
        let vault = vault(&Vault::new_key_file().expect("random"));
        let [one, two] = [1, 2].map(|number| {
            let record = vault.make_data_key(number).expect("made");
            vault.unwrap(number, &record).expect("its own")
        });
        let plain = br#"{"kind":"Secret","data":{"a":"aHVudGVyMg=="}}"#;
        let sealed = vault.seal(&one, KEY, plain).expect("sealed");
        assert_ne!(sealed, vault.seal(&one, KEY, plain).expect("sealed"), "each time another");
        assert!(!sealed.windows(8).any(|window| plain.windows(8).any(|known| known == window)));
        assert_eq!((sealed_under(&sealed), sealed_under(plain)), (Some(1), None));
        assert_eq!(vault.open(&one, KEY, &sealed).as_deref(), Some(&plain[..]));
        assert_eq!(vault.open(&two, KEY, &sealed), None, "another key");
        assert_eq!(vault.open(&one, b"/registry/core/secrets/a/c", &sealed), None, "another place");
        for at in [0, HEAD, HEAD + NONCE_LEN, sealed.len() - 1] {
            let mut altered = sealed.to_vec();
            altered[at] ^= 1;
            let opened = vault.open(&one, KEY, &altered);
            assert_eq!(opened.is_some(), at == 0, "only the head is not the value's: {at}");
        }
        for length in 0..sealed.len() {
            assert_eq!(vault.open(&one, KEY, &sealed[..length]), None, "cut off at {length}");
        }
    }

    #[test]
    fn a_data_key_needs_its_master_key() {
        let [old, new] = [(); 2].map(|()| Vault::new_key_file().expect("random"));
        let record = vault(&old).make_data_key(7).expect("made");
        for (what, file, expect) in [
            ("its own", old.clone(), "ok"),
            ("a newer one first", format!("{new}{old}"), "ok"),
            ("the newer one alone", new.clone(), "needs the master key"),
        ] {
            let unwrapped = vault(&file).unwrap(7, &record).map_or_else(|error| error.to_string(), |_| "ok".into());
            assert!(unwrapped.contains(expect), "{what}: {unwrapped}");
        }
        let moved = vault(&old).unwrap(8, &record).err();
        assert_eq!(moved, Some(VaultError::Damaged(8)), "a record is bound to its number");
        let newer = vault(&format!("{new}{old}")).make_data_key(8).expect("made");
        assert!(vault(&new).unwrap(8, &newer).is_ok(), "the first one wraps");
    }

    #[test]
    fn key_files_are_read_strictly() {
        let key = STANDARD.encode([7; KEY_BYTES]);
        for (text, expect) in [
            (format!("\n {key} \n"), None),
            (String::new(), Some(VaultError::Empty)),
            (format!("{key}\nno key\n"), Some(VaultError::Malformed(2))),
            (STANDARD.encode([7; 16]), Some(VaultError::Malformed(1))),
        ] {
            assert_eq!(Vault::new(&text, &[SECRETS]).err(), expect, "{text}");
        }
    }

    #[test]
    fn kinds_are_told_by_their_keys() {
        let vault = vault(&Vault::new_key_file().expect("random"));
        for (key, expect) in [
            ("/registry/core/secrets/a/b", true),
            ("/registry/core/secretsofothers/a/b", false),
            ("/registry/core/configmaps/a/secrets", false),
        ] {
            assert_eq!(vault.covers(key.as_bytes()), expect, "{key}");
        }
        assert_eq!(number_of(data_key(12).as_bytes()), Some(12));
    }
}
