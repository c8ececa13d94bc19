//! What a collection holds, as its watch tells it.
//!
//! Invariants
//! - The list and the watch are one history: nothing between them is missed.
//! - A watch that a server ends, as it does with one that lags, goes on where it was. What else goes wrong fails whoever
//!   waits.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    peer::{Peer, Servers},
    wire::{Request, Stream},
};

/// Nothing healthy takes longer.
pub const LIMIT: Duration = Duration::from_secs(1_200);

/// How many objects there are, and how many of them are what is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub all: usize,
    pub done: usize,
}

/// Whether an object is what is waited for.
pub type Done = fn(&Value) -> bool;

#[derive(Clone, Debug, Default)]
pub struct State {
    counts: Counts,
    broken: Option<String>,
}

/// Ends with its value.
pub struct Following {
    seen: watch::Sender<State>,
    task: JoinHandle<()>,
}

impl Following {
    /// Lists a collection and follows it. Objects that were there and come go to `added`, too.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn start(peer: &Peer, path: &str, done: Done, added: Option<mpsc::Sender<Value>>) -> Result<Self> {
        let (status, mut list) = peer.connect(0).await?.json("GET", path, None).await?;
        ensure!(status == 200, "{path}: {list}");
        let version = list["metadata"]["resourceVersion"].as_str().context("a list's version")?.to_owned();
        let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let (seen, path, servers) = (watch::Sender::new(State::default()), path.to_owned(), peer.servers());
        let mut reader = Reader { version, objects: Objects::default(), done, added, seen: seen.clone() };
        let task = tokio::spawn(async move {
            if let Err(error) = reader.run(items, &servers, &path).await {
                State::fail(&reader.seen, format!("following {path}: {error:#}"));
            }
        });
        Ok(Self { seen, task })
    }

    /// Waits until the counts are as they should be.
    ///
    /// # Errors
    /// They never are, or the watch breaks.
    pub async fn wait(&self, what: &str, enough: impl Fn(Counts) -> bool) -> Result<()> {
        let mut seen = self.seen.subscribe();
        let state = timeout(LIMIT, seen.wait_for(|state| state.broken.is_some() || enough(state.counts))).await;
        let Ok(state) = state else { bail!("{what}: not within {LIMIT:?}, but {:?}", self.seen.borrow().counts) };
        match &state?.broken {
            Some(reason) => bail!("{what}: {reason}"),
            None => Ok(()),
        }
    }

    /// Where others say what has gone wrong.
    pub fn seen(&self) -> watch::Sender<State> {
        self.seen.clone()
    }

    /// Waits until something has gone wrong.
    pub async fn broken(&self) -> String {
        let mut seen = self.seen.subscribe();
        let state = seen.wait_for(|state| state.broken.is_some()).await;
        state.ok().and_then(|state| state.broken.clone()).unwrap_or_default()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    pub fn fail(seen: &watch::Sender<Self>, reason: String) {
        seen.send_modify(|state| state.broken = Some(reason));
    }
}

struct Reader {
    /// From which the watch goes on.
    version: String,
    objects: Objects,
    done: Done,
    added: Option<mpsc::Sender<Value>>,
    seen: watch::Sender<State>,
}

impl Reader {
    async fn run(&mut self, items: Vec<Value>, servers: &Servers, path: &str) -> Result<()> {
        for item in items {
            self.take("ADDED", item).await?;
        }
        loop {
            let path = format!("{path}?watch=1&resourceVersion={}&timeoutSeconds=3600", self.version);
            let stream = servers.connect(1).await?.follow(&Request::get(&path)).await?;
            self.read(stream).await?;
        }
    }

    /// Reads a watch to its end.
    async fn read(&mut self, mut stream: Stream) -> Result<()> {
        let (mut lines, mut goes_on) = (Lines::default(), true);
        while goes_on {
            goes_on = stream.next(|piece| lines.feed(piece)).await?;
            for line in std::mem::take(&mut lines.whole) {
                let mut event: Value = serde_json::from_slice(&line)?;
                let object = event["object"].take();
                let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
                self.take(event["type"].as_str().unwrap_or_default(), object).await?;
                self.version = version;
            }
        }
        Ok(())
    }

    async fn take(&mut self, event: &str, object: Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match event {
            "ADDED" | "MODIFIED" => self.objects.put(name, (self.done)(&object)),
            "DELETED" => self.objects.remove(name),
            _ => bail!("the event {event:?}: {object}"),
        }
        let counts = self.objects.counts();
        self.seen.send_modify(|state| state.counts = counts);
        if let (Some(added), "ADDED") = (&self.added, event) {
            added.send(object).await.context("nobody takes what is added")?;
        }
        Ok(())
    }
}

/// Names, and whether each is what is waited for.
#[derive(Default)]
struct Objects {
    by_name: HashMap<String, bool>,
    done: usize,
}

impl Objects {
    fn put(&mut self, name: &str, done: bool) {
        let before = match self.by_name.get_mut(name) {
            Some(known) => std::mem::replace(known, done),
            None => self.by_name.insert(name.to_owned(), done).unwrap_or_default(),
        };
        self.done = self.done + usize::from(done) - usize::from(before);
    }

    fn remove(&mut self, name: &str) {
        self.done -= usize::from(self.by_name.remove(name).unwrap_or_default());
    }

    fn counts(&self) -> Counts {
        Counts { all: self.by_name.len(), done: self.done }
    }
}

/// Lines of what comes in pieces.
#[derive(Default)]
struct Lines {
    whole: Vec<Vec<u8>>,
    rest: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.whole.push(std::mem::take(&mut self.rest));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_and_is_done_is_counted() {
        // +: there, !: there and done, -: gone.
        for (events, all, done) in [
            ("", 0, 0),
            ("+a +b !b", 2, 1),
            ("!a !a +b", 2, 1),
            ("!a +a", 1, 0),
            ("!a -a -a", 0, 0),
            ("+a !b -b -c", 1, 0),
        ] {
            let mut objects = Objects::default();
            for event in events.split_whitespace() {
                match event.split_at(1) {
                    ("-", name) => objects.remove(name),
                    (sign, name) => objects.put(name, sign == "!"),
                }
            }
            assert_eq!(objects.counts(), Counts { all, done }, "{events}");
        }
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        for step in [1, 2, 3, 100] {
            let mut lines = Lines::default();
            b"one\n\ntwo\nrest".chunks(step).for_each(|piece| lines.feed(piece));
            assert_eq!(lines.whole, [&b"one\n"[..], b"\n", b"two\n"], "{step}");
            assert_eq!(lines.rest, b"rest");
        }
    }
}
