//! Runs the steps of admission and the allocation of what there is only one of, against a snapshot. What they relied
//! on goes into the transaction as a compare.

use bytes::Bytes;
use jiff::Timestamp;
use kontiki_machinery::admission::{Guard, Lookup, Request};
use kontiki_machinery::allocation::{Claims, Pool};
use kontiki_machinery::{GroupResource, ResourceDef};
use kontiki_model::{ObjectKey, key};
use kontiki_store::{Compare, Op, Snapshot};
use serde_json::Value;

use crate::Status;
use crate::call::Call;
use crate::object::meta_str;
use crate::state::Extra;

/// Where claims lie in the store.
const CLAIMS: &str = "/kontiki/";

/// A snapshot, and what was relied on in it.
struct Seen<'a> {
    state: &'a Snapshot,
    compares: Vec<Compare>,
}

impl Lookup for Seen<'_> {
    fn object(
        &mut self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        name: &str,
        guard: Guard,
    ) -> Result<Option<Value>, Status> {
        let key = ObjectKey::new(resource, namespace, name).encode();
        let Some(entry) = self.state.get(&key) else { return Ok(None) };
        self.compares.push(match guard {
            Guard::Present => Compare::present(key),
            Guard::Unchanged => Compare::unchanged(key, entry.mod_revision),
        });
        serde_json::from_slice(&entry.value).map(Some).map_err(Status::internal)
    }

    fn objects(&self, resource: GroupResource<'_>) -> Result<Vec<Value>, Status> {
        let found = self.state.range(key::prefix(resource, None).as_bytes());
        found.map(|entry| serde_json::from_slice(&entry.value).map_err(Status::internal)).collect()
    }

    fn random(&mut self) -> u64 {
        rand::random()
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Runs before the object is prepared and validated. May change it.
pub(crate) fn admit(call: &Call, state: &Snapshot, old: Option<&Value>, object: &mut Value) -> Result<Extra, Status> {
    let request = Request { def: &call.def, sub: call.sub_name(), namespace: call.namespace(), old };
    let mut seen = Seen { state, compares: Vec::new() };
    for step in &call.api.inner.config.admission {
        step.admit(&request, object, &mut seen)?;
    }
    Ok(Extra { compares: seen.compares, ops: Vec::new() })
}

fn claim_key(claim: &str) -> Bytes {
    format!("{CLAIMS}{claim}").into()
}

/// Runs on a valid object: gives it what there is only one of.
pub(crate) fn allocate(
    call: &Call,
    state: &Snapshot,
    old: Option<&Value>,
    object: &mut Value,
) -> Result<Extra, Status> {
    if call.sub.is_some() {
        return Ok(Extra::default());
    }
    let strategy = &call.def.strategy;
    let held = old.map(|old| strategy.claims(old)).unwrap_or_default();
    let free = |claim: &str| state.get(&claim_key(claim)).is_none();
    let mut random = || rand::random();
    let mut pool = Pool::new(held, &free, &mut random, call.params.raw("dryRun").is_some());
    strategy.allocate(object, &mut pool).map_err(|errors| call.invalid(meta_str(object, "name"), &errors))?;
    let Claims { taken, released } = pool.settle();
    let owner = Bytes::from(format!("{}/{}", meta_str(object, "namespace"), meta_str(object, "name")));
    let taken: Vec<Bytes> = taken.iter().map(|claim| claim_key(claim)).collect();
    let puts = taken.iter().map(|key| Op::put(key.clone(), owner.clone()));
    Ok(Extra {
        compares: taken.iter().cloned().map(Compare::absent).collect(),
        ops: puts.chain(released.iter().map(|claim| Op::delete(claim_key(claim)))).collect(),
    })
}

/// What a removed object gives back.
pub(crate) fn release(def: &ResourceDef, object: &Value) -> Extra {
    let claims = def.strategy.claims(object);
    Extra { compares: Vec::new(), ops: claims.iter().map(|claim| Op::delete(claim_key(claim))).collect() }
}
