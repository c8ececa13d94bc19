//! What is counted of requests, in Prometheus' text form, under the names that kube-apiserver uses
//! (`staging/src/k8s.io/apiserver/pkg/endpoints/metrics`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kontiki_machinery::Name;
use kontiki_model::metrics::{Histogram, Kind, heading, sample};
use parking_lot::Mutex;

/// Upper bounds of the latency buckets in seconds: upstream's, and three below them.
const BUCKETS: &[f64; 26] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

/// Requests by `(verb, resource, code)`. Resources come from the table and verbs from a closed
/// set, so the number of series is bounded.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, Name, u16), u64>>,
    latency: Mutex<BTreeMap<&'static str, Histogram<26>>>,
    /// Series of others, by who adds them.
    sources: Mutex<BTreeMap<&'static str, Source>>,
}

/// The verb as upstream's series have it.
fn method(verb: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

/// What the health paths have found so far, by the name of what was looked at and the path.
#[derive(Default)]
pub(crate) struct Looks(Mutex<BTreeMap<(&'static str, &'static str), Tally>>);

#[derive(Default)]
struct Tally {
    well: bool,
    successes: u64,
    errors: u64,
}

impl Looks {
    /// Adds what a look has found.
    pub fn count(&self, name: &'static str, endpoint: &'static str, well: bool) {
        let mut tallies = self.0.lock();
        let tally = tallies.entry((name, endpoint)).or_default();
        tally.well = well;
        *(if well { &mut tally.successes } else { &mut tally.errors }) += 1;
    }

    /// As upstream's `/metrics/slis` shows them.
    pub fn text(&self) -> String {
        const LAST: &str = "kubernetes_healthcheck";
        const ALL: &str = "kubernetes_healthchecks_total";
        let (tallies, mut out) = (self.0.lock(), String::new());
        heading(&mut out, LAST, Kind::Gauge, "[STABLE] This metric records the result of a single healthcheck.");
        for ((name, endpoint), tally) in &*tallies {
            sample(&mut out, LAST, &[("name", name), ("type", endpoint)], u8::from(tally.well));
        }
        heading(&mut out, ALL, Kind::Counter, "[STABLE] This metric records the results of all healthcheck.");
        for ((name, endpoint), tally) in &*tallies {
            for (status, count) in [("error", tally.errors), ("success", tally.successes)] {
                if count > 0 {
                    sample(&mut out, ALL, &[("name", name), ("status", status), ("type", endpoint)], count);
                }
            }
        }
        out
    }
}

/// Writes series of its own, in the text form.
pub type Source = Arc<dyn Fn(&mut String) + Send + Sync>;

impl Metrics {
    pub fn observe(&self, verb: &'static str, resource: Name, code: u16, took: Duration) {
        let verb = method(verb);
        *self.requests.lock().entry((verb, resource, code)).or_default() += 1;
        // How long a watch lasted says nothing.
        if verb != "WATCH" {
            let mut latency = self.latency.lock();
            latency.entry(verb).or_insert_with(|| Histogram::new(BUCKETS)).observe(took.as_secs_f64());
        }
    }

    /// Adds `source` to what is shown, in place of an earlier one of this name.
    pub fn add(&self, name: &'static str, source: Source) {
        self.sources.lock().insert(name, source);
    }

    /// What others add.
    pub fn write_sources(&self, out: &mut String) {
        let sources: Vec<Source> = self.sources.lock().values().cloned().collect();
        sources.iter().for_each(|source| source(out));
    }

    /// Writes the requests' series.
    pub fn write(&self, out: &mut String) {
        let name = "apiserver_request_total";
        heading(out, name, Kind::Counter, "Requests by verb, resource and code.");
        for ((verb, resource, code), count) in self.requests.lock().iter() {
            let labels = [("verb", *verb), ("resource", resource), ("code", &code.to_string())];
            sample(out, name, &labels, count);
        }
        let name = "apiserver_request_duration_seconds";
        heading(out, name, Kind::Histogram, "Time to answer, watches excepted.");
        for (verb, histogram) in self.latency.lock().iter() {
            histogram.write(out, name, &[("verb", verb)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_under_upstreams_names() {
        let metrics = Metrics::default();
        metrics.observe("create", "pods".into(), 201, Duration::from_millis(2));
        metrics.observe("watch", "pods".into(), 200, Duration::from_secs(900));
        let mut out = String::new();
        metrics.write(&mut out);
        for line in [
            "apiserver_request_total{verb=\"POST\",resource=\"pods\",code=\"201\"} 1",
            "apiserver_request_total{verb=\"WATCH\",resource=\"pods\",code=\"200\"} 1",
            "apiserver_request_duration_seconds_bucket{verb=\"POST\",le=\"0.001\"} 0",
            "apiserver_request_duration_seconds_bucket{verb=\"POST\",le=\"0.0025\"} 1",
        ] {
            assert!(out.lines().any(|found| found == line), "{line} in\n{out}");
        }
        assert!(!out.contains("duration_seconds_count{verb=\"WATCH\"}"), "{out}");
    }
}
