//! Rules of roles (`PolicyRule` of rbac.authorization.k8s.io/v1), and whether some of them are covered by others
//! (`component-helpers/auth/rbac/validation` of upstream).

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;

/// Stands for every verb, group, resource or path.
pub const ALL: &str = "*";

/// What a role allows: verbs on resources, or on paths outside of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// API groups.
    pub groups: Vec<String>,
    /// `resource`, `resource/subresource` or `*/subresource`.
    pub resources: Vec<String>,
    /// Names of objects; none is all.
    pub names: Vec<String>,
    /// Paths; a `*` at the end stands for any rest.
    pub paths: Vec<String>,
}

impl From<&PolicyRule> for Rule {
    fn from(rule: &PolicyRule) -> Self {
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        Self {
            verbs: rule.verbs.clone(),
            groups: list(&rule.api_groups),
            resources: list(&rule.resources),
            names: list(&rule.resource_names),
            paths: list(&rule.non_resource_urls),
        }
    }
}

impl From<Rule> for PolicyRule {
    fn from(rule: Rule) -> Self {
        let list = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
        Self {
            verbs: rule.verbs,
            api_groups: list(rule.groups),
            resources: list(rule.resources),
            resource_names: list(rule.names),
            non_resource_urls: list(rule.paths),
        }
    }
}

impl Rule {
    /// Every verb on everything: on resources, and on paths.
    #[must_use]
    pub fn everything() -> [Self; 2] {
        let all = || vec![ALL.to_owned()];
        [
            Self { verbs: all(), groups: all(), resources: all(), ..Self::default() },
            Self { verbs: all(), paths: all(), ..Self::default() },
        ]
    }

    /// The rules of a role, as it is stored.
    #[must_use]
    pub fn list(role: &Value) -> Vec<Self> {
        role["rules"].as_array().into_iter().flatten().map(Self::of).collect()
    }

    fn of(rule: &Value) -> Self {
        let texts = |field: &str| {
            rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            paths: texts("nonResourceURLs"),
        }
    }

    /// This rule as rules of one verb on one thing.
    fn single(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut out = Vec::new();
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let base =
                        Self { verbs: one(verb), groups: one(group), resources: one(resource), ..Self::default() };
                    if self.names.is_empty() {
                        out.push(base);
                    } else {
                        out.extend(self.names.iter().map(|name| Self { names: one(name), ..base.clone() }));
                    }
                }
            }
        }
        for path in &self.paths {
            out.extend(self.verbs.iter().map(|verb| Self { verbs: one(verb), paths: one(path), ..Self::default() }));
        }
        out
    }

    /// Whether it gives what `one`, a rule of one verb on one thing, does.
    fn covers(&self, one: &Self) -> bool {
        let all = |held: &[String], wanted: &[String]| wanted.iter().all(|wanted| has(held, wanted));
        let resource = |wanted: &String| {
            let sub = wanted.split_once('/').map(|(_, sub)| sub);
            let any = |known: &String| known.strip_prefix("*/").is_some_and(|known| sub == Some(known));
            has(&self.resources, wanted) || self.resources.iter().any(any)
        };
        let path = |wanted: &String| self.paths.iter().any(|known| path_covers(known, wanted));
        let names =
            self.names.is_empty() || (!one.names.is_empty() && one.names.iter().all(|n| self.names.contains(n)));
        all(&self.verbs, &one.verbs)
            && all(&self.groups, &one.groups)
            && one.resources.iter().all(resource)
            && one.paths.iter().all(path)
            && names
    }
}

/// Whether a list has `wanted`, or stands for all.
#[must_use]
pub fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|known| known == ALL || known == wanted)
}

/// Whether a path of a rule stands for `path`.
#[must_use]
pub fn path_covers(known: &str, path: &str) -> bool {
    known == path || known.strip_suffix('*').is_some_and(|start| path.starts_with(start.trim_end_matches('*')))
}

/// What `wanted` gives and `held` does not, each as a rule of one verb on one thing.
#[must_use]
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(Rule::single).filter(|one| !held.iter().any(|rule| rule.covers(one))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verbs groups resources names`, or `verbs paths`; lists by comma, `-` is the core group.
    fn rule(text: &str) -> Rule {
        let words: Vec<&str> = text.split_whitespace().collect();
        let list = |at: usize| -> Vec<String> {
            let words = words.get(at).map(|word| word.split(',')).into_iter().flatten();
            words.map(|word| word.trim_matches('-').to_owned()).collect()
        };
        if words.len() == 2 {
            return Rule { verbs: list(0), paths: list(1), ..Rule::default() };
        }
        Rule { verbs: list(0), groups: list(1), resources: list(2), names: list(3), paths: Vec::new() }
    }

    #[test]
    fn rules_cover_others_or_leave_something_out() {
        for (held, wanted, expect) in [
            ("get - pods", "get - pods", ""),
            ("* * *", "get,list - pods,pods/log x", ""),
            ("get - pods", "get,list - pods", "list - pods"),
            ("get - pods x", "get - pods", "get - pods"),
            ("get - pods x", "get - pods x", ""),
            ("get - pods x", "get - pods x,y", "get - pods y"),
            ("get - */log", "get - pods/log", ""),
            ("get - */log", "get - pods", "get - pods"),
            ("get /a/*", "get /a/b", ""),
            ("get /a/*", "get /a", "get /a"),
            ("get *", "get /a", ""),
            ("get - pods", "* - *", "* - *"),
            ("* * *", "get /a", "get /a"),
        ] {
            let expect: Vec<Rule> = Some(expect).filter(|text| !text.is_empty()).map(rule).into_iter().collect();
            assert_eq!(missing(&[rule(held)], &[rule(wanted)]), expect, "{held} | {wanted}");
        }
    }
}
