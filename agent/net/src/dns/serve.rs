//! Packets in, packets out.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use domain::base::iana::OptRcode;
use ipnet::IpNet;
use kontiki_agent_plan::dns::{Answer, Data, Zone};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::{
    forward::Forward,
    wire::{self, Label, Question, Reply, Request},
};

/// A client that is slower over TCP is let go.
const IDLE: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 256;
/// An `ExternalName` may name another one; no further than this.
const ALIASES: usize = 8;

/// A socket that may be bound before its address is there.
fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_freebind_v4(true)?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

pub(super) fn udp(address: SocketAddr) -> std::io::Result<UdpSocket> {
    UdpSocket::from_std(socket(address, Type::DGRAM, Protocol::UDP)?.into())
}

pub(super) fn tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Answers questions, by whatever way they came.
pub(super) struct Server {
    zone: Arc<RwLock<Zone>>,
    forward: Forward,
    clients: Vec<IpNet>,
    /// Moves on with each answer, so that equal addresses take turns.
    turn: AtomicUsize,
}

/// How far memory could answer.
enum First {
    Done(Reply),
    /// The rest is known elsewhere.
    Wait(Reply, Question),
}

impl Server {
    pub(super) fn new(zone: Arc<RwLock<Zone>>, forward: Forward, clients: Vec<IpNet>) -> Self {
        Self { zone, forward, clients, turn: AtomicUsize::new(0) }
    }

    fn answers(&self, client: IpAddr) -> bool {
        self.clients.iter().any(|net| net.contains(&client))
    }

    fn first(&self, request: &Request) -> First {
        match (request.refusal(), &request.question) {
            (None, Some(question)) => self.known(question.clone()),
            (code, _) => First::Done(Reply::new(code.unwrap_or(OptRcode::FORMERR))),
        }
    }

    /// What the zone knows, over as many aliases as it has.
    fn known(&self, mut question: Question) -> First {
        let zone = self.zone.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut reply = Reply::new(OptRcode::NOERROR);
        for _ in 0..ALIASES {
            match zone.lookup(&question.text(), wire::wanted(question.kind)) {
                Answer::Foreign => return First::Wait(reply, question),
                Answer::NoName => return First::Done(none(reply, zone.domain(), OptRcode::NXDOMAIN)),
                Answer::Records(data) if data.is_empty() => {
                    return First::Done(none(reply, zone.domain(), OptRcode::NOERROR));
                }
                Answer::Records(data) => {
                    self.put(&mut reply, &question.name, zone.domain(), data);
                    break;
                }
                Answer::Alias(target) => {
                    let alias = wire::records(&question.name, zone.domain(), Data::Cname(target.clone()));
                    let (Some((alias, _)), Ok(target)) = (alias, target.parse()) else {
                        return First::Done(none(reply, zone.domain(), OptRcode::NOERROR));
                    };
                    reply.answers.push(alias);
                    question.name = target;
                }
            }
        }
        reply.authoritative = true;
        First::Done(reply)
    }

    fn put(&self, reply: &mut Reply, owner: &Label, domain: &str, data: Vec<Data>) {
        let (mut answers, extras): (Vec<_>, Vec<_>) =
            data.into_iter().filter_map(|data| wire::records(owner, domain, data)).unzip();
        if !answers.is_empty() {
            let by = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
            answers.rotate_left(by);
        }
        reply.answers.extend(answers);
        reply.additionals.extend(extras.into_iter().flatten());
    }

    /// Completes an answer by what others say.
    async fn wait(&self, mut reply: Reply, question: &Question) -> Reply {
        let told = self.forward.ask(question).await;
        // What is known of an alias is an answer, even if nobody knows what it leads to.
        if reply.answers.is_empty() {
            reply.code = told.code;
        }
        reply.answers.extend(told.answers);
        reply.authorities.extend(told.authorities);
        reply
    }

    async fn whole(&self, request: &Request) -> Reply {
        match self.first(request) {
            First::Done(reply) => reply,
            First::Wait(reply, question) => self.wait(reply, &question).await,
        }
    }
}

/// The name is the zone's, and has nothing of the type, or is none.
fn none(mut reply: Reply, domain: &str, code: OptRcode) -> Reply {
    reply.authoritative = true;
    reply.code = code;
    reply.authorities.extend(wire::soa(domain));
    reply
}

/// Answers datagrams. What needs a wait does so in a task of its own.
pub(super) async fn serve_udp(server: &Arc<Server>, socket: &Arc<UdpSocket>) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            // An earlier answer met a closed port.
            continue;
        };
        if !server.answers(client.ip()) {
            continue;
        }
        let Some(request) = Request::read(&buffer[..length]) else { continue };
        match server.first(&request) {
            First::Done(reply) => send(socket, &request, &reply, client).await,
            First::Wait(reply, question) => {
                let (server, socket) = (server.clone(), socket.clone());
                tokio::spawn(async move {
                    let reply = server.wait(reply, &question).await;
                    send(&socket, &request, &reply, client).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, request: &Request, reply: &Reply, client: SocketAddr) {
    if let Some(bytes) = reply.write(request, request.limit) {
        // Whoever is gone gets no answer.
        let _ = socket.send_to(&bytes, client).await;
    }
}

/// Answers connections.
pub(super) async fn serve_tcp(server: &Arc<Server>, listener: &TcpListener) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            // Out of descriptors: others may give some back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        if !server.answers(client.ip()) {
            continue;
        }
        let server = server.clone();
        tokio::spawn(async move {
            // Ends with the client or its patience.
            let _ = converse(&server, stream).await;
            drop(slot);
        });
    }
}

async fn converse(server: &Server, mut stream: TcpStream) -> std::io::Result<()> {
    let mut packet = Vec::new();
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        packet.resize(usize::from(length), 0);
        timeout(IDLE, stream.read_exact(&mut packet)).await??;
        let Some(request) = Request::read(&packet) else { return Ok(()) };
        let Some(bytes) = server.whole(&request).await.write(&request, usize::from(u16::MAX)) else { return Ok(()) };
        let mut framed = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        framed.extend(bytes);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
