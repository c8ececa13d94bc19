//! Every image is pulled anew, so that nobody uses one that only others may pull.

use kontiki_machinery::admission::{Lookup, Request, Step};
use kontiki_model::resource::PODS;
use serde_json::Value;

use crate::{
    FieldError, Path, Status,
    rows::value::{child, get, has, items_mut, list, set, some_mut, text},
};

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) struct AlwaysPullImages;

impl Step for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn admit(&self, request: &Request<'_>, pod: &mut Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        if concerned(request, pod) {
            pull_always(child(pod, "spec"));
        }
        Ok(())
    }

    fn validate(&self, request: &Request<'_>, pod: &Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        let wrong = if concerned(request, pod) { wrong(get(pod, "spec")) } else { None };
        wrong.map_or(Ok(()), |error| Err(request.forbid(pod, error)))
    }
}

/// Whether there may be new images. An update that brings none leaves the policies of old ones alone.
fn concerned(request: &Request<'_>, pod: &Value) -> bool {
    let about = request.def.group_resource() == PODS && [None, Some("ephemeralcontainers")].contains(&request.sub);
    about && request.old.is_none_or(|old| images(old) != images(pod))
}

fn images(pod: &Value) -> Vec<&str> {
    let spec = get(pod, "spec");
    let containers = LISTS.iter().flat_map(|field| list(spec, field)).map(|container| text(container, "image"));
    let volumes = list(spec, "volumes").iter().map(|volume| text(get(volume, "image"), "reference"));
    let mut images: Vec<&str> = containers.chain(volumes).collect();
    images.sort_unstable();
    images.dedup();
    images
}

fn pull_always(spec: &mut Value) {
    for field in LISTS {
        items_mut(spec, field).for_each(|container| set(container, "imagePullPolicy", "Always"));
    }
    for volume in items_mut(spec, "volumes") {
        if let Some(image) = some_mut(volume, "image") {
            set(image, "pullPolicy", "Always");
        }
    }
}

fn wrong(spec: &Value) -> Option<FieldError> {
    let path = Path::new("spec");
    for field in LISTS {
        for (i, container) in list(spec, field).iter().enumerate() {
            let policy = text(container, "imagePullPolicy");
            if policy != "Always" {
                let path = path.child(field).index(i).child("imagePullPolicy");
                return Some(FieldError::not_supported(path, policy, &["Always"]));
            }
        }
    }
    let volumes = list(spec, "volumes").iter().enumerate();
    let mut images = volumes.filter(|(_, volume)| has(volume, "image"));
    let (i, image) = images.find(|(_, volume)| text(get(volume, "image"), "pullPolicy") != "Always")?;
    let path = path.child("volumes").index(i).child("image").child("pullPolicy");
    Some(FieldError::not_supported(path, text(get(image, "image"), "pullPolicy"), &["Always"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_has_an_image_pulls_it() {
        let mut spec = json!({"containers": [{"image": "a"}], "initContainers": [{"image": "b", "imagePullPolicy": "Never"}],
            "volumes": [{"name": "v", "image": {"reference": "c"}}, {"name": "w", "emptyDir": {}}]});
        let first = wrong(&spec).map(|error| error.path);
        assert_eq!(first.as_deref(), Some("spec.initContainers[0].imagePullPolicy"));
        pull_always(&mut spec);
        assert_eq!(wrong(&spec), None);
        assert_eq!(images(&json!({"spec": spec})), ["", "a", "b", "c"]);
    }
}
