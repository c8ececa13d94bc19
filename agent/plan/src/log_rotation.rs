//! When a container's log is rotated, and which rotated files go. Limits are kubelet's.

use std::time::Duration;

/// How often logs are looked at.
pub const PERIOD: Duration = Duration::from_secs(10);
/// `containerLogMaxSize`.
const MAX_SIZE: u64 = 10 << 20;
/// `containerLogMaxFiles`, the one that is written to among them.
const MAX_FILES: usize = 5;

/// Whether a log of this size is rotated.
#[must_use]
pub fn is_due(bytes: u64) -> bool {
    bytes > MAX_SIZE
}

/// Which of the files beside the log `name` go: its oldest rotations, whose names end in the time of rotation.
#[must_use]
pub fn surplus(name: &str, files: Vec<String>) -> Vec<String> {
    let is_rotation = |file: &String| file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    let mut rotations: Vec<String> = files.into_iter().filter(is_rotation).collect();
    rotations.sort();
    rotations.truncate(rotations.len().saturating_sub(MAX_FILES - 1));
    rotations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_rotations_go() {
        for (name, files, expect) in [
            ("none yet", "0.log", ""),
            ("a full set", "0.log 0.log.1 0.log.2 0.log.3 0.log.4", ""),
            ("one too many", "0.log.5 0.log 0.log.1 0.log.2 0.log.3 0.log.4", "0.log.1"),
            ("some too many", "0.log.6 0.log.5 0.log.1 0.log.2 0.log.3 0.log.4", "0.log.1 0.log.2"),
            ("another attempt's", "1.log.1 1.log.2 1.log.3 1.log.4 1.log.5 0.log.1", ""),
        ] {
            let files = files.split_whitespace().map(str::to_owned).collect();
            assert_eq!(surplus("0.log", files).join(" "), expect, "{name}");
        }
        assert_eq!((is_due(10 << 20), is_due((10 << 20) + 1)), (false, true));
    }
}
