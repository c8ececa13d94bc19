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
        let document = format!("apis/{}", def.group);
        let item = told(&document, &format!("{id}APIGroup"), tag, "read what a group has", Some("APIGroup"));
        (document, item)
    });
    let versions = |document: &str, id, tag: &str, kind| {
        (document.to_owned(), told(document, id, tag.into(), "read which versions there are", Some(kind)))
    };
    let plain = |document: &str, id, tag: &str, description, media, response: Option<&str>| {
        let mut item = told(document, id, tag.into(), description, None);
        for op in &mut item.operations {
            (op.only, op.response) = (Some(media), response.map(str::to_owned));
        }
        (document.to_owned(), item)
    };
    let info = Some("io.k8s.apimachinery.pkg.version.Info");
    groups
        .chain([
            versions("api", "CoreAPIVersions", "core", "APIVersions"),
            versions("apis", "APIVersions", "apis", "APIGroupList"),
            plain("version", "CodeVersion", "version", "read which build this is", JSON, info),
            plain(
                ".well-known/openid-configuration",
                "ServiceAccountIssuerOpenIDConfiguration",
                "WellKnown",
                "read how tokens of service accounts are verified",
                JSON,
                None,
            ),
            plain(
                "openid/v1/jwks",
                "ServiceAccountIssuerOpenIDKeyset",
                "openid",
                "read the public keys of tokens of service accounts",
                "application/jwk-set+json",
                None,
            ),
        ])
        .collect()
}

/// Where the version of this kind's group says what it has.
pub(super) fn version(def: &ResourceDef) -> PathItem {
    let id = format!("{}{}APIResources", group_word(&def.group, true), word(&def.version, true));
    let tag = format!("{}_{}", group_word(&def.group, false), word(&def.version, false));
    told(&super::document_name(def), &id, tag, "read which resources there are", Some("APIResourceList"))
}

/// A path that is read, and answers with a kind.
fn told(document: &str, id: &str, tag: String, description: &str, kind: Option<&str>) -> PathItem {
    let operation = Operation {
        method: "get",
        action: "get",
        id: format!("get{id}"),
        tag,
        description: description.to_owned(),
        gvk: None,
        query: &[],
        body: None,
        response: kind.map(definition),
        only: None,
        built_in: true,
    };
    PathItem { path: format!("/{document}/"), parameters: Vec::new(), operations: vec![operation] }
}
