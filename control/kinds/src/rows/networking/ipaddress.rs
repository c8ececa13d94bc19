//! IPAddresses: which Service (or what else) has an address of Services (KEP-1880).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::cells::{self, Cell, NONE};
use super::super::service::ip_claim;
use super::super::value::{at, get, some, text};
use super::super::vocab::{self, Errors};
use crate::allocation::Pool;
use crate::resource::names;
use crate::{Bad, FieldError, GroupResource, Path, ResourceDef, Scope, Strategy, meta};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        short: names(&["ip"]),
        ..ResourceDef::new(
            super::GROUP,
            ("ipaddresses", "ipaddress", "IPAddress"),
            "io.k8s.api.networking.v1.IPAddress",
            IpAddresses,
        )
    }
}

const ADDRESSES: GroupResource<'static> = GroupResource { group: super::GROUP.0, resource: "ipaddresses" };
/// Whom an address was given out by, and the name of who does so for Services.
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";

struct IpAddresses;

fn label<'a>(obj: &'a Value, key: &str) -> Option<&'a str> {
    at(obj, &["metadata", "labels"]).get(key)?.as_str()
}

impl Strategy for IpAddresses {
    /// The name is the address.
    fn name_errors(&self, name: &str, _prefix: bool) -> Vec<String> {
        vocab::canonical_ip_errors(name)
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let path = Path::new("spec").child("parentRef");
        let Some(parent) = some(get(obj, "spec"), "parentRef") else {
            return vec![FieldError::required(path, "")];
        };
        let group = text(parent, "group");
        if !group.is_empty() {
            vocab::subdomain(&mut errs, &path.child("group"), group);
        }
        for field in ["resource", "name", "namespace"] {
            match text(parent, field) {
                "" if field == "namespace" => {}
                "" => errs.push(FieldError::required(path.child(field), "")),
                name => vocab::path_segment(&mut errs, &path.child(field), name),
            }
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix));
        errs.extend(self.validate(new));
        let parent = |obj| at(obj, &["spec", "parentRef"]);
        if parent(new) != parent(old) {
            errs.push(FieldError::invalid("spec.parentRef", shown(parent(new)), vocab::IMMUTABLE));
        }
        errs
    }

    /// An address that somebody else gave out is none that a Service can get. Those of Services are theirs already.
    fn claims(&self, obj: &Value) -> BTreeSet<String> {
        let shown = label(obj, MANAGED_BY) == Some(MANAGER);
        let name = text(get(obj, "metadata"), "name");
        if shown { BTreeSet::new() } else { BTreeSet::from([ip_claim(name)]) }
    }

    fn allocate(&self, obj: &mut Value, pool: &mut Pool<'_>) -> Result<(), Vec<FieldError>> {
        for claim in self.claims(obj) {
            let name = get(get(obj, "metadata"), "name");
            let is_it = |known: &Value| get(get(known, "metadata"), "name") == name;
            // Whoever makes an object that is there is told that it is.
            if !pool.is_free(&claim) && !pool.objects(ADDRESSES).iter().any(is_it) {
                let message = "provided IP is already allocated";
                return Err(vec![FieldError::invalid("metadata.name", name.clone(), message)]);
            }
            pool.take(claim);
        }
        Ok(())
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let parent = some(get(obj, "spec"), "parentRef").map_or_else(|| NONE.to_owned(), parent_name);
        vec![cells::name(obj), cells::of(parent)]
    }
}

fn parent_name(parent: &Value) -> String {
    let mut out = text(parent, "resource").to_lowercase();
    let group = text(parent, "group");
    if !group.is_empty() {
        out.push_str(&format!(".{}", group.to_lowercase()));
    }
    for field in ["namespace", "name"] {
        let part = text(parent, field);
        if field == "name" || !part.is_empty() {
            out.push_str(&format!("/{part}"));
        }
    }
    out
}

/// A parent as upstream's internal type prints it.
fn shown(parent: &Value) -> Bad {
    if parent.is_null() {
        return Bad::Json(Value::Null);
    }
    let field = |name: &str| json!(text(parent, name));
    Bad::Raw(format!(
        "{{\"Group\":{},\"Resource\":{},\"Namespace\":{},\"Name\":{}}}",
        field("group"),
        field("resource"),
        field("namespace"),
        field("name"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_canonical_addresses() {
        for (name, expect) in [
            ("10.96.0.1", ""),
            ("2001:db8::ffff", ""),
            ("2001:DB8::ffff", "must be in canonical form (\"2001:db8::ffff\")"),
            ("010.0.0.1", "must not have leading 0s"),
            ("::ffff:10.0.0.1", "must not be an IPv4-mapped IPv6 address"),
            ("a", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ] {
            assert_eq!(IpAddresses.name_errors(name, false).join("|"), expect, "{name}");
        }
    }

    #[test]
    fn a_parent_stays_and_is_shown() {
        let address = |name: &str| {
            json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef":
            {"resource": "services", "namespace": "a", "name": name}}})
        };
        assert_eq!(parent_name(&address("x")["spec"]["parentRef"]), "services/a/x");
        let errs = IpAddresses.validate_update(&address("x"), &address("y"), None);
        let found: Vec<String> = errs.iter().map(ToString::to_string).collect();
        let expect = r#"spec.parentRef: Invalid value: {"Group":"","Resource":"services","Namespace":"a","Name":"x"}: field is immutable"#;
        assert_eq!(found, [expect]);
    }
}
