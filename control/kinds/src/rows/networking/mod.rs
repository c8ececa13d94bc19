//! The kinds of `networking.k8s.io`: how traffic gets in, what may talk to what, and where Services have their
//! addresses from.

pub mod ingress;
mod ingressclass;
mod ipaddress;
mod networkpolicy;
mod servicecidr;

use crate::ResourceDef;

const GROUP: (&str, &str) = ("networking.k8s.io", "v1");

/// The rows of the group.
#[must_use]
pub fn defs() -> Vec<ResourceDef> {
    vec![ingressclass::def(), ingress::def(), ipaddress::def(), networkpolicy::def(), servicecidr::def()]
}
