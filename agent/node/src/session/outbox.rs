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

use kontiki_proto::node::{
    FromAgent, PodCertificateAnswer, PodCertificateAsk, PodGone, TokenRequest, Upsert, from_agent::Message,
};
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
    tokens: Questions<TokenRequest, TokenAnswer>,
    certificates: Questions<PodCertificateAsk, PodCertificateAnswer>,
}

/// Questions that no master has answered yet, by number: each with whether this session has sent it.
struct Questions<Q, A> {
    open: BTreeMap<u64, (Q, bool, oneshot::Sender<A>)>,
    last: u64,
}

impl<Q, A> Default for Questions<Q, A> {
    fn default() -> Self {
        Self { open: BTreeMap::new(), last: 0 }
    }
}

impl<Q: Clone, A> Questions<Q, A> {
    /// Puts one more. `number`: writes its number into it.
    fn ask(&mut self, mut question: Q, number: fn(&mut Q, u64)) -> oneshot::Receiver<A> {
        let (tx, rx) = oneshot::channel();
        self.open.retain(|_, (_, _, tx)| !tx.is_closed());
        self.last += 1;
        number(&mut question, self.last);
        self.open.insert(self.last, (question, false, tx));
        rx
    }

    fn resend(&mut self) {
        self.open.values_mut().for_each(|(_, sent, _)| *sent = false);
    }

    /// What this session has not sent. Nobody waits any more for the answers of those that are dropped.
    fn take(&mut self) -> Vec<Q> {
        self.open.retain(|_, (_, _, tx)| !tx.is_closed());
        let due = self.open.values_mut().filter(|(_, sent, _)| !*sent);
        due.map(|(question, sent, _)| {
            *sent = true;
            question.clone()
        })
        .collect()
    }
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
    pub(crate) fn token(&self, request: TokenRequest) -> oneshot::Receiver<TokenAnswer> {
        let rx = self.lock().tokens.ask(request, |request, id| request.id = id);
        self.filled.notify_one();
        rx
    }

    /// Asks a signer for a certificate, through a master. The answer takes as long as the signer does.
    pub(crate) fn certificate(&self, ask: PodCertificateAsk) -> oneshot::Receiver<PodCertificateAnswer> {
        let rx = self.lock().certificates.ask(ask, |ask, id| ask.id = id);
        self.filled.notify_one();
        rx
    }

    /// A master answered a token request.
    pub(crate) fn token_answer(&self, id: u64, answer: TokenAnswer) {
        let waiting = self.lock().tokens.open.remove(&id);
        if let Some((_, _, tx)) = waiting {
            let _ = tx.send(answer); // the asker may have given up
        }
    }

    /// A signer decided, or there is no request for it to decide.
    pub(crate) fn certificate_answer(&self, answer: PodCertificateAnswer) {
        let waiting = self.lock().certificates.open.remove(&answer.id);
        if let Some((_, _, tx)) = waiting {
            let _ = tx.send(answer); // the asker may have given up
        }
    }

    /// A new session begins: what the old one may have lost is due again.
    pub(crate) fn resend(&self) {
        {
            let mut state = self.lock();
            state.gone.values_mut().for_each(|sent| *sent = false);
            state.tokens.resend();
            state.certificates.resend();
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
        out.extend(state.tokens.take().into_iter().map(Message::Token));
        out.extend(state.certificates.take().into_iter().map(Message::PodCertificate));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(outbox: &Outbox) -> String {
        let name = |message: FromAgent| match message.message {
            Some(Message::PodCertificate(ask)) => format!("{}#{}", ask.name, ask.id),
            _ => "?".to_owned(),
        };
        outbox.take().into_iter().map(name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_question_is_repeated_until_it_is_answered_or_nobody_waits() {
        let outbox = Outbox::default();
        let ask = |name: &str| PodCertificateAsk { name: name.to_owned(), ..PodCertificateAsk::default() };
        let mut first = outbox.certificate(ask("a"));
        let second = outbox.certificate(ask("b"));
        assert_eq!(names(&outbox), "a#1 b#2");
        assert_eq!(names(&outbox), "", "sent once");
        outbox.resend();
        drop(second);
        assert_eq!(names(&outbox), "a#1", "on a new session, for whoever still waits");
        outbox.certificate_answer(PodCertificateAnswer {
            id: 1,
            reason: "r".to_owned(),
            ..PodCertificateAnswer::default()
        });
        assert_eq!(first.try_recv().expect("answered").reason, "r");
        outbox.resend();
        assert_eq!(names(&outbox), "");
    }
}
