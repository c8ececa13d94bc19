//! Who serves a group that is not served here, as APIServices say it.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kontiki_machinery::{
    GroupResource,
    delegate::{Delegate, Delegates},
    outcall::{Credentials, Place, Target},
};
use kontiki_model::ObjectKey;
use serde_json::Value;

use crate::rows::value::{get, int, list, num, on, some, text};

const FOLLOWED: &[GroupResource<'static>] =
    &[GroupResource { group: "apiregistration.k8s.io", resource: "apiservices" }];

/// The APIServices that name a service, compiled once for each of their versions.
#[derive(Default)]
pub struct ApiServices {
    by_name: Mutex<BTreeMap<String, Arc<Delegate>>>,
    /// All of these, in order.
    sorted: RwLock<Arc<[Arc<Delegate>]>>,
}

impl Delegates for ApiServices {
    fn follows(&self) -> &'static [GroupResource<'static>] {
        FOLLOWED
    }

    fn changed(&self, key: &ObjectKey, object: Option<&[u8]>) {
        let object: Option<Value> = object.and_then(|stored| serde_json::from_slice(stored).ok());
        let delegate = object.as_ref().and_then(delegate);
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        match delegate {
            Some(delegate) => drop(by_name.insert(key.name.clone(), Arc::new(delegate))),
            None => drop(by_name.remove(&key.name)),
        }
        *self.sorted.write().unwrap_or_else(PoisonError::into_inner) = sorted(by_name.values().cloned().collect());
    }

    fn find(&self, group: &str, version: &str) -> Option<Arc<Delegate>> {
        self.all().iter().find(|delegate| delegate.group == group && delegate.version == version).cloned()
    }

    fn all(&self) -> Arc<[Arc<Delegate>]> {
        self.sorted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A group stands where the highest of its versions wants it.
fn sorted(mut all: Vec<Arc<Delegate>>) -> Arc<[Arc<Delegate>]> {
    let mut groups = BTreeMap::<String, i64>::new();
    for delegate in &all {
        let priority = groups.entry(delegate.group.clone()).or_default();
        *priority = delegate.group_priority.max(*priority);
    }
    all.sort_by_cached_key(|delegate| {
        let group = (Reverse(groups[&delegate.group]), delegate.group.clone());
        (group, Reverse(delegate.version_priority), delegate.version.clone())
    });
    all.into()
}

/// Who serves what an APIService is about; `None`: we do.
fn delegate(object: &Value) -> Option<Delegate> {
    let spec = get(object, "spec");
    let service = some(spec, "service")?;
    let available = list(get(object, "status"), "conditions").iter().find(|c| text(c, "type") == "Available");
    Some(Delegate {
        group: text(spec, "group").to_owned(),
        version: text(spec, "version").to_owned(),
        target: Target {
            place: Place::Service {
                namespace: text(service, "namespace").to_owned(),
                name: text(service, "name").to_owned(),
                port: int(service, "port").and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
                path: String::new(),
            },
            ca_bundle: STANDARD.decode(text(spec, "caBundle")).unwrap_or_default(),
            credentials: Credentials::default(),
        },
        insecure: on(spec, "insecureSkipTLSVerify"),
        available: available.is_some_and(|condition| text(condition, "status") == "True"),
        group_priority: num(spec, "groupPriorityMinimum"),
        version_priority: num(spec, "versionPriority"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(services: &ApiServices, version: &str, group: &str, spec: Value) {
        let mut object = json!({"spec": spec});
        object["spec"]["group"] = group.into();
        object["spec"]["version"] = version.into();
        let key = ObjectKey::new(FOLLOWED[0], None, &format!("{version}.{group}"));
        services.changed(&key, Some(object.to_string().as_bytes()));
    }

    #[test]
    fn versions_stand_as_their_priorities_say() {
        let services = ApiServices::default();
        let with = |group: i64, version: i64| json!({"service": {"namespace": "n", "name": "s"}, "groupPriorityMinimum": group, "versionPriority": version});
        put(&services, "v1", "b.io", with(100, 1));
        put(&services, "v2", "b.io", with(10, 2));
        put(&services, "v1", "a.io", with(50, 1));
        put(&services, "v1", "c.io", with(100, 1));
        put(&services, "v1", "here.io", json!({"groupPriorityMinimum": 100, "versionPriority": 1}));
        let order = || {
            let all = services.all();
            all.iter().map(|delegate| format!("{}/{}", delegate.group, delegate.version)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(order(), "b.io/v2 b.io/v1 c.io/v1 a.io/v1");
        assert!(services.find("here.io", "v1").is_none(), "served here");
        assert_eq!(services.find("a.io", "v1").expect("known").target.url(), "https://s.n.svc:443/");
        services.changed(&ObjectKey::new(FOLLOWED[0], None, "v1.c.io"), None);
        put(&services, "v1", "b.io", json!({"groupPriorityMinimum": 1, "versionPriority": 1}));
        assert_eq!(order(), "a.io/v1 b.io/v2");
    }

    #[test]
    fn one_is_available_once_that_was_seen() {
        for (conditions, expect) in [
            (json!([]), false),
            (json!([{"type": "Available", "status": "True"}]), true),
            (json!([{"type": "Available", "status": "False"}]), false),
        ] {
            let object = json!({"spec": {"service": {}}, "status": {"conditions": conditions}});
            assert_eq!(delegate(&object).map(|delegate| delegate.available), Some(expect), "{conditions}");
        }
    }
}
