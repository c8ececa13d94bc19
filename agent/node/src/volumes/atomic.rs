//! Generated files, replaced all at once.
//!
//! Invariants
//! - A reader sees the old set of files or the new one: `..data` is swapped by rename.
//! - An unchanged set is not written again, so watchers inside the container stay quiet.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::Path,
};

use kontiki_agent_plan::volumes::File;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `dir` show exactly `files`. With a group, it owns them and may read them.
pub(super) fn write(dir: &Path, files: &BTreeMap<String, File>, group: Option<u32>) -> std::io::Result<()> {
    let old = std::fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && same(&dir.join(old), files, group)
    {
        return Ok(());
    }
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%N").to_string();
    let fresh = dir.join(&stamp);
    std::fs::create_dir(&fresh)?;
    own_dir(&fresh, group)?;
    own_dir(dir, group)?;
    for (path, file) in files {
        write_one(&fresh, path, file, group)?;
    }
    let pointer = dir.join(DATA_NEW);
    let _ = std::fs::remove_file(&pointer); // left by a crash
    symlink(&stamp, &pointer)?;
    std::fs::rename(&pointer, dir.join(DATA))?;
    show(dir, files)?;
    if let Some(old) = old {
        std::fs::remove_dir_all(dir.join(old))?;
    }
    Ok(())
}

fn mode(file: &File, group: Option<u32>) -> u32 {
    if group.is_some() { file.mode | 0o440 } else { file.mode }
}

fn same(dir: &Path, files: &BTreeMap<String, File>, group: Option<u32>) -> bool {
    let equal = |(path, file): (&String, &File)| {
        let path = dir.join(path);
        let meta = std::fs::metadata(&path);
        meta.is_ok_and(|m| m.len() == file.data.len() as u64 && m.permissions().mode() & 0o777 == mode(file, group))
            && std::fs::read(&path).is_ok_and(|data| data == file.data)
    };
    files.iter().all(equal) && count(dir) == Some(files.len())
}

fn count(dir: &Path) -> Option<usize> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir).ok()? {
        let entry = entry.ok()?;
        total += if entry.file_type().ok()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Some(total)
}

fn own_dir(dir: &Path, group: Option<u32>) -> std::io::Result<()> {
    let mut mode = 0o755;
    if let Some(group) = group {
        chown(dir, None, Some(group))?;
        mode |= 0o2000;
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
}

fn write_one(root: &Path, path: &str, file: &File, group: Option<u32>) -> std::io::Result<()> {
    let mut dir = root.to_owned();
    let (parents, _) = path.rsplit_once('/').unwrap_or(("", path));
    for part in parents.split('/').filter(|p| !p.is_empty()) {
        dir.push(part);
        if !dir.is_dir() {
            std::fs::create_dir(&dir)?;
            own_dir(&dir, group)?;
        }
    }
    let target = root.join(path);
    std::fs::write(&target, &file.data)?;
    if let Some(group) = group {
        chown(&target, None, Some(group))?;
    }
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode(file, group)))
}

/// The names that users see are links through `..data`.
fn show(dir: &Path, files: &BTreeMap<String, File>) -> std::io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_files_are_swapped() {
        let dir = std::env::temp_dir().join(format!("kontiki-atomic-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).expect("creates");
        let set = |items: &[(&str, &str)]| -> BTreeMap<String, File> {
            items.iter().map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o640 })).collect()
        };
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_else(|_| "-".into());
        let link = || std::fs::read_link(dir.join(DATA)).expect("linked");
        write(&dir, &set(&[("a", "1"), ("sub/b", "2")]), None).expect("writes");
        assert_eq!((read("a"), read("sub/b")), ("1".into(), "2".into()));
        let before = link();
        write(&dir, &set(&[("a", "1"), ("sub/b", "2")]), None).expect("writes");
        assert_eq!(link(), before, "nothing changed");
        write(&dir, &set(&[("a", "3")]), None).expect("writes");
        assert_eq!((read("a"), read("sub/b")), ("3".into(), "-".into()));
        assert!(link() != before && !dir.join(before).exists());
        assert_eq!(std::fs::metadata(dir.join("a")).expect("there").permissions().mode() & 0o777, 0o640);
        std::fs::remove_dir_all(dir).expect("removes");
    }
}
