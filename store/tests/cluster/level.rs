//! The feature level: rises when everybody knows the next, holds when somebody does not, and is part of what a member
//! keeps. (Real older programs are judged in `chaos-tests/nemesis`.)

use super::*;

fn levels(cluster: &Cluster) -> Vec<u32> {
    cluster.members.values().map(|store| store.feature_level().0).collect()
}

fn format_of(config: &Config) -> u64 {
    let identity = std::fs::read(config.dir.join("identity.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&identity).unwrap()["format"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_level_waits_for_the_last_member_and_never_falls() {
    let mut cluster = Cluster::empty(Tuning::default());
    for id in 1..=3 {
        let config = Config { max_feature_level: Some(0), ..cluster.pki.config(id, cluster.dir.path()) };
        cluster.add(id, config).await;
    }
    for i in 0..50 {
        put_surely(&cluster.members[&cluster.leader().await], &format!("/k/{i}"), "v").await;
    }
    cluster.converge().await;
    assert_eq!(levels(&cluster), [0, 0, 0]);
    assert!(cluster.configs.values().all(|config| format_of(config) == 2), "as an older program reads it");
    for id in 1..=3 {
        assert_eq!(levels(&cluster), vec![0; 3], "member {id} still holds it");
        cluster.members.remove(&id).unwrap().shutdown().await;
        cluster.configs.get_mut(&id).unwrap().max_feature_level = None;
        cluster.reopen(id).await;
        cluster.leader().await;
        put_surely(&cluster.members[&id], "/k/after", &id.to_string()).await;
    }
    eventually("the next level everywhere", || (levels(&cluster) == [1, 1, 1]).then_some(())).await;
    cluster.converge().await;
    assert!(cluster.configs.values().all(|config| format_of(config) == 3));
    // A member that is told to admit less keeps what the group has.
    cluster.members.remove(&2).unwrap().shutdown().await;
    cluster.configs.get_mut(&2).unwrap().max_feature_level = Some(0);
    cluster.reopen(2).await;
    assert_eq!(cluster.members[&2].feature_level(), (1, 0));
    put_surely(&cluster.members[&2], "/k/after", "all").await;
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_member_gets_the_level_with_the_snapshot() {
    let tuning = Tuning { snapshot_every: 50, keep_log: 5, ..Tuning::default() };
    let mut cluster = Cluster::start(1, tuning).await;
    eventually("the newest level", || (levels(&cluster) == [1]).then_some(())).await;
    cluster.members[&1].grant(7, 60).await.unwrap();
    for i in 0..300 {
        put_surely(&cluster.members[&1], &format!("/k/{}", i % 40), &"v".repeat(i)).await;
    }
    cluster.open_new(2).await;
    cluster.join(2).await.unwrap();
    cluster.converge().await;
    assert_eq!(levels(&cluster), [1, 1]);
    assert_eq!(format_of(&cluster.configs[&2]), 3);
    assert!(cluster.members[&2].snapshot().leases().contains_key(&7));
    let digests: Vec<_> = cluster.members.values().map(|store| store.snapshot().digest()).collect();
    assert_eq!(digests[0], digests[1]);
    // What was installed is what a restart reads.
    cluster.members.remove(&2).unwrap().shutdown().await;
    cluster.reopen(2).await;
    assert_eq!(cluster.members[&2].snapshot().digest(), digests[0]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leases_that_end_together_end_at_few_revisions() {
    let mut cluster = Cluster::start(1, Tuning::default()).await;
    eventually("the newest level", || (levels(&cluster) == [1]).then_some(())).await;
    let store = &cluster.members[&1];
    for id in 1..=20 {
        store.grant(id, 5).await.unwrap();
        let put = kontiki_store::Put {
            key: format!("/l/{id}").into(),
            value: Some(Bytes::new()),
            expires: None,
            lease: kontiki_store::PutLease::Set(id),
            prev: false,
        };
        store.txn(Txn::write(vec![Op::Put(put)])).await.unwrap();
    }
    // Who begins to lead gives every lease its whole time again: so all end at one moment, but those that it learns of a
    // moment later, as the end of its log is applied only once it leads.
    cluster.members.remove(&1).unwrap().shutdown().await;
    cluster.reopen(1).await;
    let store = &cluster.members[&1];
    let mut watch = store.watch(Bytes::from_static(b"/l/"), None).unwrap();
    eventually("the end of all leases", || store.snapshot().leases().is_empty().then_some(())).await;
    let mut revisions = Vec::new();
    let mut deleted = 0;
    while deleted < 20 {
        if let Some(WatchItem::Events(batch)) = watch.next().await {
            deleted += batch.len();
            revisions.push(batch[0].entry.mod_revision);
        }
    }
    assert!(revisions.len() <= 3, "20 leases end at {revisions:?}");
    assert!(store.snapshot().is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn equal_members_are_found_equal_and_nothing_is_asked_at_rest() {
    let cluster = Cluster::start(3, Tuning::default()).await;
    for i in 0..100 {
        put_surely(&cluster.members[&cluster.leader().await], &format!("/k/{i}"), "v").await;
    }
    let times = || cluster.members.values().map(Store::times_found_equal).sum::<u64>();
    eventually("a comparison", || (times() > 0).then_some(())).await;
    assert!(cluster.members.values().all(|store| store.halted().is_none()));
    cluster.stop().await;
}
