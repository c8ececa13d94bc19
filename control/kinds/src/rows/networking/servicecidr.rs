//! ServiceCIDRs: where Services have their addresses from (KEP-1880).

use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::cells::{self, Cell};
use super::super::value::{copy, get, keep_meta, set, texts};
use super::super::vocab::{self, Errors};
use crate::apply::Counted;
use crate::resource::status_alone;
use crate::{Bad, FieldError, Path, ResourceDef, Scope, Strategy, Verbs};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        ..ResourceDef::new(
            super::GROUP,
            ("servicecidrs", "servicecidr", "ServiceCIDR"),
            "io.k8s.api.networking.v1.ServiceCIDR",
            ServiceCidrs,
        )
    }
    .with_part("status", Verbs::PART)
}

struct ServiceCidrs;

impl Strategy for ServiceCidrs {
    fn counted(&self, sub: Option<&str>) -> Option<Counted> {
        status_alone(sub)
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            copy(new, old, "spec");
            keep_meta(new, old);
        } else {
            copy(new, old, "status");
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, &Path::new("spec").child("cidrs"), &texts(get(obj, "spec"), "cidrs"));
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") {
            return Errors::new();
        }
        let path = Path::new("spec").child("cidrs");
        let (now, before) = (texts(get(new, "spec"), "cidrs"), texts(get(old, "spec"), "cidrs"));
        let mut errs = Errors::new();
        let second = (before.len(), now.len()) == (1, 2);
        if now.len() != before.len() && !second {
            errs.push(FieldError::invalid(path, json!(now), vocab::IMMUTABLE));
            return errs;
        }
        for (i, (now, _)) in now.iter().zip(&before).enumerate().filter(|(_, (now, before))| now != before) {
            errs.push(FieldError::invalid(path.index(i), *now, vocab::IMMUTABLE));
        }
        if second {
            check(&mut errs, &path, &now);
        }
        errs
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(texts(get(obj, "spec"), "cidrs").join(",")), cells::age(obj)]
    }
}

fn check(errs: &mut Errors, path: &Path, blocks: &[&str]) {
    if blocks.is_empty() {
        errs.push(FieldError::required(path, "at least one CIDR required"));
        return;
    }
    if blocks.len() > 2 {
        let shown = Bad::Raw(format!("{{\"CIDRs\":{}}}", json!(blocks)));
        errs.push(FieldError::invalid(path, shown, "may only hold up to 2 values"));
        return;
    }
    for (i, block) in blocks.iter().enumerate() {
        vocab::canonical_cidr(errs, &path.index(i), block);
    }
    let families: Vec<bool> =
        blocks.iter().filter_map(|block| block.parse().ok()).map(|net| matches!(net, IpNet::V4(_))).collect();
    if let [first, second] = families[..]
        && first == second
    {
        let message = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errs.push(FieldError::invalid(path, json!(blocks), message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_family_may_come_and_nothing_else_changes() {
        let object = |blocks: &[&str]| json!({"spec": {"cidrs": blocks}});
        const TWO: &[&str] = &["10.0.0.0/24", "2001:db8::/64"];
        for (old, new, expect) in [
            (TWO, TWO, vec![]),
            (&TWO[..1], TWO, vec![]),
            (TWO, &TWO[..1], vec!["spec.cidrs"]),
            (&TWO[..1], &["10.0.1.0/24"], vec!["spec.cidrs[0]"]),
            (&TWO[..1], &["10.0.0.0/24", "10.0.1.0/24"], vec!["spec.cidrs"]),
            (&TWO[..1], &["10.0.0.0/24", "2001:DB8::/64"], vec!["spec.cidrs[1]"]),
        ] {
            let errs = ServiceCidrs.validate_update(&object(new), &object(old), None);
            assert_eq!(errs.iter().map(|error| error.path.as_str()).collect::<Vec<_>>(), expect, "{old:?} {new:?}");
        }
        assert_eq!(ServiceCidrs.validate(&object(&["10.0.0.0/24", "a", "b"])).len(), 1);
        assert_eq!(ServiceCidrs.validate(&object(&[])).len(), 1);
    }
}
