//! Images made on the spot: one layer, written as the archive that `docker save` makes.
//!
//! Equal input gives equal bytes: no times, no random names. So an image that is there already has
//! the same digest and is not imported twice.

use std::fmt::Write as _;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::host::facts::architecture;

/// A file of an image.
pub enum Entry<'a> {
    /// A directory.
    Dir(&'a str),
    /// An executable: path and content.
    Program(&'a str, &'a [u8]),
    /// Path and content.
    File(&'a str, &'a [u8]),
    /// A symbolic link.
    Link { path: String, to: &'a str },
}

/// What an image is made of.
pub struct Image<'a> {
    /// With a registry host, or containerd would add one.
    pub reference: &'a str,
    pub entries: Vec<Entry<'a>>,
    pub entrypoint: &'a [&'a str],
    pub command: &'a [&'a str],
    /// `uid:gid`; empty for root.
    pub user: &'a str,
}

const BLOCK: usize = 512;

impl Image<'_> {
    /// The archive.
    #[must_use]
    pub fn archive(&self) -> Vec<u8> {
        let layer = layer(&self.entries);
        let digest = hex(&layer);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "User": self.user,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "kontiki"}],
            "created": "1970-01-01T00:00:00Z",
        })
        .to_string();
        let config_name = format!("{}.json", hex(config.as_bytes()));
        let layer_name = format!("{digest}/layer.tar");
        let manifest =
            json!([{"Config": config_name, "RepoTags": [self.reference], "Layers": [layer_name]}]).to_string();
        let mut tar = Vec::new();
        put(&mut tar, &config_name, 0o644, b'0', "", config.as_bytes());
        put(&mut tar, &format!("{digest}/"), 0o755, b'5', "", b"");
        put(&mut tar, &layer_name, 0o644, b'0', "", &layer);
        put(&mut tar, "manifest.json", 0o644, b'0', "", manifest.as_bytes());
        finish(tar)
    }
}

fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for entry in entries {
        match entry {
            Entry::Dir(path) => put(&mut tar, &format!("{path}/"), 0o755, b'5', "", b""),
            Entry::Program(path, bytes) => put(&mut tar, path, 0o755, b'0', "", bytes),
            Entry::File(path, bytes) => put(&mut tar, path, 0o644, b'0', "", bytes),
            Entry::Link { path, to } => put(&mut tar, path, 0o777, b'2', to, b""),
        }
    }
    finish(tar)
}

/// One member in ustar form. Paths here are short: 100 bytes is the form's limit.
fn put(tar: &mut Vec<u8>, path: &str, mode: u32, kind: u8, link: &str, bytes: &[u8]) {
    let mut header = [0_u8; BLOCK];
    let mut set = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    set(0, &path.as_bytes()[..path.len().min(100)]);
    set(100, format!("{mode:07o}").as_bytes());
    set(108, b"0000000");
    set(116, b"0000000");
    set(124, format!("{:011o}", bytes.len()).as_bytes());
    set(136, b"00000000000");
    set(148, b"        ");
    set(156, &[kind]);
    set(157, &link.as_bytes()[..link.len().min(100)]);
    set(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&header);
    tar.extend_from_slice(bytes);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

/// Two empty blocks end an archive.
fn finish(mut tar: Vec<u8>) -> Vec<u8> {
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_what_tar_reads() {
        let image = Image {
            reference: "localhost/x:1",
            entries: vec![
                Entry::Dir("bin"),
                Entry::Program("bin/p", b"program"),
                Entry::Link { path: "bin/q".into(), to: "p" },
            ],
            entrypoint: &["/bin/p"],
            command: &[],
            user: "",
        };
        let (one, two) = (image.archive(), image.archive());
        assert_eq!(one, two, "equal input gives equal bytes");
        let mut tar = std::process::Command::new("tar")
            .args(["-t", "-f", "-"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut tar.stdin.take().unwrap(), &one).unwrap();
        let output = tar.wait_with_output().unwrap();
        assert!(output.status.success());
        let listed = String::from_utf8_lossy(&output.stdout);
        assert_eq!(listed.lines().count(), 4, "{listed}");
        assert!(listed.ends_with("manifest.json\n"), "{listed}");
    }
}
