//! State that goes from one build to the other as a whole: to members that cannot catch up from the log, and in backups.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kontiki_nemesis::{
    clients::{Client, Shared},
    faults::{record, recovered},
    group::{Group, name, peer_url},
    history::{Ask, Kind, Outcome, Step},
    run::show,
    upgrade::{Builds, How, busy, lead, not_risen, risen, swapped},
};
use kontiki_proto::etcd::{KeyValue, LeaseGrantRequest, LeaseLeasesRequest, PutRequest, RangeRequest, SnapshotRequest};
use tokio::task::JoinSet;

/// More log entries than lie between two snapshots of the store: after so many the log's beginning is gone.
const ENTRIES: u64 = 21_000;
const FILLERS: u32 = 48;
const FIRST_FILLER: u32 = 3000;
const SERVES: Duration = Duration::from_secs(60);
/// What a member logs that got the whole state.
const INSTALLED: &str = "installed a snapshot";

/// A newer member gets a snapshot from an older leader, and an older one from a newer leader, both at level 0.
pub fn between_builds(builds: &Builds) -> Result<()> {
    let story = async |group: &mut Group, shared: &Arc<Shared>| {
        let recorder = &shared.recorder;
        recovered(group, recorder).await?;
        fill(shared).await?;
        lead(group, recorder, 0).await?;
        replace(group, shared, builds, 2, |builds| &builds.held).await?;
        swapped(group, recorder, builds, 0, &builds.held, How::Stopped).await?;
        lead(group, recorder, 2).await?;
        replace(group, shared, builds, 1, |builds| &builds.older).await?;
        busy(group, recorder, builds).await?;
        not_risen(group).await
    };
    super::told("snapshots", &builds.older, story, |_| Ok(()))
}

/// Writes until the log has lost its beginning.
async fn fill(shared: &Arc<Shared>) -> Result<()> {
    let begun = shared.recorder.now();
    let left = Arc::new(AtomicU64::new(ENTRIES));
    let mut set = JoinSet::new();
    for number in 0..FILLERS {
        let mut client = Client::new(shared, FIRST_FILLER + number, u64::from(number));
        let (key, left) = (format!("f/{number:02}"), Arc::clone(&left));
        set.spawn(async move {
            while left.load(Ordering::Relaxed) > 0 {
                let put = Step::Put { key: key.clone(), value: client.value(), lease: 0 };
                if matches!(client.ask(Ask::plain(Kind::Put, vec![put])).await, Outcome::Ok(_)) {
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok();
                }
            }
        });
    }
    set.join_all().await;
    let seconds = Duration::from_nanos(shared.recorder.now() - begun).as_secs_f64();
    println!("            {ENTRIES} entries in {seconds:.1} s");
    Ok(())
}

/// A member gives way to a new one with an empty disk and a build of its own.
async fn replace(
    group: &mut Group,
    shared: &Shared,
    builds: &Builds,
    slot: usize,
    program: impl Fn(&Builds) -> &kontiki_nemesis::group::Program,
) -> Result<()> {
    let program = program(builds);
    let act = async |group: &mut Group| {
        group.remove(slot).await?;
        group.install(slot, program);
        group.add(slot).await?;
        group.healthy(SERVES).await?;
        let said = group.said(slot);
        let line = said.lines().find(|line| line.contains(INSTALLED));
        let line = line.with_context(|| format!("{} caught up without a snapshot", name(slot)))?;
        Ok(format!("{} is new and {}: {line}", name(slot), builds.word(program)))
    };
    show(&record(group, &shared.recorder, "replace", act).await?);
    Ok(())
}

/// A backup that the older build made is a new group of the newer one.
pub fn old_backup(builds: &Builds) -> Result<()> {
    let setup = super::setup("backup", &builds.older, 1);
    let out = setup.out.clone();
    let mut group = Group::start(setup)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(restored(&mut group, builds, &out.join("state.backup")))?;
    fs::remove_dir_all(&out)?;
    Ok(())
}

async fn restored(group: &mut Group, builds: &Builds, file: &Path) -> Result<()> {
    group.healthy(SERVES).await?;
    write(group).await?;
    let (before, leases) = state(group).await?;
    save(group, file).await?;
    group.stop(0).await?;
    group.wipe(0)?;
    restore(group, builds, file)?;
    group.install(0, &builds.newer);
    group.run(0)?;
    group.healthy(SERVES).await?;
    for slot in 1..3 {
        group.install(slot, &builds.newer);
        group.add(slot).await?;
        group.healthy(SERVES).await?;
    }
    risen(group).await?;
    let (after, leases_after) = state(group).await?;
    ensure!(leases == leases_after, "leases were {leases:?} and are {leases_after:?}");
    let same = |(old, new): (&KeyValue, &KeyValue)| {
        (&old.key, &old.value, old.version, old.lease) == (&new.key, &new.value, new.version, new.lease)
    };
    ensure!(before.len() == after.len() && before.iter().zip(&after).all(same), "{before:?} became {after:?}");
    let revision = after.iter().map(|kv| kv.mod_revision).max().unwrap_or_default();
    println!("{} keys and {} leases are there, the newest of revision {revision}", after.len(), leases.len());
    ensure!(group.deaths().is_empty(), "a member ended by itself");
    Ok(())
}

/// Keys of several versions, deleted ones, and one with a lease.
async fn write(group: &Group) -> Result<()> {
    let mut clients = group.doors().clients(0);
    let lease = clients.lease.lease_grant(LeaseGrantRequest { ttl: 600, id: 7 }).await?.into_inner().id;
    for number in 0..200 {
        let put = |lease| PutRequest {
            key: format!("k/{:02}", number % 50).into(),
            value: format!("value {number}").into(),
            lease,
            ..Default::default()
        };
        clients.kv.put(put(if number % 50 == 7 { lease } else { 0 })).await?;
    }
    for number in 0..5 {
        let delete =
            kontiki_proto::etcd::DeleteRangeRequest { key: format!("k/{number:02}").into(), ..Default::default() };
        clients.kv.delete_range(delete).await?;
    }
    Ok(())
}

/// All keys and all leases.
async fn state(group: &Group) -> Result<(Vec<KeyValue>, Vec<i64>)> {
    let mut clients = group.doors().clients(0);
    let all = RangeRequest { key: b"\0".to_vec().into(), range_end: b"\0".to_vec().into(), ..Default::default() };
    let keys = clients.kv.range(all).await?.into_inner().kvs;
    let leases = clients.lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases;
    Ok((keys, leases.into_iter().map(|lease| lease.id).collect()))
}

/// As `etcdctl snapshot save` does it.
async fn save(group: &Group, file: &Path) -> Result<()> {
    let mut clients = group.doors().clients(0);
    let mut pieces = clients.maintenance.snapshot(SnapshotRequest {}).await?.into_inner();
    let mut backup = Vec::new();
    while let Some(piece) = pieces.message().await? {
        backup.extend_from_slice(&piece.blob);
    }
    fs::write(file, backup).with_context(|| format!("writing {}", file.display()))
}

fn restore(group: &Group, builds: &Builds, file: &Path) -> Result<()> {
    let mut command = Command::new(&builds.newer.binary);
    command.args(["snapshot", "restore"]).arg(file).arg("--store").arg("--data-dir").arg(group.data(0));
    command.args(["--name", &name(0), "--initial-advertise-peer-urls", &peer_url(0)]);
    command.arg("--trusted-ca-file").arg(&group.certs(0).ca);
    let ended = command.output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    ensure!(ended.status.success(), "restoring: {said}");
    println!("{}", said.trim());
    Ok(())
}
