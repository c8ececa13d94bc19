use kontiki_model::ObjectKey;
use serde_json::{Value, json};

use super::*;

struct Nothing;

impl Objects for Nothing {
    fn get(&self, _: GroupResource<'_>, _: Option<&str>, _: &str) -> Option<Value> {
        None
    }

    fn list<'a>(&'a self, _: GroupResource<'_>, _: &str) -> Box<dyn Iterator<Item = Value> + 'a> {
        Box::new(std::iter::empty())
    }
}

fn put(rbac: &Rbac, plural: &'static str, namespace: Option<&str>, name: &str, object: Option<&Value>) {
    let key = ObjectKey::new(resource(plural), namespace, name);
    let bytes = object.map(|object| serde_json::to_vec(object).expect("JSON"));
    rbac.changed(&key, bytes.as_deref());
}

fn role(verb: &str, resource: &str) -> Value {
    json!({"rules": [{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]})
}

fn binding(kind: &str, role: &str, subjects: &Value) -> Value {
    json!({"roleRef": {"kind": kind, "name": role}, "subjects": subjects})
}

fn told() -> Rbac {
    let rbac = Rbac::default();
    let users = json!([{"kind": "User", "name": "ann"}, {"kind": "Group", "name": "staff"}]);
    let account = json!([{"kind": "ServiceAccount", "name": "s"}]);
    // Bindings first: the order does not matter.
    put(&rbac, "clusterrolebindings", None, "everywhere", Some(&binding("ClusterRole", "reader", &users)));
    put(&rbac, "rolebindings", Some("a"), "here", Some(&binding("Role", "writer", &account)));
    put(&rbac, "rolebindings", Some("a"), "lost", Some(&binding("Role", "gone", &account)));
    put(&rbac, "clusterroles", None, "reader", Some(&role("get", "pods")));
    put(&rbac, "roles", Some("a"), "writer", Some(&role("update", "pods")));
    rbac
}

fn asked<'a>(verb: &'a str, namespace: &'a str) -> Attributes<'a> {
    Attributes { verb, resource: "pods", namespace, ..Attributes::default() }
}

#[test]
fn bindings_are_found_by_who_asks() {
    let rbac = told();
    let account = "system:serviceaccount:a:s";
    let lost = r#"RBAC: role.rbac.authorization.k8s.io "gone" not found"#;
    let by_user = r#"RBAC: allowed by ClusterRoleBinding "everywhere" of ClusterRole "reader" to User "ann""#;
    let by_group = r#"RBAC: allowed by ClusterRoleBinding "everywhere" of ClusterRole "reader" to Group "staff""#;
    let by_account = r#"RBAC: allowed by RoleBinding "here/a" of Role "writer" to ServiceAccount "s/a""#;
    for (name, groups, verb, namespace, expect, why) in [
        ("ann", &[][..], "get", "", true, by_user),
        ("ann", &[], "get", "b", true, by_user),
        ("ann", &[], "update", "a", false, ""),
        ("bob", &["staff"], "get", "b", true, by_group),
        ("bob", &[], "get", "b", false, ""),
        (account, &[], "update", "a", true, by_account),
        (account, &[], "update", "b", false, ""),
        (account, &[], "update", "", false, ""),
        (account, &[], "delete", "a", false, lost),
    ] {
        let (user, asked) = (User::new(name, groups), asked(verb, namespace));
        let allowed = rbac.authorize(&user, &asked, &Nothing) == Decision::Allow;
        let said = rbac.explain(&user, &asked, &Nothing);
        assert_eq!((allowed, said.as_str()), (expect, why), "{name} {verb} {namespace}");
    }
    let user = User::new(account, &[]);
    assert_eq!((rbac.rules(&user, "a").len(), rbac.rules(&user, "b").len()), (1, 0));
}

#[test]
fn what_is_taken_back_is_gone() {
    let rbac = told();
    let may = |name: &str, verb| rbac.authorize(&User::new(name, &[]), &asked(verb, "a"), &Nothing) == Decision::Allow;
    let other = json!([{"kind": "User", "name": "eve"}]);
    put(&rbac, "clusterrolebindings", None, "everywhere", Some(&binding("ClusterRole", "reader", &other)));
    assert_eq!((may("ann", "get"), may("eve", "get")), (false, true));
    put(&rbac, "clusterroles", None, "reader", Some(&role("list", "pods")));
    assert_eq!((may("eve", "get"), may("eve", "list")), (false, true));
    put(&rbac, "clusterroles", None, "reader", None);
    assert!(!may("eve", "list"));
    put(&rbac, "clusterroles", None, "reader", Some(&role("list", "pods")));
    put(&rbac, "clusterrolebindings", None, "everywhere", None);
    assert!(!may("eve", "list"));
    for (plural, name) in [("rolebindings", "here"), ("rolebindings", "lost"), ("roles", "writer")] {
        put(&rbac, plural, Some("a"), name, None);
    }
    put(&rbac, "clusterroles", None, "reader", None);
    let index = rbac.index();
    assert!(index.is_empty(), "nothing is left of what is gone");
}
