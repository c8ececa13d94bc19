//! What the node has to tell the masters.
//!
//! Invariants
//! - Of each pod (and of the node) only the latest status waits; older ones are overwritten.
//! - Events are best effort: beyond [`MAX_EVENTS`] the oldest are dropped and counted.
//! - `PodGone` is repeated on every new session until the pod has left the cache.
//! - Nothing here blocks its writers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard},
};

use kontiki_proto::node::{FromAgent, PodGone, TokenRequest, Upsert, from_agent::Message};
use tokio::sync::{Notify, oneshot};

/// Enough for a burst on a full node; more would only delay statuses after a long outage.
const MAX_EVENTS: usize = 1000;

/// A token, or why there is none.
pub(crate) type TokenAnswer = Result<Token, String>;

/// A ServiceAccount token.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) token: String,
    pub(crate) expires: jiff::Timestamp,
}

#[derive(Default)]
struct State {
    node: Option<String>,
    pods: BTreeMap<(String, String), Upsert>,
    gone: BTreeMap<(String, String, String), bool>,
    events: VecDeque<Upsert>,
    dropped_events: u64,
    tokens: BTreeMap<u64, (TokenRequest, bool, oneshot::Sender<TokenAnswer>)>,
    next_token: u64,
}

/// The queue of one agent.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    filled: Notify,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Replaces the node's waiting status.
    pub(crate) fn node_status(&self, json: String) {
        self.lock().node = Some(json);
        self.filled.notify_one();
    }

    /// Replaces the pod's waiting status.
    pub(crate) fn pod_status(&self, namespace: &str, name: &str, uid: &str, json: String) {
        let upsert = Upsert {
            kind: "Pod".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            json,
        };
        self.lock().pods.insert((namespace.to_owned(), name.to_owned()), upsert);
        self.filled.notify_one();
    }

    /// Says that nothing of the pod is left here.
    pub(crate) fn pod_gone(&self, namespace: &str, name: &str, uid: &str) {
        self.lock().gone.insert((namespace.to_owned(), name.to_owned(), uid.to_owned()), false);
        self.filled.notify_one();
    }

    /// The pod has left the API: no need to repeat it.
    pub(crate) fn forget_gone(&self, namespace: &str, name: &str, uid: &str) {
        self.lock().gone.remove(&(namespace.to_owned(), name.to_owned(), uid.to_owned()));
    }

    /// Queues an Event.
    pub(crate) fn event(&self, namespace: &str, name: &str, json: String) {
        let event = Upsert {
            kind: "Event".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: String::new(),
            json,
        };
        {
            let mut state = self.lock();
            if state.events.len() == MAX_EVENTS {
                state.events.pop_front();
                state.dropped_events += 1;
            }
            state.events.push_back(event);
        }
        self.filled.notify_one();
    }

    /// Asks a master for a token. The answer may take until a session is up.
    pub(crate) fn token(&self, mut request: TokenRequest) -> oneshot::Receiver<TokenAnswer> {
        let (tx, rx) = oneshot::channel();
        {
            let mut state = self.lock();
            state.tokens.retain(|_, (_, _, tx)| !tx.is_closed());
            state.next_token += 1;
            request.id = state.next_token;
            state.tokens.insert(request.id, (request, false, tx));
        }
        self.filled.notify_one();
        rx
    }

    /// A master answered a token request.
    pub(crate) fn token_answer(&self, id: u64, answer: TokenAnswer) {
        let waiting = self.lock().tokens.remove(&id);
        if let Some((_, _, tx)) = waiting {
            let _ = tx.send(answer); // the asker may have given up
        }
    }

    /// A new session begins: what the old one may have lost is due again.
    pub(crate) fn resend(&self) {
        {
            let mut state = self.lock();
            state.gone.values_mut().for_each(|sent| *sent = false);
            state.tokens.values_mut().for_each(|(_, sent, _)| *sent = false);
        }
        self.filled.notify_one();
    }

    /// Everything due now. Statuses come before `PodGone`, so that a pod's last status is seen.
    pub fn take(&self) -> Vec<FromAgent> {
        let mut state = self.lock();
        let mut out: Vec<Message> = Vec::new();
        if let Some(json) = state.node.take() {
            out.push(Message::Status(Upsert { kind: "Node".to_owned(), json, ..Upsert::default() }));
        }
        out.extend(std::mem::take(&mut state.pods).into_values().map(Message::Status));
        for ((namespace, name, uid), sent) in &mut state.gone {
            if !std::mem::replace(sent, true) {
                out.push(Message::PodGone(PodGone {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    uid: uid.clone(),
                }));
            }
        }
        for (request, sent, _) in state.tokens.values_mut() {
            if !std::mem::replace(sent, true) {
                out.push(Message::Token(request.clone()));
            }
        }
        if state.dropped_events > 0 {
            tracing::warn!(dropped = state.dropped_events, "events were dropped: no master took them");
            state.dropped_events = 0;
        }
        out.extend(std::mem::take(&mut state.events).into_iter().map(Message::Event));
        out.into_iter().map(|message| FromAgent { message: Some(message) }).collect()
    }

    /// Returns when something was put in since the last call. Cancel-safe.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }
}
