//! What keeps a group apart from the ones that were made of its remains.
//!
//! A group that starts from a backup, or goes on from one survivor, is a new generation. Members of the
//! old one may come back: they hold certificates of the same CA and the same addresses, would bring the
//! old log, and with it undo what the new group has acknowledged. So generations do not talk to each
//! other: in the TLS handshake a member names the protocol of its generation (ALPN), and the other side
//! knows no other than its own.
//!
//! Invariants
//! - The generation is the upper part of every term, so each has higher terms than those before it.
//! - A directory's generation is written while no member runs on it, and does not change while one does.
//! - Under the name that is for asking only no member takes part in anything.
//!
//! Not here: two members of an old group that both survive still are a majority of it. They have to be
//! destroyed; nothing in a group that does not know them can stop them.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use kontiki_files::{Readers, replace};

use crate::{Member, OpenError, raft::peer::PeerIdentity};

const FILE: &str = "generation";
/// Elections that a generation has room for.
const TERM_BITS: u32 = 21;
/// What members of the first generation, and of programs that know no others, speak.
const FIRST: &[u8] = b"h2";
/// For those who are no members yet and only ask who is.
const ASK: &[u8] = b"h2;kontiki-ask";

/// The generation that a term belongs to.
pub(crate) fn of_term(term: u64) -> u64 {
    term >> TERM_BITS
}

/// The lowest term of a generation.
pub(crate) fn first_term(generation: u64) -> u64 {
    generation << TERM_BITS
}

/// A generation later than that of `term`. Two groups made of the same remains get different ones, unless
/// that happens within a second.
pub(crate) fn after(term: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    now.max(of_term(term) + 1)
}

/// The generation of a group that told its members; zero for one that was never made of remains.
#[must_use]
pub fn generation_of(members: &[Member]) -> u64 {
    members.iter().map(|member| of_term(member.term.0)).max().unwrap_or_default()
}

/// The generation of the member that a directory belongs to.
pub(crate) fn read(dir: &Path) -> Result<u64, OpenError> {
    let shown = || dir.display().to_string();
    match fs::read_to_string(dir.join(FILE)) {
        Ok(text) => {
            let parsed = text.trim().parse();
            parsed.map_err(|_| OpenError::Corrupt { dir: shown(), reason: format!("{FILE} holds {text:?}") })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(OpenError::Io { dir: shown(), reason: error.to_string() }),
    }
}

/// Writes a directory's generation.
pub(crate) fn write(dir: &Path, generation: u64) -> io::Result<()> {
    replace(&dir.join(FILE), format!("{generation}\n").as_bytes(), Readers::All)
}

/// Makes the directory of a member that is about to join one of `generation`; nothing if it is a member's
/// already.
///
/// # Errors
/// The disk refused.
pub fn adopt_generation(dir: &Path, generation: u64) -> io::Result<()> {
    if generation == 0 || dir.join("identity.json").exists() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    write(dir, generation)
}

/// A member's identity, for its own generation only.
pub(crate) fn fence(mut identity: PeerIdentity, generation: u64) -> PeerIdentity {
    let name = match generation {
        0 => FIRST.to_vec(),
        later => format!("h2;kontiki-generation={later}").into_bytes(),
    };
    Arc::make_mut(&mut identity.client).alpn_protocols = vec![name.clone()];
    Arc::make_mut(&mut identity.server).alpn_protocols = vec![name, ASK.to_vec()];
    identity
}

/// The identity of somebody who knows no generation yet.
pub(crate) fn asking(mut identity: PeerIdentity) -> PeerIdentity {
    Arc::make_mut(&mut identity.client).alpn_protocols = vec![ASK.to_vec(), FIRST.to_vec()];
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_grow_with_generations_and_tell_them() {
        for term in [0, 7, first_term(1), first_term(40_000_000_000) + 9] {
            let next = after(term);
            assert!(first_term(next) > term, "{term}");
            assert_eq!((of_term(first_term(next)), of_term(first_term(next) + 1000)), (next, next));
        }
        assert_eq!(of_term(1000), 0);
    }

    #[test]
    fn a_directory_remembers_and_is_adopted_only_while_it_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("s4");
        assert_eq!(read(&dir).unwrap(), 0);
        adopt_generation(&dir, 9).unwrap();
        assert_eq!(read(&dir).unwrap(), 9);
        fs::write(dir.join("identity.json"), "{}").unwrap();
        adopt_generation(&dir, 10).unwrap();
        assert_eq!(read(&dir).unwrap(), 9);
        fs::write(dir.join(FILE), "nine").unwrap();
        assert!(matches!(read(&dir), Err(OpenError::Corrupt { .. })));
    }
}
