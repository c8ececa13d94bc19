//! Who owns what of what a call writes.
//!
//! It is worked out on what a client wants, before admission: what the server itself fills in or puts back belongs to
//! nobody.

use jiff::Timestamp;
use kontiki_machinery::apply::same_but_times;
use kontiki_machinery::conversion::Conversions;
use kontiki_machinery::subresource::View;
use kontiki_machinery::{Name, Ownership};
use serde_json::Value;

use crate::Status;
use crate::call::Call;
use crate::clock::format_time;
use crate::writes::Writer;

impl Writer {
    /// The manager that a part of this program is: that of the component of upstream's that does the same.
    pub(crate) fn manager(self) -> Name {
        Name::Borrowed(match self {
            Self::Controller(_) => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::NodeGateway => "kubelet",
            Self::Server | Self::Administrators | Self::Nodes | Self::ServiceAccounts | Self::Users => "kube-apiserver",
        })
    }
}

impl Call {
    /// Runs until no object is wanted in a version that is not known.
    async fn owners<R>(&self, now: Timestamp, mut run: impl FnMut(&Ownership<'_>) -> R) -> Result<R, Status> {
        let table = self.api.registry().table();
        let (def, sub, now) = (&*self.def, self.sub.as_deref(), format_time(now));
        let run = |conversions: &Conversions| run(&Ownership { table: &table, def, sub, now: &now, conversions });
        self.api.with_conversions(def, self.deadline, run).await
    }

    /// `new`, with who owns what of it, as this call makes it of `live`. `None`: it is new.
    pub async fn track(&self, live: Option<&Value>, mut new: Value, now: Timestamp) -> Result<Value, Status> {
        // Nothing is done twice where nobody outside converts.
        let sent = self.def.strategy.conversion().map(|_| new.clone());
        self.owners(now, |owners| {
            new = sent.clone().unwrap_or_else(|| std::mem::take(&mut new));
            owners.update(live, &mut new, &self.manager);
        })
        .await?;
        Ok(new)
    }

    /// The same for a view of `object`, of which there is one version.
    pub async fn track_view(
        &self,
        view: &dyn View,
        object: &Value,
        sent: &mut Value,
        now: Timestamp,
    ) -> Result<(), Status> {
        self.owners(now, |owners| owners.update_view(view, object, sent, &self.manager)).await
    }

    /// Takes over into the object `new` who owns what of its view `sent`.
    pub async fn take_owners(
        &self,
        view: &dyn View,
        new: &mut Value,
        sent: &Value,
        now: Timestamp,
    ) -> Result<(), Status> {
        self.owners(now, |owners| owners.take_view(view, new, sent)).await
    }

    /// `live`, or its view, with `config` applied, with who owns what. Defaults are not set.
    pub async fn merged(
        &self,
        live: Option<&Value>,
        config: &Value,
        force: bool,
        now: Timestamp,
    ) -> Result<Value, Status> {
        let merged = self.owners(now, |owners| match (self.view(), live) {
            (Some(view), Some(live)) => owners.apply_view(&*view, live, config, &self.manager, force),
            _ => owners.apply(live, config, &self.manager, force),
        });
        merged.await?.map_err(|error| error.status())
    }
}

/// Whether an object is what it was. When somebody took what they had already is no difference.
pub(crate) fn unchanged(new: &Value, old: &Value) -> bool {
    new == old || differ_in_times(new, old).unwrap_or(false)
}

fn differ_in_times(new: &Value, old: &Value) -> Option<bool> {
    let (new, old) = (new.as_object()?, old.as_object()?);
    let (new_meta, old_meta) = (new.get("metadata")?.as_object()?, old.get("metadata")?.as_object()?);
    let rest = |name: &str, meta: bool| name != if meta { "managedFields" } else { "metadata" };
    let equal = |a: &serde_json::Map<String, Value>, b: &serde_json::Map<String, Value>, meta: bool| {
        a.iter().filter(|(name, _)| rest(name, meta)).eq(b.iter().filter(|(name, _)| rest(name, meta)))
    };
    // Owners last: they are compared entry by entry.
    Some(
        equal(new, old, false)
            && equal(new_meta, old_meta, true)
            && same_but_times(new_meta.get("managedFields")?, old_meta.get("managedFields")?),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_of_owners_alone_are_no_change() {
        let object = |time: &str, manager: &str, data: &str| json!({"data": {"a": data}, "metadata": {"name": "x", "managedFields": [{"manager": manager, "time": time}]}});
        let old = object("1", "m", "d");
        assert!(unchanged(&old, &old) && unchanged(&object("2", "m", "d"), &old));
        assert!(!unchanged(&object("2", "n", "d"), &old) && !unchanged(&object("2", "m", "e"), &old));
        let none = json!({"data": {"a": "d"}, "metadata": {"name": "x"}});
        assert!(!unchanged(&none, &old) && unchanged(&none, &none));
    }
}
