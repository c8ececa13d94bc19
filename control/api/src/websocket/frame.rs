//! Frames: a client's taken apart, ours put together (RFC 6455, section 5).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// Longest payload of a control frame.
const MAX_CONTROL: u64 = 125;

/// All is said.
pub(crate) const NORMAL: u16 = 1000;
/// The other side broke the protocol.
pub(crate) const PROTOCOL: u16 = 1002;
/// What the client wanted broke off.
pub(crate) const BROKEN_OFF: u16 = 1011;

/// What a client's bytes say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// A message begins.
    Begin,
    /// More of the message that began.
    Data(Bytes),
    /// The message is whole.
    End,
    /// To be answered with a pong that says the same.
    Ping(Bytes),
    /// The client closes, with this code.
    Close(u16),
}

/// The client broke the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Violation(pub &'static str);

/// Takes frames apart, whatever pieces they come in.
#[derive(Default)]
pub(crate) struct Decoder {
    buffer: BytesMut,
    payload: Option<Payload>,
    in_message: bool,
}

/// The rest of a data frame.
struct Payload {
    left: u64,
    mask: [u8; 4],
    /// Whether it is the message's last.
    fin: bool,
}

struct Head {
    fin: bool,
    opcode: u8,
    length: u64,
    mask: [u8; 4],
    /// Of the head itself.
    size: usize,
}

impl Decoder {
    /// Takes bytes of the client.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What comes next. `None`: not yet.
    ///
    /// # Errors
    /// The client broke the protocol; nothing more is to be asked.
    pub fn next(&mut self) -> Result<Option<Event>, Violation> {
        loop {
            if let Some(payload) = &mut self.payload {
                if payload.left == 0 {
                    let fin = payload.fin;
                    self.payload = None;
                    if !fin {
                        continue;
                    }
                    self.in_message = false;
                    return Ok(Some(Event::End));
                }
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Ok(Some(Event::Data(payload.take(&mut self.buffer))));
            }
            let Some(head) = parse(&self.buffer)? else { return Ok(None) };
            if head.opcode >= CLOSE {
                let Some(payload) = self.control(&head) else { return Ok(None) };
                match control(head.opcode, payload)? {
                    Some(event) => return Ok(Some(event)),
                    None => continue,
                }
            }
            self.buffer.advance(head.size);
            self.payload = Some(Payload { left: head.length, mask: head.mask, fin: head.fin });
            match (head.opcode, self.in_message) {
                (CONTINUATION, true) => {}
                (CONTINUATION, false) => return Err(Violation("a continuation of nothing")),
                (_, true) => return Err(Violation("a message within a message")),
                (_, false) => {
                    self.in_message = true;
                    return Ok(Some(Event::Begin));
                }
            }
        }
    }

    /// The payload of a control frame, once it is whole.
    fn control(&mut self, head: &Head) -> Option<Bytes> {
        let length = usize::try_from(head.length).unwrap_or(usize::MAX);
        if self.buffer.len() < head.size + length {
            return None;
        }
        self.buffer.advance(head.size);
        let mut payload = self.buffer.split_to(length);
        unmask(&mut payload, head.mask);
        Some(payload.freeze())
    }
}

fn control(opcode: u8, payload: Bytes) -> Result<Option<Event>, Violation> {
    Ok(match opcode {
        PING => Some(Event::Ping(payload)),
        PONG => None,
        _ if payload.is_empty() => Some(Event::Close(NORMAL)),
        _ if payload.len() == 1 => return Err(Violation("half a close code")),
        _ => Some(Event::Close(u16::from_be_bytes([payload[0], payload[1]]))),
    })
}

impl Payload {
    /// As much as there is, unmasked.
    fn take(&mut self, buffer: &mut BytesMut) -> Bytes {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let mut data = buffer.split_to(length);
        unmask(&mut data, self.mask);
        self.mask.rotate_left(length % 4);
        self.left -= length as u64;
        data.freeze()
    }
}

fn unmask(data: &mut [u8], mask: [u8; 4]) {
    for (byte, key) in data.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// The head of a frame, once it is whole.
fn parse(buffer: &[u8]) -> Result<Option<Head>, Violation> {
    let [first, second, ..] = *buffer else { return Ok(None) };
    let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
    if first & 0x70 != 0 {
        return Err(Violation("reserved bits are set"));
    }
    if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(Violation("an unknown kind of frame"));
    }
    if second & 0x80 == 0 {
        return Err(Violation("a client masks its frames"));
    }
    let short = u64::from(second & 0x7f);
    if opcode >= CLOSE && (!fin || short > MAX_CONTROL) {
        return Err(Violation("a control frame is short and whole"));
    }
    let extended = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let size = 2 + extended + 4;
    if buffer.len() < size {
        return Ok(None);
    }
    let length = match extended {
        0 => short,
        _ => buffer[2..2 + extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    if length >> 63 != 0 {
        return Err(Violation("a frame longer than frames can be"));
    }
    let mask = [buffer[size - 4], buffer[size - 3], buffer[size - 2], buffer[size - 1]];
    Ok(Some(Head { fin, opcode, length, mask, size }))
}

fn head(opcode: u8, length: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(length + 10);
    out.put_u8(0x80 | opcode);
    match length {
        0..=125 => out.put_u8(length as u8),
        126..=0xffff => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
    out
}

/// A message of bytes: a prefix and what follows it.
pub(crate) fn binary(prefix: &[u8], data: &[u8]) -> Bytes {
    let mut out = head(BINARY, prefix.len() + data.len());
    out.extend_from_slice(prefix);
    out.extend_from_slice(data);
    out.freeze()
}

/// A message of text.
pub(crate) fn text(text: &str) -> Bytes {
    let mut out = head(TEXT, text.len());
    out.extend_from_slice(text.as_bytes());
    out.freeze()
}

/// The answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Bytes {
    let mut out = head(PONG, payload.len());
    out.extend_from_slice(payload);
    out.freeze()
}

/// The end, with as much of the reason as fits.
pub(crate) fn close(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(MAX_CONTROL as usize - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = head(CLOSE, 2 + end);
    out.put_u16(code);
    out.extend_from_slice(&reason.as_bytes()[..end]);
    out.freeze()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client sends it.
    pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = head(0, payload.len()).to_vec();
        (out[0], out[1]) = (first, out[1] | 0x80);
        let mask = [7, 77, 177, 3];
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        out
    }

    /// What is said by bytes that come in pieces of some size; data joined.
    fn events(bytes: &[u8], piece: usize) -> Result<Vec<Event>, Violation> {
        let mut decoder = Decoder::default();
        let mut out: Vec<Event> = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            while let Some(event) = decoder.next()? {
                match (out.last_mut(), event) {
                    (Some(Event::Data(known)), Event::Data(more)) => *known = [&known[..], &more[..]].concat().into(),
                    (_, event) => out.push(event),
                }
            }
        }
        Ok(out)
    }

    #[test]
    fn frames_are_read_in_pieces_of_any_size() {
        let long = vec![9; 70_000];
        let data = |bytes: &[u8]| Event::Data(Bytes::copy_from_slice(bytes));
        let cases = [
            ("a message", masked(0x82, b"hello"), vec![Event::Begin, data(b"hello"), Event::End]),
            ("an empty one", masked(0x81, b""), vec![Event::Begin, Event::End]),
            ("a medium one", masked(0x82, &long[..300]), vec![Event::Begin, data(&long[..300]), Event::End]),
            ("a long one", masked(0x82, &long), vec![Event::Begin, data(&long), Event::End]),
            (
                "fragments, a ping between",
                [masked(0x02, b"he"), masked(0x89, b"p"), masked(0x80, b"llo")].concat(),
                vec![Event::Begin, data(b"he"), Event::Ping("p".into()), data(b"llo"), Event::End],
            ),
            ("a pong", masked(0x8a, b"x"), vec![]),
            ("the end", masked(0x88, &[3, 0xe8, b'x']), vec![Event::Close(1000)]),
            ("the end without a code", masked(0x88, b""), vec![Event::Close(1000)]),
        ];
        for (name, bytes, expect) in cases {
            for piece in [1, 3, 7, usize::MAX >> 1] {
                assert_eq!(events(&bytes, piece).as_ref(), Ok(&expect), "{name} by {piece}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_mean_the_same_in_any_pieces(
            frames in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..200)), 0..6),
            tail in proptest::collection::vec(any::<u8>(), 0..40),
            piece in 1..50_usize,
        ) {
            let frames = frames.into_iter().flat_map(|(first, payload)| masked(first, &payload));
            let bytes: Vec<u8> = frames.chain(tail).collect();
            let whole = events(&bytes, usize::MAX >> 1);
            prop_assert_eq!(&events(&bytes, piece), &whole);
            let data = whole.iter().flatten().map(|event| if let Event::Data(data) = event { data.len() } else { 0 });
            prop_assert!(data.sum::<usize>() <= bytes.len());
        }
    }

    #[test]
    fn what_a_client_may_not_send_is_told_apart() {
        let cases: [(&str, Vec<u8>); 8] = [
            ("a client masks its frames", vec![0x82, 1, b'x']),
            ("reserved bits are set", masked(0xc2, b"")),
            ("an unknown kind of frame", masked(0x83, b"")),
            ("a continuation of nothing", masked(0x80, b"x")),
            ("a message within a message", [masked(0x02, b"a"), masked(0x82, b"b")].concat()),
            ("a control frame is short and whole", masked(0x09, b"x")),
            ("half a close code", masked(0x88, b"x")),
            ("a frame longer than frames can be", [&[0x82, 0xff][..], &[0xff; 8], &[0; 4]].concat()),
        ];
        for (expect, bytes) in cases {
            assert_eq!(events(&bytes, 1), Err(Violation(expect)));
        }
        assert_eq!(events(&masked(0x89, &[0; 126]), 1), Err(Violation("a control frame is short and whole")));
    }

    #[test]
    fn a_reason_is_cut_where_a_character_ends() {
        let cut = close(BROKEN_OFF, &"é".repeat(100));
        assert_eq!((cut[0], usize::from(cut[1])), (0x88, cut.len() - 2));
        assert!(std::str::from_utf8(&cut[4..]).is_ok() && cut[1] <= 125);
    }
}
