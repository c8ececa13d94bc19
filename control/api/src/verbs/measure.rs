//! Get and list of kinds whose objects are not stored: they are made now, of what nodes say about objects that are, or of
//! how this server fares.
//!
//! Invariant: what a node does not say is not there. A list is without it, and to get it is 404, as metrics-server answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kontiki_machinery::ResourceDef;
use kontiki_machinery::measured::{Measured, Origin};
use kontiki_model::GroupResource;
use kontiki_store::Entry;
use serde_json::Value;

use super::list::Version;
use crate::Status;
use crate::call::{Answer, Call, Object};
use crate::clock::format_time;
use crate::health;
use crate::state::served;

/// How long nodes may take, all together.
const PATIENCE: Duration = Duration::from_secs(20);

impl Call {
    /// Makes the object that this call names.
    pub async fn measure_one(&self, origin: &Origin) -> Result<Answer, Status> {
        let object = match origin {
            Origin::Nodes(measured) => self.measure_about(&**measured).await?,
            Origin::Server(make) => {
                let made = make(&health::of(&self.api).await);
                made.into_iter().find(|object| name_of(object) == self.name()).ok_or_else(|| self.no_part())?
            }
        };
        Ok(Answer::Object { code: 200, object: Object::Built(object) })
    }

    /// Makes the collection that this call names.
    pub async fn measure_all(&self, origin: &Origin) -> Result<Answer, Status> {
        let filter = self.filter.clone()?;
        Ok(Answer::Made(match origin {
            Origin::Nodes(measured) => {
                let about = self.about(&**measured)?;
                let list = about.first_page(Version::Latest, None, &filter).await?;
                self.measure(&**measured, &about.def, &list.items).await?
            }
            Origin::Server(make) => {
                let made = make(&health::of(&self.api).await);
                made.into_iter().filter(|object| filter.passes_value(&self.def, object)).collect()
            }
        }))
    }

    async fn measure_about(&self, measured: &dyn Measured) -> Result<Value, Status> {
        let about = self.about(measured)?;
        let state = self.api.fresh().await?;
        let entry = state.get(&about.key()).ok_or_else(|| about.not_found())?;
        let made = self.measure(measured, &about.def, &[entry]).await?.pop();
        made.ok_or_else(|| self.not_measured())
    }

    /// The same call about what the objects are about.
    fn about(&self, measured: &dyn Measured) -> Result<Call, Status> {
        let table = self.api.registry().table();
        let def = table.find_resource(measured.about()).cloned().ok_or_else(Status::no_such_resource)?;
        Ok(Call { def, ..self.on_object() })
    }

    async fn measure(
        &self,
        measured: &dyn Measured,
        def: &ResourceDef,
        entries: &[Arc<Entry>],
    ) -> Result<Vec<Value>, Status> {
        let subjects = entries.iter().map(|entry| served(def, entry)).collect::<Result<Vec<Value>, Status>>()?;
        let nodes: BTreeSet<String> = subjects.iter().filter_map(|one| measured.node(one)).map(str::to_owned).collect();
        let (inner, deadline) = (&self.api.inner, self.deadline.min(Instant::now() + PATIENCE));
        let said = inner.usage.of(&*inner.config.node_proxy, nodes, deadline).await;
        let now = format_time(self.api.now());
        let make = |subject: &Value| measured.object(subject, said.get(measured.node(subject)?)?, &now);
        Ok(subjects.iter().filter_map(make).collect())
    }

    /// Upstream names one of them here.
    fn no_part(&self) -> Status {
        Status::not_found(GroupResource { group: &self.def.group, resource: &self.def.singular }, self.name())
    }

    /// metrics-server names the kind here, and the namespace with the name.
    fn not_measured(&self) -> Status {
        let name = self.namespace().map_or_else(|| self.name().to_owned(), |space| format!("{space}/{}", self.name()));
        let kind = self.def.kind.to_ascii_lowercase();
        Status::not_found(GroupResource { group: &self.def.group, resource: &kind }, &name)
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
