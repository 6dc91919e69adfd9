use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ReportError;
use crate::error::read_summary;

/// Figures by damping, of one variant of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DampingLines {
    /// The variant; empty if there is one only.
    pub name: String,
    /// The dampings, from small to large.
    pub damping: Vec<f64>,
    /// Each figure with its value at every damping.
    pub lines: Vec<(String, Vec<Option<f64>>)>,
}

#[derive(Deserialize)]
struct Summary {
    samples: usize,
    sides: Vec<Side>,
}

#[derive(Deserialize)]
struct Side {
    side: Option<String>,
    projection: Option<Projection>,
    dampings: Vec<Point>,
}

#[derive(Deserialize)]
struct Projection {
    rank: usize,
}

#[derive(Deserialize)]
struct Point {
    damping: f64,
    spearman_next: Option<f64>,
    spearman_dot: Option<f64>,
    auc: Option<f64>,
}

impl DampingLines {
    /// Reads the `summary.json` in the folder of a `sweep` over `samples` training rows.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is of another command, or of another number of rows.
    pub fn read(folder: &Path, samples: usize) -> Result<Vec<Self>, ReportError> {
        let path = folder.join("summary.json");
        let summary: Summary = read_summary(&path, &["sweep"], "sweep")?;
        if summary.samples != samples {
            return Err(ReportError::Count { path, found: summary.samples, expected: samples });
        }
        Ok(summary.sides.into_iter().map(Self::new).collect())
    }

    fn new(Side { side, projection, dampings }: Side) -> Self {
        let names = [side.map(|side| format!("side {side}")), projection.map(|of| format!("rank {}", of.rank))];
        let line = |name: &str, of: fn(&Point) -> Option<f64>| (name.to_owned(), dampings.iter().map(of).collect());
        let lines: [(String, Vec<Option<f64>>); 3] = [
            line("rank correlation with the next damping", |point| point.spearman_next),
            line("rank correlation with the dot product", |point| point.spearman_dot),
            line("AUC of the known bad rows", |point| point.auc),
        ];
        Self {
            name: names.into_iter().flatten().collect::<Vec<_>>().join(", "),
            damping: dampings.iter().map(|point| point.damping).collect(),
            lines: lines.into_iter().filter(|(_, values)| values.iter().any(Option::is_some)).collect(),
        }
    }
}
