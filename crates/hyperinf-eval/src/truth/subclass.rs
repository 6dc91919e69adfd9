use hyperinf_scoring::{QueryMode, ranking};
use serde_json::json;

use super::Truth;
use crate::{Bench, Figure, Findings, Interval, Row, TruthError, random_scores};

/// Most helpful samples inspected per query.
const TOP: usize = 10;

/// Identical subclasses as a ground truth, without retraining: the model only learns superclasses of the digits, and
/// the most helpful samples of a query should show the same digit (Hanawa et al. 2021).
///
/// A digit's superclass is the digit modulo `classes`: even and odd for 2.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `classes` | 2 | superclasses that the model learns | 2 to 5 |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubclassConfig {
    /// The number of superclasses.
    pub classes: usize,
}

impl Default for SubclassConfig {
    fn default() -> Self {
        Self { classes: 2 }
    }
}

impl Truth for SubclassConfig {
    fn name(&self) -> &'static str {
        "subclass"
    }

    fn figure(&self) -> &'static str {
        "share of queries whose most helpful sample is of the same subclass, and share of the 10 most helpful, in [0, 1]; higher = better"
    }

    fn evaluate(&self, bench: &mut Bench<'_>) -> Result<Findings, TruthError> {
        if !(2..=5).contains(&self.classes) {
            let expected = "from 2 to 5".into();
            return Err(TruthError::Setting { name: "classes", expected, value: self.classes as f64 });
        }
        let mut task = bench.config().task.task()?;
        let merge = |labels: &mut Vec<usize>| {
            let digits = labels.clone();
            labels.iter_mut().for_each(|label| *label %= self.classes);
            digits
        };
        let (train, queries) = (merge(&mut task.train.labels), merge(&mut task.queries.labels));
        let figures = |scores: &[Vec<f64>]| shares(scores, &train, &queries);
        bench.add(Row::baseline("random", figures(&random_scores(queries.len(), train.len(), 0))));
        let ensemble = bench.train(&task, bench.seeds())?;
        bench.judge(&ensemble, QueryMode::Each, |_, scores| Ok(figures(&scores.rows)))?;
        let about = format!(
            "Identical subclasses: {} training images of digits, trained to tell {} superclasses; the share of {} queries \
             whose most helpful image shows the same digit, scores of {} trained model(s).",
            train.len(),
            self.classes,
            queries.len(),
            bench.config().models,
        );
        Ok(Findings::new(&task, about, [("classes", json!(self.classes))]))
    }
}

/// The share of the most helpful, and of the `TOP` most helpful samples that share the query's subclass.
fn shares(scores: &[Vec<f64>], train: &[usize], queries: &[usize]) -> Vec<Figure> {
    let mean = |top: usize| {
        let share = |(row, query): (&Vec<f64>, &usize)| {
            let same = ranking(row).into_iter().take(top).filter(|&sample| train[sample] == *query).count();
            same as f64 / top.min(row.len()) as f64
        };
        let found: Vec<f64> = scores.iter().zip(queries).map(share).collect();
        Interval::of(&found).map(|mean| mean.within(0.0, 1.0))
    };
    let mut figures = Figure::interval(["top_1", "low", "high"], mean(1)).to_vec();
    figures.push(Figure::new("top_10", mean(TOP).map(|mean| mean.mean)));
    figures
}
