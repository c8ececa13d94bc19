//! Objects that many writes change along with their own, e.g. the quotas of a namespace.
//!
//! A write that changes such an object compares its whole value. If each waited for the one before it to be committed,
//! a namespace could take one write per commit; if each was decided on what is committed, all but one of those under way
//! at once would fail. So a master chains them: what the last one that was handed to the store leaves behind, its *tip*,
//! is what the next one is decided on, and compares. The store applies them in the order in which they are handed over,
//! so a whole chain goes into one batch of the log.
//!
//! Invariants
//! - A tip is a guess, never an authority: the compare decides. A link that fails takes its chain's tip away; those
//!   behind it fail as well, and all are decided anew on newer state.
//! - Deciding and handing over happen under one lock, so that links are in the store's queue in the order of the chain.
//! - A chain is no longer than [`LONGEST`]: the other masters' writes fit in between.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;

use bytes::Bytes;
use futures::FutureExt;
use kontiki_store::{Entry, Revision, TxnResult};
use parking_lot::{Mutex, MutexGuard};

use crate::Status;
use crate::state::Along;

/// Links of one chain. A few commits' worth; enough that the pause after it does not count.
const LONGEST: u32 = 64;
/// Namespaces are spread over this many locks.
const SHARDS: usize = 16;

/// The chains of a master.
#[derive(Default)]
pub(crate) struct Ledger([Mutex<Tips>; SHARDS]);

/// What is under way, by key.
#[derive(Default)]
pub(crate) struct Tips {
    tips: HashMap<Bytes, Tip>,
    chains: u64,
}

struct Tip {
    value: Bytes,
    chain: u64,
    links: u32,
    /// Links whose outcome is not known.
    pending: u32,
    /// Of the last link that was committed.
    revision: Revision,
}

impl Tips {
    /// What a write is decided on: the tip, unless the state (of `revision`) has caught up with it.
    pub fn value(&self, entry: &Entry, revision: Revision) -> Bytes {
        self.live(&entry.key, revision).map_or(&entry.value, |tip| &tip.value).clone()
    }

    fn live(&self, key: &Bytes, revision: Revision) -> Option<&Tip> {
        self.tips.get(key).filter(|tip| tip.pending > 0 || tip.revision > revision)
    }

    fn link(&mut self, along: &[Along], revision: Revision) -> Vec<(Bytes, u64)> {
        let mut links = Vec::with_capacity(along.len());
        for Along { key, new, .. } in along {
            let before = self.live(key, revision).map(|tip| (tip.chain, tip.links, tip.pending, tip.revision));
            let (chain, length, pending, revision) = before.unwrap_or_else(|| {
                self.chains += 1;
                (self.chains, 0, 0, Revision(0))
            });
            let tip = Tip { value: new.clone(), chain, links: length + 1, pending: pending + 1, revision };
            self.tips.insert(key.clone(), tip);
            links.push((key.clone(), chain));
        }
        links
    }

    /// A link's outcome: the revision it was committed at, or none.
    fn settle(&mut self, links: &[(Bytes, u64)], committed: Option<Revision>) {
        for (key, chain) in links {
            let Some(tip) = self.tips.get_mut(key).filter(|tip| tip.chain == *chain) else { continue };
            match committed {
                Some(revision) => {
                    tip.pending = tip.pending.saturating_sub(1);
                    tip.revision = tip.revision.max(revision);
                }
                None => drop(self.tips.remove(key)),
            }
        }
    }
}

/// A transaction that is on its way, or at least handed over.
pub(crate) type Commit<'a> = Pin<Box<dyn Future<Output = Result<TxnResult, Status>> + Send + 'a>>;

/// What became of handing over.
pub(crate) enum Handed<'a> {
    /// It is on its way, or done.
    Over(Commit<'a>, Link<'a>),
    /// The chain is as long as it may be: others first.
    Full,
}

impl Ledger {
    /// Locks what is under way in a namespace.
    pub fn lock(&self, namespace: &str) -> Turn<'_> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        let shard = &self.0[usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or(0)];
        Turn { shard, tips: shard.lock() }
    }
}

/// The right to decide and hand over.
pub(crate) struct Turn<'a> {
    shard: &'a Mutex<Tips>,
    tips: MutexGuard<'a, Tips>,
}

impl<'a> Turn<'a> {
    /// What is under way.
    pub fn tips(&self) -> &Tips {
        &self.tips
    }

    /// Hands `commit`, which was decided on these tips and a state of `revision`, to the store.
    pub fn hand_over(mut self, mut commit: Commit<'a>, along: &[Along], revision: Revision) -> Handed<'a> {
        let full = |along: &Along| self.tips.live(&along.key, revision).is_some_and(|tip| tip.links >= LONGEST);
        if along.iter().any(full) {
            return Handed::Full;
        }
        // The first look puts it into the store's queue.
        if let Some(done) = commit.as_mut().now_or_never() {
            commit = Box::pin(std::future::ready(done));
        }
        let links = self.tips.link(along, revision);
        Handed::Over(commit, Link { shard: self.shard, links, committed: None })
    }
}

/// One link of a chain. Dropped without an outcome, it breaks the chain.
pub(crate) struct Link<'a> {
    shard: &'a Mutex<Tips>,
    links: Vec<(Bytes, u64)>,
    committed: Option<Revision>,
}

impl Link<'_> {
    /// Its transaction was answered.
    pub fn settle(mut self, result: &TxnResult) {
        self.committed = result.succeeded.then_some(result.revision);
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        self.shard.lock().settle(&self.links, self.committed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn along(new: &'static str) -> [Along; 1] {
        [Along { key: "k".into(), seen: Bytes::new(), new: new.into() }]
    }

    fn value(tips: &Tips, revision: u64) -> Option<&[u8]> {
        tips.live(&"k".into(), Revision(revision)).map(|tip| &*tip.value)
    }

    #[test]
    fn a_tip_lasts_until_the_state_has_caught_up() {
        let mut tips = Tips::default();
        let first = tips.link(&along("1"), Revision(5));
        let second = tips.link(&along("2"), Revision(5));
        assert_eq!((&first, value(&tips, 5)), (&second, Some(&b"2"[..])), "one chain");
        tips.settle(&first, Some(Revision(6)));
        assert_eq!(value(&tips, 9), Some(&b"2"[..]), "one is under way");
        tips.settle(&second, Some(Revision(7)));
        assert_eq!((value(&tips, 6), value(&tips, 7)), (Some(&b"2"[..]), None));
        let third = tips.link(&along("3"), Revision(8));
        assert_ne!(third, second, "a new chain");
    }

    #[test]
    fn a_link_that_fails_breaks_its_own_chain_only() {
        let mut tips = Tips::default();
        let (first, second) = (tips.link(&along("1"), Revision(5)), tips.link(&along("2"), Revision(5)));
        tips.settle(&first, None);
        assert_eq!(value(&tips, 5), None);
        let other = tips.link(&along("3"), Revision(6));
        tips.settle(&second, None);
        assert_eq!(value(&tips, 6), Some(&b"3"[..]), "the new chain goes on");
        tips.settle(&other, Some(Revision(7)));
    }
}
