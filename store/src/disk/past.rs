//! What became of one key, as far back as rows are kept: beyond what is compacted, until they are swept.
//!
//! Invariants
//! - From `Told::since` on everything is told. Rows are read only up to a revision that is known to be in the database.
//! - The second of a revision is that in which this member applied it; one that it got otherwise has none.

use std::{io, sync::Arc};

use bytes::Bytes;

use crate::disk::{
    db::{Batch, Families, Family},
    dump::swept,
    history::{decode, invalid, scan},
};
use kontiki_state::{
    Entry, Revision,
    rows::{Row, RowKind, decode_mark, key_of_row, mark_key, revision_of_row, row_key},
};

/// A moment, by what is known of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Everything that has happened so far.
    Now,
    /// As of a revision.
    Revision(Revision),
    /// As of the end of a second of Unix time.
    Second(u64),
}

/// What one revision did to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Which one.
    pub revision: Revision,
    /// When it was applied, in Unix seconds, if that is known.
    pub second: Option<u64>,
    /// What the key became; `None`: it was deleted.
    pub entry: Option<Arc<Entry>>,
}

/// What is known of a key.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Told {
    /// Up to a moment, the newest first.
    pub changes: Vec<Change>,
    /// Whether there are more that are older.
    pub more: bool,
    /// The revision of the moment that was asked for; `None` if it lies before all that is known.
    pub upto: Option<Revision>,
    /// All changes from here on are known, and how the key was here.
    pub since: Revision,
    /// The second of that, if it is known.
    pub since_second: Option<u64>,
}

/// What is asked about a key.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub key: Bytes,
    pub upto: When,
    /// Changes to tell at most.
    pub limit: usize,
    /// Bytes of values after which no more is told.
    pub bytes: usize,
}

/// Answers a question. `current`: what is in the database, and the key's own revision by then if it is there.
pub(crate) fn tell(
    db: &Families<'_>,
    epoch: u32,
    question: &Question,
    current: Revision,
    own: Option<Revision>,
) -> io::Result<Told> {
    let marks = Marks::read(db)?;
    let floor = swept(db, epoch)?;
    let upto = match question.upto {
        When::Now => Some(current),
        When::Revision(revision) => Some(revision.min(current)),
        When::Second(second) => marks.at(second).map(|revision| revision.min(current)),
    };
    let mut told = Told { upto, ..Told::default() };
    let mut walk =
        Walk { db, epoch, key: &question.key, floor, next: Some(own.map_or(Next::Before(current), Next::At)) };
    let mut bytes = 0;
    while let Some(upto) = upto
        && let Some(row) = walk.row()?
    {
        let revision = row.entry.mod_revision;
        if revision > upto {
            walk.skip_to(upto);
            continue;
        }
        if told.changes.len() >= question.limit || bytes >= question.bytes {
            told.more = true;
            break;
        }
        bytes += row.entry.value.len();
        let is_there = matches!(row.kind, RowKind::Put | RowKind::DeleteAndPut);
        let entry = is_there.then(|| Arc::new(row.entry));
        told.changes.push(Change { revision, second: marks.of(revision), entry });
    }
    // What was swept meanwhile was read or not: either way nothing is claimed of it.
    told.since = swept(db, epoch)?;
    told.since_second = marks.from(told.since);
    Ok(told)
}

/// Where the next older row of a key is.
enum Next {
    At(Revision),
    /// The newest one up to a revision, if there is any.
    Before(Revision),
}

/// The rows of a key, the newest first. Each names the one before it, but for those that a deletion parts: these are
/// looked for.
struct Walk<'a> {
    db: &'a Families<'a>,
    epoch: u32,
    key: &'a [u8],
    floor: Revision,
    next: Option<Next>,
}

impl Walk<'_> {
    fn row(&mut self) -> io::Result<Option<Row>> {
        let at = match self.next.take() {
            Some(Next::At(at)) => at,
            Some(Next::Before(upto)) => match self.newest(upto)? {
                Some(at) => at,
                None => return Ok(None),
            },
            None => return Ok(None),
        };
        let at_key = row_key(self.epoch, at, self.key);
        let Some(value) = self.db.get(Family::Rows, &at_key)? else { return Ok(None) };
        let row = decode(&at_key, value)?;
        // What is older than the floor is what the key was there, and nothing before it is known.
        self.next = match row.prev {
            _ if at <= self.floor => None,
            Revision(0) => Some(Next::Before(Revision(at.0 - 1))),
            prev => Some(Next::At(prev)),
        };
        Ok(Some(row))
    }

    /// Nothing after `upto` is wanted any more.
    fn skip_to(&mut self, upto: Revision) {
        if let Some(Next::Before(before)) = &mut self.next {
            *before = upto.min(*before);
        }
    }

    fn newest(&self, upto: Revision) -> io::Result<Option<Revision>> {
        let mut found = None;
        scan(self.db, self.epoch, Revision(self.floor.0.saturating_sub(1)), upto, |key, _| {
            if key_of_row(key) == Some(self.key) {
                found = revision_of_row(key);
            }
            Ok(true)
        })?;
        Ok(found)
    }
}

/// Which revision the state had at the end of which second, in order. Clocks may go back, revisions do not.
pub(crate) struct Marks(Vec<(u64, Revision)>);

impl Marks {
    pub fn read(db: &Families<'_>) -> io::Result<Self> {
        Self::read_until(db, |_, _| false)
    }

    /// The marks before the first one that `enough` is said of.
    pub fn read_until(db: &Families<'_>, mut enough: impl FnMut(u64, Revision) -> bool) -> io::Result<Self> {
        let (mut marks, mut most) = (Vec::new(), Revision(0));
        for row in db.scan(Family::Rows, &mark_key(0))? {
            let (key, value) = row?;
            let Some(mark) = decode_mark(&key, value.into_vec().into()) else { break };
            let (second, revision) = mark.map_err(invalid)?;
            if enough(second, revision) {
                break;
            }
            most = most.max(revision);
            marks.push((second, most));
        }
        Ok(Self(marks))
    }

    /// The revision at the end of a second.
    pub fn at(&self, second: u64) -> Option<Revision> {
        let after = self.0.partition_point(|(at, _)| *at <= second);
        Some(self.0[..after].last()?.1)
    }

    /// The second of a revision.
    fn of(&self, revision: Revision) -> Option<u64> {
        let from = self.0.partition_point(|(_, at)| *at < revision);
        // What the first mark is the last revision of is not known to have begun in its second.
        let is_known = from > 0 || self.0.first().is_some_and(|(_, at)| *at == revision);
        self.0.get(from).filter(|_| is_known).map(|(second, _)| *second)
    }

    /// The first second at whose end the state was at a revision or beyond.
    fn from(&self, revision: Revision) -> Option<u64> {
        let from = self.0.partition_point(|(_, at)| *at < revision);
        self.0.get(from).map(|(second, _)| *second)
    }

    /// The first revision that marks name after `from` for which `holds` is true, as it is for all later ones.
    pub fn first(&self, from: Revision, mut holds: impl FnMut(Revision) -> bool) -> Option<Revision> {
        let first = self.0.partition_point(|(_, at)| *at <= from || !holds(*at));
        self.0.get(first).map(|(_, at)| *at)
    }
}

/// Removes marks that say nothing any more once rows are swept up to a revision.
pub(crate) fn remove_marks(db: &Families<'_>, batch: &mut Batch<'_>, swept: Revision) -> io::Result<()> {
    let Marks(mut old) = Marks::read_until(db, |_, revision| revision > swept)?;
    // The last one tells which seconds what is kept covers.
    old.pop();
    for (second, _) in old {
        batch.delete(Family::Rows, mark_key(second));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_revisions_are_found_from_each_other() {
        // The clock went back between 20 and 15.
        let marks = Marks(vec![(10, Revision(5)), (15, Revision(9)), (20, Revision(9)), (30, Revision(12))]);
        for (second, revision) in
            [(9, None), (10, Some(5)), (14, Some(5)), (15, Some(9)), (29, Some(9)), (99, Some(12))]
        {
            assert_eq!(marks.at(second), revision.map(Revision), "{second}");
        }
        for (revision, second) in
            [(3, None), (5, Some(10)), (6, Some(15)), (9, Some(15)), (10, Some(30)), (12, Some(30)), (13, None)]
        {
            assert_eq!(marks.of(Revision(revision)), second, "{revision}");
        }
        for (revision, second) in [(0, Some(10)), (5, Some(10)), (6, Some(15)), (12, Some(30)), (13, None)] {
            assert_eq!(marks.from(Revision(revision)), second, "{revision}");
        }
        assert_eq!(marks.first(Revision(5), |at| at >= Revision(10)), Some(Revision(12)));
        assert_eq!(marks.first(Revision(0), |_| true), Some(Revision(5)));
        assert_eq!(marks.first(Revision(12), |_| true), None);
        assert_eq!(Marks(Vec::new()).at(5), None);
    }
}
