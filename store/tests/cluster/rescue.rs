//! What is left after a loss: a backup, or one member of three.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use kontiki_store::{
    Config, EventKind, FirstMember, HistoryError, Op, Put, PutLease, Revision, Store, Survivor, Tuning, Txn, WatchItem,
    adopt_generation, backup_info, generation_of, members_at, restore,
};
use tokio_util::sync::CancellationToken;

use super::{Cluster, eventually, put, put_surely, support::Pki, value};

/// Writes under a prefix until told to stop; tells what was acknowledged, key by key.
struct Load {
    acknowledged: Arc<Mutex<BTreeMap<String, String>>>,
    stop: CancellationToken,
    writer: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(store: &Store, prefix: &'static str) -> Self {
        let (acknowledged, stop) = (Arc::new(Mutex::new(BTreeMap::new())), CancellationToken::new());
        let writer = tokio::spawn({
            let (store, acknowledged, stop) = (store.clone(), Arc::clone(&acknowledged), stop.clone());
            async move {
                for n in 0u64.. {
                    if stop.is_cancelled() {
                        return;
                    }
                    let (key, text) = (format!("{prefix}{}", n % 200), n.to_string());
                    // Only what is known to be the latest of its key counts.
                    acknowledged.lock().unwrap().remove(&key);
                    if store.txn(put(&key, &text)).await.is_ok() {
                        acknowledged.lock().unwrap().insert(key, text);
                    }
                }
            }
        });
        Self { acknowledged, stop, writer }
    }

    fn so_far(&self) -> BTreeMap<String, String> {
        self.acknowledged.lock().unwrap().clone()
    }

    async fn end(self) -> BTreeMap<String, String> {
        self.stop.cancel();
        self.writer.await.unwrap();
        let acknowledged = self.acknowledged.lock().unwrap();
        acknowledged.clone()
    }
}

/// Makes a new member's directory ready for a group, as everybody does who joins one.
async fn prepare(group: &Cluster, joining: &Config) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        for config in group.configs.values() {
            let members = members_at(&joining.tls, &config.advertise).await.unwrap_or_default();
            // Whoever does not lead answers with nobody.
            if !members.is_empty() {
                return adopt_generation(&joining.dir, generation_of(&members)).unwrap();
            }
        }
        assert!(Instant::now() < deadline, "no leader answers");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a number is there that is not older than the one that was acknowledged or shown.
fn holds(store: &Store, key: &str, number: &str) {
    let there = value(store, key).unwrap_or_else(|| panic!("{key} is gone, {number} was acknowledged"));
    let (there, number): (u64, u64) = (there.parse().unwrap(), number.parse().unwrap());
    assert!(there >= number, "{key}: {number} was acknowledged, {there} is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_taken_under_load_begins_a_new_group() {
    let mut cluster = Cluster::start(3, Tuning::default()).await;
    let store = cluster.members[&cluster.follower().await].clone();
    put_surely(&store, "/gone", "x").await;
    store.txn(Txn::write(vec![Op::delete("/gone")])).await.unwrap();
    store.grant(77, 600).await.unwrap();
    let leased =
        Put { key: "/leased".into(), value: Some("x".into()), expires: None, lease: PutLease::Set(77), prev: false };
    store.txn(Txn::write(vec![Op::Put(leased)])).await.unwrap();
    let load = Load::start(&store, "/load/");
    eventually("some load", || (load.so_far().len() >= 100).then_some(())).await;

    let before = load.so_far();
    let begun = store.barrier().await.unwrap();
    let mut backup = store.backup().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = backup.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    let seen = put_surely(&store, "/later", "x").await;
    load.end().await;
    let file = cluster.dir.path().join("backup");
    std::fs::write(&file, &bytes).unwrap();
    let info = backup_info(&file).unwrap();
    eprintln!("{info:?}");
    assert!(info.revision >= begun.0 && info.revision < seen.0, "{info:?}, asked at {begun}");
    assert_eq!((info.bytes, info.leases), (bytes.len() as u64, 1));

    // The first member of the new group has the id, the name and the address of an old member.
    let old = cluster.configs[&1].clone();
    let mut config = Config { dir: cluster.dir.path().join("new/s1"), ..old.clone() };
    let first = FirstMember { id: 1, name: "s1", address: &old.advertise, ca_pem: &old.tls.ca_pem };
    let bump = 1_000_000;
    for (what, damaged, expect) in [
        ("a flipped bit", flipped(&bytes, bytes.len() / 2), "checksum is wrong"),
        ("a flipped bit in the checksum", flipped(&bytes, bytes.len() - 1), "checksum is wrong"),
        ("a torn file", bytes[..bytes.len() - 700].to_vec(), "not whole"),
        ("a file that ends at a block", bytes[..bytes.len() - 512].to_vec(), "checksum is wrong"),
        ("a foreign file", b"SQLite format 3\0".repeat(64), "not a backup"),
        ("an empty file", Vec::new(), "not a backup"),
    ] {
        let damage = cluster.dir.path().join("damaged");
        std::fs::write(&damage, damaged).unwrap();
        let line = restore(&damage, &config.dir, &first, bump).unwrap_err().to_string();
        assert!(line.contains(expect) && !line.contains('\n'), "{what}: {line}");
        assert!(!config.dir.exists(), "{what} left a directory behind");
    }
    let line = restore(&file, &old.dir, &first, bump).unwrap_err().to_string();
    assert!(line.contains("nothing was overwritten"), "{line}");

    cluster.members.remove(&1).unwrap().crash().await;
    assert_eq!(restore(&file, &config.dir, &first, bump).unwrap(), info);
    let left: Vec<_> = std::fs::read_dir(config.dir.parent().unwrap()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    config.tls = cluster.pki.issue("kontiki:servers");
    let mut new = Cluster {
        pki: Pki::new(),
        dir: tempfile::tempdir().unwrap(),
        configs: BTreeMap::from([(1, config.clone())]),
        members: BTreeMap::new(),
        tuning: Tuning::default(),
    };
    new.reopen(1).await;
    assert!(new.members[&1].initialized());
    new.leader().await;
    for id in [4, 5] {
        let joining = cluster.pki.config(id, new.dir.path());
        prepare(&new, &joining).await;
        new.configs.insert(id, joining);
        new.reopen(id).await;
        new.join(id).await.unwrap();
    }
    let now = new.converge().await;
    assert_eq!(now.0, info.revision + bump);
    for store in new.members.values() {
        for (key, text) in &before {
            holds(store, key, text);
        }
        assert_eq!((value(store, "/gone"), value(store, "/leased").as_deref()), (None, Some("x")));
        assert_eq!(store.snapshot().range(b"").count() as u64, info.keys);
        for after in [begun, Revision(info.revision), seen, Revision(now.0 - 1)] {
            let told = store.watch("/".into(), Some(after)).err();
            assert_eq!(told, Some(HistoryError::Compacted { oldest: now }), "watching after {after}");
        }
    }
    let left = new.members[&1].leases_left(Some(77)).await.unwrap();
    assert!(left[0].1 > 590_000, "a lease has its whole time again: {left:?}");
    // Watching, deleting the lease, and what the old group still has: all goes on.
    let mut watch = new.members[&4].watch("/leased".into(), Some(now)).unwrap();
    new.members[&5].revoke(77).await.unwrap();
    let Some(WatchItem::Events(events)) = watch.next().await else { panic!("no event") };
    assert_eq!((events[0].kind, events[0].entry.mod_revision), (EventKind::Delete, now.next()));
    // The rest of the old group is a majority of it, and knows the first member's address. Nothing of it comes over.
    put_surely(cluster.members.values().next().unwrap(), "/old", "x").await;
    put_surely(&new.members[&5], "/new", "x").await;
    new.converge().await;
    assert!(new.members.values().all(|store| value(store, "/old").is_none()));
    assert_eq!(value(cluster.members.values().next().unwrap(), "/new"), None);
    // It all survives a restart.
    for id in [1, 4, 5] {
        new.members.remove(&id).unwrap().crash().await;
    }
    for id in [1, 4, 5] {
        new.reopen(id).await;
    }
    put_surely(&new.members[&4], "/new", "y").await;
    new.converge().await;
    assert_eq!(value(&new.members[&1], "/old"), None);
    drop((store, watch));
    new.stop().await;
    cluster.stop().await;
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_survivor_goes_on_alone_and_takes_new_members() {
    let mut cluster = Cluster::start(3, Tuning::default()).await;
    let survivor = cluster.follower().await;
    let config = cluster.configs[&survivor].clone();
    let store = cluster.members[&survivor].clone();
    let load = Load::start(&store, "/load/");
    eventually("some load", || (load.so_far().len() >= 150).then_some(())).await;
    let busy = Survivor::open(&config.dir).err().unwrap().to_string();
    assert!(busy.contains("in use by another process"), "{busy}");
    let acknowledged = load.so_far();
    // What was acknowledged may be on the two others only; after this it is here too.
    store.barrier().await.unwrap();
    // They are lost in the midst of it, and the survivor dies with writes under way.
    for (id, other) in cluster.members.clone() {
        if id != survivor {
            other.crash().await;
            cluster.members.remove(&id);
        }
    }
    load.end().await;
    let shown = store.snapshot();
    drop(store);
    cluster.members.remove(&survivor).unwrap().crash().await;

    let nobodys = Survivor::open(cluster.dir.path()).err().unwrap().to_string();
    assert!(nobodys.contains("not the data of a member"), "{nobodys}");
    // Twice, as somebody does who was interrupted.
    for _ in 0..2 {
        let found = Survivor::open(&config.dir).unwrap();
        eprintln!("{:?}", found.state());
        assert_eq!((found.state().id, &found.state().name), (survivor, &config.name));
        assert!(found.state().last >= found.state().applied);
        found.force_new_cluster().unwrap();
    }
    cluster.reopen(survivor).await;
    cluster.leader().await;
    let store = cluster.members[&survivor].clone();
    put_surely(&store, "/alone", "x").await;
    for (key, number) in &acknowledged {
        holds(&store, key, number);
    }
    for entry in shown.range(b"/load/") {
        holds(&store, std::str::from_utf8(&entry.key).unwrap(), std::str::from_utf8(&entry.value).unwrap());
    }
    drop(shown);

    // The lost members come back after all: a majority of the old group, at their old addresses.
    let old: Vec<u64> = cluster.configs.keys().copied().filter(|id| *id != survivor).collect();
    for id in &old {
        cluster.reopen(*id).await;
    }
    put_surely(&cluster.members[&old[0]], "/ghosts", "x").await;
    put_surely(&store, "/alone", "y").await;
    let term = store.status().borrow().term;
    for id in &old {
        let ghost = &cluster.members[id];
        // The one that follows shows it when it hears that it was committed.
        eventually("write of the old group", || value(ghost, "/ghosts").filter(|value| value == "x")).await;
        assert_eq!(value(ghost, "/alone"), None);
        assert!(ghost.status().borrow().term < term, "the old group has heard of the new one's terms");
    }
    assert_eq!(value(&store, "/ghosts"), None);
    assert_eq!(store.status().borrow().members.len(), 1);
    for id in old {
        cluster.members.remove(&id).unwrap().crash().await;
        cluster.configs.remove(&id);
    }

    for id in [4, 5] {
        let joining = cluster.pki.config(id, cluster.dir.path());
        prepare(&cluster, &joining).await;
        cluster.configs.insert(id, joining);
        cluster.reopen(id).await;
        let (name, address) = (cluster.configs[&id].name.clone(), cluster.configs[&id].advertise.clone());
        store.add_member(id, &name, &address).await.unwrap();
    }
    cluster.converge().await;
    // Now the survivor may go.
    cluster.members.remove(&survivor).unwrap().shutdown().await;
    put_surely(&cluster.members[&4], "/alone", "z").await;
    cluster.reopen(survivor).await;
    cluster.converge().await;
    assert_eq!(value(&cluster.members[&survivor], "/alone").as_deref(), Some("z"));
    cluster.stop().await;
}
