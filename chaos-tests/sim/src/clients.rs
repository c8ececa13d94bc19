//! Who writes, reads and watches. Every answer is held against the ledger at once.
//!
//! A client sends a transaction again only under another name, so each name happens at most once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kontiki_store::{
    Compare, CompareOp, Entry, HistoryError, Op, ReadError, Revision, Store, Target, Term, Txn, WatchItem, WriteError,
};

use crate::{
    cluster::Shared,
    world::{EPOCH, Rng, World, pause, run_on},
};

const PREFIXES: [&str; 4] = ["", "k/", "k/1", "lease/"];

/// Starts everybody.
pub fn start(shared: &Arc<Shared>, world: &World, rng: &mut Rng, busy: (u64, u64)) {
    for client in 0..4 {
        drop(world.spawn(0, writer(Arc::clone(shared), client, rng.fork(), busy)));
    }
    for client in 0..2 {
        drop(world.spawn(0, reader(Arc::clone(shared), client, rng.fork())));
    }
    for (watcher, prefix) in PREFIXES.into_iter().enumerate() {
        drop(world.spawn(0, watcher_of(Arc::clone(shared), watcher, prefix, rng.fork())));
    }
}

fn key(rng: &mut Rng) -> Bytes {
    format!("k/{:02}", rng.below(24)).into()
}

/// A transaction, and whether it surely puts a value if it is acknowledged with success.
struct Wish {
    txn: Txn,
    puts: bool,
}

fn wish(rng: &mut Rng, id: &str, store: &Store) -> Wish {
    let put = |key: Bytes| Op::put(key, id.to_owned());
    let plain = |ops: Vec<Op>| Wish { txn: Txn::write(ops), puts: true };
    match rng.below(100) {
        0..30 => plain(vec![put(key(rng))]),
        30..45 => {
            // Each key once, so that the transaction's value is what remains.
            let from = rng.below(20);
            plain((from..from + rng.between(2, 4)).map(|n| put(format!("k/{n:02}").into())).collect())
        }
        45..55 => Wish { txn: Txn::write(vec![Op::delete(key(rng))]), puts: false },
        55..58 => {
            let prefix = format!("k/{}", rng.below(3));
            Wish { txn: Txn::write(vec![Op::delete_prefix(prefix)]), puts: false }
        }
        58..78 => {
            let key = key(rng);
            let compare = match store.snapshot().get(&key) {
                Some(entry) if rng.chance(500) => Compare::unchanged(key.clone(), entry.mod_revision),
                Some(entry) => Compare::new(key.clone(), CompareOp::Eq, Target::Version(entry.version.cast_signed())),
                None => Compare::absent(key.clone()),
            };
            let failure = if rng.chance(300) { vec![put("k/failed".into())] } else { Vec::new() };
            Wish { txn: Txn { compares: vec![compare], success: vec![put(key)], failure, fence: None }, puts: false }
        }
        78..88 => {
            let expires = EPOCH + rng.between(1, 40);
            let key = format!("lease/{}", rng.below(6));
            plain(vec![Op::put_until(key, id.to_owned(), Some(expires))])
        }
        _ => {
            let term = store.status().borrow().term;
            let term = if rng.chance(300) { Term(term.0.saturating_sub(1)) } else { term };
            Wish { txn: Txn::write(vec![put(key(rng))]).fenced(Some(term)), puts: true }
        }
    }
}

async fn writer(shared: Arc<Shared>, client: u64, mut rng: Rng, busy: (u64, u64)) {
    let mut count = 0;
    while !shared.is_quiet() {
        pause(Duration::from_micros(rng.between(busy.0, busy.1))).await;
        let Some((member, store)) = shared.pick(&mut rng) else { continue };
        count += 1;
        let id = format!("c{client}-{count}");
        let Wish { txn, puts } = wish(&mut rng, &id, &store);
        let task = run_on(member, async move { store.txn(txn).await });
        let result = task.await;
        let mut ledger = shared.ledger();
        match result {
            Ok(Ok(result)) => ledger.ack(&id, result.revision, puts && result.succeeded),
            Ok(Err(WriteError::Unknown)) | Err(_) => ledger.counts.unknown += 1,
            Ok(Err(_)) => ledger.refuse(&id),
        }
    }
}

async fn reader(shared: Arc<Shared>, client: u64, mut rng: Rng) {
    while !shared.is_quiet() {
        pause(Duration::from_millis(rng.between(2, 60))).await;
        let Some((member, store)) = shared.pick(&mut rng) else { continue };
        if client == 0 || rng.chance(500) {
            let floor = shared.ledger().acknowledged();
            let task = run_on(member, async move {
                store.barrier().await?;
                let snapshot = store.snapshot();
                let found: Vec<Entry> = snapshot.range(b"").map(|entry| Entry::clone(&entry)).collect();
                Ok::<_, ReadError>((snapshot.revision(), found))
            });
            if let Ok(Ok((revision, found))) = task.await {
                shared.ledger().read(member, floor, revision, &found);
            }
            continue;
        }
        let (prefix, back) = (PREFIXES[rng.below(4) as usize], rng.below(80));
        let task = run_on(member, async move {
            let at = Revision(store.snapshot().revision().0.saturating_sub(back).max(1));
            (at, store.range_at(prefix.as_bytes(), at).await)
        });
        if let Ok((at, Ok(found))) = task.await {
            let mut ledger = shared.ledger();
            ledger.counts.past_reads += 1;
            let found: Vec<Entry> = found.iter().map(|entry| Entry::clone(entry)).collect();
            ledger.check_range("the past", prefix.as_bytes(), at.0, &found);
        }
    }
}

/// Watches on, through deaths of the members it watches at, for as long as history allows.
async fn watcher_of(shared: Arc<Shared>, watcher: usize, prefix: &'static str, mut rng: Rng) {
    let who = format!("watcher {watcher} of {prefix:?}");
    let mut position: Option<u64> = None;
    loop {
        pause(Duration::from_millis(rng.between(1, 20))).await;
        let Some((member, store)) = shared.pick(&mut rng) else { continue };
        let leave_after = rng.between(50, 3000);
        let (with, name) = (Arc::clone(&shared), who.clone());
        let task = run_on(member, watch(with, name, store, prefix, position, leave_after));
        // Whoever died with its member was seen in the ledger: it starts over from the present.
        position = task.await.ok().flatten();
        if position.is_none() {
            shared.ledger().watches(&who, None);
        }
    }
}

/// Watches for a while at one member, and says up to where it has seen everything, if it has.
async fn watch(
    shared: Arc<Shared>,
    who: String,
    store: Store,
    prefix: &'static str,
    after: Option<u64>,
    leave_after: u64,
) -> Option<u64> {
    let opened = store.watch(Bytes::from_static(prefix.as_bytes()), after.map(Revision));
    let mut watch = match opened {
        Ok(watch) => watch,
        Err(HistoryError::Compacted { .. }) => return None,
        Err(error) => {
            shared.ledger().broken("watch", format!("{who} could not begin: {error}"));
            return None;
        }
    };
    drop(store);
    watch.set_progress_interval(Duration::from_millis(200));
    let mut position = watch.position().0;
    let mut items = 0;
    loop {
        shared.ledger().watches(&who, Some((prefix, position)));
        match watch.next().await {
            Some(WatchItem::Events(batch)) => {
                position = shared.ledger().watched(&who, prefix.as_bytes(), position, &batch);
            }
            Some(WatchItem::Progress(upto)) => {
                shared.ledger().progressed(&who, prefix.as_bytes(), position, upto.0);
                position = position.max(upto.0);
            }
            Some(WatchItem::Lagged) => return None,
            None => return Some(position),
        }
        items += 1;
        if items > leave_after && !shared.is_quiet() {
            return Some(position);
        }
    }
}
