//! Questions and answers as bytes.

use std::net::IpAddr;

use domain::{
    base::{
        Message, MessageBuilder, Name, ParsedName, Record, Rtype, Serial, Ttl,
        iana::{Class, Opcode, OptRcode, Rcode},
        message_builder::{AdditionalBuilder, HashCompressor},
        name::FlattenInto as _,
    },
    rdata::{A, Aaaa, AllRecordData, Cname, Ns, Ptr, Soa, Srv, Txt},
};
use kontiki_agent_plan::dns::{Data, TTL, Type};

/// A name that owns its bytes.
pub(super) type Label = Name<Vec<u8>>;
/// A record that owns its bytes.
pub(super) type Rr = Record<Label, AllRecordData<Vec<u8>, Label>>;

/// What a UDP answer may hold without EDNS (RFC 1035), and with it at most (RFC 9715).
const PLAIN: usize = 512;
pub(super) const LONGEST: u16 = 1232;

/// The one question of a message.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Question {
    pub(super) name: Label,
    pub(super) kind: Rtype,
}

impl Question {
    /// As the zone wants it: without the dot at the end.
    pub(super) fn text(&self) -> String {
        self.name.to_string().trim_end_matches('.').to_owned()
    }
}

/// What a client said.
#[derive(Clone, Debug)]
pub(super) struct Request {
    id: u16,
    opcode: Opcode,
    recursion: bool,
    /// `None`: not exactly one question that can be read.
    pub(super) question: Option<Question>,
    class: Class,
    /// Whether EDNS was used, and whether signatures are wanted.
    edns: Option<bool>,
    version: u8,
    /// The longest answer over UDP.
    pub(super) limit: usize,
}

impl Request {
    /// Reads a question. `None` for what is too short to be one or is an answer: neither is answered.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let message = Message::from_slice(packet).ok()?;
        let header = message.header();
        if header.qr() {
            return None;
        }
        let opt = message.opt();
        let sole = message.sole_question().ok();
        let size = opt.as_ref().map_or(PLAIN, |opt| usize::from(opt.udp_payload_size()));
        Some(Self {
            id: header.id(),
            opcode: header.opcode(),
            recursion: header.rd(),
            class: sole.as_ref().map_or(Class::IN, |question| question.qclass()),
            question: sole.map(|question| Question { name: owned(question.qname()), kind: question.qtype() }),
            edns: opt.as_ref().map(|opt| opt.dnssec_ok()),
            version: opt.as_ref().map_or(0, |opt| opt.version()),
            limit: size.clamp(PLAIN, usize::from(LONGEST)),
        })
    }

    /// Why it is refused out of hand.
    pub(super) fn refusal(&self) -> Option<OptRcode> {
        let Some(question) = &self.question else { return Some(OptRcode::FORMERR) };
        match question.kind {
            _ if self.opcode != Opcode::QUERY => Some(OptRcode::NOTIMP),
            _ if self.version != 0 => Some(OptRcode::BADVERS),
            _ if self.class != Class::IN => Some(OptRcode::REFUSED),
            Rtype::AXFR | Rtype::IXFR => Some(OptRcode::REFUSED),
            _ => None,
        }
    }
}

fn owned(name: &ParsedName<&[u8]>) -> Label {
    (*name).flatten_into()
}

/// What is answered.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) code: OptRcode,
    pub(super) authoritative: bool,
    pub(super) answers: Vec<Rr>,
    pub(super) authorities: Vec<Rr>,
    pub(super) additionals: Vec<Rr>,
}

impl Reply {
    pub(super) fn new(code: OptRcode) -> Self {
        let (answers, authorities, additionals) = (Vec::new(), Vec::new(), Vec::new());
        Self { code, authoritative: false, answers, authorities, additionals }
    }

    /// Reads what another server answered to `question`. `None` if it is no answer to it.
    pub(super) fn read(packet: &[u8], id: u16, question: &Question) -> Option<(Self, bool)> {
        let message = Message::from_slice(packet).ok()?;
        let header = message.header();
        let asked = message.sole_question().ok()?;
        if !header.qr() || header.id() != id || asked.qtype() != question.kind || *asked.qname() != question.name {
            return None;
        }
        let mut reply = Self::new(header.rcode().into());
        reply.answers = section(message.answer().ok()?);
        reply.authorities = section(message.authority().ok()?);
        Some((reply, header.tc()))
    }

    /// Its bytes, no more than `limit`: first what only helps is left out, then answers, which the header says.
    pub(super) fn write(&self, request: &Request, limit: usize) -> Option<Vec<u8>> {
        let target = HashCompressor::new(Vec::with_capacity(PLAIN));
        let mut builder = MessageBuilder::from_target(target).ok()?;
        let (low, header) = (Rcode::masked_from_int(self.code.to_int() as u8), builder.header_mut());
        header.set_id(request.id);
        header.set_qr(true);
        header.set_opcode(request.opcode);
        header.set_rd(request.recursion);
        header.set_ra(true);
        header.set_aa(self.authoritative);
        header.set_rcode(low);
        // The OPT record has to fit at the end.
        builder.set_push_limit(limit.saturating_sub(OPT));
        let mut builder = builder.question();
        if let Some(question) = &request.question {
            builder.push((&question.name, question.kind, request.class)).ok()?;
        }
        let mut builder = builder.answer();
        if self.answers.iter().any(|record| builder.push_ref(record).is_err()) {
            builder.header_mut().set_tc(true);
        }
        let mut builder = builder.authority();
        let _ = self.authorities.iter().try_for_each(|record| builder.push(record));
        let mut builder = builder.additional();
        let _ = self.additionals.iter().try_for_each(|record| builder.push(record));
        builder.clear_push_limit();
        self.opt(&mut builder, request);
        Some(builder.finish().into_target())
    }

    fn opt(&self, builder: &mut AdditionalBuilder<HashCompressor<Vec<u8>>>, request: &Request) {
        let Some(dnssec) = request.edns else { return };
        let pushed = builder.opt(|opt| {
            opt.set_udp_payload_size(LONGEST);
            opt.set_rcode(self.code);
            opt.set_dnssec_ok(dnssec);
            Ok(())
        });
        debug_assert!(pushed.is_ok(), "a vector takes it");
    }
}

/// Bytes of an OPT record without options (RFC 6891).
const OPT: usize = 11;

fn section(records: domain::base::message::RecordSection<'_, [u8]>) -> Vec<Rr> {
    records
        .limit_to::<AllRecordData<&[u8], ParsedName<&[u8]>>>()
        .map_while(Result::ok)
        .filter(|record| record.rtype() != Rtype::OPT)
        .map(|record| record.flatten_into())
        .collect()
}

/// A question to another server.
pub(super) fn ask(id: u16, question: &Question) -> Option<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((&question.name, question.kind)).ok()?;
    let mut builder = builder.additional();
    let sized = builder.opt(|opt| {
        opt.set_udp_payload_size(LONGEST);
        Ok(())
    });
    sized.ok()?;
    Some(builder.finish())
}

/// What the zone calls a type of the wire.
pub(super) fn wanted(kind: Rtype) -> Type {
    match kind {
        Rtype::A => Type::A,
        Rtype::AAAA => Type::Aaaa,
        Rtype::CNAME => Type::Cname,
        Rtype::NS => Type::Ns,
        Rtype::PTR => Type::Ptr,
        Rtype::SOA => Type::Soa,
        Rtype::SRV => Type::Srv,
        Rtype::TXT => Type::Txt,
        _ => Type::Other,
    }
}

fn record(owner: &Label, data: impl Into<AllRecordData<Vec<u8>, Label>>) -> Rr {
    Record::new(owner.clone(), Class::IN, Ttl::from_secs(TTL), data.into())
}

fn absolute(name: &str) -> Option<Label> {
    name.parse().ok()
}

fn address(owner: &Label, ip: IpAddr) -> Rr {
    match ip {
        IpAddr::V4(ip) => record(owner, A::new(ip)),
        IpAddr::V6(ip) => record(owner, Aaaa::new(ip)),
    }
}

/// The record of one datum under `owner`, and the one that helps to use it. A name that is none (of an `ExternalName`)
/// makes no record.
pub(super) fn records(owner: &Label, domain: &str, data: Data) -> Option<(Rr, Option<Rr>)> {
    Some(match data {
        Data::Address(ip) => (address(owner, ip), None),
        Data::Cname(name) => (record(owner, Cname::new(absolute(&name)?)), None),
        Data::Ns(name) => (record(owner, Ns::new(absolute(&name)?)), None),
        Data::Ptr(name) => (record(owner, Ptr::new(absolute(&name)?)), None),
        Data::Soa => (soa(domain)?, None),
        Data::Txt(text) => (record(owner, Txt::<Vec<u8>>::build_from_slice(text.as_bytes()).ok()?), None),
        Data::Srv { weight, port, target, address: ip } => {
            let target = absolute(&target)?;
            let helps = address(&target, ip);
            (record(owner, Srv::new(0, weight, port, target)), Some(helps))
        }
    })
}

/// The zone's SOA, whose last field says how long a refusal may be kept (RFC 2308).
pub(super) fn soa(domain: &str) -> Option<Rr> {
    let (server, mailbox) = (absolute(&format!("ns.dns.{domain}"))?, absolute(&format!("hostmaster.{domain}"))?);
    let seconds = Ttl::from_secs;
    let data = Soa::new(server, mailbox, Serial(1), seconds(7200), seconds(1800), seconds(86_400), seconds(TTL));
    Some(record(&absolute(domain)?, data))
}
