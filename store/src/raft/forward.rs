//! Requests that a member passes to the leader, and their answers.
//!
//! Invariants
//! - Commands that wait while others are under way travel together.
//! - A command whose fate the leader did not tell, after it may have arrived, is `Unknown`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    Member, MemberError, Role,
    raft::peer::{ForwardError, Peers},
    rt,
    types::Node,
};
use kontiki_state::{
    Digest, Level, Term,
    codec::{Malformed, Reader, Writer},
    command::{Command, Outcome},
    planted::{self, Bug},
};

/// What a member asks the leader for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Put these into the log.
    Propose(Vec<Command>),
    /// The log index that a read now has to reach.
    ReadIndex,
    AddMember {
        id: u64,
        name: String,
        address: String,
    },
    RemoveMember {
        id: u64,
    },
    /// To this member, or to the one furthest along.
    TransferLeadership {
        target: Option<u64>,
    },
    /// How all members do.
    Members,
    /// Adds a member that may not run yet.
    AddLearner {
        id: u64,
        node: Node,
    },
    /// Lets a learner vote that has caught up.
    Promote {
        id: u64,
    },
    /// Changes what the group knows about a member.
    Update {
        id: u64,
        node: Node,
    },
    /// Gives leases their whole time again.
    KeepAlive {
        leases: Vec<i64>,
    },
    /// How long leases still have: one, or all.
    LeasesLeft {
        lease: Option<i64>,
    },
    /// The newest feature level that this member knows.
    Level,
    /// The digest of its state as of an entry.
    Digest {
        index: u64,
    },
    /// The majority's digest as of an entry is this, and this member's is another.
    Differs {
        index: u64,
        digest: Digest,
    },
}

/// The fate of a proposed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done(Outcome),
    /// Certainly not proposed: asked the wrong member.
    NotLeader,
    /// Certainly not proposed.
    DiskFull,
    /// Certainly not proposed.
    Stopped,
    /// May have been proposed, may yet be applied.
    Unknown,
}

impl Ask {
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        match self {
            Self::Propose(commands) => {
                let size = commands.iter().map(|command| command.0.len() + 8).sum::<usize>();
                out = Writer::with_capacity(size + 8);
                out.u8(1);
                out.varint(commands.len() as u64);
                commands.iter().for_each(|command| out.bytes(&command.0));
            }
            Self::ReadIndex => out.u8(2),
            Self::AddMember { id, name, address } => {
                out.u8(3);
                out.varint(*id);
                out.bytes(name.as_bytes());
                out.bytes(address.as_bytes());
            }
            Self::RemoveMember { id } => {
                out.u8(4);
                out.varint(*id);
            }
            Self::TransferLeadership { target } => {
                out.u8(5);
                out.option(*target);
            }
            Self::Members => out.u8(6),
            Self::AddLearner { id, node } => write_node(&mut out, 7, *id, node),
            Self::Promote { id } => {
                out.u8(8);
                out.varint(*id);
            }
            Self::Update { id, node } => write_node(&mut out, 9, *id, node),
            Self::KeepAlive { leases } => match leases[..] {
                [lease] => {
                    out.u8(10);
                    out.signed(lease);
                }
                _ => {
                    out.u8(15);
                    out.varint(leases.len() as u64);
                    leases.iter().for_each(|lease| out.signed(*lease));
                }
            },
            Self::LeasesLeft { lease } => {
                out.u8(11);
                out.bool(lease.is_some());
                out.signed(lease.unwrap_or_default());
            }
            Self::Level => out.u8(12),
            Self::Digest { index } => {
                out.u8(13);
                out.varint(*index);
            }
            Self::Differs { index, digest } => {
                out.u8(14);
                out.varint(*index);
                out.bytes(&digest.0.to_be_bytes());
            }
        }
        out.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut input = Reader::new(bytes);
        let ask = match input.u8()? {
            1 => {
                let commands = (0..input.count()?).map(|_| input.bytes().map(Command));
                Self::Propose(commands.collect::<Result<_, _>>()?)
            }
            2 => Self::ReadIndex,
            3 => Self::AddMember { id: input.varint()?, name: input.text()?, address: input.text()? },
            4 => Self::RemoveMember { id: input.varint()? },
            5 => Self::TransferLeadership { target: input.option()? },
            6 => Self::Members,
            7 => Self::AddLearner { id: input.varint()?, node: read_node(&mut input)? },
            8 => Self::Promote { id: input.varint()? },
            9 => Self::Update { id: input.varint()?, node: read_node(&mut input)? },
            10 => Self::KeepAlive { leases: vec![input.signed()?] },
            11 => {
                let (one, lease) = (input.bool()?, input.signed()?);
                Self::LeasesLeft { lease: one.then_some(lease) }
            }
            12 => Self::Level,
            13 => Self::Digest { index: input.varint()? },
            15 => {
                let leases = (0..input.count()?).map(|_| input.signed());
                Self::KeepAlive { leases: leases.collect::<Result<_, _>>()? }
            }
            14 => Self::Differs { index: input.varint()?, digest: read_digest(&mut input)? },
            _ => return Err(Malformed("unknown request")),
        };
        input.end()?;
        Ok(ask)
    }
}

fn write_node(out: &mut Writer, tag: u8, id: u64, node: &Node) {
    out.u8(tag);
    out.varint(id);
    out.bytes(&serde_json::to_vec(node).expect("a node is plain data"));
}

fn read_node(input: &mut Reader) -> Result<Node, Malformed> {
    serde_json::from_slice(&input.bytes()?).map_err(|_| Malformed("member"))
}

fn read_digest(input: &mut Reader) -> Result<Digest, Malformed> {
    let bytes = input.bytes()?;
    Ok(Digest(u128::from_be_bytes(bytes[..].try_into().map_err(|_| Malformed("digest"))?)))
}

/// The answer to `Digest`; `None` if the digest as of that entry is not known here.
pub(crate) fn encode_digest(digest: Option<Digest>) -> Bytes {
    let mut out = Writer::default();
    out.bool(digest.is_some());
    if let Some(digest) = digest {
        out.bytes(&digest.0.to_be_bytes());
    }
    out.finish()
}

pub(crate) fn decode_digest(bytes: Bytes) -> Result<Option<Digest>, Malformed> {
    let mut input = Reader::new(bytes);
    Ok(if input.bool()? { Some(read_digest(&mut input)?) } else { None })
}

/// The answer to `Level`. Programs that know no levels refuse the question.
pub(crate) fn encode_level(newest: Level) -> Bytes {
    let mut out = Writer::default();
    out.varint(u64::from(newest.0));
    out.finish()
}

pub(crate) fn decode_level(bytes: Bytes) -> Result<Level, Malformed> {
    Ok(Level(u32::try_from(Reader::new(bytes).varint()?).map_err(|_| Malformed("level"))?))
}

/// Leases and how long they have: seconds for a lease kept alive, else milliseconds. `None` from a
/// member that does not (surely) lead.
pub(crate) type LeaseTimes = Option<Vec<(i64, u64)>>;

pub(crate) fn encode_leases(times: &LeaseTimes) -> Bytes {
    let mut out = Writer::default();
    out.bool(times.is_some());
    let times = times.as_deref().unwrap_or_default();
    out.varint(times.len() as u64);
    for (id, time) in times {
        out.signed(*id);
        out.varint(*time);
    }
    out.finish()
}

pub(crate) fn decode_leases(bytes: Bytes) -> Result<LeaseTimes, Malformed> {
    let mut input = Reader::new(bytes);
    let leads = input.bool()?;
    let times = (0..input.count()?).map(|_| Ok((input.signed()?, input.varint()?))).collect::<Result<_, _>>()?;
    Ok(leads.then_some(times))
}

pub(crate) fn encode_verdicts(verdicts: &[Verdict]) -> Bytes {
    let mut out = Writer::default();
    out.varint(verdicts.len() as u64);
    for verdict in verdicts {
        match verdict {
            Verdict::Done(outcome) => {
                out.u8(0);
                outcome.write(&mut out);
            }
            Verdict::NotLeader => out.u8(1),
            Verdict::DiskFull => out.u8(2),
            Verdict::Stopped => out.u8(3),
            Verdict::Unknown => out.u8(4),
        }
    }
    out.finish()
}

pub(crate) fn decode_verdicts(bytes: Bytes) -> Result<Vec<Verdict>, Malformed> {
    let mut input = Reader::new(bytes);
    (0..input.count()?)
        .map(|_| {
            Ok(match input.u8()? {
                0 => Verdict::Done(Outcome::read(&mut input)?),
                1 => Verdict::NotLeader,
                2 => Verdict::DiskFull,
                3 => Verdict::Stopped,
                4 => Verdict::Unknown,
                _ => return Err(Malformed("unknown verdict")),
            })
        })
        .collect()
}

/// The answer to `ReadIndex`; `None` from a member that does not (surely) lead.
pub(crate) fn encode_index(index: Option<u64>) -> Bytes {
    let mut out = Writer::default();
    out.option(index);
    out.finish()
}

pub(crate) fn decode_index(bytes: Bytes) -> Result<Option<u64>, Malformed> {
    Reader::new(bytes).option()
}

pub(crate) fn encode_change(result: &Result<(), MemberError>) -> Bytes {
    let mut out = Writer::default();
    let (tag, id, text) = match result {
        Ok(()) => (0, 0, ""),
        Err(MemberError::Refused(text)) => (1, 0, text.as_str()),
        Err(MemberError::Conflict(text)) => (2, 0, text.as_str()),
        Err(MemberError::NotFound(id)) => (3, *id, ""),
        Err(MemberError::Busy) => (4, 0, ""),
        Err(MemberError::NotCaughtUp(id)) => (5, *id, ""),
        Err(MemberError::NoLeader) => (6, 0, ""),
        Err(MemberError::Unknown) => (7, 0, ""),
        Err(MemberError::Stopped) => (8, 0, ""),
    };
    out.u8(tag);
    out.varint(id);
    out.bytes(text.as_bytes());
    out.finish()
}

pub(crate) fn decode_change(bytes: Bytes) -> Result<Result<(), MemberError>, Malformed> {
    let mut input = Reader::new(bytes);
    let (tag, id, text) = (input.u8()?, input.varint()?, input.text()?);
    Ok(match tag {
        0 => Ok(()),
        1 => Err(MemberError::Refused(text)),
        2 => Err(MemberError::Conflict(text)),
        3 => Err(MemberError::NotFound(id)),
        4 => Err(MemberError::Busy),
        5 => Err(MemberError::NotCaughtUp(id)),
        6 => Err(MemberError::NoLeader),
        7 => Err(MemberError::Unknown),
        8 => Err(MemberError::Stopped),
        _ => return Err(Malformed("unknown result")),
    })
}

pub(crate) fn encode_members(members: &[Member]) -> Bytes {
    let mut out = Writer::default();
    out.varint(members.len() as u64);
    for member in members {
        out.varint(member.id);
        out.bytes(member.name.as_bytes());
        out.bytes(member.address.as_bytes());
        out.u8(match member.role {
            Role::Leader => 0,
            Role::Follower => 1,
            Role::Learner => 2,
        });
        out.bool(member.reachable);
        out.option(member.matched);
        out.option(member.lag);
        out.varint(member.term.0);
        out.varint(member.client_urls.len() as u64);
        member.client_urls.iter().for_each(|url| out.bytes(url.as_bytes()));
    }
    out.finish()
}

pub(crate) fn decode_members(bytes: Bytes) -> Result<Vec<Member>, Malformed> {
    let mut input = Reader::new(bytes);
    (0..input.count()?)
        .map(|_| {
            let (id, name, address) = (input.varint()?, input.text()?, input.text()?);
            let role = match input.u8()? {
                0 => Role::Leader,
                1 => Role::Follower,
                2 => Role::Learner,
                _ => return Err(Malformed("unknown role")),
            };
            let (reachable, matched, lag) = (input.bool()?, input.option()?, input.option()?);
            let term = Term(input.varint()?);
            let client_urls = (0..input.count()?).map(|_| input.text()).collect::<Result<_, _>>()?;
            Ok(Member { id, name, address, client_urls, role, reachable, matched, lag, term })
        })
        .collect()
}

/// Commands that may wait for one leader.
const QUEUE: usize = 16_384;
/// Commands in one request.
const BATCH: usize = 256;
/// Requests under way to one leader. More would only make the batches smaller.
const UNDER_WAY: usize = 4;

type Waiting = (Command, oneshot::Sender<Verdict>);

/// Passes commands to leaders, in batches.
pub(crate) struct Forwarder {
    peers: Arc<Peers>,
    timeout: Duration,
    queues: Mutex<HashMap<String, mpsc::Sender<Waiting>>>,
}

impl Forwarder {
    pub fn new(peers: Arc<Peers>, timeout: Duration) -> Self {
        Self { peers, timeout, queues: Mutex::default() }
    }

    /// Passes a command to the member at `address`.
    pub async fn propose(&self, address: &str, command: Command) -> Verdict {
        let queue = self.queue(address);
        let (tx, rx) = oneshot::channel();
        if queue.send((command, tx)).await.is_err() {
            return Verdict::NotLeader;
        }
        rx.await.unwrap_or(Verdict::Unknown)
    }

    fn queue(&self, address: &str) -> mpsc::Sender<Waiting> {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get(address).filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (tx, rx) = mpsc::channel(QUEUE);
        rt::spawn(pass_on(Arc::clone(&self.peers), address.to_owned(), self.timeout, rx));
        queues.insert(address.to_owned(), tx.clone());
        tx
    }
}

/// Runs as long as the forwarder lives.
async fn pass_on(peers: Arc<Peers>, address: String, timeout: Duration, mut rx: mpsc::Receiver<Waiting>) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let address: Arc<str> = address.into();
    while let Ok(permit) = Arc::clone(&under_way).acquire_owned().await {
        let mut batch = Vec::new();
        if rx.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let (peers, address) = (Arc::clone(&peers), Arc::clone(&address));
        rt::spawn(async move {
            let (commands, waiting): (Vec<Command>, Vec<_>) = batch.into_iter().unzip();
            let count = commands.len();
            let verdicts = ask_verdicts(&peers, &address, commands, timeout).await;
            drop(permit);
            let verdicts = verdicts.into_iter().chain(std::iter::repeat(Verdict::Unknown)).take(count);
            for (waiting, verdict) in waiting.into_iter().zip(verdicts) {
                // Whoever asked may have given up.
                let _ = waiting.send(verdict);
            }
        });
    }
}

async fn ask_verdicts(peers: &Peers, address: &str, commands: Vec<Command>, timeout: Duration) -> Vec<Verdict> {
    let count = commands.len();
    let request = Ask::Propose(commands).encode();
    let mut answer = peers.forward(address, request.clone(), timeout).await;
    if planted::is(Bug::DuplicateApply) && matches!(answer, Err(ForwardError::Lost)) {
        answer = peers.forward(address, request, timeout).await;
    }
    match answer {
        Err(ForwardError::Lost) if planted::is(Bug::UnknownAsFailed) => vec![Verdict::NotLeader; count],
        Ok(answer) => decode_verdicts(answer).unwrap_or_default(),
        Err(ForwardError::NotSent | ForwardError::Refused) => vec![Verdict::NotLeader; count],
        Err(ForwardError::Lost) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_state::{Revision, TxnResult};

    #[test]
    fn messages_read_back() {
        for ask in [
            Ask::Propose(vec![Command(Bytes::from_static(b"a")), Command(Bytes::new())]),
            Ask::ReadIndex,
            Ask::AddMember { id: 7, name: "s7".into(), address: "10.0.0.7:2380".into() },
            Ask::RemoveMember { id: 7 },
            Ask::TransferLeadership { target: None },
            Ask::TransferLeadership { target: Some(4) },
            Ask::Members,
            Ask::AddLearner { id: 9, node: Node { address: "h:1".into(), promote: true, ..Node::default() } },
            Ask::Promote { id: 9 },
            Ask::Update { id: 9, node: Node { client_urls: vec!["https://h:2".into()], ..Node::default() } },
            Ask::KeepAlive { leases: vec![-3] },
            Ask::KeepAlive { leases: vec![7, i64::MIN, 7] },
            Ask::Level,
            Ask::Digest { index: 1 << 40 },
            Ask::Differs { index: 3, digest: Digest(u128::MAX - 1) },
            Ask::LeasesLeft { lease: None },
            Ask::LeasesLeft { lease: Some(i64::MIN) },
        ] {
            assert_eq!(Ask::decode(ask.encode()), Ok(ask));
        }
        let done = Outcome::Txn(TxnResult { succeeded: false, revision: Revision(9), responses: Vec::new() });
        let verdicts =
            vec![Verdict::Done(done), Verdict::Unknown, Verdict::NotLeader, Verdict::DiskFull, Verdict::Stopped];
        assert_eq!(decode_verdicts(encode_verdicts(&verdicts)), Ok(verdicts));
        for result in [Ok(()), Err(MemberError::Refused("no".into())), Err(MemberError::NotCaughtUp(3))] {
            assert_eq!(decode_change(encode_change(&result)), Ok(result));
        }
        for times in [None, Some(vec![]), Some(vec![(-7, 9), (1, 0)])] {
            assert_eq!(decode_leases(encode_leases(&times)), Ok(times));
        }
        for index in [None, Some(0), Some(77)] {
            assert_eq!(decode_index(encode_index(index)), Ok(index));
        }
    }
}
