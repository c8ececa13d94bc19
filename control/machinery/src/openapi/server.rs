//! Paths by which the server tells of itself: which groups and versions it has, which build it is, whose tokens it issues.
//!
//! Kinds that come at run time have none: upstream, too, publishes the paths of their objects only.

use std::{collections::BTreeMap, sync::Arc};

use super::operations::{Operation, PathItem, group_word, word};
use crate::ResourceDef;

/// Names of the types of discovery's answers, which are kinds of `v1`.
pub(super) const KINDS: [&str; 4] = ["APIGroup", "APIGroupList", "APIResourceList", "APIVersions"];

const JSON: &str = "application/json";

/// The definition of a type of discovery's answers.
pub(super) fn definition(kind: &str) -> String {
    format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")
}

/// Documents beside those of versions of groups, by the name that the index has for them.
pub(super) fn documents(rows: &[Arc<ResourceDef>]) -> BTreeMap<String, PathItem> {
    let groups = rows.iter().filter(|def| !def.group.is_empty()).map(|def| {
        let (id, tag) = (group_word(&def.group, true), group_word(&def.group, false));
        let (document, answer) = (format!("apis/{}", def.group), Some(definition("APIGroup")));
        (document.clone(), told(&document, &format!("{id}APIGroup"), &tag, "read what a group has", answer, None))
    });
    let versions = |document: &str, id, tag, kind| {
        (document.to_owned(), told(document, id, tag, "read which versions there are", Some(definition(kind)), None))
    };
    let plain = |document: &str, id, tag, description, answer, media| {
        (document.to_owned(), told(document, id, tag, description, answer, Some(media)))
    };
    let build = Some("io.k8s.apimachinery.pkg.version.Info".to_owned());
    groups
        .chain([
            versions("api", "CoreAPIVersions", "core", "APIVersions"),
            versions("apis", "APIVersions", "apis", "APIGroupList"),
            plain("version", "CodeVersion", "version", "read which build this is", build, JSON),
            plain(
                ".well-known/openid-configuration",
                "ServiceAccountIssuerOpenIDConfiguration",
                "WellKnown",
                "read how tokens of service accounts are verified",
                None,
                JSON,
            ),
            plain(
                "openid/v1/jwks",
                "ServiceAccountIssuerOpenIDKeyset",
                "openid",
                "read the public keys of tokens of service accounts",
                None,
                "application/jwk-set+json",
            ),
        ])
        .collect()
}

/// Where the version of this kind's group says what it has.
pub(super) fn version(def: &ResourceDef) -> PathItem {
    let id = format!("{}{}APIResources", group_word(&def.group, true), word(&def.version, true));
    let tag = format!("{}_{}", group_word(&def.group, false), word(&def.version, false));
    let answer = Some(definition("APIResourceList"));
    told(&super::document_name(def), &id, &tag, "read which resources there are", answer, None)
}

/// A path that is read. Without the definition of an `answer` it is text, without a media type of its own it has all.
fn told(
    document: &str,
    id: &str,
    tag: &str,
    description: &str,
    answer: Option<String>,
    only: Option<&'static str>,
) -> PathItem {
    let operation = Operation {
        method: "get",
        action: "get",
        id: format!("get{id}"),
        tag: tag.to_owned(),
        description: description.to_owned(),
        gvk: None,
        query: &[],
        body: None,
        response: answer,
        only,
        built_in: true,
    };
    PathItem { path: format!("/{document}/"), parameters: Vec::new(), operations: vec![operation] }
}
