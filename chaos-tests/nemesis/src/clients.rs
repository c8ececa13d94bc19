//! Clients that read and write a few keys, and record all of it.
//!
//! A client has one question open at a time, asks now this member and now that, and stays with a member
//! that has fallen silent often enough to catch it lying. Every value it writes is its own and new.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kontiki_etcd_tests::client::Clients;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    group::Doors,
    history::{Ask, Guard, Item, Kind, Line, Op, Outcome, Part, Recorder, Rev, Step},
    wire,
};

/// Single registers: `r/00` and on.
const REGISTERS: usize = 20;
/// Accounts of a bank whose sum never changes: `b/0` and on.
const ACCOUNTS: usize = 5;
const DEPOSIT: i64 = 1000;
/// After this an outcome is unknown.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A planted lie, to see the checkers catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Lie {
    /// Serializable reads pass for linearizable ones.
    StaleRead,
    /// Watchers lose an event now and then.
    DroppedEvent,
    /// Some writes without an answer are called refused.
    FalseRefusal,
    /// Leases are asked for half as long as the history says.
    ShortLease,
}

/// What all tasks of a run share.
pub struct Shared {
    pub recorder: Recorder,
    pub doors: Doors,
    pub lie: Option<Lie>,
    pub stop: CancellationToken,
    pub values: AtomicU64,
}

/// One client.
pub struct Client {
    pub shared: Arc<Shared>,
    pub rng: StdRng,
    process: u32,
    member: usize,
    connections: HashMap<usize, Clients>,
    /// Keys as this client saw them last: revision and value.
    known: HashMap<String, (Rev, String)>,
}

impl Client {
    #[must_use]
    pub fn new(shared: &Arc<Shared>, process: u32, seed: u64) -> Self {
        Self {
            shared: shared.clone(),
            rng: StdRng::seed_from_u64(seed ^ (u64::from(process) << 32)),
            process,
            member: 0,
            connections: HashMap::new(),
            known: HashMap::new(),
        }
    }

    #[must_use]
    pub fn process(&self) -> u32 {
        self.process
    }

    /// A value that nobody wrote before.
    pub fn value(&self) -> String {
        format!("v{}", self.shared.values.fetch_add(1, Ordering::Relaxed))
    }

    /// Moves to a member, if it is there.
    pub fn go_to(&mut self, member: usize) {
        self.member = member;
    }

    /// The member asked next, and connections to it.
    pub fn connection(&mut self) -> (usize, &mut Clients) {
        let present = self.shared.doors.present();
        if !present.contains(&self.member) {
            self.member = *present.choose(&mut self.rng).expect("a group has members");
        }
        let (member, doors) = (self.member, &self.shared.doors);
        (member, self.connections.entry(member).or_insert_with(|| doors.clients(member)))
    }

    /// After a silence: a new connection, and perhaps to another member.
    pub fn disappointed(&mut self) {
        self.connections.remove(&self.member);
        if self.rng.random_bool(0.7) {
            self.member = *self.shared.doors.present().choose(&mut self.rng).expect("a group has members");
        }
    }

    /// Asks, records, and learns from the answer.
    pub async fn ask(&mut self, ask: Ask) -> Outcome {
        let shared = self.shared.clone();
        let mut sent = ask.clone();
        sent.serializable |= shared.lie == Some(Lie::StaleRead) && ask.kind == Kind::Get;
        let (member, clients) = self.connection();
        let start = shared.recorder.now();
        let mut outcome = wire::ask(clients, &sent, PATIENCE).await;
        let end = shared.recorder.now();
        if !matches!(outcome, Outcome::Ok(_)) {
            self.disappointed();
        }
        if let (Outcome::Unknown(why), Some(Lie::FalseRefusal)) = (&outcome, shared.lie) {
            outcome = Outcome::Failed(why.clone());
        }
        self.learn(&ask, &outcome);
        let member = u32::try_from(member).expect("a handful of members");
        let op = Op { process: self.process, member, start, end, ask, outcome: outcome.clone() };
        shared.recorder.line(&Line::Op(op));
        outcome
    }

    fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        let Outcome::Ok(answer) = outcome else { return };
        for (step, part) in ask.branch(answer.succeeded).iter().zip(&answer.parts) {
            match (step, part) {
                (Step::Put { key, value, .. }, Part::Put) => {
                    self.known.insert(key.clone(), (answer.revision, value.clone()));
                }
                (Step::Delete { key }, _) => drop(self.known.remove(key)),
                (Step::Get { key }, Part::Items(items)) if items.is_empty() => drop(self.known.remove(key)),
                (_, Part::Items(items)) => {
                    for item in items {
                        self.known.insert(item.key.clone(), (item.modified, item.value.clone()));
                    }
                }
                _ => {}
            }
        }
    }

    /// Asks until the store answers.
    pub async fn insist(&mut self, mut ask: impl FnMut(&Self) -> Ask) -> crate::history::Answer {
        loop {
            let next = ask(self);
            if let Outcome::Ok(answer) = self.ask(next).await {
                return answer;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Opens the bank.
    pub async fn open_bank(&mut self) {
        self.insist(|client| {
            let put = |account| Step::Put {
                key: account_key(account),
                value: format!("{DEPOSIT} {}", client.value()),
                lease: 0,
            };
            Ask::plain(Kind::Txn, (0..ACCOUNTS).map(put).collect())
        })
        .await;
    }

    /// Reads and writes until the run ends, with `pause` between questions on average.
    pub async fn work(mut self, pause: Duration) {
        let stop = self.shared.stop.clone();
        while !stop.is_cancelled() {
            let pause = pause.mul_f64(self.rng.random_range(0.2..1.8));
            tokio::select! {
                () = stop.cancelled() => return,
                // Cancel-safe: a pause.
                () = sleep(pause) => {}
            }
            if self.rng.random_bool(0.02) {
                self.member = *self.shared.doors.present().choose(&mut self.rng).expect("a group has members");
            }
            self.turn().await;
        }
    }

    async fn turn(&mut self) {
        let key = register(self.rng.random_range(0..REGISTERS));
        let get = |key: &str| Step::Get { key: key.to_owned() };
        let ask = match self.rng.random_range(0..100) {
            0..28 => Ask::plain(Kind::Put, vec![self.put(&key)]),
            28..46 => Ask::plain(Kind::Get, vec![get(&key)]),
            46..52 => Ask::plain(Kind::Delete, vec![Step::Delete { key }]),
            52..68 => {
                let by_value = self.rng.random_bool(0.3);
                let guard = self.guard(&key, by_value);
                let then = if self.rng.random_bool(0.9) { self.put(&key) } else { Step::Delete { key: key.clone() } };
                Ask {
                    kind: Kind::Cas,
                    guards: vec![guard],
                    then: vec![then],
                    otherwise: vec![get(&key)],
                    serializable: false,
                }
            }
            68..74 => return self.transfer().await,
            74..80 => self.several(),
            80..88 => {
                let (from, to) = self.part_of_all();
                Ask::plain(Kind::Range, vec![Step::Range { from, to }])
            }
            88..94 => Ask::plain(Kind::Stale, vec![get(&key)]),
            _ => {
                let (from, to) = self.part_of_all();
                Ask::plain(Kind::Stale, vec![Step::Range { from, to }])
            }
        };
        self.ask(ask).await;
    }

    fn put(&self, key: &str) -> Step {
        Step::Put { key: key.to_owned(), value: self.value(), lease: 0 }
    }

    fn guard(&self, key: &str, by_value: bool) -> Guard {
        let (revision, value) =
            self.known.get(key).map_or((0, None), |(revision, value)| (*revision, Some(value.clone())));
        Guard { key: key.to_owned(), revision, value, by_value }
    }

    fn part_of_all(&mut self) -> (String, String) {
        match self.rng.random_range(0..4) {
            0 => ("b/".into(), "b0".into()),
            1 => ("l/".into(), "l0".into()),
            _ => {
                let from = self.rng.random_range(0..REGISTERS);
                (register(from), register(from + self.rng.random_range(2..6)))
            }
        }
    }

    /// Several registers in one transaction: put, deleted and read, with or without a guard.
    fn several(&mut self) -> Ask {
        let first = self.rng.random_range(0..REGISTERS - 3);
        let keys: Vec<String> = (first..first + 3).map(register).collect();
        let third = if self.rng.random_bool(0.3) { Step::Delete { key: keys[2].clone() } } else { self.put(&keys[2]) };
        let then = vec![self.put(&keys[0]), self.put(&keys[1]), third, Step::Get { key: keys[0].clone() }];
        let guards = if self.rng.random_bool(0.5) { vec![self.guard(&keys[0], false)] } else { Vec::new() };
        let otherwise = keys.iter().map(|key| Step::Get { key: key.clone() }).collect();
        Ask { kind: Kind::Txn, guards, then, otherwise, serializable: false }
    }

    /// Reads two accounts and moves money if neither has changed since.
    async fn transfer(&mut self) {
        let from = self.rng.random_range(0..ACCOUNTS);
        let to = (from + self.rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
        let read = Ask::plain(Kind::Txn, [from, to].map(|account| Step::Get { key: account_key(account) }).to_vec());
        let Outcome::Ok(answer) = self.ask(read).await else { return };
        let items: Vec<&Item> = answer.parts.iter().filter_map(first_item).collect();
        let [payer, payee] = items[..] else { return };
        let amount = self.rng.random_range(1..10);
        let (Some(payer_has), Some(payee_has)) = (balance(payer), balance(payee)) else { return };
        let put = |item: &Item, amount: i64| Step::Put {
            key: item.key.clone(),
            value: format!("{amount} {}", self.value()),
            lease: 0,
        };
        let then = vec![put(payer, payer_has - amount), put(payee, payee_has + amount)];
        let guards = [payer, payee].map(|item| Guard {
            key: item.key.clone(),
            revision: item.modified,
            value: Some(item.value.clone()),
            by_value: false,
        });
        let otherwise = vec![Step::Range { from: "b/".into(), to: "b0".into() }];
        self.ask(Ask { kind: Kind::Txn, guards: guards.to_vec(), then, otherwise, serializable: false }).await;
    }
}

fn first_item(part: &Part) -> Option<&Item> {
    match part {
        Part::Items(items) => items.first(),
        _ => None,
    }
}

/// What an account holds.
#[must_use]
pub fn balance(item: &Item) -> Option<i64> {
    item.value.split_once(' ')?.0.parse().ok()
}

/// All accounts together, for ever.
#[must_use]
pub fn total() -> i64 {
    DEPOSIT * i64::try_from(ACCOUNTS).expect("a handful of accounts")
}

fn account_key(account: usize) -> String {
    format!("b/{account}")
}

/// The key of a register.
#[must_use]
pub fn register(number: usize) -> String {
    format!("r/{number:02}")
}

/// A write that every watcher of any range must see.
#[must_use]
pub fn last_write(client: &Client) -> Ask {
    let put = |key: String| Step::Put { key, value: client.value(), lease: 0 };
    Ask::plain(Kind::Txn, vec![put(register(REGISTERS / 2)), put("b/last".into())])
}
