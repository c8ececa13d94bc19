//! Where an answer's head and body end (RFC 9112).

use anyhow::{Context, Result, bail, ensure};

/// What of a head matters here.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    /// Bytes of the head itself.
    pub length: usize,
    pub body: Body,
}

impl Head {
    /// `None` while it is not all there.
    ///
    /// # Errors
    /// It is not one of HTTP/1.1, or says nothing of the body's end.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&bytes[..end])?;
        let (first, fields) = text.split_once("\r\n").unwrap_or((text, ""));
        let code = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status: u16 = code.with_context(|| format!("{first:?} is no status line"))?.parse()?;
        let mut body = None;
        for (name, value) in fields.split("\r\n").filter_map(|field| field.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                body = body.or(Some(Body::Sized { left: value.trim().parse()? }));
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                ensure!(value.trim().eq_ignore_ascii_case("chunked"), "{value} is not asked for");
                body = Some(Body::Chunked { state: State::Size, left: 0 });
            }
        }
        let body = body.with_context(|| format!("where {text:?} ends"))?;
        Ok(Some(Self { status, length: end + 4, body }))
    }
}

/// How much of a body is still to come.
#[derive(Debug)]
pub enum Body {
    Sized { left: u64 },
    Chunked { state: State, left: u64 },
}

/// Where in a chunked body we are. What is not said of `\r` is: it is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In the hexadecimal number before a chunk.
    Size,
    /// Between that number and the end of its line.
    Extension,
    Data,
    /// Before the end of the line after a chunk.
    DataEnd,
    /// At the beginning of a line after the last chunk.
    Trailer,
    /// Within such a line.
    TrailerLine,
    Done,
}

impl Body {
    pub fn ended(&self) -> bool {
        matches!(self, Self::Sized { left: 0 } | Self::Chunked { state: State::Done, .. })
    }

    /// Hands over the pieces of the body in `input`, up to its end; how many bytes have been used.
    ///
    /// # Errors
    /// A chunk's size is none.
    pub fn feed(&mut self, input: &[u8], mut take: impl FnMut(&[u8])) -> Result<usize> {
        match self {
            Self::Sized { left } => Ok(data(left, input, &mut take)),
            Self::Chunked { state, left } => {
                let mut used = 0;
                while used < input.len() && *state != State::Done {
                    if *state == State::Data {
                        used += data(left, &input[used..], &mut take);
                        *state = if *left == 0 { State::DataEnd } else { State::Data };
                    } else {
                        *state = state.after(input[used], left)?;
                        used += 1;
                    }
                }
                Ok(used)
            }
        }
    }
}

fn data(left: &mut u64, input: &[u8], take: &mut impl FnMut(&[u8])) -> usize {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    if count > 0 {
        take(&input[..count]);
    }
    *left -= count as u64;
    count
}

impl State {
    /// The state after one byte that is not data.
    fn after(self, byte: u8, left: &mut u64) -> Result<Self> {
        Ok(match (self, byte) {
            (Self::Size | Self::Extension, b'\n') if *left == 0 => Self::Trailer,
            (Self::Size | Self::Extension, b'\n') => Self::Data,
            (state, b'\r') => state,
            (Self::Size, b';' | b' ') | (Self::Extension, _) => Self::Extension,
            (Self::Size, digit) => {
                let value = char::from(digit).to_digit(16).with_context(|| format!("{digit:#x} in a chunk's size"))?;
                *left = left.checked_mul(16).context("a chunk's size")? + u64::from(value);
                Self::Size
            }
            (Self::DataEnd, b'\n') => Self::Size,
            (Self::Trailer, b'\n') => Self::Done,
            (Self::TrailerLine, b'\n') => Self::Trailer,
            (Self::Trailer | Self::TrailerLine, _) => Self::TrailerLine,
            (Self::DataEnd | Self::Data | Self::Done, _) => bail!("{byte:#x} after a chunk"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Body and rest of an answer that comes `step` bytes at a time.
    fn read(answer: &[u8], step: usize) -> Result<(u16, Vec<u8>, usize)> {
        let head = Head::parse(answer)?.context("a head")?;
        let (mut body, mut out, mut at) = (head.body, Vec::new(), head.length);
        while !body.ended() {
            let piece = &answer[at..answer.len().min(at + step)];
            ensure!(!piece.is_empty(), "it goes on");
            at += body.feed(piece, |data| out.extend_from_slice(data))?;
        }
        Ok((head.status, out, answer.len() - at))
    }

    #[test]
    fn bodies_end_where_they_say_however_they_come() {
        let chunked = "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n";
        /// Name, answer, and its status, body and what is left of the input, or what is wrong with it.
        type Case<'a> = (&'a str, &'a str, Result<(u16, &'a str, usize), &'a str>);
        let cases: &[Case<'_>] = &[
            ("sized", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP", Ok((200, "abc", 4))),
            ("empty", "HTTP/1.1 204 No Content\r\nContent-Length:0\r\n\r\n", Ok((204, "", 0))),
            (
                "chunks",
                &format!("{chunked}3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\n\r\n!"),
                Ok((201, "abc0123456789", 1)),
            ),
            ("trailers", &format!("{chunked}1\r\na\r\n0\r\nx: y\r\nz: 1\r\n\r\n"), Ok((201, "a", 0))),
            ("a line break as data", &format!("{chunked}2\r\n\r\n\r\n0\r\n\r\n"), Ok((201, "\r\n", 0))),
            ("cut off", &format!("{chunked}5\r\nabc"), Err("it goes on")),
            ("no size", &format!("{chunked}x\r\n"), Err("0x78 in a chunk's size")),
            ("no end", "HTTP/1.1 200 OK\r\n\r\n", Err("ends")),
            ("HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\n", Err("no status line")),
        ];
        for (name, answer, expected) in cases {
            for step in [1, 2, 7, 1000] {
                match (read(answer.as_bytes(), step), expected) {
                    (Ok((status, body, rest)), Ok(want)) => {
                        assert_eq!(
                            (status, body.as_slice(), rest),
                            (want.0, want.1.as_bytes(), want.2),
                            "{name}, {step}"
                        );
                    }
                    (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{name}: {error}"),
                    (got, want) => panic!("{name}, {step}: {got:?}, not {want:?}"),
                }
            }
        }
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r").expect("so far").is_none());
    }
}
