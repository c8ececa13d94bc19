//! A page on its way: unpacked, its links written anew, packed again as it was.
//!
//! Invariants
//! - It passes piece by piece, and each piece as soon as it comes. What is unpacked at once is bounded ([`SLICE`]).

use std::io::{self, Write};

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzEncoder, MultiGzDecoder};
use futures::stream::{self, Stream, StreamExt as _};
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderValue};

use super::html::Rewriter;

/// Packed bytes that are unpacked at once: a thousand times as many at most.
const SLICE: usize = 1 << 10;

/// How a page is packed.
#[derive(Clone, Copy)]
pub(super) enum Packing {
    Not,
    Gzip,
    Deflate,
}

impl Packing {
    /// `None`: in a way that nobody here knows.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"") => Some(Self::Not),
            Some(b"gzip") => Some(Self::Gzip),
            Some(b"deflate") => Some(Self::Deflate),
            Some(_) => None,
        }
    }
}

/// A page on its way: unpacked, rewritten, packed again.
struct Page<R> {
    unpack: Unpack,
    rewriter: Rewriter<R>,
    pack: Pack,
}

enum Unpack {
    Not(Vec<u8>),
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>),
}

enum Pack {
    Not(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(DeflateEncoder<Vec<u8>>),
}

impl Unpack {
    fn of(packing: Packing) -> Self {
        match packing {
            Packing::Not => Self::Not(Vec::new()),
            Packing::Gzip => Self::Gzip(MultiGzDecoder::new(Vec::new())),
            Packing::Deflate => Self::Deflate(DeflateDecoder::new(Vec::new())),
        }
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        Ok(std::mem::take(match self {
            Self::Not(plain) => {
                plain.extend_from_slice(piece);
                plain
            }
            Self::Gzip(decoder) => {
                decoder.write_all(piece)?;
                decoder.flush()?;
                decoder.get_mut()
            }
            Self::Deflate(decoder) => {
                decoder.write_all(piece)?;
                decoder.flush()?;
                decoder.get_mut()
            }
        }))
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Not(plain) => Ok(plain),
            Self::Gzip(decoder) => decoder.finish(),
            Self::Deflate(decoder) => decoder.finish(),
        }
    }
}

impl Pack {
    fn of(packing: Packing) -> Self {
        match packing {
            Packing::Not => Self::Not(Vec::new()),
            Packing::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::default())),
            Packing::Deflate => Self::Deflate(DeflateEncoder::new(Vec::new(), Compression::best())),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Not(plain) => plain,
            Self::Gzip(encoder) => encoder,
            Self::Deflate(encoder) => encoder,
        }
    }

    /// What has been packed since the last time.
    fn taken(&mut self) -> Vec<u8> {
        std::mem::take(match self {
            Self::Not(plain) => plain,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Deflate(encoder) => encoder.get_mut(),
        })
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Not(plain) => Ok(plain),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Deflate(encoder) => encoder.finish(),
        }
    }
}

impl<R: Fn(&[u8]) -> Option<Vec<u8>>> Page<R> {
    fn new(packing: Packing, rule: R) -> Self {
        Self { unpack: Unpack::of(packing), rewriter: Rewriter::new(rule), pack: Pack::of(packing) }
    }

    /// What can be said after a piece; `flush`: all of it.
    fn push(&mut self, piece: &[u8], flush: bool) -> io::Result<Bytes> {
        let plain = self.unpack.write(piece)?;
        let mut rewritten = Vec::with_capacity(plain.len());
        self.rewriter.push(&plain, &mut rewritten);
        self.pack.writer().write_all(&rewritten)?;
        if flush {
            self.pack.writer().flush()?;
        }
        Ok(self.pack.taken().into())
    }

    fn finish(mut self) -> io::Result<Bytes> {
        let mut rest = Vec::new();
        self.rewriter.push(&self.unpack.finish()?, &mut rest);
        self.rewriter.finish(&mut rest);
        self.pack.writer().write_all(&rest)?;
        self.pack.finish().map(Bytes::from)
    }
}

/// What is left of a piece that came, and the page.
struct Passing<R> {
    /// Most bytes of a piece that are looked at together.
    slice: usize,
    body: axum::body::BodyDataStream,
    piece: Bytes,
    page: Page<R>,
}

/// The pieces of a page, rewritten.
pub(super) fn pages(
    packing: Packing,
    rule: impl Fn(&[u8]) -> Option<Vec<u8>>,
    body: Body,
) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let page = Page::new(packing, rule);
    let slice = if matches!(packing, Packing::Not) { usize::MAX } else { SLICE };
    let passing = Passing { slice, body: body.into_data_stream(), piece: Bytes::new(), page };
    let pieces = stream::try_unfold(Some(passing), |passing| async move {
        let Some(mut passing) = passing else { return Ok::<_, axum::Error>(None) };
        if passing.piece.is_empty() {
            match passing.body.next().await {
                Some(piece) => passing.piece = piece?,
                None => return Ok(Some((passing.page.finish().map_err(axum::Error::new)?, None))),
            }
        }
        let slice = passing.piece.split_to(passing.piece.len().min(passing.slice));
        let made = passing.page.push(&slice, passing.piece.is_empty()).map_err(axum::Error::new)?;
        Ok(Some((made, Some(passing))))
    });
    pieces.filter(|made| std::future::ready(!made.as_ref().is_ok_and(Bytes::is_empty)))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read;

    use flate2::read::{DeflateDecoder, GzDecoder};

    use super::*;

    pub const PAGE: &str = "<html><a href='/x?a&amp;b'>\u{e9}</a></html>";

    pub fn packed(how: &str) -> Vec<u8> {
        let mut pack = match how {
            "gzip" => Pack::of(Packing::Gzip),
            "deflate" => Pack::of(Packing::Deflate),
            _ => Pack::of(Packing::Not),
        };
        pack.writer().write_all(PAGE.as_bytes()).expect("a Vec takes everything");
        pack.finish().expect("a Vec takes everything")
    }

    pub fn unpacked(how: &str, bytes: &[u8]) -> String {
        let mut reader: Box<dyn Read> = match how {
            "gzip" => Box::new(GzDecoder::new(bytes)),
            "deflate" => Box::new(DeflateDecoder::new(bytes)),
            _ => Box::new(bytes),
        };
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("packed");
        text
    }

    #[test]
    fn a_bomb_is_unpacked_in_portions() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b' '; 32 << 20]).expect("a Vec takes everything");
        let bomb = encoder.finish().expect("a Vec takes everything");
        let mut unpack = Unpack::of(Packing::Gzip);
        let portions = bomb.chunks(SLICE).map(|slice| unpack.write(slice).expect("gzip").len());
        let most = portions.max().unwrap_or_default();
        assert!(most <= 2 << 20, "{most} bytes at once");
    }
}
