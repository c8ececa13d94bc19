//! Other names: asked of the machine's own name servers, and kept for a while.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use domain::{
    base::{Ttl, iana::OptRcode},
    rdata::AllRecordData,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::wire::{self, LONGEST, Question, Reply};

/// Questions on their way at a time; more are refused at once, so that they cannot pile up.
const AT_ONCE: usize = 1000;
/// How long one server has; each is asked twice.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// Answers kept, and the longest that one is.
const KEPT: usize = 10_000;
const KEPT_FOR: Duration = Duration::from_secs(30);
/// How often the file is looked at for a change.
const LOOK: Duration = Duration::from_secs(5);
const PORT: u16 = 53;

/// Asks others.
pub(super) struct Forward {
    file: PathBuf,
    /// This server's own address: it must not ask itself.
    own: IpAddr,
    servers: Mutex<Servers>,
    kept: Mutex<Kept>,
    slots: Semaphore,
}

/// Whom the file names, as of when it was last looked at.
#[derive(Default)]
struct Servers {
    looked: Option<Instant>,
    written: Option<SystemTime>,
    addresses: Arc<[SocketAddr]>,
}

impl Forward {
    pub(super) fn new(file: PathBuf, own: IpAddr) -> Self {
        Self { file, own, servers: Mutex::default(), kept: Mutex::default(), slots: Semaphore::new(AT_ONCE) }
    }

    /// What is known of a name elsewhere.
    pub(super) async fn ask(&self, question: &Question) -> Reply {
        if let Some(reply) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(question, Instant::now()) {
            return reply;
        }
        let Ok(_slot) = self.slots.try_acquire() else { return Reply::new(OptRcode::REFUSED) };
        let servers = self.servers();
        for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            // A server that fails is no answer while another may give one.
            if let Some(reply) = exchange(*server, question).await.filter(|reply| reply.code != OptRcode::SERVFAIL) {
                self.kept.lock().unwrap_or_else(PoisonError::into_inner).put(question, &reply, Instant::now());
                return reply;
            }
        }
        Reply::new(OptRcode::SERVFAIL)
    }

    fn servers(&self) -> Arc<[SocketAddr]> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            servers.looked = Some(Instant::now());
            let written = std::fs::metadata(&self.file).and_then(|meta| meta.modified()).ok();
            if written.is_none() || servers.written != written {
                servers.written = written;
                let text = std::fs::read_to_string(&self.file).unwrap_or_default();
                servers.addresses = named(&text).filter(|ip| *ip != self.own).map(|ip| (ip, PORT).into()).collect();
            }
        }
        servers.addresses.clone()
    }
}

/// The servers of a `resolv.conf`.
fn named(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    })
}

/// Asks one server; over TCP what does not fit into a datagram.
async fn exchange(server: SocketAddr, question: &Question) -> Option<Reply> {
    let id = rand::random();
    let packet = wire::ask(id, question)?;
    let (reply, cut) = timeout(PATIENCE, over_udp(server, &packet, id, question)).await.ok()?.ok()?;
    if !cut {
        return Some(reply);
    }
    let whole = timeout(PATIENCE, over_tcp(server, &packet)).await;
    let whole = whole.ok().and_then(Result::ok).and_then(|bytes| Reply::read(&bytes, id, question));
    Some(whole.map_or(reply, |(whole, _)| whole))
}

async fn over_udp(server: SocketAddr, packet: &[u8], id: u16, question: &Question) -> std::io::Result<(Reply, bool)> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    // A port of its own for each question, which the kernel draws: a forged answer has to guess it.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut buffer = [0; LONGEST as usize];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(reply) = Reply::read(&buffer[..length], id, question) {
            return Ok(reply);
        }
    }
}

async fn over_tcp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(packet.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], packet].concat()).await?;
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Answers by question, in two halves: when the young one is full or old, it becomes the old one, which goes.
#[derive(Default)]
struct Kept {
    began: Option<Instant>,
    young: HashMap<Question, (Instant, Reply)>,
    old: HashMap<Question, (Instant, Reply)>,
}

impl Kept {
    /// With what is left of each record's time.
    fn get(&self, question: &Question, now: Instant) -> Option<Reply> {
        let (at, reply) = self.young.get(question).or_else(|| self.old.get(question))?;
        let age = u32::try_from(now.duration_since(*at).as_secs()).unwrap_or(u32::MAX);
        if Duration::from_secs(age.into()) >= keep(reply) {
            return None;
        }
        let mut reply = reply.clone();
        for record in reply.answers.iter_mut().chain(&mut reply.authorities) {
            record.set_ttl(Ttl::from_secs(record.ttl().as_secs().saturating_sub(age)));
        }
        Some(reply)
    }

    fn put(&mut self, question: &Question, reply: &Reply, now: Instant) {
        if keep(reply).is_zero() {
            return;
        }
        let aged = self.began.is_none_or(|began| now.duration_since(began) > KEPT_FOR);
        if aged || self.young.len() >= KEPT / 2 {
            self.old = std::mem::take(&mut self.young);
            self.began = Some(now);
        }
        self.young.insert(question.clone(), (now, reply.clone()));
    }
}

/// How long an answer may be kept; a refusal as long as its SOA says (RFC 2308).
fn keep(reply: &Reply) -> Duration {
    let soa = |record: &wire::Rr| match record.data() {
        AllRecordData::Soa(soa) => Some(record.ttl().min(soa.minimum())),
        _ => None,
    };
    let known = reply.code == OptRcode::NOERROR || reply.code == OptRcode::NXDOMAIN;
    let ttl = match reply.answers.iter().map(|record| record.ttl()).min() {
        Some(ttl) => Some(ttl),
        None => reply.authorities.iter().find_map(soa),
    };
    ttl.filter(|_| known).map_or(Duration::ZERO, |ttl| ttl.into_duration().min(KEPT_FOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str) -> Question {
        Question { name: name.parse().expect("a name"), kind: domain::base::Rtype::A }
    }

    fn reply(ttl: u32) -> Reply {
        let owner = "example.org".parse().expect("a name");
        let (mut record, _) =
            wire::records(&owner, "c", kontiki_agent_plan::dns::Data::Address([1, 2, 3, 4].into())).expect("a record");
        record.set_ttl(Ttl::from_secs(ttl));
        Reply { answers: vec![record], ..Reply::new(OptRcode::NOERROR) }
    }

    #[test]
    fn answers_are_kept_as_long_as_they_say_and_half_a_minute_at_most() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        for (ttl, after, expect) in
            [(5, 4, Some(1)), (5, 5, None), (0, 0, None), (3600, 29, Some(3571)), (3600, 30, None), (3600, 61, None)]
        {
            let mut kept = Kept::default();
            kept.put(&question("a.b"), &reply(ttl), start);
            kept.put(&question("c.d"), &reply(ttl), start + second * after);
            let found = kept.get(&question("a.b"), start + second * after);
            assert_eq!(found.map(|reply| reply.answers[0].ttl().as_secs()), expect, "{ttl} s after {after} s");
        }
    }

    #[test]
    fn failures_are_not_kept_and_no_more_than_so_many_answers() {
        let now = Instant::now();
        let mut kept = Kept::default();
        kept.put(&question("a.b"), &Reply { code: OptRcode::SERVFAIL, ..reply(9) }, now);
        assert!(kept.get(&question("a.b"), now).is_none());
        for n in 0..3 * KEPT {
            kept.put(&question(&format!("n{n}.b")), &reply(9), now);
        }
        assert!(kept.young.len() + kept.old.len() <= KEPT);
    }

    #[test]
    fn servers_are_read_from_the_file() {
        let text =
            "# nameserver 9.9.9.9\nsearch a b\nnameserver 1.1.1.1\nnameserver x\n nameserver ::1 \noptions ndots:5";
        assert_eq!(named(text).map(|ip| ip.to_string()).collect::<Vec<_>>(), ["1.1.1.1", "::1"]);
    }
}
