//! Whole members in one process, talking over loopback with mutual TLS.

#![allow(clippy::unwrap_used)] // a test may panic

#[path = "cluster/level.rs"]
mod level;
#[path = "cluster/rescue.rs"]
mod rescue;
mod support;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kontiki_store::{
    Compare, Config, EventKind, HistoryError, MemberError, Op, ReadError, Revision, Role, Store, Term, Tuning, Txn,
    WatchItem, WriteError,
};
use support::Pki;

struct Cluster {
    pki: Pki,
    dir: tempfile::TempDir,
    configs: BTreeMap<u64, Config>,
    members: BTreeMap<u64, Store>,
    tuning: Tuning,
}

impl Cluster {
    fn empty(tuning: Tuning) -> Self {
        let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
        Self { pki, dir, configs: BTreeMap::new(), members: BTreeMap::new(), tuning }
    }

    async fn start(size: u64, tuning: Tuning) -> Self {
        let mut cluster = Self::empty(tuning);
        for id in 1..=size {
            let config = cluster.pki.config(id, cluster.dir.path());
            cluster.add(id, config).await;
        }
        cluster
    }

    /// Starts a member as the first of the group, or as one more.
    async fn add(&mut self, id: u64, config: Config) {
        self.configs.insert(id, config);
        self.reopen(id).await;
        if self.members.len() == 1 {
            self.members[&id].bootstrap().await.unwrap();
        } else {
            // The leader of a busy machine may have just changed; whoever joins asks again.
            let deadline = Instant::now() + Duration::from_secs(20);
            while let Err(error) = self.join(id).await {
                assert!(matches!(error, MemberError::NoLeader) && Instant::now() < deadline, "{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn open_new(&mut self, id: u64) {
        let config = self.pki.config(id, self.dir.path());
        self.configs.insert(id, config);
        self.reopen(id).await;
    }

    async fn reopen(&mut self, id: u64) {
        let store = Store::open_with(self.configs[&id].clone(), self.tuning).await.unwrap();
        self.members.insert(id, store);
    }

    async fn join(&self, id: u64) -> Result<(), MemberError> {
        let config = &self.configs[&id];
        let (_, any) = self.members.iter().find(|(other, _)| **other != id).unwrap();
        any.add_member(id, &config.name, &config.advertise).await
    }

    async fn leader(&self) -> u64 {
        eventually("a leader", || {
            self.members
                .values()
                .find(|store| store.status().borrow().is_leader)
                .map(|store| store.status().borrow().id)
        })
        .await
    }

    async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.members.keys().find(|id| **id != leader).unwrap()
    }

    /// All members show the same keys.
    async fn converge(&self) -> Revision {
        eventually("equal members", || {
            let views: Vec<_> = self.members.values().map(Store::snapshot).collect();
            let first = views.first().unwrap();
            let equal =
                views.iter().all(|view| view.revision() == first.revision() && view.range(b"").eq(first.range(b"")));
            equal.then(|| first.revision())
        })
        .await
    }

    async fn stop(mut self) {
        for (_, store) in std::mem::take(&mut self.members) {
            store.crash().await;
        }
    }
}

async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn put(key: &str, value: &str) -> Txn {
    Txn::write(vec![Op::put(key.to_owned(), value.to_owned())])
}

/// Writes until the outcome is known; a put may be repeated.
async fn put_surely(store: &Store, key: &str, value: &str) -> Revision {
    loop {
        match store.txn(put(key, value)).await {
            Ok(result) => return result.revision,
            Err(WriteError::Unknown | WriteError::NoLeader) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn value(store: &Store, key: &str) -> Option<String> {
    store.snapshot().get(key.as_bytes()).map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_member_writes_and_reads_what_any_other_wrote() {
    let cluster = Cluster::start(3, Tuning::default()).await;
    for (id, store) in &cluster.members {
        let result = store.txn(put(&format!("/k/{id}"), "v")).await.unwrap();
        for reader in cluster.members.values() {
            assert!(reader.barrier().await.unwrap() >= result.revision);
            assert_eq!(value(reader, &format!("/k/{id}")).as_deref(), Some("v"));
        }
        let refused = store.txn(Txn::guarded(vec![Compare::absent(format!("/k/{id}"))], vec![])).await.unwrap();
        assert!(!refused.succeeded);
        assert_eq!(refused.current(0).unwrap().mod_revision, result.revision);
        assert_eq!(store.txn(put("/f", "x").fenced(Some(Term(99)))).await, Err(WriteError::Fenced));
        let large = "x".repeat(2 << 20);
        assert_eq!(store.txn(put("/large", &large)).await, Err(WriteError::TooLarge));
    }
    let term = cluster.members[&cluster.leader().await].status().borrow().term;
    cluster.members[&cluster.follower().await].txn(put("/f", "x").fenced(Some(term))).await.unwrap();
    cluster.converge().await;
    for store in cluster.members.values() {
        let mut status = store.status();
        let status = status.wait_for(|s| s.members.iter().all(|m| m.reachable && m.lag == Some(0))).await.unwrap();
        assert_eq!(status.members.iter().filter(|member| member.role == Role::Leader).count(), 1);
        assert_eq!(status.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["s1", "s2", "s3"]);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_leader_is_replaced_and_catches_up_when_it_returns() {
    let mut cluster = Cluster::start(3, Tuning::default()).await;
    let mut gaps = Vec::new();
    for round in 0..6 {
        let leader = cluster.leader().await;
        put_surely(&cluster.members[&leader], "/round", &format!("before {round}")).await;
        let store = cluster.members.remove(&leader).unwrap();
        let lost = Instant::now();
        if round % 3 == 2 {
            store.shutdown().await
        } else {
            store.crash().await
        }
        drop(store);
        let survivor = cluster.members.values().next().unwrap();
        let revision = put_surely(survivor, "/round", &format!("after {round}")).await;
        gaps.push(lost.elapsed());
        cluster.reopen(leader).await;
        assert!(cluster.members[&leader].initialized());
        assert!(cluster.members[&leader].barrier().await.unwrap() >= revision);
        assert_eq!(value(&cluster.members[&leader], "/round"), Some(format!("after {round}")));
    }
    gaps.sort();
    eprintln!("write gaps: {gaps:?}");
    assert!(gaps[gaps.len() / 2] < Duration::from_millis(1500), "{gaps:?}");
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_that_are_far_behind_get_a_snapshot_while_writes_go_on() {
    let tuning = Tuning { snapshot_every: 100, keep_log: 10, ..Tuning::default() };
    let mut cluster = Cluster::start(3, tuning).await;
    let behind = cluster.follower().await;
    let before = put_surely(&cluster.members[&behind], "/n/0", "first").await;
    cluster.converge().await;
    cluster.members.remove(&behind).unwrap().shutdown().await;
    let any = cluster.members.values().next().unwrap().clone();
    for n in 0..400 {
        put_surely(&any, &format!("/n/{}", n % 50), &n.to_string()).await;
    }
    any.txn(Txn::write(vec![Op::delete_prefix("/n/4")])).await.unwrap();
    let writer = tokio::spawn({
        let any = any.clone();
        async move {
            for n in 0..200 {
                put_surely(&any, "/during", &n.to_string()).await;
            }
        }
    });
    cluster.reopen(behind).await;
    cluster.open_new(4).await;
    cluster.join(4).await.unwrap();
    writer.await.unwrap();
    cluster.converge().await;
    for id in [behind, 4] {
        let store = &cluster.members[&id];
        let (here, there) = (store.range_at(b"/n/", before).await, any.range_at(b"/n/", before).await);
        assert_eq!(here, there);
        assert_eq!(here.unwrap().len(), 1);
        // History came along: a watch from the past sees the same as elsewhere.
        let seen = [store, &any].map(|store| events(store, "/n/", before));
        let [here, there] = futures::future::join_all(seen).await.try_into().unwrap();
        assert_eq!(here, there);
        assert_eq!(here.len(), 411);
    }
    cluster.stop().await;
}

/// All events under a prefix after a revision, up to the store's present one.
async fn events(store: &Store, prefix: &str, after: Revision) -> Vec<(Revision, String, EventKind, Option<Revision>)> {
    let mut watch = store.watch(Bytes::copy_from_slice(prefix.as_bytes()), Some(after)).unwrap();
    watch.set_progress_interval(Duration::from_millis(50));
    let until = store.snapshot().revision();
    let mut seen = Vec::new();
    loop {
        match watch.next().await.unwrap() {
            WatchItem::Events(events) => seen.extend(events.iter().map(|event| {
                let key = String::from_utf8_lossy(&event.entry.key).into_owned();
                (event.entry.mod_revision, key, event.kind, event.prev.as_ref().map(|prev| prev.mod_revision))
            })),
            WatchItem::Progress(revision) if revision >= until => return seen,
            WatchItem::Progress(_) => {}
            WatchItem::Lagged => panic!("lagged"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watches_have_no_gap_and_no_duplicate_across_leader_changes() {
    let mut cluster = Cluster::start(3, Tuning::default()).await;
    let start = cluster.converge().await;
    let watched = cluster.follower().await;
    let writers = cluster.members.iter().map(|(id, store)| {
        let (id, store) = (*id, store.clone());
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0..300 {
                match store.txn(put(&format!("/w/{id}/{}", n % 7), &n.to_string())).await {
                    Ok(result) => acknowledged.push(result.revision),
                    Err(WriteError::Unknown | WriteError::NoLeader | WriteError::Stopped) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            acknowledged
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut live = cluster.members[&watched].watch("/w/".into(), None).unwrap();
    let from = live.position();
    let live = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(item) = live.next().await {
            match item {
                WatchItem::Events(events) => seen.push(events[0].entry.mod_revision),
                WatchItem::Progress(_) => {}
                WatchItem::Lagged => panic!("lagged"),
            }
        }
        seen
    });
    let leader = cluster.leader().await;
    if leader != watched {
        cluster.members.remove(&leader).unwrap().crash().await;
        cluster.leader().await;
        cluster.reopen(leader).await;
    }
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    cluster.converge().await;
    acknowledged.sort();
    let store = &cluster.members[&watched];
    let history: Vec<Revision> = events(store, "/w/", start).await.into_iter().map(|event| event.0).collect();
    assert!(history.windows(2).all(|pair| pair[0] < pair[1]), "out of order or twice");
    assert!(acknowledged.iter().all(|revision| history.binary_search(revision).is_ok()), "lost");
    for other in cluster.members.values() {
        let there: Vec<Revision> = events(other, "/w/", start).await.into_iter().map(|event| event.0).collect();
        assert_eq!(there, history);
    }
    cluster.members.remove(&watched).unwrap().shutdown().await;
    let seen = live.await.unwrap();
    let expected: Vec<Revision> = history.into_iter().filter(|revision| *revision > from).collect();
    assert_eq!(seen, expected);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_majority_every_call_ends_and_local_reads_go_on() {
    let mut cluster = Cluster::start(3, Tuning::default()).await;
    let survivor = cluster.follower().await;
    put_surely(&cluster.members[&survivor], "/k", "v").await;
    let (id, store) = (survivor, cluster.members.remove(&survivor).unwrap());
    for other in std::mem::take(&mut cluster.members).into_values() {
        other.crash().await;
    }
    cluster.members.insert(id, store);
    let store = &cluster.members[&id];
    let started = Instant::now();
    let (write, read) = tokio::join!(store.txn(put("/k", "w")), store.barrier());
    assert!(matches!(write, Err(WriteError::NoLeader | WriteError::Unknown)), "{write:?}");
    assert!(matches!(read, Err(ReadError::NoLeader)), "{read:?}");
    assert!(started.elapsed() < Duration::from_secs(7));
    assert_eq!(value(store, "/k").as_deref(), Some("v"));
    assert!(!store.status().borrow().is_leader);
    for other in cluster.configs.keys().copied().filter(|other| *other != id).collect::<Vec<_>>() {
        cluster.reopen(other).await;
    }
    put_surely(&cluster.members[&id], "/k", "x").await;
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn membership_changes_that_would_lose_the_majority_are_refused() {
    let mut cluster = Cluster::start(1, Tuning::default()).await;
    assert!(matches!(cluster.members[&1].remove_member(1).await, Err(MemberError::Refused(_))));
    cluster.open_new(2).await;
    cluster.join(2).await.unwrap();
    cluster.join(2).await.unwrap();
    let taken = cluster.members[&1].add_member(3, "s2", "127.0.0.1:1").await;
    assert!(matches!(taken, Err(MemberError::Conflict(_))), "{taken:?}");
    cluster.open_new(3).await;
    cluster.join(3).await.unwrap();
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    cluster.members[&follower].transfer_leadership(None).await.unwrap();
    let mut status = cluster.members[&leader].status();
    status.wait_for(|status| status.leader.is_some_and(|id| id != leader)).await.unwrap();
    let leader = cluster.leader().await;
    let others: Vec<u64> = cluster.members.keys().copied().filter(|id| *id != leader).collect();
    cluster.members.remove(&others[0]).unwrap().crash().await;
    let store = cluster.members[&leader].clone();
    eventually("a silent member", || {
        let members = store.status().borrow().members.clone();
        members.iter().any(|member| member.id == others[0] && !member.reachable).then_some(())
    })
    .await;
    // Two of three answer. Without one of them, one of two would.
    let refused = cluster.members[&others[1]].remove_member(others[1]).await;
    assert!(matches!(refused, Err(MemberError::Refused(_))), "{refused:?}");
    cluster.members[&others[1]].remove_member(others[0]).await.unwrap();
    assert_eq!(store.remove_member(77).await, Err(MemberError::NotFound(77)));
    put_surely(&store, "/k", "v").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_single_member_keeps_its_data_its_history_and_its_promises() {
    let tuning =
        Tuning { history: Duration::from_millis(400), compact_every: Duration::from_millis(50), ..Tuning::default() };
    let mut cluster = Cluster::start(1, Tuning::default()).await;
    let store = cluster.members[&1].clone();
    let first = put_surely(&store, "/a", "1").await;
    put_surely(&store, "/b", "1").await;
    put_surely(&store, "/a", "2").await;
    store.txn(Txn::write(vec![Op::delete("/b")])).await.unwrap();
    let names = |entries: Vec<std::sync::Arc<kontiki_store::Entry>>| {
        entries
            .iter()
            .map(|e| format!("{}={}", String::from_utf8_lossy(&e.key), String::from_utf8_lossy(&e.value)))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(store.range_at(b"/", first.next()).await.unwrap()), ["/a=1", "/b=1"]);
    assert_eq!(names(store.range_at(b"/", first).await.unwrap()), ["/a=1"]);
    assert!(matches!(store.range_at(b"/", Revision(99)).await, Err(HistoryError::Future { .. })));
    drop(store);
    cluster.members.remove(&1).unwrap().crash().await;

    cluster.tuning = tuning;
    cluster.reopen(1).await;
    let store = cluster.members[&1].clone();
    assert!(store.initialized());
    store.barrier().await.unwrap();
    assert_eq!(value(&store, "/a").as_deref(), Some("2"));
    assert_eq!(value(&store, "/b"), None);
    // Keys expire, and history does, but not what is current.
    let past = Op::put_until("/expired", "x", Some(1));
    let mut watch = store.watch("/expired".into(), None).unwrap();
    store.txn(Txn::write(vec![past])).await.unwrap();
    for kind in [EventKind::Put, EventKind::Delete] {
        let Some(WatchItem::Events(events)) = watch.next().await else { panic!("no event") };
        assert_eq!(events[0].kind, kind);
    }
    let now = store.snapshot().revision();
    eventually("compaction", || (store.compacted() >= now).then_some(())).await;
    assert!(matches!(store.watch("/".into(), Some(first)), Err(HistoryError::Compacted { .. })));
    assert!(matches!(store.range_at(b"/", first).await, Err(HistoryError::Compacted { .. })));
    drop((store, watch));
    cluster.members.remove(&1).unwrap().shutdown().await;
    cluster.reopen(1).await;
    let store = &cluster.members[&1];
    assert_eq!(names(store.range_at(b"/", now).await.unwrap()), ["/a=2"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_directory_that_is_not_ours_is_refused_with_one_line_and_left_alone() {
    let mut cluster = Cluster::start(1, Tuning::default()).await;
    let config = cluster.configs[&1].clone();
    let open = |config: Config| async move { Store::open(config).await.err().map(|error| error.to_string()) };
    let elsewhere = |change: &dyn Fn(&mut Config)| {
        let mut other = Config { listen: kontiki_test_ports::one(), ..config.clone() };
        change(&mut other);
        other
    };
    let line = open(elsewhere(&|_| {})).await.unwrap();
    assert!(line.contains("in use by another process"), "{line}");
    let line = open(elsewhere(&|other| other.listen = config.listen)).await.unwrap();
    assert!(line.contains("cannot listen on"), "{line}");
    put_surely(&cluster.members[&1], "/k", "v").await;
    cluster.members.remove(&1).unwrap().shutdown().await;
    for (change, expect) in [
        (&(|other: &mut Config| other.id = 7) as &dyn Fn(&mut Config), "belongs to member 1 (s1)"),
        (&|other: &mut Config| other.name = "s9".into(), "belongs to member 1 (s1)"),
        (&|other: &mut Config| other.tls = Pki::new().issue("kontiki:servers"), "another cluster"),
        (&|other: &mut Config| other.tls = cluster.pki.issue("system:nodes"), "lacks O=kontiki:servers"),
        (&|other: &mut Config| other.dir = PathBuf::from("/proc/nowhere"), "cannot use /proc/nowhere"),
    ] {
        let line = open(elsewhere(change)).await.unwrap();
        assert!(line.contains(expect) && !line.contains('\n'), "{line}");
    }
    cluster.reopen(1).await;
    assert_eq!(value(&cluster.members[&1], "/k").as_deref(), Some("v"));
    cluster.members.remove(&1).unwrap().shutdown().await;
    let current = config.dir.join("db/CURRENT");
    std::fs::write(&current, "nonsense").unwrap();
    let line = open(config.clone()).await.unwrap();
    assert!(line.contains("is damaged") && !line.contains('\n'), "{line}");
}

/// A small file system, unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let options = format!("size={size}");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "kontiki-test"]).arg(&at);
        assert!(mount.status().unwrap().success(), "mounting needs root");
        Self(at)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs root: mounts a small file system"]
async fn a_full_disk_refuses_writes_and_resumes_by_itself() {
    let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
    let config = pki.config(1, dir.path());
    let mount = Tmpfs::mount(config.dir.clone(), "200m");
    let store = Store::open(config.clone()).await.unwrap();
    store.bootstrap().await.unwrap();
    put_surely(&store, "/k", "before").await;
    // Writes go on while the disk fills, so that some are caught half-way.
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let large = "x".repeat(64 << 10);
            while store.txn(put("/large", &large)).await != Err(WriteError::DiskFull) {}
        }
    });
    let ballast = config.dir.join("ballast");
    let filler = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=1M"])
        .arg(format!("of={}", ballast.display()))
        .output();
    assert!(!filler.unwrap().status.success(), "the disk is full");
    tokio::time::timeout(Duration::from_secs(20), writer).await.expect("writes are refused").unwrap();
    assert_eq!(store.txn(put("/k", "full")).await, Err(WriteError::DiskFull));
    store.barrier().await.unwrap();
    assert!(value(&store, "/k").is_some());
    std::fs::remove_file(&ballast).unwrap();
    let freed = Instant::now();
    while let Err(error) = store.txn(put("/k", "after")).await {
        assert!(freed.elapsed() < Duration::from_secs(30), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("resumed after {:?}", freed.elapsed());
    store.crash().await;
    drop(store);
    let store = Store::open(config).await.unwrap();
    store.barrier().await.unwrap();
    assert_eq!(value(&store, "/k").as_deref(), Some("after"));
    store.crash().await;
    drop((store, mount));
}
