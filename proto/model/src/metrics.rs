//! Series in Prometheus' text form (version 0.0.4 of its exposition format).
//!
//! A metric that upstream has bears upstream's name and labels. Values of labels come from closed sets: never a name
//! that a user gives.

use std::fmt::{Display, Write};

/// Pairs of a label's name and its value.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// What a metric's numbers mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only grows, and begins at zero with the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// See [`Histogram`].
    Histogram,
}

/// The lines before the series of a metric. `help` is one line.
pub fn heading(out: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    // Writing to a String does not fail; so below.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// One series.
pub fn sample(out: &mut String, name: &str, labels: Labels<'_>, value: impl Display) {
    out.push_str(name);
    for (at, (label, value)) in labels.iter().enumerate() {
        let _ = write!(out, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escape(value));
    }
    let end = if labels.is_empty() { "" } else { "}" };
    let _ = writeln!(out, "{end} {value}");
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A metric of one series without labels.
pub fn single(out: &mut String, name: &str, kind: Kind, help: &str, value: impl Display) {
    heading(out, name, kind, help);
    sample(out, name, &[], value);
}

/// Counts of observations by size. The bounds are upper ones, ascending.
#[derive(Clone, Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    /// Each counts what is above the bound before its own.
    counts: [u64; N],
    count: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    /// Without observations.
    #[must_use]
    pub fn new(bounds: &'static [f64; N]) -> Self {
        Self { bounds, counts: [0; N], count: 0, sum: 0.0 }
    }

    /// Counts one.
    pub fn observe(&mut self, value: f64) {
        if let Some(at) = self.bounds.iter().position(|bound| value <= *bound) {
            self.counts[at] += 1;
        }
        self.count += 1;
        self.sum += value;
    }

    /// Writes its series, without the heading.
    pub fn write(&self, out: &mut String, name: &str, labels: Labels<'_>) {
        let (buckets, mut below) = (format!("{name}_bucket"), 0);
        let mut bucket = |bound: &str, count: u64| {
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
            sample(out, &buckets, &labels, count);
        };
        for (bound, here) in self.bounds.iter().zip(&self.counts) {
            below += here;
            bucket(&bound.to_string(), below);
        }
        bucket("+Inf", self.count);
        sample(out, &format!("{name}_sum"), labels, self.sum);
        sample(out, &format!("{name}_count"), labels, self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_have_the_text_form() {
        let mut out = String::new();
        single(&mut out, "up", Kind::Gauge, "Whether it is up.", 1);
        heading(&mut out, "turns_total", Kind::Counter, "Turns.");
        sample(&mut out, "turns_total", &[("name", "a"), ("why", "\"\\\n")], 2.5);
        let mut histogram = Histogram::new(&[0.5, 1.0]);
        [0.25, 0.5, 0.75, 4.0].into_iter().for_each(|value| histogram.observe(value));
        heading(&mut out, "took_seconds", Kind::Histogram, "Time.");
        histogram.write(&mut out, "took_seconds", &[("name", "a")]);
        let expect = r#"# HELP up Whether it is up.
# TYPE up gauge
up 1
# HELP turns_total Turns.
# TYPE turns_total counter
turns_total{name="a",why="\"\\\n"} 2.5
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{name="a",le="0.5"} 2
took_seconds_bucket{name="a",le="1"} 3
took_seconds_bucket{name="a",le="+Inf"} 4
took_seconds_sum{name="a"} 5.5
took_seconds_count{name="a"} 4
"#;
        assert_eq!(out, expect);
    }
}
