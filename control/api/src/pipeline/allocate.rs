//! What there is only one of. Each claim is a key of its own, put on condition that nobody has it.

use bytes::Bytes;
use kontiki_machinery::allocation::{Claims, Pool};
use kontiki_machinery::{GroupResource, ResourceDef};
use kontiki_model::key;
use kontiki_store::{Compare, Op};
use serde_json::Value;

use crate::Status;
use crate::object::meta_str;
use crate::pipeline::draft::Draft;
use crate::state::Extra;

/// Where claims lie in the store.
const CLAIMS: &str = "/kontiki/";

fn claim_key(claim: &str) -> Bytes {
    format!("{CLAIMS}{claim}").into()
}

/// Gives a valid object what there is only one of.
pub(super) fn run(draft: &mut Draft<'_>) -> Result<(), Status> {
    let Draft { call, old, object, dry_run, extra, state, memo, .. } = draft;
    if call.sub.is_some() {
        return Ok(());
    }
    let strategy = &call.def.strategy;
    let held = old.map(|old| strategy.claims(old)).unwrap_or_default();
    let free = |claim: &str| state.get(&claim_key(claim)).is_none();
    let mut random = || memo.draw(call.api.entropy());
    // One that cannot be read offers nothing.
    let objects = |resource: GroupResource<'_>| -> Vec<Value> {
        let found = state.range(key::prefix(resource, None).as_bytes());
        found.filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
    };
    let mut pool = Pool::new(held, &free, &mut random, *dry_run).seeing(&objects);
    strategy.allocate(object, &mut pool).map_err(|errors| call.invalid(meta_str(object, "name"), &errors))?;
    extra.append(change_hands(&pool.settle(), object));
    Ok(())
}

fn change_hands(Claims { taken, released }: &Claims, object: &Value) -> Extra {
    if taken.is_empty() && released.is_empty() {
        return Extra::default();
    }
    let owner = Bytes::from(format!("{}/{}", meta_str(object, "namespace"), meta_str(object, "name")));
    let taken: Vec<Bytes> = taken.iter().map(|claim| claim_key(claim)).collect();
    let puts = taken.iter().map(|key| Op::put(key.clone(), owner.clone()));
    Extra {
        compares: taken.iter().cloned().map(Compare::absent).collect(),
        along: Vec::new(),
        ops: puts.chain(released.iter().map(|claim| Op::delete(claim_key(claim)))).collect(),
    }
}

/// What a removed object gives back.
pub(crate) fn release(def: &ResourceDef, object: &Value) -> Extra {
    let claims = def.strategy.claims(object);
    Extra {
        compares: Vec::new(),
        along: Vec::new(),
        ops: claims.iter().map(|claim| Op::delete(claim_key(claim))).collect(),
    }
}
