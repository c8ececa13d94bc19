//! ImageLocality: a node that has the pod's images need not pull them.

use crate::scheduler::framework::{Context, CycleState, MAX_SCORE, Plugin, Prepared, Score};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{NodeTable, Row, Word, lookup};

struct ImageLocality;

pub(super) static PLUGIN: Plugin = Plugin { score: Some(&ImageLocality), ..Plugin::new("ImageLocality") };

const MEGABYTE: i64 = 1024 * 1024;
/// Less is quickly pulled.
const LEAST: i64 = 23 * MEGABYTE;
/// Per container; beyond this nothing else matters.
const MOST: i64 = 1000 * MEGABYTE;

/// The pod's images that are on any node.
struct Images(Vec<Word>);

impl Score for ImageLocality {
    fn pre_score(&self, pod: &SchedulingSpec, nodes: &NodeTable, state: &mut CycleState) -> Prepared {
        let images: Vec<Word> = pod.images.iter().filter_map(|image| nodes.words().get(image)).collect();
        if images.is_empty() {
            return Prepared::Skip;
        }
        state.write(Images(images));
        Prepared::PerNode
    }

    fn score(&self, cx: &Context<'_>, row: Row) -> i64 {
        let Images(images) = cx.state.read();
        let most = MOST * i64::try_from(cx.pod.images.len()).unwrap_or(1).max(1);
        let there: i64 = images.iter().filter_map(|image| lookup(&cx.nodes.images[row.index()], *image)).sum();
        (there.clamp(LEAST, most) - LEAST) * MAX_SCORE / (most - LEAST)
    }
}

#[cfg(test)]
mod tests {
    use crate::scheduler::testing::check_score;

    #[test]
    fn the_more_of_the_image_is_there_the_better() {
        for (name, nodes, expect) in [
            ("nowhere", "a, b", [0, 0]),
            ("somewhere", "a image=image:1000, b", [100, 0]),
            ("a small one", "a image=image:23, b image=image:512", [0, 50]),
            ("another image", "a image=other:1000, b", [0, 0]),
        ] {
            check_score(name, &super::PLUGIN, nodes, "", "", &expect);
        }
    }
}
