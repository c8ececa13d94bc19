//! etcdctl 3.4 and 3.7, as a person uses them.

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::group::{Group, Kind};

use crate::support::{Ctl, Etcdctl, Version, equal, group, holds, kind, until};

macro_rules! stories {
    ($($story:ident),* $(,)?) => {
        stories!(of_3_4, Version::V34, $($story),*);
        stories!(of_3_7, Version::V37, $($story),*);
    };
    ($name:ident, $version:expr, $($story:ident),*) => {
        mod $name {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() -> Result<()> {
                match Etcdctl::find($version)? {
                    Some(etcdctl) => super::$story(&etcdctl).await,
                    None => Ok(()),
                }
            })*
        }
    };
}

stories!(
    puts_gets_and_deletes,
    runs_transactions,
    watches,
    keeps_leases,
    sees_and_changes_the_members,
    moves_the_leader,
    maintains,
    sees_a_member_that_was_away_catch_up,
);

async fn puts_gets_and_deletes(etcdctl: &Etcdctl) -> Result<()> {
    let group = group(3).await?;
    let ctl = etcdctl.of(&group);
    for (key, value) in [("fruit/apple", "3"), ("fruit/plum", "1"), ("fruit/cherry", "2"), ("nut", "9")] {
        equal(ctl.args(&["put", key, value]).await?.as_str(), "OK\n")?;
    }
    for (words, want) in [
        ("get nut", "nut\n9\n"),
        ("get nothing", ""),
        ("get nut --print-value-only", "9\n"),
        ("get --prefix fruit/ --keys-only", "fruit/apple\n\nfruit/cherry\n\nfruit/plum\n\n"),
        ("get --prefix fruit/ --limit=1", "fruit/apple\n3\n"),
        ("get --prefix fruit/ --sort-by=value --print-value-only", "1\n2\n3\n"),
        ("get --prefix fruit/ --order=DESCEND --sort-by=key --print-value-only", "1\n2\n3\n"),
        ("get --prefix fruit/ --order=DESCEND --sort-by=create --print-value-only", "2\n1\n3\n"),
        ("get fruit/b fruit/d", "fruit/cherry\n2\n"),
        ("get --from-key fruit/p --print-value-only", "1\n9\n"),
        ("get --consistency=s nut --print-value-only", "9\n"),
    ] {
        // A read of one member's own state may not have the last write yet.
        until(words, async || equal(ctl.run(words).await?.as_str(), want)).await?;
    }
    if etcdctl.version == Version::V37 {
        streams(&ctl).await?;
    }
    let first = ctl.run("get --prefix fruit/ --limit=1 -w json").await?;
    holds(&first, r#""count":3"#)?;
    holds(&first, r#""more":true"#)?;
    equal(ctl.run("put nut 10 --prev-kv").await?.as_str(), "OK\nnut\n9\n")?;
    equal(ctl.run("put nut --ignore-value").await?.as_str(), "OK\n")?;
    equal(ctl.run("get nut").await?.as_str(), "nut\n10\n")?;
    // A fresh store is at revision 1: the fourth put made revision 5.
    equal(ctl.run("get nut --rev=5").await?.as_str(), "nut\n9\n")?;
    equal(ctl.run("get nut --rev=4").await?.as_str(), "")?;
    holds(&ctl.fails("get nut --rev=1000").await?, "required revision is a future revision")?;
    let json = ctl.run("get nut -w json").await?;
    for part in [r#""key":"bnV0""#, r#""create_revision":5"#, r#""mod_revision":7"#, r#""version":3"#, r#""count":1"#] {
        holds(&json, part)?;
    }
    equal(ctl.run("del nothing").await?.as_str(), "0\n")?;
    equal(ctl.run("del nut --prev-kv").await?.as_str(), "1\nnut\n10\n")?;
    equal(ctl.run("del --prefix fruit/").await?.as_str(), "3\n")?;
    equal(ctl.run("get --from-key a").await?.as_str(), "")
}

/// What is read in chunks is printed as what is read at once.
async fn streams(ctl: &Ctl) -> Result<()> {
    for words in [
        "get nut",
        "get nothing",
        "get --prefix fruit/ --limit=2 -w fields",
        "get --prefix fruit/ --count-only -w fields",
        "get --from-key fruit/c --keys-only",
        "get --prefix fruit/ --order=ASCEND --rev=3",
    ] {
        let whole = ctl.run(words).await?;
        let header =
            |text: &str| text.lines().filter(|line| !line.contains("MemberID")).map(str::to_owned).collect::<Vec<_>>();
        equal(header(&ctl.run(&format!("{words} --stream")).await?), header(&whole))?;
    }
    holds(&ctl.fails("get --prefix fruit/ --order=DESCEND --stream").await?, "does not support custom sort orders")
}

async fn runs_transactions(etcdctl: &Etcdctl) -> Result<()> {
    let group = group(1).await?;
    let ctl = etcdctl.of(&group);
    let txn = "value(\"a\") = \"1\"\nversion(\"b\") = \"0\"\n\nput a 2\nget a\ndel b\n\nget a\nput b x\n\n";
    equal(ctl.reads("txn", txn).await?.as_str(), "FAILURE\n\n\nOK\n")?;
    equal(ctl.run("del b").await?.as_str(), "1\n")?;
    equal(ctl.run("put a 1").await?.as_str(), "OK\n")?;
    equal(ctl.reads("txn", txn).await?.as_str(), "SUCCESS\n\nOK\n\na\n2\n\n0\n")?;
    equal(ctl.reads("txn", txn).await?.as_str(), "FAILURE\n\na\n2\n\nOK\n")?;
    let greater = "mod(\"a\") > \"1\"\ncreate(\"a\") < \"100\"\n\nput won 1\n\n\n";
    equal(ctl.reads("txn", greater).await?.as_str(), "SUCCESS\n\nOK\n")
}

async fn watches(etcdctl: &Etcdctl) -> Result<()> {
    let group = group(3).await?;
    let ctl = etcdctl.of(&group);
    for words in ["put w/a 1", "put w/b 2", "put x 3", "del w/a"] {
        ctl.run(words).await?;
    }
    let mut past = ctl.starts("watch --prefix w/ --rev=2")?;
    past.prints("PUT\nw/a\n1\nPUT\nw/b\n2\nDELETE\nw/a\n\n").await?;
    let mut with_previous = ctl.starts("watch w/b --rev=3 --prev-kv")?;
    with_previous.prints("PUT\nw/b\n2\n").await?;
    ctl.run("put w/b 4").await?;
    with_previous.prints("PUT\nw/b\n2\nPUT\nw/b\n2\nw/b\n4\n").await?;
    past.prints("PUT\nw/a\n1\nPUT\nw/b\n2\nDELETE\nw/a\n\nPUT\nw/b\n4\n").await?;
    holds(&ctl.run("compaction 6").await?, "compacted revision 6")?;
    holds(&ctl.fails("watch w/b --rev=2").await?, "required revision has been compacted")
}

async fn keeps_leases(etcdctl: &Etcdctl) -> Result<()> {
    let group = group(3).await?;
    let ctl = etcdctl.of(&group);
    let granted = ctl.run("lease grant 100").await?;
    holds(&granted, "granted with TTL(100s)")?;
    let id = granted.split(' ').nth(1).context("an id")?.to_owned();
    equal(ctl.run(&format!("put --lease={id} leased 1")).await?.as_str(), "OK\n")?;
    let told = ctl.run(&format!("lease timetolive {id} --keys")).await?;
    holds(&told, &format!("lease {id} granted with TTL(100s), remaining("))?;
    holds(&told, "attached keys([leased])")?;
    let alive = ctl.run(&format!("lease keep-alive --once {id}")).await?;
    equal(alive.as_str(), &format!("lease {id} keepalived with TTL(100)\n"))?;
    equal(ctl.run("lease list").await?.as_str(), &format!("found 1 leases\n{id}\n"))?;
    equal(ctl.run(&format!("lease revoke {id}")).await?.as_str(), &format!("lease {id} revoked\n"))?;
    equal(ctl.run("get leased").await?.as_str(), "")?;
    equal(ctl.run(&format!("lease timetolive {id}")).await?.as_str(), &format!("lease {id} already expired\n"))?;
    holds(&ctl.fails(&format!("lease revoke {id}")).await?, "requested lease not found")?;
    holds(&ctl.fails(&format!("put --lease={id} leased 1")).await?, "requested lease not found")
}

async fn sees_and_changes_the_members(etcdctl: &Etcdctl) -> Result<()> {
    let mut group = group(3).await?;
    let ctl = etcdctl.of(&group);
    ctl.run("put before joining").await?;
    // A member tells the others of its client address once it serves there.
    until("three that all know of each other", async || {
        let list = ctl.run("member list").await?;
        equal(list.lines().count(), 3)?;
        group.members().iter().try_for_each(|member| {
            let row = format!(", started, {}, https://{}, https://{}, false", member.name, member.peer, member.client);
            holds(&list, &row)
        })
    })
    .await?;
    let health = ctl.both("endpoint health").await?;
    equal(health.matches("is healthy: successfully committed proposal: took =").count(), 3)?;
    let leaders = ctl.run("endpoint status -w fields").await?;
    equal(leaders.matches("\"Leader\" : ").count(), 3)?;
    let hashes = hashes(&ctl).await?;
    ensure!(hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0]), "hashes part: {hashes:?}");

    // The pair of a member that is added with etcdctl and started by hand: `join` does the same.
    let twice = format!("member add s9 --peer-urls=https://{}", group.members()[0].peer);
    // etcd changes nothing before its members have seen each other for five seconds.
    until("an address in use", async || holds(&ctl.fails(&twice).await?, "Peer URLs already exists")).await?;
    let joined = group.join().await?;
    group.answers(joined).await?;
    let ctl = etcdctl.of(&group);
    until("four that have started and vote", async || {
        let list = ctl.run("member list").await?;
        let voting = list.lines().filter(|line| line.contains(", started, ") && line.ends_with(", false")).count();
        equal(voting, 4).with_context(|| list.clone())
    })
    .await?;
    equal(etcdctl.at(&group, joined).run("get before").await?.as_str(), "before\njoining\n")?;

    let list = ctl.run("member list").await?;
    let name = group.members()[joined].name.clone();
    let row = list.lines().find(|line| line.contains(&name)).context("the new member's row")?;
    let id = row.split(',').next().context("an id")?;
    group.stop(joined).await?;
    let remaining = etcdctl.at(&group, 0);
    let removed = remaining.run(&format!("member remove {id}")).await?;
    // Short ids are filled up with blanks.
    holds(&removed.split_whitespace().collect::<Vec<_>>().join(" "), &format!("Member {id} removed from cluster"))?;
    equal(remaining.run("member list").await?.lines().count(), 3)?;
    holds(&remaining.fails("member remove abcdef").await?, "etcdserver: member not found")
}

async fn hashes(ctl: &Ctl) -> Result<Vec<String>> {
    let out = ctl.run("endpoint hashkv").await?;
    Ok(out.lines().filter_map(|line| line.split(", ").nth(1).map(str::to_owned)).collect())
}

async fn moves_the_leader(etcdctl: &Etcdctl) -> Result<()> {
    let group = group(3).await?;
    let leader = group.leader().await?;
    let next = (leader + 1) % 3;
    let list = etcdctl.of(&group).run("member list").await?;
    let name = &group.members()[next].name;
    let row = list.lines().find(|line| line.contains(&format!(" {name},"))).context("a row")?;
    let id = row.split(',').next().context("an id")?;
    holds(&etcdctl.at(&group, next).fails(&format!("move-leader {id}")).await?, "no leader endpoint given")?;
    let moved = etcdctl.at(&group, leader).run(&format!("move-leader {id}")).await?;
    holds(&moved, &format!(" to {id}"))?;
    until("the new leader", async || equal(group.leader().await?, next)).await
}

async fn maintains(etcdctl: &Etcdctl) -> Result<()> {
    let group = group(3).await?;
    let ctl = etcdctl.of(&group);
    for i in 0..20 {
        ctl.args(&["put", "counted", &i.to_string()]).await?;
    }
    let file = group.dir().join("saved.db");
    let name = file.display().to_string();
    let saved = etcdctl.at(&group, 0).both(&format!("snapshot save {name}")).await?;
    holds(&saved, &format!("Snapshot saved at {name}"))?;
    ensure!(std::fs::metadata(&file)?.len() > 0, "an empty snapshot");
    if group.kind() == Kind::Etcd34 && etcdctl.version == Version::V34 {
        holds(&ctl.run(&format!("snapshot status {name}")).await?, ", 21,")?; // its own file's revision
    }
    equal(ctl.run("compaction 10").await?.as_str(), "compacted revision 10\n")?;
    holds(&ctl.fails("get counted --rev=9").await?, "required revision has been compacted")?;
    holds(&ctl.fails("compaction 10").await?, "required revision has been compacted")?;
    equal(ctl.run("get counted --rev=10 --print-value-only").await?.as_str(), "8\n")?;
    equal(ctl.run("compaction --physical 21").await?.as_str(), "compacted revision 21\n")?;
    let hashes = hashes(&ctl).await?;
    ensure!(hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0]), "hashes part: {hashes:?}");
    let defragmented = ctl.both("defrag").await?;
    equal(defragmented.matches("Finished defragmenting etcd member").count(), 3)?;
    equal(ctl.run("alarm list").await?.as_str(), "")?;
    equal(ctl.run("alarm disarm").await?.as_str(), "")?;
    equal(ctl.run("get counted --print-value-only").await?.as_str(), "19\n")
}

/// Writes go on at a member that is stopped and comes back, and all have the same in the end.
async fn sees_a_member_that_was_away_catch_up(etcdctl: &Etcdctl) -> Result<()> {
    let mut group = Group::of(kind()?, 3).await?;
    group.stop(2).await?;
    let ctl = etcdctl.at(&group, 0);
    for i in 0..30 {
        ctl.args(&["put", &format!("away/{i}"), "1"]).await?;
    }
    group.kill(1)?;
    group.restart(1)?;
    group.restart(2)?;
    group.healthy().await?;
    let all = etcdctl.of(&group);
    holds(&etcdctl.at(&group, 2).run("get --prefix away/ --limit=1 -w json").await?, r#""count":30"#)?;
    let hashes = hashes(&all).await?;
    ensure!(hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0]), "hashes part: {hashes:?}");
    Ok(())
}
