//! Compares the members' states, and stops the one that differs.
//!
//! Invariants
//! - Digests are compared as of one entry of the log, where equal members are equal.
//! - A member stops only if a strict majority of the voters agrees on another state, itself not counted in.
//! - Nothing is asked while nothing was applied since all were found equal.
//!
//! Not here: damage that nothing reads. Rows are checked against their sum when a member starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    raft::{
        engine::Core,
        forward::{Ask, decode_digest},
        members,
    },
    rt,
};
use kontiki_state::Digest;

/// How often members are compared.
const EVERY: Duration = Duration::from_secs(10);
/// How often the others are asked again when they do not know the entry yet, or not any more.
const TRIES: usize = 20;
const AGAIN: Duration = Duration::from_millis(50);
const ANSWER: Duration = Duration::from_secs(1);

/// What comparing gave.
#[derive(PartialEq, Eq, Debug)]
enum Judgement {
    /// All who answered agree.
    Equal,
    /// These differ from what most voters have.
    Differ(Vec<u64>, Digest),
    /// Some differ, and there is no majority for anything.
    Undecided,
}

fn judge(voters: &BTreeSet<u64>, digests: &BTreeMap<u64, Digest>) -> Judgement {
    let mut supporters: BTreeMap<Digest, usize> = BTreeMap::new();
    for (id, digest) in digests {
        *supporters.entry(*digest).or_default() += usize::from(voters.contains(id));
    }
    if supporters.len() <= 1 {
        return Judgement::Equal;
    }
    match supporters.into_iter().find(|(_, count)| *count * 2 > voters.len()) {
        Some((most, _)) => {
            let differ = digests.iter().filter(|(_, digest)| **digest != most);
            Judgement::Differ(differ.map(|(id, _)| *id).collect(), most)
        }
        None => Judgement::Undecided,
    }
}

/// Compares while this member leads.
pub(crate) async fn compare(core: Arc<Core>) {
    // The entry as of which all members were found equal.
    let mut equal_at = None;
    let mut level = core.local.level();
    loop {
        // A new level is looked at soon: what its first entries do is new.
        let changed = async {
            let mut applied = core.view.applied();
            while core.local.level() == level && applied.changed().await.is_ok() {}
        };
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            // Cancel-safe: the level is looked at again.
            () = changed, if level != core.local.newest => {}
            () = rt::sleep(EVERY) => {}
        }
        level = core.local.level();
        let latest = core.local.samples.latest()[0].map(|(index, _)| index);
        if core.leads() && latest.is_some() && latest != equal_at {
            equal_at = compare_once(&core).await;
        }
    }
}

/// Compares all members; tells the entry as of which all were equal.
async fn compare_once(core: &Core) -> Option<u64> {
    let (voters, others) = core.metrics(|metrics| {
        let others = members::others(metrics, core.id).map(|(id, node)| (id, node.address.clone()));
        let others: BTreeMap<u64, String> = others.collect();
        (metrics.membership_config.membership().voter_ids().collect::<BTreeSet<u64>>(), others)
    });
    let (index, digests) = gather(core, &others).await?;
    match judge(&voters, &digests) {
        Judgement::Equal if digests.len() == others.len() + 1 => {
            core.local.found_equal();
            Some(index)
        }
        Judgement::Equal => None,
        Judgement::Differ(differ, most) => {
            tracing::error!(index, ?differ, "members differ from the majority and are told to stop");
            for id in differ {
                stop(core, id, others.get(&id), index, most).await;
            }
            None
        }
        Judgement::Undecided => {
            tracing::error!(
                index,
                members = digests.len(),
                "members differ, and no majority agrees: nobody is stopped"
            );
            None
        }
    }
}

/// The digests of all members that can tell theirs as of one entry, this one's included.
async fn gather(core: &Core, others: &BTreeMap<u64, String>) -> Option<(u64, BTreeMap<u64, Digest>)> {
    let mut best = None;
    for attempt in 0..TRIES {
        // Where little happens, the latest entry is everybody's; where much does, those that all note.
        let (index, own) = core.local.samples.latest()[attempt % 2].or(core.local.samples.latest()[0])?;
        let mut digests = BTreeMap::from([(core.id, own)]);
        for (id, address) in others {
            let answer = core.peers.forward(address, Ask::Digest { index }.encode(), ANSWER).await;
            if let Some(digest) = answer.ok().and_then(|answer| decode_digest(answer).ok().flatten()) {
                digests.insert(*id, digest);
            }
        }
        let all = digests.len() == others.len() + 1;
        if best.as_ref().is_none_or(|(_, known): &(u64, BTreeMap<u64, Digest>)| known.len() < digests.len()) {
            best = Some((index, digests));
        }
        if all || core.stop.is_cancelled() {
            break;
        }
        rt::sleep(AGAIN).await;
    }
    best
}

/// Tells a member to stop; this one stops at once.
async fn stop(core: &Core, id: u64, address: Option<&String>, index: u64, most: Digest) {
    let Some(address) = address else { return core.condemn(index, most) };
    // A member that does not hear it is asked again in the next round.
    if core.peers.forward(address, Ask::Differs { index, digest: most }.encode(), ANSWER).await.is_err() {
        tracing::warn!(id, "a member that differs from the majority could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_majority_of_the_voters_decides() {
        for (name, voters, digests, expect) in [
            ("all equal", "123", "1a 2a 3a", Judgement::Equal),
            ("one silent", "123", "1a 2a", Judgement::Equal),
            ("one differs", "123", "1a 2b 3a", Judgement::Differ(vec![2], Digest(1))),
            ("the one who asks differs", "123", "1b 2a 3a", Judgement::Differ(vec![1], Digest(1))),
            ("two of three answered", "123", "1a 2b", Judgement::Undecided),
            ("two of two", "12", "1a 2b", Judgement::Undecided),
            ("a learner differs", "12", "1a 2a 9b", Judgement::Differ(vec![9], Digest(1))),
            ("learners do not vote", "123", "1a 2b 8b 9b", Judgement::Undecided),
            ("two of five differ", "12345", "1a 2b 3a 4c 5a", Judgement::Differ(vec![2, 4], Digest(1))),
            ("two against two", "12345", "1a 2b 3a 4b", Judgement::Undecided),
        ] {
            let voters = voters.bytes().map(|id| u64::from(id - b'0')).collect();
            let digests = digests.split(' ').map(|pair| {
                let [id, digest] = *pair.as_bytes() else { panic!("{pair}") };
                (u64::from(id - b'0'), Digest(u128::from(digest - b'a' + 1)))
            });
            assert_eq!(judge(&voters, &digests.collect()), expect, "{name}");
        }
    }
}
