//! SPDY/3.1 as container runtimes speak it for their streams, the client's side (SPDY protocol, draft 3.1, sections 2.2
//! and 2.6).
//!
//! Invariants
//! - Data is passed on as it comes, however long a frame says it is; a control frame is kept whole and is short.
//! - Headers are written without compression, in stored blocks of a zlib stream without a dictionary, which every inflater
//!   reads. The runtime's own headers say nothing that is needed here and are not read.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const CONTROL: u16 = 0x8000;
const VERSION: u16 = 3;
const FIN: u8 = 1;
const HEAD: usize = 8;
/// Longest control frame that is believed.
const MAX_CONTROL: usize = 64 << 10;
/// Most bytes in a data frame of ours: the runtime keeps a frame whole.
const MAX_DATA: usize = 32 << 10;

/// A stream of a connection, numbered in the order of opening.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct StreamId(u32);

impl StreamId {
    /// The `n`th stream that we open, from 0.
    pub(crate) const fn nth(n: u32) -> Self {
        Self(2 * n + 1)
    }
}

/// Opens streams.
#[derive(Default)]
pub(crate) struct Opener {
    opened: u32,
}

impl Opener {
    /// The frame that opens the next stream. Names of headers are lower case.
    pub fn open(&mut self, headers: &[(&str, String)]) -> Bytes {
        let mut block = BytesMut::new();
        block.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [*name, value.as_str()]) {
            block.put_u32(text.len() as u32);
            block.put_slice(text.as_bytes());
        }
        let StreamId(id) = StreamId::nth(self.opened);
        let mut body = BytesMut::new();
        body.put_u32(id);
        body.put_u32(0); // belongs to no other stream
        body.put_u16(0); // priority and slot
        if self.opened == 0 {
            body.put_slice(&[0x78, 0x01]); // the zlib stream begins
        }
        stored(&mut body, &block);
        self.opened += 1;
        control(SYN_STREAM, &body)
    }
}

/// A block as it is, and an empty one: the end up to which an inflater shows what it has.
fn stored(out: &mut BytesMut, block: &[u8]) {
    for block in [block, &[]] {
        let length = u16::try_from(block.len()).expect("headers are short");
        out.put_u8(0);
        out.put_u16_le(length);
        out.put_u16_le(!length);
        out.put_slice(block);
    }
}

fn control(kind: u16, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD + body.len());
    out.put_u16(CONTROL | VERSION);
    out.put_u16(kind);
    out.put_u32(body.len() as u32); // no flags
    out.put_slice(body);
    out.freeze()
}

/// Frames that carry `data`.
pub(crate) fn data(StreamId(id): StreamId, mut data: Bytes, out: &mut Vec<Bytes>) {
    while !data.is_empty() {
        let piece = data.split_to(data.len().min(MAX_DATA));
        let mut head = BytesMut::with_capacity(HEAD);
        head.put_u32(id);
        head.put_u32(piece.len() as u32);
        out.extend([head.freeze(), piece]);
    }
}

/// The frame that half-closes a stream.
pub(crate) fn finish(StreamId(id): StreamId) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD);
    out.put_u32(id);
    out.put_u32(u32::from(FIN) << 24);
    out.freeze()
}

/// The answer to a ping.
pub(crate) fn pong(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

/// What the runtime's bytes say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Frame {
    /// A stream was taken.
    Reply(StreamId),
    /// Data of a stream.
    Data(StreamId, Bytes),
    /// No more of a stream.
    End(StreamId),
    /// To be answered.
    Ping(u32),
}

/// Takes frames apart, whatever pieces they come in.
#[derive(Default)]
pub(crate) struct Reader {
    buffer: BytesMut,
    data: Option<Data>,
}

/// The rest of a data frame.
struct Data {
    stream: StreamId,
    left: usize,
    fin: bool,
}

impl Reader {
    /// Takes bytes of the runtime.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What comes next. `None`: not yet.
    ///
    /// # Errors
    /// It is not the protocol; nothing more is to be asked.
    pub fn next(&mut self) -> Result<Option<Frame>, &'static str> {
        loop {
            if let Some(data) = &mut self.data {
                if data.left == 0 {
                    let (stream, fin) = (data.stream, data.fin);
                    self.data = None;
                    if fin {
                        return Ok(Some(Frame::End(stream)));
                    }
                    continue;
                }
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                let piece = self.buffer.split_to(data.left.min(self.buffer.len()));
                data.left -= piece.len();
                return Ok(Some(Frame::Data(data.stream, piece.freeze())));
            }
            if self.buffer.len() < HEAD {
                return Ok(None);
            }
            let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| self.buffer[at + i]));
            let (first, second) = (word(0), word(4));
            let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
            if first >> 31 == 0 {
                self.buffer.advance(HEAD);
                self.data = Some(Data { stream: StreamId(first), left: length, fin: flags & FIN != 0 });
                continue;
            }
            if (first >> 16) as u16 != CONTROL | VERSION {
                return Err("the runtime speaks another version of SPDY");
            }
            if length > MAX_CONTROL {
                return Err("the runtime sent a control frame that is too long");
            }
            if self.buffer.len() < HEAD + length {
                return Ok(None);
            }
            let frame = self.buffer.split_to(HEAD + length).freeze();
            if let Some(frame) = understood((first & 0xffff) as u16, &frame[HEAD..], flags)? {
                return Ok(Some(frame));
            }
        }
    }
}

/// What a control frame says, if that matters.
fn understood(kind: u16, body: &[u8], flags: u8) -> Result<Option<Frame>, &'static str> {
    let id = body.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) & 0x7fff_ffff);
    Ok(match (kind, id) {
        (SYN_REPLY | RST_STREAM | PING | GOAWAY, None) => return Err("the runtime sent half a frame"),
        (SYN_REPLY, Some(id)) if flags & FIN == 0 => Some(Frame::Reply(StreamId(id))),
        (SYN_REPLY | RST_STREAM, Some(id)) => Some(Frame::End(StreamId(id))),
        (PING, Some(id)) => Some(Frame::Ping(id)),
        // After GOAWAY the connection ends. Settings and windows are not used by runtimes, nor more headers.
        _ => None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    /// A frame as the runtime sends it: stream and data, or kind and body.
    pub(crate) fn from_runtime(frame: &Frame) -> Vec<u8> {
        match frame {
            Frame::Reply(StreamId(id)) => control(SYN_REPLY, &id.to_be_bytes()).to_vec(),
            Frame::Data(id, bytes) => {
                let mut out = Vec::new();
                data(*id, bytes.clone(), &mut out);
                out.concat()
            }
            Frame::End(StreamId(id)) => control(RST_STREAM, &[id.to_be_bytes(), [0, 0, 0, 5]].concat()).to_vec(),
            Frame::Ping(id) => pong(*id).to_vec(),
        }
    }

    #[test]
    fn headers_are_what_an_inflater_reads() {
        let mut opener = Opener::default();
        let mut compressed = Vec::new();
        for (stream, kind) in [(1_u32, "error"), (3, "stdin")] {
            let frame = opener.open(&[("streamtype", kind.to_owned())]);
            assert_eq!(frame[..4], [0x80, 3, 0, 1]);
            assert_eq!(
                usize::try_from(u32::from_be_bytes(*frame[4..].first_chunk().expect("four"))),
                Ok(frame.len() - 8)
            );
            assert_eq!(frame[8..12], stream.to_be_bytes());
            compressed.extend_from_slice(&frame[18..]);
            // One inflater reads the headers of all frames of a connection.
            let mut inflated = Vec::new();
            let _ = flate2::read::ZlibDecoder::new(&compressed[..]).read_to_end(&mut inflated);
            let mut expect = vec![0, 0, 0, 1, 0, 0, 0, 10];
            expect.extend_from_slice(b"streamtype\0\0\0\x05");
            expect.extend_from_slice(kind.as_bytes());
            assert!(inflated.ends_with(&expect), "{inflated:?}");
        }
    }

    /// What bytes say that come in pieces of some size; data joined.
    fn frames(bytes: &[u8], piece: usize) -> Result<Vec<Frame>, &'static str> {
        let (mut reader, mut seen) = (Reader::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            reader.push(piece);
            while let Some(frame) = reader.next()? {
                match (seen.last_mut(), frame) {
                    (Some(Frame::Data(known, bytes)), Frame::Data(id, more)) if *known == id => {
                        *bytes = [&bytes[..], &more[..]].concat().into();
                    }
                    (_, frame) => seen.push(frame),
                }
            }
        }
        Ok(seen)
    }

    proptest! {
        #[test]
        fn any_bytes_mean_the_same_in_any_pieces(
            sent in proptest::collection::vec(
                (0..12_u16, any::<u8>(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..100)),
                0..6,
            ),
            tail in proptest::collection::vec(any::<u8>(), 0..40),
            piece in 1..50_usize,
        ) {
            let mut bytes = Vec::new();
            for (kind, flags, is_data, body) in sent {
                let first = if is_data { u32::from(kind) } else { u32::from(CONTROL | VERSION) << 16 | u32::from(kind) };
                bytes.extend_from_slice(&first.to_be_bytes());
                let length = u32::try_from(body.len()).expect("short");
                bytes.extend_from_slice(&(u32::from(flags) << 24 | length).to_be_bytes());
                bytes.extend(body);
            }
            bytes.extend(tail);
            prop_assert_eq!(frames(&bytes, piece), frames(&bytes, 1 << 20));
        }
    }

    #[test]
    fn frames_are_read_in_pieces_of_any_size() {
        let (one, three) = (StreamId::nth(0), StreamId::nth(1));
        let sent = [Frame::Reply(one), Frame::Data(three, "hello".into()), Frame::Ping(2), Frame::End(three)];
        let mut bytes: Vec<u8> = sent.iter().flat_map(from_runtime).collect();
        bytes.extend_from_slice(&control(GOAWAY, &[0; 8]));
        bytes.extend_from_slice(&finish(one));
        for piece in [1, 5, 1000] {
            assert_eq!(frames(&bytes, piece), Ok([&sent[..], &[Frame::End(one)]].concat()), "by {piece}");
        }
    }

    #[test]
    fn long_data_goes_in_frames_that_the_runtime_can_keep() {
        let mut out = Vec::new();
        data(StreamId::nth(0), vec![7; 2 * MAX_DATA + 1].into(), &mut out);
        let lengths: Vec<usize> = out.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [HEAD, MAX_DATA, HEAD, MAX_DATA, HEAD, 1]);
    }

    #[test]
    fn what_is_not_the_protocol_is_refused() {
        for (name, bytes) in [
            ("another version", vec![0x80, 2, 0, 2, 0, 0, 0, 4, 0, 0, 0, 1]),
            ("too long", vec![0x80, 3, 0, 2, 0, 0xff, 0xff, 0xff]),
            ("half", vec![0x80, 3, 0, 2, 0, 0, 0, 1, 0]),
        ] {
            let mut reader = Reader::default();
            reader.push(&bytes);
            assert!(reader.next().is_err(), "{name}");
        }
        let mut reader = Reader::default();
        reader.push(&[0x80, 3, 0, 9, 0, 0, 0, 0]);
        assert_eq!(reader.next(), Ok(None), "what is of no use is passed over");
    }
}
