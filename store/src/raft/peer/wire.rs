//! openraft's messages as bytes. What is sent often is binary; votes and the like are JSON.

use bytes::{Buf as _, Bytes};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    disk::entry::{decode_entry, entry_value},
    types::{ReadRaft as _, TypeConfig, WriteRaft as _},
};
use kontiki_state::{
    Level,
    codec::{Malformed, Reader, Writer},
};

pub(crate) type Append = AppendEntriesRequest<TypeConfig>;
pub(crate) type Answer = StreamAppendResult<TypeConfig>;

/// What an append of a group that is beyond the first feature level begins with: no vote begins so, which is what
/// programs that know no levels look for. They read nothing of it, and cannot apply what they do not know.
const LATER: [u8; 10] = [0xff; 10];

/// An append, as a group at `level` writes it.
pub(crate) fn encode_append(request: &Append, level: Level) -> Bytes {
    let values: Vec<Bytes> = request.entries.iter().map(entry_value).collect();
    let mut out = Writer::with_capacity(64 + values.iter().map(|value| value.len() + 8).sum::<usize>());
    if level > Level::FIRST {
        out.raw(&LATER);
        out.varint(u64::from(level.0));
    }
    out.vote(&request.vote);
    out.log_id(request.prev_log_id.as_ref());
    out.log_id(request.leader_commit.as_ref());
    out.varint(request.entries.len() as u64);
    for (entry, value) in request.entries.iter().zip(&values) {
        out.varint(entry.log_id.index);
        out.bytes(value);
    }
    out.finish()
}

pub(crate) fn decode_append(mut bytes: Bytes) -> Result<Append, Malformed> {
    let later = bytes.starts_with(&LATER);
    if later {
        bytes.advance(LATER.len());
    }
    let mut input = Reader::new(bytes);
    if later {
        // Known or not: a member stops at the first entry that it does not know, which says more.
        input.varint()?;
    }
    let (vote, prev_log_id, leader_commit) = (input.vote()?, input.log_id()?, input.log_id()?);
    let entries = (0..input.count()?)
        .map(|_| {
            let index = input.varint()?;
            decode_entry(index, input.bytes()?)
        })
        .collect::<Result<_, _>>()?;
    input.end()?;
    Ok(Append { vote, prev_log_id, entries, leader_commit })
}

pub(crate) fn encode_answer(answer: &Answer) -> Bytes {
    let mut out = Writer::default();
    match answer {
        Ok(matched) => {
            out.u8(0);
            out.log_id(matched.as_ref());
        }
        Err(StreamAppendError::Conflict(at)) => {
            out.u8(1);
            out.log_id(Some(at));
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.u8(2);
            out.vote(vote);
        }
    }
    out.finish()
}

pub(crate) fn decode_answer(bytes: Bytes) -> Result<Answer, Malformed> {
    let mut input = Reader::new(bytes);
    Ok(match input.u8()? {
        0 => Ok(input.log_id()?),
        1 => Err(StreamAppendError::Conflict(input.log_id()?.ok_or(Malformed("conflict without a place"))?)),
        2 => Err(StreamAppendError::HigherVote(input.vote()?)),
        _ => return Err(Malformed("unknown answer")),
    })
}

/// The answer to a single request.
pub(crate) fn encode_response(response: AppendEntriesResponse<TypeConfig>) -> Bytes {
    let mut out = Writer::default();
    match response {
        AppendEntriesResponse::Success => out.u8(0),
        AppendEntriesResponse::PartialSuccess(matched) => {
            out.u8(1);
            out.log_id(matched.as_ref());
        }
        AppendEntriesResponse::Conflict => out.u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.u8(3);
            out.vote(&vote);
        }
    }
    out.finish()
}

pub(crate) fn decode_response(bytes: Bytes) -> Result<AppendEntriesResponse<TypeConfig>, Malformed> {
    let mut input = Reader::new(bytes);
    Ok(match input.u8()? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(input.log_id()?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(input.vote()?),
        _ => return Err(Malformed("unknown response")),
    })
}

pub(crate) fn encode_json(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message).expect("raft messages are plain data").into()
}

pub(crate) fn decode_json<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Malformed> {
    serde_json::from_slice(bytes).map_err(|_| Malformed("JSON message"))
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry;
    use proptest::prelude::*;

    use super::*;
    use crate::types::{LogEntry, Payload, Vote, log_id};
    use kontiki_state::command::Command;

    #[test]
    fn append_reads_back() {
        let entries = vec![
            LogEntry::new(log_id(2, 7), Payload::Blank),
            LogEntry::new(log_id(2, 8), Payload::Normal(Command(Bytes::from_static(b"x")))),
        ];
        let request = Append {
            vote: Vote::new_committed(2, 1),
            prev_log_id: Some(log_id(1, 6)),
            entries: entries.clone(),
            leader_commit: None,
        };
        for level in [0, 1, 300] {
            let back = decode_append(encode_append(&request, Level(level))).unwrap();
            assert_eq!(
                (back.vote, back.prev_log_id, back.entries, back.leader_commit),
                (request.vote, request.prev_log_id, entries.clone(), None)
            );
        }
        let as_before = Reader::new(encode_append(&request, Level(1))).vote();
        assert!(as_before.is_err(), "programs that know no levels read a vote first");
        for answer in [Ok(None), Ok(Some(log_id(3, 4))), Err(StreamAppendError::Conflict(log_id(1, 2)))] {
            assert_eq!(decode_answer(encode_answer(&answer)), Ok(answer));
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_append(bytes.clone().into());
            let _ = decode_answer(bytes.into());
        }
    }
}
