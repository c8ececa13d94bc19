//! What each node needs: a pod, or an end to some.

use k8s_openapi::api::core::v1::Pod;

use super::failed::is_failed;
use super::{Place, Work};
use crate::object::{deleting, label, name, namespace, uid};
use crate::pod;
use crate::workloads::history::POD_LABEL;

impl<'a> Work<'a> {
    pub(super) fn manage(&mut self) {
        for place in std::mem::take(&mut self.places) {
            self.manage_place(&place);
            self.places.push(place);
        }
        // Nobody else ends what can never be bound.
        let lost = self.elsewhere.iter().filter(|pod| pod::node(pod).is_none() && !deleting(&pod.metadata));
        self.doomed.extend(lost);
    }

    fn manage_place(&mut self, place: &Place<'a>) {
        let present = place.pods.iter().copied().filter(|pod| !deleting(&pod.metadata));
        if place.verdict.run && place.pods.is_empty() {
            self.wanting.push(place.node);
        } else if place.verdict.stay {
            let (ended, running): (Vec<&Pod>, Vec<&Pod>) = present.partition(|pod| pod::finished(pod));
            ended.into_iter().for_each(|pod| self.replace(pod, place.node));
            if self.surges() {
                self.keep_two(place, &running);
            } else {
                self.doomed.extend(running.iter().skip(1));
            }
        } else {
            self.doomed.extend(present);
        }
    }

    /// Ends a pod that has ended by itself. A node that fails one after the other gets the next one later each time.
    fn replace(&mut self, pod: &'a Pod, node: &str) {
        let (space, own) = (namespace(&pod.metadata), name(&pod.metadata));
        if !is_failed(pod) {
            let message = format!("Found succeeded daemon pod {space}/{own} on node {node}, will try to delete it");
            self.tell(false, "SucceededDaemonPod", message);
            self.doomed.push(pod);
            return;
        }
        match self.view.retry_at.get(uid(&pod.metadata)).filter(|at| **at > self.now) {
            Some(at) => self.wake_at(*at),
            None => {
                let message = format!("Found failed daemon pod {space}/{own} on node {node}, will try to kill it");
                self.tell(true, "FailedDaemonPod", message);
                self.doomed.push(pod);
            }
        }
    }

    /// A set that surges has two pods on a node while the new one is not available and the old one serves.
    fn keep_two(&mut self, place: &Place<'a>, running: &[&'a Pod]) {
        if running.is_empty() && place.verdict.run {
            self.wanting.push(place.node);
        }
        if running.len() < 2 {
            return;
        }
        let of_now =
            |pod: &Pod| label(&pod.metadata, POD_LABEL).is_some_and(|hash| self.revisions.equal.contains(hash));
        let (new, old): (Vec<&'a Pod>, Vec<&'a Pod>) = running.iter().copied().partition(|pod| of_now(pod));
        let mut doomed: Vec<&'a Pod> = new.iter().skip(1).chain(old.iter().skip(1)).copied().collect();
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pod::ready(old) || self.available(new))
        {
            doomed.push(old);
        }
        self.doomed.extend(doomed);
    }
}
