//! What differs between two texts, line by line, as a unified diff without names of files.

use std::fmt::Write as _;

/// Lines that are shown around each difference.
const CONTEXT: usize = 3;
/// Pairs of lines that are compared at most: beyond that all of one text goes and all of the other comes.
const MOST_PAIRS: usize = 4 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit {
    Same,
    Gone,
    Come,
}

/// The diff; empty if the texts are equal.
pub fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let edits = edits(&old, &new);
    let mut shown = vec![false; edits.len()];
    for (at, _) in edits.iter().enumerate().filter(|(_, (edit, _))| *edit != Edit::Same) {
        let end = (at + CONTEXT + 1).min(edits.len());
        shown[at.saturating_sub(CONTEXT)..end].fill(true);
    }
    let (mut out, mut at, mut lines) = (String::new(), 0, (0, 0));
    while at < edits.len() {
        let end = (at..edits.len()).find(|next| shown[*next] != shown[at]).unwrap_or(edits.len());
        let hunk = &edits[at..end];
        let count = |other| hunk.iter().filter(|(edit, _)| *edit != other).count();
        let (gone, come) = (count(Edit::Come), count(Edit::Gone));
        if shown[at] {
            // A side without lines is named by the line before it.
            let start = |before: usize, count: usize| if count == 0 { before } else { before + 1 };
            let (from, to) = (start(lines.0, gone), start(lines.1, come));
            let _ = writeln!(out, "@@ -{from},{gone} +{to},{come} @@");
            for (edit, line) in hunk {
                let sign = match edit {
                    Edit::Same => ' ',
                    Edit::Gone => '-',
                    Edit::Come => '+',
                };
                let _ = writeln!(out, "{sign}{line}");
            }
        }
        lines = (lines.0 + gone, lines.1 + come);
        at = end;
    }
    out
}

fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(Edit, &'a str)> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..], &new[head..]);
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let same = |lines: &[&'a str]| lines.iter().map(|line| (Edit::Same, *line)).collect::<Vec<_>>();
    let mut edits = same(&old[..head]);
    edits.extend(middle(&a[..a.len() - tail], &b[..b.len() - tail]));
    edits.extend(same(&a[a.len() - tail..]));
    edits
}

/// Along a longest common subsequence.
fn middle<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<(Edit, &'a str)> {
    let width = b.len() + 1;
    let mut edits = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    if (a.len() + 1).saturating_mul(width) <= MOST_PAIRS {
        // The length of the longest one of what follows each pair.
        let mut longest = vec![0u32; (a.len() + 1) * width];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                longest[i * width + j] = if a[i] == b[j] {
                    longest[(i + 1) * width + j + 1] + 1
                } else {
                    longest[(i + 1) * width + j].max(longest[i * width + j + 1])
                };
            }
        }
        while i < a.len() && j < b.len() {
            if a[i] == b[j] {
                edits.push((Edit::Same, a[i]));
                (i, j) = (i + 1, j + 1);
            } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
                edits.push((Edit::Gone, a[i]));
                i += 1;
            } else {
                edits.push((Edit::Come, b[j]));
                j += 1;
            }
        }
    }
    edits.extend(a[i..].iter().map(|line| (Edit::Gone, *line)));
    edits.extend(b[j..].iter().map(|line| (Edit::Come, *line)));
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown_with_what_is_around_them() {
        let lines = |text: &str| text.split_whitespace().map(|line| format!("{line}\n")).collect::<String>();
        for (name, old, new, expect) in [
            ("equal", "a b c", "a b c", ""),
            ("nothing at all", "", "", ""),
            ("a beginning", "", "a b", "@@ -0,0 +1,2 @@|+a|+b|"),
            ("an end", "a b", "", "@@ -1,2 +0,0 @@|-a|-b|"),
            ("one line", "a b c", "a x c", "@@ -1,3 +1,3 @@| a|-b|+x| c|"),
            ("one more", "a c", "a b c", "@@ -1,2 +1,3 @@| a|+b| c|"),
            ("moved", "a b", "b a", "@@ -1,2 +1,2 @@|-a| b|+a|"),
            ("in the middle", "1 2 3 4 5 x 6 7 8 9", "1 2 3 4 5 y 6 7 8 9", "@@ -3,7 +3,7 @@| 3| 4| 5|-x|+y| 6| 7| 8|"),
            (
                "far apart",
                "x 1 2 3 4 5 6 7 8 y",
                "1 2 3 4 5 6 7 8",
                "@@ -1,4 +1,3 @@|-x| 1| 2| 3|@@ -7,4 +6,3 @@| 6| 7| 8|-y|",
            ),
            ("close together", "x 1 2 y", "1 2", "@@ -1,4 +1,2 @@|-x| 1| 2|-y|"),
        ] {
            assert_eq!(unified(&lines(old), &lines(new)).replace('\n', "|"), expect, "{name}");
        }
    }

    #[test]
    fn what_is_too_much_to_compare_goes_and_comes_as_a_whole() {
        let many = |start: usize| (start..start + 3000).map(|line| format!("{line}\n")).collect::<String>();
        let (old, new) = (many(0), many(1));
        let diff = unified(&old, &new);
        assert_eq!(diff.lines().count(), 1 + 6000);
        assert!(diff.starts_with("@@ -1,3000 +1,3000 @@\n-0\n"));
    }
}
