//! The same random operations on etcd and on ours.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::{
    differential::{Difference, Harness, Op, Quirk, Quirks, Report, Target, compare},
    group::{Group, Kind},
};
use kontiki_proto::etcd as pb;

const SEEDS: std::ops::Range<u64> = 1..5;
const OPS: usize = 2_500;
/// Errors that the generator must reach; else it has become too kind.
const REACHED: &[&str] = &[
    "etcdserver: key is not provided",
    "etcdserver: value is provided",
    "etcdserver: lease is provided",
    "etcdserver: key not found",
    "etcdserver: requested lease not found",
    "etcdserver: lease already exists",
    "etcdserver: too large lease TTL",
    "etcdserver: too many operations in txn request",
    "etcdserver: duplicate key given in txn request",
    "etcdserver: mvcc: required revision is a future revision",
    "etcdserver: mvcc: required revision has been compacted",
];
/// What else, with a peer that has this.
const REACHED_UNLESS: &[(Quirk, &[&str])] = &[
    (Quirk::DiesOfUnknownSorts, &["etcdserver: invalid sort option"]),
    (
        Quirk::NoRangeStream,
        &["RangeStream does not support custom sort orders", "RangeStream does not support revision filters"],
    ),
];

fn from_env<T: std::str::FromStr>(name: &str) -> Result<Option<T>> {
    let Ok(text) = std::env::var(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| anyhow::anyhow!("{name}={text} is not a number"))
}

async fn all_seeds(left: Kind, right: Kind) -> Result<()> {
    let ops = from_env("OPS")?.unwrap_or(OPS);
    let given: Option<u64> = from_env("SEED")?;
    let seeds = given.map_or(SEEDS, |seed| seed..seed + 1);
    if !(left.at_hand()? && right.at_hand()?) {
        return Ok(());
    }
    let quirks = Quirks::of(&[left, right]);
    let started = Instant::now();
    let mut report = Report::default();
    let runs = seeds.clone().map(|seed| async move {
        compare(seed, ops, left, right).await.with_context(|| format!("seed {seed}, {ops} operations"))
    });
    for outcome in futures::future::join_all(runs).await {
        report.merge(outcome?);
    }
    println!(
        "{} and {}, seeds {seeds:?}, {ops} operations each, {:.1} s",
        left.name(),
        right.name(),
        started.elapsed().as_secs_f32()
    );
    println!("{report}left out:\n{quirks}");
    if given.is_none() && ops >= OPS {
        let more = REACHED_UNLESS.iter().filter(|(quirk, _)| !quirks.has(*quirk)).flat_map(|(_, messages)| *messages);
        for message in REACHED.iter().chain(more) {
            ensure!(report.failed_with(message), "no operation was answered by: {message}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn differential_of_etcd_34_and_kontiki() -> Result<()> {
    all_seeds(Kind::Etcd34, Kind::Kontiki).await
}

#[tokio::test(flavor = "multi_thread")]
async fn differential_of_etcd_37_and_kontiki() -> Result<()> {
    all_seeds(Kind::Etcd37, Kind::Kontiki).await
}

/// The table of what they do otherwise is whole.
#[tokio::test(flavor = "multi_thread")]
async fn differential_of_etcd_34_and_etcd_37() -> Result<()> {
    all_seeds(Kind::Etcd34, Kind::Etcd37).await
}

/// The harness itself: where there is nothing to find it finds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn differential_of_etcd_and_etcd() -> Result<()> {
    all_seeds(Kind::Etcd34, Kind::Etcd34).await
}

/// The harness itself: one write behind its back is found, be it seen by reads or by watches only.
#[tokio::test(flavor = "multi_thread")]
async fn differential_notices_a_stray_write() -> Result<()> {
    let (left, right) = tokio::try_join!(Group::of(Kind::Etcd34, 1), Group::of(Kind::Etcd34, 1))?;
    let mut behind = right.clients(0)?.kv;
    let mut harness = Harness::new(7, Target::of(&left).await?, Target::of(&right).await?);
    harness.run(200).await?;
    behind.put(pb::PutRequest { key: "a".into(), value: "stray".into(), ..pb::PutRequest::default() }).await?;
    let error = harness.run(200).await.expect_err("a stray write goes unnoticed");
    let difference = error.downcast::<Difference>()?;
    println!("{difference}");
    ensure!(difference.seed == 7 && difference.index >= 200, "found at the wrong place");
    ensure!(!difference.before.is_empty(), "what came before is not shown");
    Ok(())
}

/// A second event about one write is found though every read is the same.
#[tokio::test(flavor = "multi_thread")]
async fn differential_notices_a_watch_that_hears_more() -> Result<()> {
    let (left, right) = tokio::try_join!(Group::of(Kind::Etcd34, 1), Group::of(Kind::Etcd34, 1))?;
    let (a, b) = (Target::of(&left).await?, Target::of(&right).await?);
    let mut both = [a, b];
    let watch = |prev_kv| {
        let request = pb::WatchCreateRequest { key: "a".into(), watch_id: 3, prev_kv, ..Default::default() };
        Op::Watch(request)
    };
    let put = Op::Put(pb::PutRequest { key: "a".into(), value: "1".into(), ..Default::default() });
    for (target, prev_kv) in both.iter_mut().zip([false, true]) {
        target.apply(&watch(prev_kv)).await?;
        target.apply(&put).await?;
        target.apply(&put).await?;
    }
    let [a, b] = both;
    let error = Harness::new(8, a, b).run(0).await.expect_err("an event with prev_kv is not one without");
    println!("{}", error.downcast::<Difference>()?);
    Ok(())
}
