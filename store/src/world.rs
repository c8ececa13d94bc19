//! What a member asks of the world beyond its own memory: time, chance, tasks, a disk, a way to the other members.
//!
//! The real world is tokio, the system, RocksDB and gRPC; `rt`, `disk::db` and `raft::peer` call these as they are. A
//! thread of a simulation has another world, a [`World`], which they look for first ([`simulated`]).
//!
//! Invariants
//! - Without the cargo feature `simulation` there is no other world, and the compiler knows: [`simulated`] is `None`,
//!   and what only another world hands out ([`Shared`], [`Owned`]) is of types without values, so that whatever deals
//!   with it takes no space and leaves no code.
//! - What crosses this line is plain: times, addresses, bytes, and the state as `kontiki_state` knows it.
//!
//! Not here: a world (see `kontiki-sim`).

#![cfg_attr(not(feature = "simulation"), expect(dead_code, reason = "only a simulation looks at what members tell it"))]

use std::{
    borrow::Cow,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use kontiki_state::{
    Event, Term,
    command::{Command, Outcome},
    state::State,
};
use tokio::sync::mpsc;

/// What there is for the member whose task is running.
pub trait World {
    /// Its monotonic clock.
    fn now(&self) -> Instant;

    /// Its wall clock, in Unix seconds.
    fn unix_seconds(&self) -> u64;

    /// Any number.
    fn chance(&self) -> u64;

    /// How long something short takes that blocks.
    fn moment(&self) -> Duration;

    /// Starts a task of it.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// A pause until its clock shows `deadline`.
    fn sleep_until(&self, deadline: Instant) -> Sleep;

    /// Opens its database.
    fn disk(&self) -> Shared<dyn Disk>;

    /// Its way to the others.
    fn port(&self) -> Shared<dyn Port>;

    /// Lets the others reach it at an address from now on.
    fn listen(&self, address: &str, peer: Arc<dyn Peer>);

    /// Hears what it did.
    fn saw(&self, what: Saw<'_>);
}

/// A pause.
pub type Sleep = Pin<Owned<dyn Future<Output = ()> + Send + Sync>>;

/// A database: ordered maps, the families, which are told by number (see `disk::db::Family`).
pub trait Disk: Send + Sync {
    /// The value under a key.
    ///
    /// # Errors
    /// As all here: if whoever opened it does not live any more, or as the disk does.
    fn get(&self, family: usize, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// The rows from a key on, as of now.
    ///
    /// # Errors
    /// See `get`.
    fn scan(&self, family: usize, from: &[u8]) -> io::Result<Rows>;

    /// The row with the greatest key.
    ///
    /// # Errors
    /// See `get`.
    fn last(&self, family: usize) -> io::Result<Option<Pair>>;

    /// Writes all or nothing, in no time; durable, with all before it, if `sync`.
    ///
    /// # Errors
    /// See `get`.
    fn write(&self, changes: Changes, sync: bool) -> io::Result<()>;

    /// Writes likewise, and takes as long as the disk does.
    ///
    /// # Errors
    /// See `get`. `StorageFull` if there is no space.
    fn write_slowly(&self, changes: Changes, sync: bool) -> BoxFuture<'_, io::Result<()>>;

    /// Bytes free, and in all.
    fn space(&self) -> (u64, u64);
}

/// Key and value.
pub type Pair = (Box<[u8]>, Box<[u8]>);

/// Rows in the order of their keys.
pub type Rows = Owned<dyn Iterator<Item = Pair>>;

/// A batch.
pub type Changes = Owned<Vec<Change>>;

/// One change of a batch. The first number is the family's.
#[derive(Clone, Debug)]
pub enum Change {
    /// A key has a value from now on.
    Put(usize, Vec<u8>, Bytes),
    /// A key is gone.
    Delete(usize, Vec<u8>),
    /// The keys from the first on and before the second are gone.
    DeleteRange(usize, Vec<u8>, Vec<u8>),
}

/// A member's way to the others, who are told by their addresses.
pub trait Port: Send + Sync {
    /// Sends a request and waits for its answer.
    fn call<'a>(&'a self, address: &'a str, call: Call, body: Bytes) -> BoxFuture<'a, Result<Bytes, CallError>>;

    /// Opens a stream of appends, which is sent as far as answers are asked for.
    fn stream<'a>(
        &'a self,
        address: &'a str,
        appends: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes, CallError>>, CallError>>;

    /// Sends a snapshot and waits for the answer.
    fn snapshot<'a>(&'a self, address: &'a str, meta: Bytes, pieces: Pieces)
    -> BoxFuture<'a, Result<Bytes, CallError>>;
}

/// A snapshot as it is read.
pub type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// What has one answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Entries for the log, or none: a heartbeat.
    Append,
    /// A candidate asks for a vote.
    Vote,
    /// A member asks whether it would get one.
    PreVote,
    /// The leader hands over.
    TransferLeader,
    /// What only the leader can do.
    Forward,
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// It did not reach the other member.
    #[error("{0}")]
    NotSent(String),
    /// It may have: the connection broke, or the other member said that it failed.
    #[error("{0}")]
    Lost(String),
    /// It did, and the other member's program could not read it: it was not done.
    #[error("{0}")]
    Refused(String),
}

/// The near end of other members' ports.
pub trait Peer: Send + Sync {
    /// Answers a request, or says why not.
    fn call(&self, call: Call, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>>;

    /// Answers a stream of appends.
    fn appends(&self, appends: BoxStream<'static, Bytes>) -> BoxStream<'static, Result<Bytes, String>>;

    /// Takes over a snapshot that came whole.
    fn install(&self, meta: Bytes, snapshot: Owned<Bytes>) -> BoxFuture<'_, Result<Bytes, String>>;
}

/// One thing that a member did.
pub enum Saw<'a> {
    /// It made durable that `candidate` has its vote in `term`, or (`committed`) that it leads.
    Vote { term: u64, candidate: u64, committed: bool },
    /// It put an entry into its log.
    Append(Logged<'a>),
    /// It dropped its log from an index on.
    Truncate { from: u64 },
    /// It applied a command.
    Applied(Applied<'a>),
    /// A snapshot took it to an index.
    Installed { index: u64, state: &'a State },
    /// It started with this vote (term, candidate) and log on disk, and in this state.
    Recovered { vote: Option<(u64, u64)>, log: Vec<Logged<'a>>, index: u64, state: &'a State },
}

/// An entry of the log.
pub struct Logged<'a> {
    pub index: u64,
    pub term: u64,
    /// What tells it from others of its index and term.
    pub content: Cow<'a, [u8]>,
}

/// A command that was applied.
pub struct Applied<'a> {
    pub index: u64,
    pub term: Term,
    pub command: &'a Command,
    /// The state after it.
    pub state: &'a State,
    pub outcome: &'a Outcome,
    pub events: &'a [Event],
}

/// Tells a simulated world what happened.
pub(crate) fn saw<'a>(what: impl FnOnce() -> Saw<'a>) {
    if let Some(world) = simulated() {
        world.saw(what());
    }
}

#[cfg(feature = "simulation")]
mod other {
    use std::{cell::RefCell, sync::Arc};

    /// What another world lends.
    pub type Shared<T> = Arc<T>;

    /// What another world gives.
    pub type Owned<T> = Box<T>;

    thread_local! {
        static WORLD: RefCell<Option<Shared<dyn super::World>>> = const { RefCell::new(None) };
    }

    /// This thread's world, if it is not the real one.
    pub(crate) fn simulated() -> Option<Shared<dyn super::World>> {
        WORLD.try_with(|world| world.borrow().clone()).ok().flatten()
    }

    /// Whether this thread's world is another than the real one.
    pub(crate) fn is_simulated() -> bool {
        WORLD.try_with(|world| world.borrow().is_some()).unwrap_or(false)
    }

    /// Makes something part of another world.
    pub(crate) fn own<W: ?Sized, T>(_: &Shared<W>, value: T) -> Owned<T> {
        Box::new(value)
    }

    /// Puts this thread into another world; with `None`, back into the real one. Returns where it was.
    pub fn install(world: Option<Shared<dyn super::World>>) -> Option<Shared<dyn super::World>> {
        WORLD.replace(world)
    }
}

#[cfg(not(feature = "simulation"))]
mod other {
    use std::{
        convert::Infallible,
        marker::PhantomData,
        ops::{Deref, DerefMut},
    };

    /// What nobody has.
    pub struct Absent<T: ?Sized>(Infallible, PhantomData<T>);

    pub type Shared<T> = Absent<T>;
    pub type Owned<T> = Absent<T>;

    pub(crate) const fn simulated() -> Option<Shared<dyn super::World>> {
        None
    }

    pub(crate) const fn is_simulated() -> bool {
        false
    }

    pub(crate) fn own<W: ?Sized, T>(world: &Shared<W>, _: T) -> Owned<T> {
        match world.0 {}
    }

    impl<T: ?Sized> Deref for Absent<T> {
        type Target = T;

        fn deref(&self) -> &T {
            match self.0 {}
        }
    }

    impl<T: ?Sized> DerefMut for Absent<T> {
        fn deref_mut(&mut self) -> &mut T {
            match self.0 {}
        }
    }

    impl<T: ?Sized> Clone for Absent<T> {
        fn clone(&self) -> Self {
            match self.0 {}
        }
    }

    impl<T: ?Sized> Unpin for Absent<T> {}
}

#[cfg(feature = "simulation")]
pub use other::install;
pub use other::{Owned, Shared};
pub(crate) use other::{is_simulated, own, simulated};
