//! Kinds by their names: what is special about one belongs to its row, not to the API that serves every row.

use std::{collections::BTreeSet, path::Path};

use super::sources::{self, Said};

/// Of every object's metadata, whatever kinds there are.
const A_FIELD: &str = "namespace";

/// What the resource table's rows call their kinds, plural and singular.
pub fn names(root: &Path) -> BTreeSet<String> {
    sources::read(root, "control/kinds/src").iter().flat_map(|(_, said)| names_in(said)).collect()
}

/// A row says `("pods", "pod", "Pod")`.
fn names_in(said: &Said) -> impl Iterator<Item = String> {
    let row = |names: &&Vec<String>| matches!(&names[..], [_, one, kind] if *one == kind.to_lowercase() && one != kind);
    said.tuples.iter().filter(row).flatten().filter(|name| *name != A_FIELD).cloned()
}

/// String literals that are a kind's name.
pub fn named<'a>(said: &'a Said, names: &BTreeSet<String>) -> BTreeSet<&'a str> {
    said.strings.iter().filter(|text| names.contains(*text)).map(String::as_str).collect()
}

#[test]
fn a_planted_kind_is_found() {
    let row =
        "fn def() -> ResourceDef { ResourceDef::new((\"\", \"v1\"), (\"pods\", \"pod\", \"Pod\"), SCHEMA, Pods) }";
    let names: BTreeSet<String> = names_in(&Said::of(row)).collect();
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["Pod", "pod", "pods"]);
    let cases: [(&str, &[&str]); 5] = [
        ("fn f() { if def.kind == \"Pod\" {} }", &["Pod"]),
        ("fn f() { matches!(plural, \"pods\" | \"pod\") }", &["pod", "pods"]),
        ("fn f() { json!({\"kind\": \"Pod\"}) }", &["Pod"]),
        ("// \"Pod\"\nfn f() { \"a Pod\"; Pod; }", &[]),
        ("#[cfg(test)] mod tests { const A: &str = \"pods\"; }", &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(named(&Said::of(text), &names), expected.iter().copied().collect(), "{text}");
    }
}
