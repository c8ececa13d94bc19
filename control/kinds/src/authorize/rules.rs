//! What rules allow (`plugin/pkg/auth/authorizer/rbac` of upstream), and how they are shown to people.

use std::collections::{BTreeMap, BTreeSet};

use kontiki_machinery::access::{Attributes, Rule};
use kontiki_model::rule::{ALL, has, path_covers};

use crate::field_error::quote;

/// Whether a rule allows what is asked.
pub(super) fn allows(rule: &Rule, asked: &Attributes<'_>) -> bool {
    if !has(&rule.verbs, asked.verb) {
        return false;
    }
    if asked.resource.is_empty() {
        return rule.paths.iter().any(|path| path_covers(path, asked.path));
    }
    has(&rule.groups, asked.group)
        && rule.resources.iter().any(|known| resource_matches(known, asked.resource, asked.subresource))
        && (rule.names.is_empty() || rule.names.iter().any(|name| name == asked.name))
}

/// Whether `resources` of a rule is what is asked for. An empty subresource is the object itself.
fn resource_matches(known: &str, resource: &str, sub: &str) -> bool {
    if known == ALL {
        return true;
    }
    match known.split_once('/') {
        None => sub.is_empty() && known == resource,
        Some((known, known_sub)) => !sub.is_empty() && known_sub == sub && (known == ALL || known == resource),
    }
}

/// Rules of one verb on one thing for people: those that differ by their verbs alone as one, in a fixed order.
pub(crate) fn describe(rules: &[Rule]) -> Vec<String> {
    let mut simple = BTreeMap::<(&str, &str), Vec<String>>::new();
    let mut out = BTreeSet::new();
    for rule in rules {
        match (&rule.groups[..], &rule.resources[..]) {
            ([group], [resource]) if rule.names.is_empty() && rule.paths.is_empty() => {
                simple.entry((group, resource)).or_default().extend(rule.verbs.iter().cloned());
            }
            _ => drop(out.insert(text(rule))),
        }
    }
    out.extend(simple.into_iter().map(|((group, resource), verbs)| {
        let (groups, resources) = (vec![group.to_owned()], vec![resource.to_owned()]);
        text(&Rule { verbs, groups, resources, ..Rule::default() })
    }));
    out.into_iter().collect()
}

fn text(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.paths),
        ("ResourceNames", &rule.names),
        ("Verbs", &rule.verbs),
    ];
    let parts = parts.iter().filter(|(_, list)| !list.is_empty());
    let parts: Vec<String> = parts.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
    format!("{{{}}}", parts.join(", "))
}

/// A list of texts as Go prints it.
pub(crate) fn quoted(list: &[String]) -> String {
    let texts: Vec<String> = list.iter().map(|text| quote(text)).collect();
    format!("[{}]", texts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verbs groups resources names`, or `verbs /path,/path`; lists by comma, `-` is the core group.
    fn rule(text: &str) -> Rule {
        let words: Vec<&str> = text.split_whitespace().collect();
        let list = |at: usize| -> Vec<String> {
            let words = words.get(at).map(|word| word.split(',')).into_iter().flatten();
            words.map(|word| word.trim_matches('-').to_owned()).collect()
        };
        if words[1].starts_with('/') || words.len() == 2 {
            return Rule { verbs: list(0), paths: list(1), ..Rule::default() };
        }
        Rule { verbs: list(0), groups: list(1), resources: list(2), names: list(3), paths: Vec::new() }
    }

    fn asked(text: &str) -> Attributes<'_> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let word = |at: usize| words.get(at).map_or("", |word| word.trim_matches('-'));
        if word(1).starts_with('/') {
            return Attributes { verb: word(0), path: word(1), ..Attributes::default() };
        }
        let (resource, subresource) = word(2).split_once('/').unwrap_or((word(2), ""));
        Attributes { verb: word(0), group: word(1), resource, subresource, name: word(3), ..Attributes::default() }
    }

    #[test]
    fn a_rule_allows_what_it_says() {
        for (held, wanted, expect) in [
            ("get - pods", "get - pods", true),
            ("get - pods", "get - pods x", true),
            ("get - pods", "list - pods", false),
            ("get - pods", "get apps pods", false),
            ("get - pods", "get - pods/log", false),
            ("get - pods/log", "get - pods/log", true),
            ("get - pods/log", "get - pods", false),
            ("get - */log", "get - pods/log", true),
            ("get - */log", "get - pods", false),
            ("get - *", "get - pods/log", true),
            ("* * *", "delete apps deployments", true),
            ("* * *", "get /x", false),
            ("get - pods x,y", "get - pods y", true),
            ("get - pods x,y", "get - pods z", false),
            ("get - pods x,y", "get - pods", false),
            ("get /healthz,/apis/*", "get /apis/apps/v1", true),
            ("get /healthz,/apis/*", "get /apis", false),
            ("get /healthz,/apis/*", "get /healthz/x", false),
            ("get *", "get /anything", true),
            ("get *", "put /anything", false),
        ] {
            assert_eq!(allows(&rule(held), &asked(wanted)), expect, "{held} | {wanted}");
        }
    }

    #[test]
    fn rules_are_shown_in_few_words() {
        for (rules, expect) in [
            (&["get - pods", "list - pods"][..], r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#),
            (&["get - pods x"], r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["x"], Verbs:["get"]}"#),
            (
                &["get /a", "get *"],
                "{NonResourceURLs:[\"*\"], Verbs:[\"get\"]}\n{NonResourceURLs:[\"/a\"], Verbs:[\"get\"]}",
            ),
        ] {
            let rules: Vec<Rule> = rules.iter().map(|text| rule(text)).collect();
            assert_eq!(describe(&rules).join("\n"), expect);
        }
    }
}
