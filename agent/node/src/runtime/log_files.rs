//! Container log files: where they lie, and how the runtime writes them.
//!
//! Invariants
//! - The log of an attempt is `<namespace>_<pod>_<uid>/<container>/<attempt>.log` below the log directory.
//! - A line that is not complete yet is kept back until its end is there.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;
use tokio::{
    fs::File,
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, BufReader},
};

use crate::config::Config;

/// Longer lines are not the runtime's.
const MAX_LINE: usize = 1 << 20;
/// As much of a log is read for its last lines.
const MAX_TAIL: u64 = 16 << 20;

/// Directory of a pod's logs.
pub(crate) fn dir(config: &Config, pod: &Pod) -> PathBuf {
    let meta = &pod.metadata;
    let [namespace, name, uid] = [&meta.namespace, &meta.name, &meta.uid].map(|t| t.as_deref().unwrap_or_default());
    config.logs().join(format!("{namespace}_{name}_{uid}"))
}

/// The log of one attempt, below the pod's directory.
pub(crate) fn of_attempt(dir: &Path, container: &str, attempt: u32) -> PathBuf {
    dir.join(container).join(format!("{attempt}.log"))
}

/// One line as the runtime writes it.
pub(crate) struct Entry<'a> {
    pub(crate) time: &'a str,
    pub(crate) stream: &'a str,
    /// `false`: the runtime split the line; the next entry goes on with it.
    pub(crate) complete: bool,
    pub(crate) text: &'a [u8],
}

/// `2016-10-06T00:17:09.669794202Z stdout F text`. `None`: not a line of the runtime.
pub(crate) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let complete = tags.split(|b| *b == b':').next() != Some(b"P");
    Some(Entry { time, stream, complete, text: parts.next().unwrap_or_default() })
}

/// Reads whole lines of a file that may still grow.
pub(crate) struct Reader {
    file: BufReader<File>,
    inode: u64,
    /// The start of a line whose end is not there yet.
    partial: Vec<u8>,
}

impl Reader {
    /// Begins at the start, or where the last `tail` lines begin.
    pub(crate) async fn open(path: &Path, tail: Option<u64>) -> std::io::Result<Self> {
        let mut file = File::open(path).await?;
        if let Some(lines) = tail {
            let start = tail_start(&mut file, lines).await?;
            file.seek(SeekFrom::Start(start)).await?;
        }
        let inode = inode(&file).await;
        Ok(Self { file: BufReader::new(file), inode, partial: Vec::new() })
    }

    /// The next complete line, with its end. `None`: not yet. Not cancel-safe.
    pub(crate) async fn line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        self.file.read_until(b'\n', &mut self.partial).await?;
        if self.partial.ends_with(b"\n") || self.partial.len() > MAX_LINE {
            return Ok(Some(std::mem::take(&mut self.partial)));
        }
        Ok(None)
    }

    /// The start of a line whose end is not there.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Goes on with the new file once the old one was renamed.
    pub(crate) async fn follow_rotation(&mut self, path: &Path) {
        let Ok(file) = File::open(path).await else { return };
        let new = inode(&file).await;
        if new != self.inode {
            self.file = BufReader::new(file);
            self.inode = new;
            self.partial.clear();
        }
    }
}

async fn inode(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().await.map_or(0, |m| m.ino())
}

/// Where the last `lines` lines begin.
async fn tail_start(file: &mut File, lines: u64) -> std::io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut end = length;
    let mut seen = 0;
    let mut buffer = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        buffer.clear();
        file.seek(SeekFrom::Start(start)).await?;
        file.take(end - start).read_to_end(&mut buffer).await?;
        for (at, byte) in buffer.iter().enumerate().rev() {
            let after = start + at as u64 + 1;
            if *byte == b'\n' && after != length {
                seen += 1;
                if seen == lines {
                    return Ok(after);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The last `max_lines` lines, at most `max_bytes` of them, of what the container wrote.
pub(crate) async fn tail_text(path: &Path, max_lines: u64, max_bytes: usize) -> std::io::Result<String> {
    let mut file = File::open(path).await?;
    let start = tail_start(&mut file, max_lines).await?;
    file.seek(SeekFrom::Start(start)).await?;
    let mut raw = Vec::new();
    file.take(MAX_TAIL).read_to_end(&mut raw).await?;
    let mut out = Vec::new();
    for entry in raw.split_inclusive(|b| *b == b'\n').filter_map(parse) {
        out.extend_from_slice(entry.text);
        if entry.complete {
            out.push(b'\n');
        }
    }
    let cut = out.len().saturating_sub(max_bytes);
    Ok(String::from_utf8_lossy(&out[cut..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.5Z stdout F one\n2026-01-01T00:00:02Z stderr P tw\n\
                       2026-01-01T00:00:02Z stderr F o\n2026-01-01T00:00:03Z stdout F three\n";

    #[tokio::test]
    async fn tails_begin_at_lines() {
        let path = std::env::temp_dir().join(format!("kontiki-log-{}", std::process::id()));
        std::fs::write(&path, LOG).expect("writes");
        for (lines, expect) in [(0, ""), (1, "three\n"), (3, "two\nthree\n"), (9, "one\ntwo\nthree\n")] {
            assert_eq!(tail_text(&path, lines, 4096).await.expect("reads"), expect, "{lines}");
        }
        assert_eq!(tail_text(&path, 9, 6).await.expect("reads"), "three\n");
        std::fs::remove_file(path).expect("removes");
    }
}
