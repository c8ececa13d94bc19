//! Sets of completion indexes of an Indexed Job, in their compressed text form: `1,3-5,7`.
//!
//! Source: `pkg/controller/job/indexed_job_utils.go` and the batch validation of upstream's.

use std::fmt;

/// A set of indexes as intervals: in order, apart from each other by more than one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(u32, u32)>);

impl Indexes {
    /// Reads what a status says. Parts that cannot be read are passed over; what is not below `completions` is cut off.
    #[must_use]
    pub fn read(text: &str, completions: u32) -> Self {
        let mut set = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else { continue };
            if first < completions && first <= last {
                set.insert_interval(first, last.min(completions - 1));
            }
        }
        set
    }

    /// Checks what somebody wrote and counts its indexes.
    ///
    /// # Errors
    /// Upstream's sentence.
    pub fn check(text: &str, completions: i64) -> Result<i64, String> {
        let (mut total, mut before): (i64, Option<i64>) = (0, None);
        if text.is_empty() {
            return Ok(0);
        }
        for part in text.split(',') {
            let (first, last) = interval(part, completions)?;
            if let Some(before) = before.filter(|before| *before >= first) {
                return Err(format!("non-increasing order, previous: {before}, current: {first}"));
            }
            total += last - first + 1;
            before = Some(last);
        }
        Ok(total)
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether one is among them.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// Adds one.
    pub fn insert(&mut self, index: u32) {
        self.insert_interval(index, index);
    }

    fn insert_interval(&mut self, first: u32, last: u32) {
        let from = self.0.partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = self.0.partition_point(|(start, _)| *start <= last.saturating_add(1));
        let merged = self.0[from..to].iter().fold((first, last), |(a, b), (c, d)| (a.min(*c), b.max(*d)));
        self.0.splice(from..to, [merged]);
    }

    /// How many are in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> u32 {
        let overlap = |(first, last): &(u32, u32)| {
            let from = other.0.partition_point(|(_, end)| end < first);
            let within = other.0[from..].iter().take_while(|(start, _)| start <= last);
            within.map(|(start, end)| end.min(last) - start.max(first) + 1).sum::<u32>()
        };
        self.0.iter().map(overlap).sum()
    }

    /// The first that is in both.
    #[must_use]
    pub fn first_common(&self, other: &Self) -> Option<u32> {
        let both = |(first, last): &(u32, u32)| {
            let at = other.0.partition_point(|(_, end)| end < first);
            other.0.get(at).filter(|(start, _)| start <= last).map(|(start, _)| *start.max(first))
        };
        self.0.iter().find_map(both)
    }
}

impl Extend<u32> for Indexes {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, indexes: I) {
        indexes.into_iter().for_each(|index| self.insert(index));
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            f.write_str(if i > 0 { "," } else { "" })?;
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let ends: Vec<&str> = part.split('-').collect();
    if ends.len() > 2 {
        return Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let read = |text: &str| {
        let wrong = || format!("cannot convert string to integer for index: {text:?}");
        let index: i64 = text.parse().map_err(|_| wrong())?;
        if index >= completions { Err(format!("too large index: {text:?}")) } else { Ok(index) }
    };
    let first = read(ends[0])?;
    let Some(last) = ends.get(1) else { return Ok((first, first)) };
    let last = read(last)?;
    if first >= last {
        return Err(format!("non-increasing order, previous: {first}, current: {last}"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sets_are_written_as_upstream_writes_them() {
        for (indexes, expect) in [
            (vec![], ""),
            (vec![3], "3"),
            (vec![4, 3], "3,4"),
            (vec![1, 3, 5, 4, 9], "1,3-5,9"),
            (vec![0, 1, 2], "0-2"),
        ] {
            let mut set = Indexes::default();
            set.extend(indexes);
            assert_eq!(set.to_string(), expect);
            assert_eq!(Indexes::read(expect, 100), set);
        }
        for (text, completions, expect) in
            [("0-9", 5, "0-4"), ("7,8", 5, ""), ("x,1,2-y,4", 5, "1,4"), ("1-3,2-4", 9, "1-4"), ("3-1", 9, "")]
        {
            assert_eq!(Indexes::read(text, completions).to_string(), expect, "{text}");
        }
    }

    #[test]
    fn what_people_write_is_checked() {
        for (text, expect) in [
            ("", Ok(0)),
            ("0,2-4", Ok(4)),
            (
                "1-2-3",
                Err(
                    "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
                ),
            ),
            ("a", Err("cannot convert string to integer for index: \"a\"")),
            ("5", Err("too large index: \"5\"")),
            ("2-2", Err("non-increasing order, previous: 2, current: 2")),
            ("3,1", Err("non-increasing order, previous: 3, current: 1")),
        ] {
            assert_eq!(Indexes::check(text, 5), expect.map_err(str::to_owned), "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_set(indexes in prop::collection::vec(0u32..60, 0..40), others in prop::collection::vec(0u32..60, 0..9)) {
            let model: BTreeSet<u32> = indexes.iter().copied().collect();
            let (mut set, mut other) = (Indexes::default(), Indexes::default());
            set.extend(indexes);
            other.extend(others.clone());
            prop_assert_eq!(set.total() as usize, model.len());
            prop_assert!((0..70).all(|index| set.contains(index) == model.contains(&index)));
            prop_assert_eq!(Indexes::read(&set.to_string(), 60), set.clone());
            let common = others.iter().filter(|index| model.contains(*index)).min().copied();
            prop_assert_eq!(set.first_common(&other), common);
            let both: BTreeSet<u32> = others.into_iter().filter(|index| model.contains(index)).collect();
            prop_assert_eq!(set.common(&other) as usize, both.len());
        }
    }
}
