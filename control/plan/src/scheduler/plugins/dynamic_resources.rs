//! DynamicResources: devices that pods claim. Nobody allocates them here yet, so a pod that claims any is refused
//! rather than started without.

use crate::scheduler::framework::{
    Attempt, Context, CycleState, Filter, Plugin, PostFilter, Prepared, Reason, Refusal, WayOut,
};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{EventKinds, NodeTable, Row};

struct DynamicResources;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&DynamicResources),
    post_filter: Some(&DynamicResources),
    describe: |_, _| "node(s) cannot allocate resource claims".into(),
    ..Plugin::new("DynamicResources")
};

impl Filter for DynamicResources {
    fn pre_filter(&self, pod: &SchedulingSpec, _: &NodeTable, _: &mut CycleState) -> Result<Prepared, Reason> {
        Ok(if pod.resource_claims { Prepared::PerNode } else { Prepared::Skip })
    }

    fn filter(&self, _: &Context<'_>, _: Row) -> Result<(), Refusal> {
        Err(Refusal::unresolvable(Reason(0)))
    }

    fn events(&self) -> EventKinds {
        EventKinds::default()
    }
}

impl PostFilter for DynamicResources {
    fn post_filter(&self, _: &mut Attempt<'_>) -> WayOut {
        WayOut { text: "no new claims to deallocate".into(), ..WayOut::default() }
    }
}

#[cfg(test)]
mod tests {
    use crate::scheduler::testing::check_filter;

    #[test]
    fn a_pod_that_claims_devices_goes_nowhere() {
        check_filter("none claimed", &super::PLUGIN, "a", "", "", "");
        check_filter("one", &super::PLUGIN, "a", "", "claim=gpu", "a: node(s) cannot allocate resource claims!");
    }
}
