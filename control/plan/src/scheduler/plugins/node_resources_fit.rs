//! NodeResourcesFit: a node must have as much left as the pod asks for; the emptier it would be, the
//! better.

use super::utilization::with_pod;
use crate::scheduler::framework::{Context, CycleState, Filter, MAX_SCORE, Plugin, Prepared, Reason, Refusal, Score};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{EventKinds, NodeTable, Row, Word, lookup};

struct NodeResourcesFit;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&NodeResourcesFit),
    score: Some(&NodeResourcesFit),
    describe,
    ..Plugin::new("NodeResourcesFit")
};

const PODS: Reason = Reason(0);
const CPU: Reason = Reason(1);
const MEMORY: Reason = Reason(2);
const EPHEMERAL_STORAGE: Reason = Reason(3);
/// From here on: the pod's extended resources, in their order.
const SCALARS: u32 = 4;

fn describe(cx: &Context<'_>, reason: Reason) -> String {
    let name = match reason {
        PODS => return "Too many pods".into(),
        CPU => "cpu",
        MEMORY => "memory",
        EPHEMERAL_STORAGE => "ephemeral-storage",
        Reason(number) => {
            let at = number.saturating_sub(SCALARS) as usize;
            cx.pod.requests.scalar.keys().nth(at).map_or("", String::as_str)
        }
    };
    format!("Insufficient {name}")
}

/// The extended resources that the pod asks for.
struct Scalars(Vec<(Reason, Option<Word>, i64)>);

#[derive(Default)]
struct Shortage(Option<Refusal>);

impl Shortage {
    fn add(&mut self, reason: Reason, hopeless: bool) {
        let mut refusal = match self.0.take() {
            Some(refusal) => refusal.and(reason),
            None => Refusal::resolvable(reason),
        };
        refusal.unresolvable |= hopeless;
        self.0 = Some(refusal);
    }

    fn check(&mut self, reason: Reason, ask: i64, have: i64, used: i64) {
        if ask > 0 && ask > have - used {
            self.add(reason, ask > have);
        }
    }
}

impl Filter for NodeResourcesFit {
    fn pre_filter(&self, pod: &SchedulingSpec, nodes: &NodeTable, state: &mut CycleState) -> Result<Prepared, Reason> {
        let numbered = pod.requests.scalar.iter().zip(SCALARS..);
        let asked = numbered.filter(|((_, ask), _)| **ask > 0);
        state.write(Scalars(asked.map(|((name, ask), n)| (Reason(n), nodes.words().get(name), *ask)).collect()));
        Ok(Prepared::PerNode)
    }

    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        let (at, ask, have, used) = (row.index(), &cx.pod.requests, &cx.nodes.allocatable, &cx.nodes.requested);
        let mut shortage = Shortage::default();
        if cx.nodes.pods[at].len() + 1 > cx.nodes.max_pods[at] {
            shortage.add(PODS, false);
        }
        shortage.check(CPU, ask.milli_cpu, have.milli_cpu[at], used.milli_cpu[at]);
        shortage.check(MEMORY, ask.memory, have.memory[at], used.memory[at]);
        shortage.check(
            EPHEMERAL_STORAGE,
            ask.ephemeral_storage,
            have.ephemeral_storage[at],
            used.ephemeral_storage[at],
        );
        let Scalars(scalars) = cx.state.read();
        for (reason, word, ask) in scalars {
            let of = |sums: &[(Word, i64)]| word.and_then(|word| lookup(sums, word)).unwrap_or(0);
            shortage.check(*reason, *ask, of(&have.scalars[at]), of(&used.scalars[at]));
        }
        shortage.0.map_or(Ok(()), Err)
    }

    fn events(&self) -> EventKinds {
        EventKinds::NODE_ADD.or(EventKinds::NODE_ALLOCATABLE).or(EventKinds::POD_DELETE).or(EventKinds::POD_UPDATE)
    }
}

impl Score for NodeResourcesFit {
    fn score(&self, cx: &Context<'_>, row: Row) -> i64 {
        let (cpu, memory) = with_pod(cx, row);
        ((1000 - cpu) + (1000 - memory)) / 2 * MAX_SCORE / 1000
    }
}

#[cfg(test)]
mod tests {
    use crate::scheduler::testing::{check_filter, check_score};

    #[test]
    fn a_node_must_have_what_is_asked_for() {
        for (name, nodes, there, pod, expect) in [
            ("enough", "a cpu=2", "a: cpu=1", "cpu=1", ""),
            ("short for now", "a cpu=2", "a: cpu=1500m", "cpu=1", "a: Insufficient cpu"),
            ("short for ever", "a cpu=2", "", "cpu=3", "a: Insufficient cpu!"),
            ("short of two", "a cpu=2", "", "cpu=3 memory=9Gi", "a: Insufficient cpu + Insufficient memory!"),
            (
                "one of two for ever",
                "a cpu=2",
                "a: cpu=1",
                "cpu=2 memory=9Gi",
                "a: Insufficient cpu + Insufficient memory!",
            ),
            ("nothing asked, nothing needed", "a cpu=1", "a: cpu=2", "", ""),
            ("the number of pods", "a pods=1", "a: cpu=1", "", "a: Too many pods"),
            ("storage", "a", "", "ephemeral-storage=1", "a: Insufficient ephemeral-storage!"),
            ("an extended resource", "a example.com/gpu=2", "a: gpu=1", "gpu=1", ""),
            ("taken", "a example.com/gpu=2", "a: gpu=2", "gpu=1", "a: Insufficient example.com/gpu"),
            ("unknown", "a", "", "gpu=1", "a: Insufficient example.com/gpu!"),
            ("none of it asked", "a", "", "gpu=0", ""),
        ] {
            check_filter(name, &super::PLUGIN, nodes, there, pod, expect);
        }
    }

    #[test]
    fn the_emptier_the_better() {
        for (name, there, expect) in [
            ("both empty", "", [75, 75]),
            ("one half full", "a: cpu=2 memory=4Gi", [25, 75]),
            ("too full", "a: cpu=9 memory=90Gi", [0, 75]),
        ] {
            check_score(name, &super::PLUGIN, "a, b", there, "cpu=1 memory=2Gi", &expect);
        }
    }
}
