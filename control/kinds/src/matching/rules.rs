//! Rules: operations, groups, versions, resources, scope.

use kontiki_machinery::{
    ResourceDef,
    admission::{Operation, Request},
};
use kontiki_model::resource::NAMESPACES;
use serde_json::Value;

use crate::rows::value::{text, texts};

/// What rules look at of a request, whatever form of the resource they name.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    operation: Operation,
    sub: &'a str,
    name: &'a str,
    namespaced: bool,
}

impl<'a> About<'a> {
    /// What a request is about.
    #[must_use]
    pub fn of(request: &'a Request<'_>) -> Self {
        let namespaced = request.namespace.is_some() && request.def.group_resource() != NAMESPACES;
        Self { operation: request.operation, sub: request.sub.unwrap_or_default(), name: request.name, namespaced }
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    operations: Any,
    groups: Any,
    versions: Any,
    /// Resources, and the subresources of each.
    resources: Vec<(Any, Any)>,
    /// Whether what it means has to be namespaced.
    namespaced: Option<bool>,
    /// Names; none: any.
    names: Vec<String>,
}

/// Some words, or any.
#[derive(Clone, Debug)]
enum Any {
    Word,
    Of(Vec<String>),
}

impl Any {
    fn of(words: &[&str]) -> Self {
        if words.contains(&"*") { Self::Word } else { Self::Of(words.iter().map(|word| (*word).to_owned()).collect()) }
    }

    fn has(&self, word: &str) -> bool {
        match self {
            Self::Word => true,
            Self::Of(words) => words.iter().any(|known| known == word),
        }
    }
}

impl Rule {
    /// A `RuleWithOperations` or `NamedRuleWithOperations`.
    #[must_use]
    pub fn of(rule: &Value) -> Self {
        let resource = |text: &&str| {
            let (resource, sub) = text.split_once('/').unwrap_or((text, ""));
            (Any::of(&[resource]), Any::of(&[sub]))
        };
        Self {
            operations: Any::of(&texts(rule, "operations")),
            groups: Any::of(&texts(rule, "apiGroups")),
            versions: Any::of(&texts(rule, "apiVersions")),
            resources: texts(rule, "resources").iter().map(resource).collect(),
            namespaced: match text(rule, "scope") {
                "Namespaced" => Some(true),
                "Cluster" => Some(false),
                _ => None,
            },
            names: texts(rule, "resourceNames").into_iter().map(str::to_owned).collect(),
        }
    }

    /// Whether it means the request as one for `def`.
    #[must_use]
    pub fn names(&self, about: &About<'_>, def: &ResourceDef) -> bool {
        self.operations.has(about.operation.word())
            && self.groups.has(&def.group)
            && self.versions.has(&def.version)
            && self.resources.iter().any(|(resource, sub)| resource.has(&def.plural) && sub.has(about.sub))
            && self.namespaced.is_none_or(|namespaced| namespaced == about.namespaced)
            && (self.names.is_empty() || self.names.iter().any(|name| name == about.name))
    }
}
