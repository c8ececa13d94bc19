//! What is spoken over WebSocket about streams of a container: numbered channels (`channel.k8s.io`), and plain bytes.
//!
//! | protocol | message | outcome of a command | end of input |
//! | --- | --- | --- | --- |
//! | `v5.channel.k8s.io` | channel, bytes | a Status on channel 3 | channel 255, then the channel that ends |
//! | `v4.channel.k8s.io` | channel, bytes | a Status on channel 3 | none |
//! | `channel.k8s.io` up to `v3` | channel, bytes | text on channel 3, if it failed | none |
//! | `base64.…` | digit, base64 | as the same without `base64.` | none |
//!
//! Invariants
//! - The runtime is always spoken to in SPDY, a stream for each channel: there a half-closed stream is the end of input,
//!   whatever the client speaks.
//! - A message for a channel that is not open, or that is the client's to read, is dropped.
//! - A command whose outcome never came is told as a failure: the client must not take it for success.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use kontiki_proto::node::Stream;

use crate::Status;
use crate::spdy::{self, Frame, Opener, Reader, StreamId};
use crate::websocket::frame::{self, Event, Violation};
use crate::websocket::{Down, End, Pieces, Up};

/// A protocol that a client can ask for.
#[derive(Debug)]
pub(super) struct Protocol {
    /// As in `Sec-WebSocket-Protocol`; empty: none was asked for.
    pub name: &'static str,
    /// What the runtime is asked to speak.
    pub runtime: &'static str,
    /// Bytes are base64 in text messages.
    base64: bool,
    /// The client can end a channel.
    closes: bool,
    /// The outcome of a command is a Status.
    status: bool,
    /// No channels: the bytes of one SPDY connection.
    pub whole: bool,
}

const V3: &str = "v3.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const PORT_FORWARD: &str = "portforward.k8s.io";

const fn protocol(name: &'static str, runtime: &'static str) -> Protocol {
    Protocol { name, runtime, base64: false, closes: false, status: false, whole: false }
}

/// For exec and attach.
pub(super) static COMMAND: &[Protocol] = &[
    Protocol { closes: true, status: true, ..protocol("v5.channel.k8s.io", V4) },
    Protocol { status: true, ..protocol(V4, V4) },
    Protocol { status: true, base64: true, ..protocol("v4.base64.channel.k8s.io", V4) },
    protocol(V3, V3),
    protocol("v2.channel.k8s.io", V3),
    protocol("channel.k8s.io", V3),
    Protocol { base64: true, ..protocol("base64.channel.k8s.io", V3) },
    protocol("", V3),
];

/// For port-forward: [KEP-4006]'s tunnel, by the name that clients use and by that of the proposal, and channels.
///
/// [KEP-4006]: https://kep.k8s.io/4006
pub(super) static PORTS: &[Protocol] = &[
    Protocol { whole: true, ..protocol("SPDY/3.1+portforward.k8s.io", PORT_FORWARD) },
    Protocol { whole: true, ..protocol("v2.portforward.k8s.io", PORT_FORWARD) },
    protocol(V4, PORT_FORWARD),
    Protocol { base64: true, ..protocol("v4.base64.channel.k8s.io", PORT_FORWARD) },
    protocol("", PORT_FORWARD),
];

/// For text.
pub(super) static TEXT: &[Protocol] = &[
    protocol("binary.k8s.io", ""),
    Protocol { base64: true, ..protocol("base64.binary.k8s.io", "") },
    protocol("", ""),
];

impl Protocol {
    fn message(&self, channel: Option<u8>, data: &[u8]) -> Bytes {
        if self.base64 {
            let digit = channel.map(|channel| char::from(b'0' + channel)).map(String::from).unwrap_or_default();
            frame::text(&(digit + &STANDARD.encode(data)))
        } else {
            frame::binary(channel.as_slice(), data)
        }
    }
}

/// The channel that ends another.
const CLOSE: u8 = 255;
/// Where the outcome of a command is told.
const ERROR: u8 = 3;
/// Most ports of one connection: each takes two channels, and `base64` has so many digits.
const MOST_PORTS: usize = 32;

/// One channel and its stream.
pub(super) struct Channel {
    number: u8,
    headers: Vec<(&'static str, String)>,
    /// The client may write to it.
    up: bool,
    /// What it says first.
    greeting: Option<Bytes>,
}

/// The channels of a command, in the order in which the runtime is told.
pub(super) fn of_command(stream: &Stream) -> Vec<Channel> {
    let stderr = stream.stderr && !stream.tty;
    // The first output tells the client that all is set up.
    let first = if stream.stdout {
        1
    } else if stderr {
        2
    } else {
        ERROR
    };
    let channel = |wanted: bool, number, kind: &str, up| {
        wanted.then(|| Channel {
            number,
            headers: vec![("streamtype", kind.to_owned())],
            up,
            greeting: (number == first).then(Bytes::new),
        })
    };
    let all = [
        channel(true, ERROR, "error", false),
        channel(stream.stdin, 0, "stdin", true),
        channel(stream.stdout, 1, "stdout", false),
        channel(stderr, 2, "stderr", false),
        channel(stream.tty, 4, "resize", true),
    ];
    all.into_iter().flatten().collect()
}

/// The channels of forwarded ports: data and errors of each, which begin with its number.
///
/// # Errors
/// There are none, or too many.
pub(super) fn of_ports(ports: &[i32]) -> Result<Vec<Channel>, Status> {
    if ports.is_empty() || ports.len() > MOST_PORTS {
        let message = format!("query parameter \"ports\" is required, with at most {MOST_PORTS} ports");
        return Err(Status::bad_request(message));
    }
    let channel = |i: usize, port: i32, second: u8, kind: &str| Channel {
        number: i as u8 * 2 + second,
        headers: vec![("streamtype", kind.to_owned()), ("port", port.to_string()), ("requestid", i.to_string())],
        up: second == 0,
        greeting: Some(Bytes::copy_from_slice(&(port as u16).to_le_bytes())),
    };
    // The runtime wants a request's error stream first.
    let pair = |(i, port): (usize, &i32)| [channel(i, *port, 1, "error"), channel(i, *port, 0, "data")];
    Ok(ports.iter().enumerate().flat_map(pair).collect())
}

/// Both directions of a connection with these channels. `outcome`: the error channel tells how a command ended.
pub(super) fn codec(protocol: &'static Protocol, channels: Vec<Channel>, outcome: bool) -> (Incoming, Outgoing) {
    let streams = channels.iter().zip(0..).filter(|(channel, _)| channel.up);
    let streams = streams.map(|(channel, n)| (channel.number, StreamId::nth(n))).collect();
    let incoming = Incoming { protocol, streams, to: None, carry: Vec::new() };
    (incoming, Outgoing { protocol, channels, outcome, told: false, replies: 0, reader: Reader::default() })
}

/// What the client's messages are to the runtime.
pub(super) struct Incoming {
    protocol: &'static Protocol,
    streams: Vec<(u8, StreamId)>,
    /// Of the message that is under way; `None`: its channel is not known yet.
    to: Option<To>,
    /// Base64 that is no whole group yet.
    carry: Vec<u8>,
}

#[derive(Clone, Copy)]
enum To {
    Stream(StreamId),
    /// The next byte names the channel that ends.
    Closing,
    Nowhere,
}

impl Up for Incoming {
    fn take(&mut self, event: Event, out: &mut Pieces) -> Result<(), Violation> {
        match event {
            Event::Begin => {
                self.to = None;
                self.carry.clear();
                Ok(())
            }
            Event::Data(mut bytes) => {
                let to = match self.to {
                    Some(to) => to,
                    None => self.address(bytes.get_u8()),
                };
                self.to = Some(to);
                match to {
                    To::Nowhere => {}
                    To::Closing if bytes.is_empty() => {}
                    To::Closing => self.close(bytes[0], out),
                    To::Stream(id) => spdy::data(id, self.decoded(bytes)?, &mut out.node),
                }
                Ok(())
            }
            Event::End if !self.carry.is_empty() => Err(Violation("base64 that breaks off")),
            _ => Ok(()),
        }
    }
}

impl Incoming {
    fn address(&self, first: u8) -> To {
        let number = if self.protocol.base64 { first.wrapping_sub(b'0') } else { first };
        if number == CLOSE && self.protocol.closes {
            return To::Closing;
        }
        self.streams.iter().find(|(known, _)| *known == number).map_or(To::Nowhere, |(_, id)| To::Stream(*id))
    }

    fn close(&mut self, channel: u8, out: &mut Pieces) {
        self.to = Some(To::Nowhere);
        if let Some(at) = self.streams.iter().position(|(number, _)| *number == channel) {
            out.node.push(spdy::finish(self.streams.remove(at).1));
        }
    }

    fn decoded(&mut self, bytes: Bytes) -> Result<Bytes, Violation> {
        if !self.protocol.base64 {
            return Ok(bytes);
        }
        self.carry.extend_from_slice(&bytes);
        let rest = self.carry.split_off(self.carry.len() / 4 * 4);
        let whole = std::mem::replace(&mut self.carry, rest);
        STANDARD.decode(whole).map(Bytes::from).map_err(|_| Violation("this is not base64"))
    }
}

/// What the runtime's streams are to the client.
pub(super) struct Outgoing {
    protocol: &'static Protocol,
    channels: Vec<Channel>,
    outcome: bool,
    /// The outcome was.
    told: bool,
    replies: usize,
    reader: Reader,
}

impl Down for Outgoing {
    fn begin(&mut self, out: &mut Pieces) {
        let mut opener = Opener::default();
        for channel in &self.channels {
            out.node.push(opener.open(&channel.headers));
            if let Some(greeting) = &channel.greeting {
                out.client.push(self.protocol.message(Some(channel.number), greeting));
            }
        }
    }

    fn take(&mut self, bytes: Bytes, out: &mut Pieces) -> Result<bool, &'static str> {
        self.reader.push(&bytes);
        while let Some(frame) = self.reader.next()? {
            match frame {
                Frame::Reply(_) => self.replies += 1,
                Frame::Ping(id) => out.node.push(spdy::pong(id)),
                Frame::End(_) => {}
                Frame::Data(id, data) => {
                    let known = self.channels.iter().zip(0..).find(|(_, n)| StreamId::nth(*n) == id);
                    let Some((channel, _)) = known else { continue };
                    self.told |= channel.number == ERROR;
                    out.client.push(self.protocol.message(Some(channel.number), &data));
                }
            }
        }
        // A runtime drops what it is told of a stream that it has not answered.
        Ok(self.replies >= self.channels.len())
    }

    fn end(&mut self, end: Result<(), String>, out: &mut Pieces) -> End {
        let silent = self.outcome && !self.told && self.protocol.status;
        let reason = match end {
            Ok(()) if silent => "the stream to the container ended without an outcome".to_owned(),
            Ok(()) => return End::Complete,
            Err(reason) => reason,
        };
        if self.outcome && !self.told {
            let text = match self.protocol.status {
                true => serde_json::to_vec(&Status::internal(&reason)).unwrap_or_default(),
                false => reason.clone().into_bytes(),
            };
            out.client.push(self.protocol.message(Some(ERROR), &text));
        }
        End::Broken(reason)
    }
}

/// Bytes without channels.
pub(super) struct Plain {
    /// How they are written.
    pub protocol: &'static Protocol,
    /// The client may write.
    pub up: bool,
}

impl Up for Plain {
    fn take(&mut self, event: Event, out: &mut Pieces) -> Result<(), Violation> {
        if let (Event::Data(bytes), true) = (event, self.up) {
            out.node.push(bytes);
        }
        Ok(())
    }
}

impl Down for Plain {
    fn begin(&mut self, out: &mut Pieces) {
        if !self.up {
            // Text may be long in coming: this tells the client that all is set up.
            out.client.push(self.protocol.message(None, &[]));
        }
    }

    fn take(&mut self, bytes: Bytes, out: &mut Pieces) -> Result<bool, &'static str> {
        if !bytes.is_empty() {
            out.client.push(self.protocol.message(None, &bytes));
        }
        Ok(true)
    }

    fn end(&mut self, end: Result<(), String>, _: &mut Pieces) -> End {
        end.map_or_else(End::Broken, |()| End::Complete)
    }
}

#[cfg(test)]
#[path = "channels_tests.rs"]
mod tests;
