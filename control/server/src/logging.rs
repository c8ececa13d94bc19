//! The server's log: to standard error, or appended to a file.

use std::{fs::OpenOptions, path::Path, sync::Mutex};

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt};

/// Libraries whose `info` is our `debug`.
const QUIET: &str =
    "openraft=error,h2=warn,hyper=warn,hyper_util=warn,rustls=warn,tonic=warn,tower=warn,netlink_proto=warn";

/// Starts logging, unless the program already does.
///
/// # Errors
/// The level is not one, or the file cannot be opened.
pub fn init(level: &str, file: Option<&Path>) -> anyhow::Result<()> {
    let plain = ["error", "warn", "info", "debug", "trace"].contains(&level);
    let directives = if plain { format!("{level},{QUIET}") } else { level.to_owned() };
    let filter =
        EnvFilter::builder().parse(directives).with_context(|| format!("log_level: {level:?} is not a level"))?;
    let builder = fmt().with_env_filter(filter);
    let outcome = match file {
        None => builder.with_writer(std::io::stderr).with_ansi(false).try_init(),
        Some(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("log_file: cannot open {}", path.display()))?;
            builder.with_writer(Mutex::new(file)).with_ansi(false).try_init()
        }
    };
    // An error means that the program has its own subscriber; then it decides.
    drop(outcome);
    Ok(())
}
