//! Counters in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use parking_lot::Mutex;

use kontiki_machinery::Name;

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Requests by `(verb, resource, code)`. Resources come from the table and verbs from a closed
/// set, so the number of series is bounded.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, Name, u16), u64>>,
    latency: Mutex<BTreeMap<&'static str, Histogram>>,
    /// Series of others, by who adds them.
    sources: Mutex<BTreeMap<&'static str, Source>>,
}

#[derive(Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    total: u64,
    seconds: f64,
}

impl Metrics {
    pub fn observe(&self, verb: &'static str, resource: Name, code: u16, took: Duration) {
        *self.requests.lock().entry((verb, resource, code)).or_default() += 1;
        if verb == "watch" {
            return; // its duration says nothing
        }
        let mut latency = self.latency.lock();
        let histogram = latency.entry(verb).or_default();
        let seconds = took.as_secs_f64();
        for (count, bound) in histogram.counts.iter_mut().zip(BUCKETS) {
            *count += u64::from(seconds <= *bound);
        }
        histogram.total += 1;
        histogram.seconds += seconds;
    }
}

/// Writes series of its own, in the text form.
pub type Source = std::sync::Arc<dyn Fn(&mut String) + Send + Sync>;

impl Metrics {
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
        out.push_str("# HELP kontiki_api_requests_total Requests by verb, resource and code.\n# TYPE kontiki_api_requests_total counter\n");
        for ((verb, resource, code), count) in self.requests.lock().iter() {
            let _ = writeln!(
                out,
                "kontiki_api_requests_total{{verb=\"{verb}\",resource=\"{resource}\",code=\"{code}\"}} {count}"
            );
        }
        let name = "kontiki_api_request_duration_seconds";
        let _ = write!(out, "# HELP {name} Time to answer, watches excepted.\n# TYPE {name} histogram\n");
        for (verb, histogram) in self.latency.lock().iter() {
            for (count, bound) in histogram.counts.iter().zip(BUCKETS) {
                let _ = writeln!(out, "{name}_bucket{{verb=\"{verb}\",le=\"{bound}\"}} {count}");
            }
            let Histogram { total, seconds, .. } = histogram;
            let _ = writeln!(out, "{name}_bucket{{verb=\"{verb}\",le=\"+Inf\"}} {total}");
            let _ = writeln!(out, "{name}_sum{{verb=\"{verb}\"}} {seconds}\n{name}_count{{verb=\"{verb}\"}} {total}");
        }
    }
}
