use kontiki_model::rollout::{PREFIX, STATE, is_kept};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{deployment, sets, sizes, view};
use super::*;
use crate::object::{after_seconds, annotation, time};
use crate::testing::{Cluster, NOW};
use crate::workloads::replicas;

/// Gives a deployment settings: `steps=50%; pause=5s`.
fn ask(mut deployment: Deployment, text: &str) -> Deployment {
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    let pairs = text.split("; ").filter_map(|pair| pair.split_once('='));
    annotations.extend(pairs.map(|(key, value)| (format!("{PREFIX}{key}"), value.to_owned())));
    deployment
}

fn canary(want: i32, limits: &str, text: &str) -> Deployment {
    ask(deployment(want, limits, "z"), text)
}

/// A time as seconds from now, if it is one.
fn from_now(text: &str) -> String {
    match text.parse::<Timestamp>() {
        Ok(at) => format!("{:+}", at.as_second() - NOW.as_second()),
        Err(_) => text.to_owned(),
    }
}

/// `name:size/available`, and what is kept of it: `@step=1,since=-5`. Times are seconds from now.
fn kept_sets(deployment: &Deployment, text: &str) -> Vec<Arc<ReplicaSet>> {
    let words: Vec<(&str, &str)> =
        text.split_whitespace().map(|word| word.split_once('@').unwrap_or((word, ""))).collect();
    let plain: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let mut sets = sets(deployment, &plain.join(" "));
    for (set, (_, kept)) in sets.iter_mut().zip(words) {
        let annotations = Arc::make_mut(set).metadata.annotations.get_or_insert_default();
        for (key, value) in kept.split(',').filter_map(|pair| pair.split_once('=')) {
            let at = ["since", "reached", "judged"].contains(&key).then(|| value.parse().unwrap());
            let value = at.map_or(value.to_owned(), |at| time(after_seconds(NOW, at)).0.to_string());
            annotations.insert(format!("{PREFIX}{key}"), value);
        }
    }
    sets
}

/// What a plan changes of what is kept of sets: `z.step=2 z.reached=-`.
fn kept(plan: &Plan) -> String {
    let mut out = Vec::new();
    for action in &plan.actions {
        let (name, object) = match action {
            Action::Patch(patch) if patch.key.resource == "replicasets" => (patch.key.name.as_str(), &patch.body),
            Action::Create { object, .. } => ("+", object),
            _ => continue,
        };
        for (key, value) in object["metadata"]["annotations"].as_object().into_iter().flatten() {
            if is_kept(key) {
                let value = value.as_str().map_or("-".to_owned(), from_now);
                out.push(format!("{name}.{}={value}", &key[PREFIX.len()..]));
            }
        }
    }
    out.join(" ")
}

fn state(plan: &Plan) -> Option<String> {
    plan.actions.iter().find_map(|action| match action {
        Action::Patch(patch) if patch.subresource.is_some() => {
            patch.body["metadata"]["annotations"][STATE].as_str().map(str::to_owned)
        }
        _ => None,
    })
}

#[test]
fn a_canary_goes_step_by_step() {
    for (name, have, expect, keeps) in [
        ("it begins with a share", "a:4/4", "+1", "a.verdict=passed +.since=+0 +.step=1"),
        ("pods that are not ready hold it", "a:4/4@verdict=passed z:1/0@step=1,since=-5", "", ""),
        ("a ready pod lets an old one go", "a:4/4@verdict=passed z:1/1@step=1,since=-5", "a=3", ""),
        ("the step is reached", "a:3/3@verdict=passed z:1/1@step=1,since=-5", "", "z.reached=+0"),
        ("it lasts", "a:3/3@verdict=passed z:1/1@step=1,since=-65,reached=-59", "", ""),
        (
            "pods that are lost begin it anew",
            "a:3/3@verdict=passed z:1/0@step=1,since=-65,reached=-59",
            "",
            "z.reached=-",
        ),
        (
            "the next one",
            "a:3/3@verdict=passed z:1/1@step=1,since=-65,reached=-60",
            "z=2",
            "z.reached=- z.since=+0 z.step=2",
        ),
        (
            "after the last all the rest",
            "a:2/2@verdict=passed z:2/2@step=2,since=-65,reached=-60",
            "z=3",
            "z.reached=- z.since=+0 z.step=3",
        ),
        ("which goes as any rollout", "a:2/2@verdict=passed z:3/3@step=3,since=-5", "a=1", ""),
        ("the end", "a:0/0@verdict=passed z:4/4@step=3,since=-5", "", "z.since=- z.step=- z.verdict=passed"),
        ("what has passed goes at once", "a:4/4@verdict=passed z:0/0@verdict=passed", "z=1", ""),
        ("and beyond the first step", "a:3/3@verdict=passed z:1/1@verdict=passed", "z=2", ""),
        ("nothing else runs", "", "+4", ""),
        ("nothing else has pods", "a:0/0 z:2/2", "z=4", ""),
        ("in the middle it begins where it is", "a:3/3 z:2/2", "a=2", "a.verdict=passed z.since=+0 z.step=2"),
        (
            "what did not end goes first",
            "a:3/3@verdict=passed b:1/1@step=1,since=-5 z:1/1@step=1,since=-5",
            "b=0",
            "b.since=- b.step=-",
        ),
    ] {
        let deployment = canary(4, "1,0", "steps=25%, 50%");
        let plan = plan(&view(&deployment, &kept_sets(&deployment, have)), NOW);
        assert_eq!((sizes(&plan).as_str(), kept(&plan).as_str()), (expect, keeps), "{name}");
    }
}

#[test]
fn a_step_that_takes_too_long_is_refused() {
    let reason = "at step 1 of 3, it did not pass within 600 s; its pods were not all available";
    for (name, have, expect, keeps) in [
        ("not yet", "a:3/3@verdict=passed z:1/0@step=1,since=-659", "", String::new()),
        (
            "too long",
            "a:3/3@verdict=passed z:1/0@step=1,since=-660",
            "",
            format!("z.reason={reason} z.since=- z.step=- z.verdict=refused"),
        ),
        ("what was there comes back", "a:3/3@verdict=passed z:1/0@verdict=refused,reason=x", "a=4", String::new()),
        ("what was refused goes", "a:4/4@verdict=passed z:1/0@verdict=refused,reason=x", "z=0", String::new()),
        ("and stays away", "a:4/4@verdict=passed z:0/0@verdict=refused,reason=x", "", String::new()),
        ("at any size", "a:2/2@verdict=passed z:0/0@verdict=refused,reason=x", "a=4", String::new()),
        ("also from nothing", "a:0/0@verdict=passed z:0/0@verdict=refused,reason=x", "a=4", String::new()),
        ("unless nothing else is there", "z:0/0@verdict=refused,reason=x", "z=4", "z.reason=- z.verdict=-".to_owned()),
        (
            "another refused one is nothing",
            "a:0/0@verdict=refused z:0/0@verdict=refused",
            "z=4",
            "z.verdict=-".to_owned(),
        ),
    ] {
        let deployment = canary(4, "1,0", "steps=25%, 50%");
        let plan = plan(&view(&deployment, &kept_sets(&deployment, have)), NOW);
        assert_eq!((sizes(&plan).as_str(), kept(&plan).as_str()), (expect, keeps.as_str()), "{name}");
        let refused = have.contains("z:0/0@verdict=refused") && have.starts_with("a:4");
        let said = format!("{plan:?}");
        assert!(
            !refused || said.contains("ProgressDeadlineExceeded") && said.contains("was refused"),
            "{name}: {said}"
        );
    }
}

#[test]
fn blue_and_green_change_places_in_one_write() {
    for (name, have, expect, keeps) in [
        ("all new pods at once, held", "a:2/2", "+2", "a.verdict=passed +.since=+0 +.step=1 +.traffic=held"),
        ("they are waited for", "a:2/2@verdict=passed z:2/1@step=1,since=-5,traffic=held", "", ""),
        (
            "they take over",
            "a:2/2@verdict=passed z:2/2@step=1,since=-5,traffic=held",
            "",
            "z.since=+0 z.step=2 z.traffic=alone",
        ),
        ("the old ones are kept", "a:2/2@verdict=passed z:2/2@step=2,since=-9,reached=-9,traffic=alone", "", ""),
        (
            "until the pause is over",
            "a:2/2@verdict=passed z:2/2@step=2,since=-60,reached=-60,traffic=alone",
            "a=0",
            "z.reached=- z.since=- z.step=- z.verdict=passed",
        ),
        ("the last trace goes", "a:0/0@verdict=passed z:2/2@verdict=passed,traffic=alone", "", "z.traffic=-"),
        (
            "they change back",
            "a:2/2@verdict=passed z:2/1@step=2,since=-660,traffic=alone",
            "",
            "z.reason=at step 2 of 2, it did not pass within 600 s; its pods were not all available z.since=- z.step=- \
             z.traffic=held z.verdict=refused",
        ),
        (
            "an undo changes back, too",
            "z:2/2@verdict=passed b:2/2@step=2,since=-9,reached=-9,traffic=alone",
            "b=0",
            "z.traffic=alone b.reached=- b.since=- b.step=- b.traffic=-",
        ),
        ("one that comes again is waited for", "z:1/1@verdict=passed b:2/2@verdict=passed", "z=2", "z.traffic=held"),
        ("with all pods of the other", "z:2/1@verdict=passed,traffic=held b:2/2@verdict=passed", "", ""),
        ("and takes over", "z:2/2@verdict=passed,traffic=held b:2/2@verdict=passed", "b=0", "z.traffic=alone"),
    ] {
        let deployment = canary(2, "100%,0", "steps=blue-green");
        let plan = plan(&view(&deployment, &kept_sets(&deployment, have)), NOW);
        assert_eq!((sizes(&plan).as_str(), kept(&plan).as_str()), (expect, keeps), "{name}");
    }
}

const MEASURED: &str = "steps=25%; pause=30s; query=bad/all; prometheus=http://p.mon:9090; below=0.5; every=10s";

fn answer(value: &str) -> Value {
    json!({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, value]}]}})
}

#[test]
fn a_metric_decides() {
    let many = "z.reason=at step 1 of 2, 3 answers in a row were not below 0.5; it is 0.9";
    for (name, keeps, value, at, expect, changes) in [
        ("good to the end", "reached=-30", "0.1", 0, "z=2", "z.reached=- z.since=+0 z.step=2".to_owned()),
        ("good before the end", "reached=-30", "0.1", -1, "", String::new()),
        ("the end is not there", "reached=-29", "0.1", 0, "", String::new()),
        ("bad", "reached=-9", "0.9", 0, "", "z.bad=1 z.judged=+0".to_owned()),
        ("bad in the end", "reached=-30", "0.9", 0, "", "z.bad=1 z.judged=+0".to_owned()),
        ("it counted before", "reached=-30,bad=1,judged=-3", "0.9", -3, "", String::new()),
        ("good again", "reached=-20,bad=2,judged=-3", "0.1", 0, "", "z.bad=- z.judged=+0".to_owned()),
        ("no value", "reached=-30,bad=2,judged=-3", "NaN", 0, "", String::new()),
        (
            "too often",
            "reached=-30,bad=2,judged=-3",
            "0.9",
            0,
            "",
            format!("z.bad=- z.judged=- z.reached=- {many} z.since=- z.step=- z.verdict=refused"),
        ),
    ] {
        let deployment = canary(4, "1,0", MEASURED);
        let have = format!("a:3/3@verdict=passed z:1/1@step=1,since=-40,{keeps}");
        let sets = kept_sets(&deployment, &have);
        let asked = after_seconds(NOW, 1000);
        let question = question(&deployment, &sets, None, asked).unwrap();
        let sample = Some(question.sample(Ok(&answer(value)), after_seconds(NOW, at)));
        let plan = plan(&View { sample, ..view(&deployment, &sets) }, NOW);
        assert_eq!((sizes(&plan).as_str(), kept(&plan).as_str()), (expect, changes.as_str()), "{name}");
    }
}

#[test]
fn a_metric_is_asked_for_in_time() {
    let deployment = canary(4, "1,0", MEASURED);
    for (name, keeps, last, due) in [
        ("the step is reached", "reached=-5", None, true),
        ("it is not", "bad=1", None, false),
        ("an earlier answer", "reached=-5", Some(-9), true),
        ("just asked", "reached=-9", Some(-9), false),
        ("long ago", "reached=-15", Some(-10), true),
        ("the end comes before", "reached=-30", Some(-2), true),
        ("a dead leader asked", "reached=-9,bad=1,judged=-3", None, false),
        ("it has passed", "reached=-9,verdict=passed", None, false),
    ] {
        let sets = kept_sets(&deployment, &format!("a:3/3 z:1/1@step=1,since=-40,{keeps}"));
        let any = kept_sets(&deployment, "a:3/3 z:1/1@step=1,since=-40,reached=-40");
        let known = last.map(|last| {
            let at = after_seconds(NOW, last);
            question(&deployment, &any, None, NOW).unwrap().sample(Ok(&answer("0.1")), at)
        });
        let asked = question(&deployment, &sets, known.as_ref(), NOW);
        assert_eq!(asked.is_some(), due, "{name}");
        if let Some(asked) = asked {
            let path = "/api/v1/namespaces/mon/services/http:p:9090/proxy/api/v1/query?query=bad%2Fall";
            assert_eq!((asked.path.as_str(), asked.account.as_str()), (path, "default"));
        }
    }
}

#[test]
fn what_cannot_be_meant_holds_everything_up() {
    for (limits, text, expect) in [
        ("1,0", "steps=ten", "\"ten\" is neither"),
        ("recreate", "steps=50%", "needs the strategy RollingUpdate"),
        ("1,0", "steps=blue-green", "needs maxSurge 100%"),
    ] {
        let mut deployment = canary(4, limits, text);
        let sets = kept_sets(&deployment, "a:4/4");
        let first = plan(&view(&deployment, &sets), NOW);
        assert_eq!((sizes(&first).as_str(), first.why), ("", "the settings of its rollout cannot be meant"), "{text}");
        let told = state(&first).unwrap();
        assert!(told.contains(expect), "{told}");
        let said = format!("{:?}", first.actions);
        assert!(said.contains("ProgressDeadlineExceeded") && said.contains("reason: \"RolloutSettings\""), "{said}");
        let Some(Action::Patch(patch)) =
            first.actions.iter().find(|a| matches!(a, Action::Patch(p) if p.subresource.is_some()))
        else {
            panic!("no status")
        };
        deployment.status = serde_json::from_value(patch.body["status"].clone()).unwrap();
        deployment.metadata.annotations.get_or_insert_default().insert(STATE.to_owned(), told);
        assert_eq!(plan(&view(&deployment, &sets), NOW).actions, [], "{text}: told once");
    }
}

#[test]
fn a_pause_stops_the_clock_of_a_step() {
    let mut deployment = canary(4, "1,0", "steps=25%");
    deployment.spec.paused = Some(true);
    let sets = kept_sets(&deployment, "a:4/4@verdict=passed z:1/0@step=1,since=-9000");
    let plan = plan(&view(&deployment, &sets), NOW);
    assert_eq!((kept(&plan).as_str(), plan.why), ("z.since=-", "it is paused"));
}

#[test]
fn what_is_kept_of_a_set_is_no_other_objects() {
    // As `kubectl rollout undo` leaves a deployment: with the annotations of a set.
    let deployment = canary(4, "1,0", "steps=25%; verdict=passed; step=1; traffic=alone; reason=x");
    let plan = plan(&view(&deployment, &kept_sets(&deployment, "a:4/4@verdict=passed")), NOW);
    assert_eq!(kept(&plan), "+.since=+0 +.step=1");
    let said = format!("{:?}", plan.actions.last().into_iter().chain(&plan.actions).collect::<Vec<_>>());
    assert!(said.contains("\"rollout.kontiki.dev/verdict\": Null"), "{said}");
    assert_eq!(state(&plan).as_deref(), Some("step 1 of 2, 1 of 4 pods: waits for pods"));
}

/// Both controllers over a cluster, time going on when nothing else does.
struct World {
    cluster: Cluster,
    now: Timestamp,
    known: Option<Sample>,
    value: &'static str,
}

impl World {
    /// True if something was done.
    fn turn(&mut self) -> (bool, Option<Timestamp>) {
        let deployment: Deployment = self.cluster.only();
        let (sets, pods) = (self.cluster.list::<ReplicaSet>(), self.cluster.list::<Pod>());
        if let Some(question) = question(&deployment, &sets, self.known.as_ref(), self.now) {
            self.known = Some(question.sample(Ok(&answer(self.value)), self.now));
        }
        let view = View { pods: pods.clone(), sample: self.known.clone(), ..view(&deployment, &sets) };
        let planned = plan(&view, self.now);
        let mut actions = planned.actions;
        for set in sets {
            let view = replicas::View {
                set,
                pods: pods.clone(),
                related_per_node: std::collections::HashMap::new(),
                failure: None,
                namespace_terminating: false,
            };
            actions.extend(replicas::plan(&view, self.now).actions);
        }
        let acts = actions.iter().any(|action| !matches!(action, Action::Event(_)));
        actions.into_iter().for_each(|action| self.cluster.apply(action));
        (acts, planned.wake)
    }

    /// Goes on until neither actions nor time change anything.
    fn settle(&mut self) -> bool {
        for _ in 0..400 {
            match self.turn() {
                (true, _) => {}
                (false, Some(wake)) => self.now = wake.max(after_seconds(self.now, 1)),
                (false, None) => return true,
            }
        }
        false
    }

    fn images(&self) -> Vec<String> {
        let image = |pod: &Arc<Pod>| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
        self.cluster.list::<Pod>().iter().map(image).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Any rollout with steps ends with all pods of one template: of the new one if it is good, else of the old one.
    #[test]
    fn every_held_rollout_comes_to_its_end(
        want in 1i32..7,
        limits in prop::sample::select(vec!["1,0", "0,1", "25%,25%", "100%,0"]),
        steps in prop::sample::select(vec!["10%, 50%", "1", "50%, 100%", "blue-green"]),
        good in any::<bool>(),
    ) {
        let limits = if steps == "blue-green" { "100%,0" } else { limits };
        let text = MEASURED.replace("steps=25%", &format!("steps={steps}"));
        let cluster = Cluster::default();
        let mut world = World { cluster, now: NOW, known: None, value: if good { "0.1" } else { "0.9" } };
        world.cluster.add(&ask(deployment(want, limits, "a"), &text));
        prop_assert!(world.settle(), "start");
        for image in ["b", "c"] {
            let mut next: Deployment = world.cluster.only();
            next.metadata.generation = next.metadata.generation.map(|generation| generation + 1);
            next.spec = deployment(want, limits, image).spec;
            world.cluster.add(&next);
            prop_assert!(world.settle(), "{image} does not rest");
            let expect = vec![if good { image.to_owned() } else { "a".to_owned() }; usize::try_from(want).unwrap()];
            prop_assert_eq!(world.images(), expect);
            let after: Deployment = world.cluster.only();
            let state = annotation(&after.metadata, STATE).unwrap_or_default();
            prop_assert!(state.starts_with(if good { "passed" } else { "refused: at step 1 of " }) || !good && state.starts_with("refused: at step 2 of 2"), "{}", state);
            let conditions = after.status.unwrap().conditions.unwrap();
            let progress = conditions.into_iter().find(|c| c.type_.as_deref() == Some("Progressing")).unwrap();
            let reason = if good { "NewReplicaSetAvailable" } else { "ProgressDeadlineExceeded" };
            prop_assert_eq!(progress.reason.as_deref(), Some(reason));
        }
    }
}
