//! Container log files: where they lie, and how the runtime writes them.
//!
//! Invariants
//! - The log of an attempt is `<namespace>_<pod>_<uid>/<container>/<attempt>.log` below the log directory.
//! - A line that is not complete yet is kept back until its end is there.
//! - Who follows a log reads each file of it to the end, however often it was rotated meanwhile.

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
    /// The file that comes after this one.
    next: Option<Next>,
}

struct Next {
    file: File,
    inode: u64,
    /// The runtime may write to the old file for a moment after it has opened this one: only then it is this one's turn.
    due: bool,
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
        Ok(Self { file: BufReader::new(file), inode, partial: Vec::new(), next: None })
    }

    /// The next complete line, with its end. `None`: not yet. Not cancel-safe.
    pub(crate) async fn line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        loop {
            self.file.read_until(b'\n', &mut self.partial).await?;
            if self.partial.ends_with(b"\n") || self.partial.len() > MAX_LINE {
                return Ok(Some(std::mem::take(&mut self.partial)));
            }
            let Some(next) = self.next.take_if(|next| next.due) else { return Ok(None) };
            self.file = BufReader::new(next.file);
            self.inode = next.inode;
            self.partial.clear();
        }
    }

    /// The start of a line whose end is not there.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Sees whether the log was rotated, between two looks for more. The new file is gone on with after the second look
    /// that finds the old one at its end; at once if `ended`: nobody writes any more. Says whether there is one.
    pub(crate) async fn follow_rotation(&mut self, path: &Path, ended: bool) -> bool {
        if let Some(next) = &mut self.next {
            next.due = true;
        } else if let Some((file, inode)) = after(path, self.inode).await {
            self.next = Some(Next { file, inode, due: ended });
        }
        self.next.is_some()
    }
}

/// The file of a log that came after the one with this inode: another rotation, or the current one.
async fn after(path: &Path, of: u64) -> Option<(File, u64)> {
    let current = File::open(path).await.ok()?;
    let number = inode(&current).await;
    if number == of {
        return None;
    }
    let mut found = false;
    for rotation in rotations(path).await {
        let Ok(file) = File::open(&rotation).await else { continue };
        let number = inode(&file).await;
        if found {
            return Some((file, number));
        }
        found = number == of;
    }
    Some((current, number))
}

/// The rotations of a log that are still there, oldest first: the end of the name is the time.
async fn rotations(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let Ok(mut entries) = tokio::fs::read_dir(dir).await else { return Vec::new() };
    let mut out = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let file = entry.file_name();
        if file.to_str().and_then(|file| file.strip_prefix(name)).is_some_and(|rest| rest.starts_with('.')) {
            out.push(entry.path());
        }
    }
    out.sort();
    out
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

    /// Everything there is to read now.
    async fn read(reader: &mut Reader) -> String {
        let mut out = String::new();
        while let Some(line) = reader.line().await.expect("reads") {
            out.push_str(std::str::from_utf8(&line).expect("text").trim_end());
            out.push(' ');
        }
        out.trim_end().to_owned()
    }

    #[tokio::test]
    async fn rotation_loses_no_line_of_a_follower() {
        use std::io::Write as _;
        let dir = std::env::temp_dir().join(format!("kontiki-rotation-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("makes");
        let path = dir.join("0.log");
        let begin = |text: &str| {
            let mut file = std::fs::File::create(&path).expect("opens");
            writeln!(file, "{text}").expect("writes");
            file
        };
        let rotate = |stamp: &str| std::fs::rename(&path, dir.join(format!("0.log.{stamp}"))).expect("renames");
        let mut file = begin("a");
        let mut reader = Reader::open(&path, None).await.expect("opens");
        assert_eq!(read(&mut reader).await, "a");
        assert!(!reader.follow_rotation(&path, false).await);
        // Written after the last look, then rotated.
        writeln!(file, "b").expect("writes");
        rotate("1");
        assert!(!reader.follow_rotation(&path, false).await, "the runtime has not opened the new file");
        let mut second = begin("d");
        assert!(reader.follow_rotation(&path, false).await);
        assert_eq!(read(&mut reader).await, "b");
        // The runtime was in the middle of a line.
        writeln!(file, "c").expect("writes");
        reader.follow_rotation(&path, false).await;
        assert_eq!(read(&mut reader).await, "c d");
        // Twice between two looks.
        writeln!(second, "e").expect("writes");
        rotate("2");
        begin("f");
        rotate("3");
        begin("g");
        let mut seen = Vec::new();
        while reader.follow_rotation(&path, true).await {
            seen.push(read(&mut reader).await);
        }
        assert_eq!(seen.join(" "), "e f g");
        std::fs::remove_dir_all(dir).expect("removes");
    }
}
