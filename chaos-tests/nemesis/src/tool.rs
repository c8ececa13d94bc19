//! Running the system's own tools (`ip`, `nft`, `mount`), which must succeed.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Runs a command line, split at blanks; answers its output.
///
/// # Errors
/// It could not be run or ended badly; with what it said.
pub fn run(line: &str) -> Result<String> {
    run_with(line, None)
}

/// The same with standard input.
///
/// # Errors
/// As [`run`].
pub fn run_with(line: &str, stdin: Option<&str>) -> Result<String> {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().context("an empty command")?);
    command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().with_context(|| format!("starting {line}"))?;
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        pipe.write_all(text.as_bytes())?;
    }
    let ended = child.wait_with_output()?;
    ensure!(ended.status.success(), "{line}: {}", String::from_utf8_lossy(&ended.stderr).trim());
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}
