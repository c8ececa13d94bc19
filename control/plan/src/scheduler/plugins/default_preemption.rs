//! DefaultPreemption: whether other pods' going could make room. It finds no victims: pods are not
//! preempted here, and the account says on how many nodes that would have mattered.

use crate::scheduler::framework::{Diagnosis, Plugin, PostFilter};
use crate::scheduler::pod::PodInfo;

struct DefaultPreemption;

pub(super) static PLUGIN: Plugin = Plugin { post_filter: Some(&DefaultPreemption), ..Plugin::new("DefaultPreemption") };

impl PostFilter for DefaultPreemption {
    fn post_filter(&self, _: &PodInfo, diagnosis: &Diagnosis) -> String {
        let without_victims = diagnosis.nodes - diagnosis.unresolvable;
        let mut reasons: Vec<String> = [
            (without_victims, "No preemption victims found for incoming pod"),
            (diagnosis.unresolvable, "Preemption is not helpful for scheduling"),
        ]
        .into_iter()
        .filter(|(nodes, _)| *nodes > 0)
        .map(|(nodes, reason)| format!("{nodes} {reason}"))
        .collect();
        reasons.sort();
        format!("preemption: 0/{} nodes are available: {}.", diagnosis.nodes, reasons.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::testing::info;

    #[test]
    fn it_tells_nodes_that_could_be_emptied_from_those_that_would_not_do() {
        for (nodes, unresolvable, expect) in [
            (2, 2, "2 Preemption is not helpful for scheduling"),
            (2, 0, "2 No preemption victims found for incoming pod"),
            (11, 1, "1 Preemption is not helpful for scheduling, 10 No preemption victims found for incoming pod"),
        ] {
            let diagnosis = Diagnosis { nodes, unresolvable, ..Diagnosis::default() };
            let got = DefaultPreemption.post_filter(&info("p", ""), &diagnosis);
            assert_eq!(got, format!("preemption: 0/{nodes} nodes are available: {expect}."));
        }
    }
}
