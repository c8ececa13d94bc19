//! Figures of what is compared, side by side.

use std::{
    fmt::{self, Write as _},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::json;

/// Rows in the order in which they were first told.
#[derive(Debug)]
pub struct Figures {
    /// How the columns are called.
    peers: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    title: String,
    unit: String,
    /// The repetitions of each column.
    samples: Vec<Vec<f64>>,
}

/// Where one column's figures go.
pub struct Column<'a> {
    figures: &'a mut Figures,
    peer: usize,
}

impl Column<'_> {
    pub fn add(&mut self, title: &str, unit: &str, value: f64) {
        let rows = &mut self.figures.rows;
        let place = rows.iter().position(|row| row.title == title && row.unit == unit).unwrap_or_else(|| {
            let samples = vec![Vec::new(); self.figures.peers.len()];
            rows.push(Row { title: title.to_owned(), unit: unit.to_owned(), samples });
            rows.len() - 1
        });
        rows[place].samples[self.peer].push(value);
    }
}

impl Figures {
    pub fn new<N: AsRef<str>>(peers: &[N]) -> Self {
        Self { peers: peers.iter().map(|name| name.as_ref().to_owned()).collect(), rows: Vec::new() }
    }

    pub fn of(&mut self, peer: usize) -> Column<'_> {
        Column { figures: self, peer }
    }

    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let rows: Vec<_> = self.rows.iter().map(|row| row.json(&self.peers)).collect();
        let text = serde_json::to_string_pretty(&json!({ "columns": self.peers, "figures": rows }))?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

impl Row {
    fn medians(&self) -> Vec<Option<f64>> {
        self.samples.iter().map(|samples| median(samples)).collect()
    }

    /// The last column's figure over the first one's.
    fn ratio(&self) -> Option<f64> {
        let medians = self.medians();
        let (first, last) = (medians.first().copied().flatten()?, medians.last().copied().flatten()?);
        (medians.len() > 1 && first != 0.0).then(|| last / first)
    }

    fn json(&self, peers: &[String]) -> serde_json::Value {
        let columns: Vec<_> = peers
            .iter()
            .zip(self.medians().iter().zip(&self.samples))
            .map(|(name, (median, samples))| json!({ "store": name, "median": median, "samples": samples }))
            .collect();
        json!({ "figure": self.title, "unit": self.unit, "stores": columns, "ratio": self.ratio() })
    }
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 1_000.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["figure".to_owned()].into_iter().chain(self.peers.iter().cloned());
        let mut table = vec![head.chain(["ratio".to_owned()]).collect::<Vec<_>>()];
        for row in &self.rows {
            let cells = [format!("{}: {}", row.title, row.unit)].into_iter();
            let cells = cells.chain(row.medians().into_iter().map(number));
            table.push(cells.chain([number(row.ratio())]).collect());
        }
        let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..table[0].len()).map(width).collect();
        for row in &table {
            let mut line = format!("{:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                write!(line, "  {cell:>width$}")?;
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_table_of_medians_and_their_ratio() {
        let mut figures = Figures::new(&["etcd-3.7", "kontiki"]);
        for (peer, value) in [(0, 3.0), (1, 3000.0), (0, 1.0), (1, 1000.0), (0, 2.0), (1, 2000.0)] {
            figures.of(peer).add("put", "ops/s", value);
        }
        figures.of(0).add("idle", "MiB", 5.0);
        let want = "figure      etcd-3.7  kontiki  ratio\nput: ops/s      2.00     2000   1000\nidle: MiB       5.00        -      -\n";
        assert_eq!(figures.to_string(), want);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
