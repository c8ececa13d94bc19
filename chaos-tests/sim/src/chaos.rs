//! Which faults happen when, and how a seed is played.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use kontiki_store::{MemberError, Revision, Tuning};

use crate::{
    clients,
    cluster::{Cluster, address},
    report::{Failure, Report},
    world::{Crash, Rng, Task, Trouble, Weather},
};

/// How a seed is played.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Steps of the schedule; each lets some time pass.
    pub steps: u64,
    /// Virtual time that the group has to recover once all faults are over.
    pub heal: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: 50, heal: Duration::from_secs(30) }
    }
}

/// Members that ever exist.
const MOST: u64 = 9;

/// Plays one seed.
#[must_use]
pub fn run(seed: u64, options: Options) -> Report {
    let mut rng = Rng::new(seed);
    let tuning = Tuning {
        snapshot_every: rng.between(15, 150),
        keep_log: rng.between(4, 40),
        history: Duration::from_millis(rng.between(500, 15_000)),
        compact_every: Duration::from_millis(rng.between(200, 2000)),
    };
    let mut play = Play {
        size: *rng.pick(&[3, 3, 3, 5]).unwrap_or(&3),
        cluster: Cluster::new(rng.draw(), tuning),
        rng,
        seed,
        step: 0,
        next_member: 0,
        changes: Vec::new(),
    };
    let result = play.play(options);
    play.report(result)
}

struct Play {
    cluster: Cluster,
    rng: Rng,
    seed: u64,
    size: u64,
    step: u64,
    next_member: u64,
    /// Membership changes under way, with whom they add or remove.
    changes: Vec<(Change, Task<Result<(), MemberError>>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Add(u64),
    Remove(u64),
    Transfer,
}

impl Play {
    fn play(&mut self, options: Options) -> Result<()> {
        self.cluster.form(self.size)?;
        self.next_member = self.size + 1;
        let busy = (self.rng.between(500, 3000), self.rng.between(8000, 60_000));
        clients::start(&self.cluster.shared, &self.cluster.world, &mut self.rng, busy);
        for step in 0..options.steps {
            self.step = step;
            self.act();
            let pause = if self.rng.chance(120) { self.rng.between(400, 1500) } else { self.rng.between(5, 250) };
            self.cluster.run_for(Duration::from_millis(pause));
            self.look_after();
            if self.cluster.shared.ledger().violation.is_some() {
                return Ok(());
            }
        }
        self.step = options.steps;
        self.heal(options.heal)
    }

    fn count(&mut self, fault: &'static str) {
        *self.cluster.shared.ledger().counts.faults.entry(fault).or_default() += 1;
        self.cluster.note(&format!("step {}: {fault}", self.step));
    }

    fn some(&mut self, members: &[u64]) -> Option<u64> {
        self.rng.pick(members).copied()
    }

    /// The leader, if there is one, so many times in a thousand; else any member that is up.
    fn leader_or_some(&mut self, per_mille: u64) -> Option<u64> {
        match self.cluster.leader() {
            Some(leader) if self.rng.chance(per_mille) => Some(leader),
            _ => self.some(&self.cluster.up()),
        }
    }

    fn any_crash(&mut self) -> Crash {
        if self.rng.chance(600) { Crash::Power } else { Crash::Process }
    }

    fn act(&mut self) {
        match self.rng.below(100) {
            0..10 => self.kill_one(),
            10..13 => self.kill_all(),
            13..31 => self.start_some(),
            31..40 => self.partition(),
            40..55 => {
                self.cluster.world.block([]);
                self.count("network whole");
            }
            55..61 => self.weather(),
            61..72 => self.disk(),
            72..78 => self.clock(),
            78..84 => self.change_members(),
            84..88 => self.transfer(),
            88..92 => self.reset(),
            92..95 => self.cut_tail(),
            95..98 => self.freeze(),
            _ => {}
        }
    }

    fn kill_one(&mut self) {
        if let Some(member) = self.leader_or_some(500) {
            let crash = self.any_crash();
            self.count(if crash == Crash::Power { "power failure" } else { "process killed" });
            self.cluster.kill(member, crash);
        }
    }

    fn freeze(&mut self) {
        if let Some(member) = self.leader_or_some(700) {
            self.count("frozen");
            self.cluster.world.freeze(member, Duration::from_millis(self.rng.between(100, 2500)));
            if self.rng.chance(600) {
                // What was on its way to it arrives, and nothing new: connections to it break meanwhile.
                self.cluster.run_for(Duration::from_millis(self.rng.between(1, 20)));
                let others: Vec<u64> = self.cluster.known.iter().copied().filter(|other| *other != member).collect();
                self.cluster.world.block(others.into_iter().flat_map(|other| [(member, other), (other, member)]));
            }
        }
    }

    fn kill_all(&mut self) {
        self.count("power failure of all");
        for member in self.cluster.up() {
            self.cluster.kill(member, Crash::Power);
        }
        for member in self.cluster.down() {
            if self.rng.chance(800) {
                self.cluster.start(member);
            }
        }
    }

    /// A leader gathers entries that nobody else gets, comes back to others that went on without it, and
    /// loses its power as soon as they have cut its tail off: the tail must not come back.
    fn cut_tail(&mut self) {
        let Some(leader) = self.cluster.leader() else { return };
        self.count("tail cut off");
        let others: Vec<u64> = self.cluster.up().into_iter().filter(|member| *member != leader).collect();
        others.iter().for_each(|member| self.cluster.kill(*member, Crash::Process));
        self.cluster.run_for(Duration::from_millis(self.rng.between(50, 400)));
        self.cluster.kill(leader, Crash::Process);
        others.iter().for_each(|member| self.cluster.start(*member));
        let led = self.cluster.until("another leader", Duration::from_secs(2), |cluster| cluster.leader().is_some());
        let before = self.cluster.shared.ledger().counts.truncated;
        self.cluster.start(leader);
        let truncated = |cluster: &Cluster| cluster.shared.ledger().counts.truncated > before;
        if led.is_err() || self.cluster.until("a cut tail", Duration::from_secs(1), truncated).is_err() {
            return;
        }
        // What replaces the tail may be on its way to the disk.
        self.cluster.run_for(Duration::from_millis(self.rng.between(0, 5)));
        self.cluster.kill(leader, Crash::Power);
        self.cluster.start(leader);
    }

    fn start_some(&mut self) {
        for member in self.cluster.down() {
            if self.rng.chance(700) {
                self.cluster.start(member);
            }
        }
    }

    fn partition(&mut self) {
        let members: Vec<u64> = self.cluster.known.iter().copied().collect();
        let all = || members.iter().flat_map(|a| members.iter().map(|b| (*a, *b))).filter(|(a, b)| a != b);
        let leader = self.cluster.leader().or_else(|| members.first().copied()).unwrap_or(1);
        let (name, blocked): (_, Vec<(u64, u64)>) = match self.rng.below(5) {
            0 => {
                let half: BTreeSet<u64> = members.iter().copied().filter(|_| self.rng.chance(500)).collect();
                ("halves", all().filter(|(a, b)| half.contains(a) != half.contains(b)).collect())
            }
            1 => ("leader alone", all().filter(|(a, b)| *a == leader || *b == leader).collect()),
            2 => ("leader heard, not hearing", all().filter(|(_, b)| *b == leader).collect()),
            3 => {
                let one = self.some(&members).unwrap_or(1);
                ("one way", all().filter(|(a, _)| *a == one).collect())
            }
            _ => {
                // Each sees its neighbours only.
                let place = |member: u64| members.iter().position(|other| *other == member).unwrap_or(0);
                let apart = |a: u64, b: u64| place(a).abs_diff(place(b));
                let far = |a, b| apart(a, b) > 1 && apart(a, b) + 1 != members.len();
                let line = members.len() < 4;
                ("ring", all().filter(|(a, b)| if line { apart(*a, *b) > 1 } else { far(*a, *b) }).collect())
            }
        };
        self.count(name);
        self.cluster.world.block(blocked);
    }

    fn weather(&mut self) {
        let weather = match self.rng.below(3) {
            0 => Weather::default(),
            1 => Weather { lost: 20, unanswered: 20, twice: 50, slow: (20, 100), ..Weather::default() },
            _ => Weather { delay: (100, 5000), slow: (50, 400), lost: 60, unanswered: 60, twice: 100 },
        };
        self.count(if weather.lost == 0 { "good weather" } else { "bad weather" });
        self.cluster.world.set_weather(weather);
    }

    fn disk(&mut self) {
        let members: Vec<u64> = self.cluster.known.iter().copied().collect();
        let Some(member) = self.some(&members) else { return };
        let good = Trouble::default();
        let (name, trouble) = match self.rng.below(10) {
            0..4 => ("good disk", good),
            4..6 => ("slow disk", Trouble { sync: (5000, 150_000), ..good }),
            6 => ("stalled disk", Trouble { stalled: true, ..good }),
            7..9 => ("full disk", Trouble { full: true, ..good }),
            _ => ("failing disk", Trouble { failing: 100, ..good }),
        };
        self.count(name);
        self.cluster.world.disk(member).set_trouble(trouble);
    }

    fn clock(&mut self) {
        let members: Vec<u64> = self.cluster.known.iter().copied().collect();
        let Some(member) = self.some(&members) else { return };
        // A promise to a leader outlasts its lease by half of it: clocks may differ by less than that.
        let rate = self.rng.between(930_000, 1_070_000);
        let skew = self.rng.between(0, 6) as i64 - 3;
        self.count("clock");
        self.cluster.world.set_clock(member, rate, skew);
    }

    fn reset(&mut self) {
        let members: Vec<u64> = self.cluster.known.iter().copied().collect();
        if let (Some(one), Some(other)) = (self.some(&members), self.some(&members)) {
            self.count("connections reset");
            self.cluster.world.reset(one, other);
        }
    }

    fn ask(&mut self, change: Change) {
        let up = self.cluster.up();
        let Some(member) = self.some(&up) else { return };
        let Some(store) = self.cluster.store(member) else { return };
        let task = self.cluster.world.spawn(member, async move {
            match change {
                Change::Add(id) => store.add_member(id, &format!("s{id}"), &address(id)).await,
                Change::Remove(id) => store.remove_member(id).await,
                Change::Transfer => store.transfer_leadership(None).await.map_err(|_| MemberError::NoLeader),
            }
        });
        self.changes.push((change, task));
    }

    fn transfer(&mut self) {
        self.count("leadership handed over");
        self.ask(Change::Transfer);
    }

    fn change_members(&mut self) {
        if self.changes.iter().any(|(change, _)| *change != Change::Transfer) {
            return;
        }
        let known: Vec<u64> = self.cluster.known.iter().copied().collect();
        if self.next_member <= MOST && (known.len() < 4 || self.rng.chance(400)) {
            let member = self.next_member;
            self.next_member += 1;
            self.count("member added");
            self.cluster.start(member);
            self.cluster.run_for(Duration::from_millis(5));
            self.ask(Change::Add(member));
        } else if known.len() > 1
            && let Some(member) = self.some(&known)
        {
            self.count("member removed");
            self.ask(Change::Remove(member));
        }
    }

    /// Ends what has stopped by itself, and takes in what became of membership changes.
    fn look_after(&mut self) {
        for member in self.cluster.stopped() {
            self.count("stopped by itself");
            self.cluster.kill(member, Crash::Process);
        }
        let mut ended = Vec::new();
        self.changes.retain_mut(|(change, task)| match task.poll() {
            None => true,
            Some(result) => {
                ended.push((*change, result));
                false
            }
        });
        for (change, result) in ended {
            self.cluster.note(&format!("{change:?}: {result:?}"));
            if let (Change::Remove(member), Ok(Ok(()))) = (change, &result) {
                self.cluster.retire(member);
            }
        }
    }

    /// Ends all faults; then the group has to work and to agree.
    fn heal(&mut self, limit: Duration) -> Result<()> {
        self.cluster.note("everything heals");
        self.cluster.world.block([]);
        self.cluster.world.set_weather(Weather::default());
        for member in self.cluster.known.clone() {
            self.cluster.world.disk(member).set_trouble(Trouble::default());
            self.cluster.world.set_clock(member, 1_000_000, 0);
        }
        let end = self.cluster.world.now() + limit;
        let left = |cluster: &Cluster| end.saturating_sub(cluster.world.now());
        self.up_again(left(&self.cluster))?;
        *self.cluster.shared.quiet.lock() = true;
        let members = self.settle(left(&self.cluster))?;
        for outsider in self.cluster.known.clone().into_iter().filter(|known| !members.contains(known)) {
            self.cluster.retire(outsider);
        }
        for member in &members {
            self.last_write(*member, limit)?;
        }
        let members = self.settle(limit)?;
        ensure!(!members.is_empty(), "nobody is left");
        // Watchers hear of the last change.
        self.cluster.run_for(Duration::from_millis(1500));
        self.cluster.shared.ledger().watchers_are_done();
        Ok(())
    }

    /// A write at a member, again until it is acknowledged: it may be stopping for what it met earlier.
    fn last_write(&mut self, member: u64, limit: Duration) -> Result<()> {
        let end = self.cluster.world.now() + limit;
        for attempt in 0.. {
            self.up_again(limit)?;
            if let Some(store) = self.cluster.store(member) {
                let value = format!("end-{member}-{attempt}");
                let txn = kontiki_store::Txn::write(vec![kontiki_store::Op::put("k/end", value)]);
                let result = self.cluster.wait("a last write", limit, member, async move { store.txn(txn).await });
                if matches!(result, Ok(Ok(_))) {
                    break;
                }
                self.cluster.note(&format!("a last write at {member}: {result:?}"));
            }
            ensure!(self.cluster.world.now() < end, "no write at {member}; {}", self.describe());
        }
        Ok(())
    }

    /// Starts whoever is down; some stop only now for what they met earlier.
    fn revive(&mut self) {
        self.look_after();
        for member in self.cluster.down() {
            self.cluster.start(member);
        }
    }

    /// Everybody lives, and somebody leads.
    fn up_again(&mut self, limit: Duration) -> Result<()> {
        let end = self.cluster.world.now() + limit;
        loop {
            self.revive();
            self.cluster.run_for(Duration::from_millis(100));
            if self.cluster.down().is_empty() && self.cluster.leader().is_some() {
                return Ok(());
            }
            ensure!(self.cluster.shared.ledger().violation.is_none(), "a violation while healing");
            ensure!(self.cluster.world.now() < end, "nobody leads; {}", self.describe());
        }
    }

    /// Until all members that the leader knows of have applied all there is.
    fn settle(&mut self, limit: Duration) -> Result<Vec<u64>> {
        let end = self.cluster.world.now() + limit;
        loop {
            self.cluster.run_for(Duration::from_millis(50));
            self.revive();
            ensure!(self.cluster.shared.ledger().violation.is_none(), "a violation while settling");
            if self.changes.is_empty()
                && let Some(members) = self.settled()
            {
                return Ok(members);
            }
            ensure!(self.cluster.world.now() < end, "not settled; {}", self.describe());
        }
    }

    fn settled(&self) -> Option<Vec<u64>> {
        let leader = self.cluster.store(self.cluster.leader()?)?;
        let status = leader.status().borrow().clone();
        let revision = leader.snapshot().revision();
        let members: Vec<u64> = status.members.iter().map(|member| member.id).collect();
        let even = members.iter().all(|member| {
            self.cluster.store(*member).is_some_and(|store| {
                let snapshot = store.snapshot();
                (snapshot.applied(), snapshot.revision()) == (status.last_log, revision)
            })
        });
        (even && revision == self.revision()).then_some(members)
    }

    fn revision(&self) -> Revision {
        self.cluster.shared.ledger().revision()
    }

    fn describe(&self) -> String {
        let mut lines = Vec::new();
        for member in self.cluster.up() {
            if let Some(store) = self.cluster.store(member) {
                let status = store.status().borrow().clone();
                let members: Vec<_> = status.members.iter().map(|m| (m.id, m.role, m.matched)).collect();
                lines.push(format!(
                    "{member}: leader {:?} term {} applied {} of {} members {members:?}",
                    status.leader, status.term, status.applied, status.last_log
                ));
            }
        }
        format!("{} changes under way, {}", self.changes.len(), lines.join("; "))
    }

    fn report(mut self, result: Result<()>) -> Report {
        let shared = Arc::clone(&self.cluster.shared);
        let mut ledger = shared.ledger();
        if let Err(error) = result {
            ledger.broken("progress", format!("{error:#}"));
        }
        let mut counts = ledger.counts.clone();
        counts.writes_lost = self.cluster.known.iter().map(|member| self.cluster.world.disk(*member).lost()).sum();
        let net = self.cluster.world.net_counts();
        for (name, count) in [
            ("requests lost", net.lost),
            ("answers lost", net.unanswered),
            ("requests doubled", net.twice),
            ("streams cut", net.cut),
        ] {
            *counts.faults.entry(name).or_default() += count;
        }
        let at = self.cluster.world.now().as_millis();
        let failure = ledger.violation.clone().map(|violation| Failure {
            seed: self.seed,
            step: self.step,
            at,
            invariant: violation.invariant,
            detail: violation.detail,
            last: ledger.last(),
        });
        drop(ledger);
        let (steps, trace) = (self.cluster.world.steps(), self.cluster.world.trace());
        self.changes.clear();
        Report { seed: self.seed, steps, trace, virtual_ms: at, counts, failure }
    }
}
