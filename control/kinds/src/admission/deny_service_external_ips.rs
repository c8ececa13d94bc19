//! Services take no external addresses beside those that they have (CVE-2020-8554).

use kontiki_machinery::admission::{Lookup, Request, Step};
use kontiki_model::quota::SERVICES;
use serde_json::Value;

use crate::{
    Status,
    rows::value::{get, texts},
};

pub(super) struct DenyServiceExternalIps;

impl Step for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn validate(&self, request: &Request<'_>, service: &Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        if request.is(SERVICES) && adds(service, request.old) {
            return Err(request.forbid(service, "Use of external IPs is denied by admission control"));
        }
        Ok(())
    }
}

fn adds(service: &Value, old: Option<&Value>) -> bool {
    let before = old.map(|old| texts(get(old, "spec"), "externalIPs")).unwrap_or_default();
    texts(get(service, "spec"), "externalIPs").iter().any(|address| !before.contains(address))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_new_addresses_are_denied() {
        let with = |addresses: &[&str]| json!({"spec": {"externalIPs": addresses}});
        for (old, new, expect) in [
            (None, with(&[]), false),
            (None, with(&["1.1.1.1"]), true),
            (Some(with(&["1.1.1.1", "2.2.2.2"])), with(&["2.2.2.2"]), false),
            (Some(with(&["1.1.1.1"])), with(&["2.2.2.2"]), true),
        ] {
            assert_eq!(adds(&new, old.as_ref()), expect, "{old:?} {new}");
        }
    }
}
