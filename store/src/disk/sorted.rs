//! Rows as sorted files, which the database takes in as they are: beside the write-ahead log, and without being sorted
//! and written again.

use std::{fs, io, path::Path};

use bytes::Bytes;
use rocksdb::{BlockBasedOptions, SstFileWriter};

use crate::disk::{failure::db_error, options::family_options, writer::BatchWriter};

/// Writes rows, in the order of their keys, to a file that `Families::ingest` takes in. Waits while the disk is full.
pub(crate) fn write(writer: &BatchWriter, path: &Path, rows: &[(Vec<u8>, Bytes)]) -> io::Result<()> {
    writer.when_there_is_space(|| {
        // What an attempt left behind that a full disk ended.
        remove(path)?;
        let options = family_options(0, &BlockBasedOptions::default());
        let mut file = SstFileWriter::create(&options);
        file.open(path).map_err(db_error)?;
        for (key, value) in rows {
            file.put(key, value).map_err(db_error)?;
        }
        file.finish().map_err(db_error)
    })
}

/// Removes a file, if there is one.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Config,
        disk::{
            db::{Db, Family},
            writer,
        },
    };

    #[test]
    fn rows_are_there_after_a_crash_without_the_log() {
        let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Config::unconnected(1, dir.path());
        let db = Db::open(&config, "test").unwrap();
        let writer = writer::tests::writer();
        let path = dir.path().join("incoming.sst");
        for from in [0, 9] {
            let rows: Vec<_> = (from..from + 9).map(|n| (vec![n], Bytes::from(vec![n; 3000]))).collect();
            write(&writer, &path, &rows).unwrap();
            db.with(|families| families.ingest(Family::Rows, &path)).unwrap();
        }
        for part in ["", "db"] {
            fs::create_dir_all(crashed.path().join(part)).unwrap();
            for entry in fs::read_dir(dir.path().join(part)).unwrap().map(Result::unwrap) {
                let log = entry.path().extension().is_some_and(|end| end == "log");
                if entry.file_type().unwrap().is_file() && !log {
                    fs::copy(entry.path(), crashed.path().join(part).join(entry.file_name())).unwrap();
                }
            }
        }
        assert!(!path.exists());
        db.close();
        let db = Db::open(&Config::unconnected(1, crashed.path()), "test").unwrap();
        let found = db.with(|families| families.scan(Family::Rows, b"")?.collect::<io::Result<Vec<_>>>()).unwrap();
        assert_eq!(found.len(), 18);
        assert!(found.iter().all(|(key, value)| value[..] == [key[0]; 3000]));
        db.close();
    }
}
