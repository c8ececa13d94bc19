//! Files that are never half written: what masters, agents, the store and the command line keep outside of RocksDB.
//!
//! Invariants
//! - A reader, and whoever starts after a crash or a loss of power, finds the old content or the new one, whole. The new
//!   one is written beside its place and synced before it gets the name; then the directory is synced, which holds the
//!   name.
//! - Once a function that publishes has returned, the new content stays, whatever happens.
//! - A draft is called as its file, with `.tmp` behind: one that a crash leaves is written over by the next attempt.
//!
//! Not here: sets of files that change at once (the agent's volumes), RocksDB's own files, and files whose loss costs
//! nothing, such as those with process ids.

use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Who may read a file. Nobody but its owner may write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readers {
    /// Its owner: mode 0600, for what holds a secret.
    Owner,
    /// Everybody: mode 0644.
    All,
}

impl Readers {
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::All => 0o644,
        }
    }
}

/// The content of a file that does not have its name yet. Dropping it removes it.
///
/// # Assumptions
/// One draft of a file exists at a time: two would write to the same place.
#[derive(Debug)]
pub struct Draft {
    file: File,
    to: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Draft {
    /// Begins a new content for `to`, in the same directory, which exists.
    ///
    /// # Errors
    /// The disk refused.
    pub fn create(to: &Path, readers: Readers) -> io::Result<Self> {
        let mut path = OsString::from(to);
        path.push(".tmp");
        let path = PathBuf::from(path);
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let draft = Self { file, to: to.to_owned(), path, published: false };
        // Said anew: one that was left behind has its own mode, and a umask may take bits away.
        draft.file.set_permissions(Permissions::from_mode(readers.mode()))?;
        Ok(draft)
    }

    /// Where the content lies meanwhile.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, to set its owner for example.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the content its name, durably.
    ///
    /// # Errors
    /// The disk refused. The old content is there unless the last step failed, the sync of the directory: then either is.
    pub fn publish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.to)?;
        self.published = true;
        sync_parent(&self.to)
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed is written over by the next attempt.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes `content` the whole content of `path`, durably. Makes the file, not its directory.
///
/// # Errors
/// The disk refused; see [`Draft::publish`].
pub fn replace(path: &Path, content: &[u8], readers: Readers) -> io::Result<()> {
    let mut draft = Draft::create(path, readers)?;
    draft.write_all(content)?;
    draft.publish()
}

/// Renames what is synced already, a directory for example, durably.
///
/// # Errors
/// The disk refused.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// The directory that holds the name of `path`.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        for (content, readers, expect) in [("one", Readers::All, 0o644), ("two", Readers::Owner, 0o600)] {
            // As a crash leaves it, with another mode and more in it.
            fs::write(dir.path().join("node.key.tmp"), "something longer").unwrap();
            replace(&path, content.as_bytes(), readers).unwrap();
            assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode()), (content, expect));
        }
        assert_eq!(names(dir.path()), ["node.key"]);
    }

    #[test]
    fn a_draft_that_comes_to_nothing_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        replace(&path, b"old", Readers::All).unwrap();
        let mut draft = Draft::create(&path, Readers::All).unwrap();
        draft.write_all(b"new").unwrap();
        assert_eq!(fs::read(draft.path()).unwrap(), b"new");
        drop(draft);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        // A directory is in the way, so the last step fails.
        fs::create_dir(dir.path().join("taken")).unwrap();
        replace(&dir.path().join("taken"), b"new", Readers::All).unwrap_err();
        assert_eq!(names(dir.path()), ["state", "taken"]);
    }

    #[test]
    fn every_path_has_a_directory() {
        for (path, expect) in [("/a/b", "/a"), ("a/b", "a"), ("b", "."), ("/b", "/")] {
            assert_eq!(parent(Path::new(path)), Path::new(expect), "{path}");
        }
    }
}
