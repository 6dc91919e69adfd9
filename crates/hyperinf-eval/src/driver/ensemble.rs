use std::time::Instant;

use burn::tensor::{DType, Device};
use hyperinf_gradients::Estimate;
use hyperinf_scoring::{Attribution, BlockReport, CurvatureFrom, Options, Scores, TaskSource, attribute};

use crate::TruthError;
use crate::digits::{DigitsTask, Images, Labelled, PerceptronModule};

/// Images per backward pass.
const BATCH: usize = 100;

/// Models trained on the same images with different seeds, and the data that their gradients are taken of.
pub struct Ensemble {
    /// The trained models.
    pub models: Vec<PerceptronModule>,
    /// The training images, in batches.
    pub train: Vec<Labelled>,
    /// The query images, in batches.
    pub queries: Vec<Labelled>,
}

/// A method's scores with its cost and accuracy.
#[derive(Clone)]
pub struct MethodScores {
    /// `[q, n]`, means over the models; positive = helpful.
    pub scores: Scores,
    /// Wall-clock seconds for all models.
    pub seconds: f64,
    /// The largest relative residual over models and blocks; `None` for methods without curvature.
    pub residual: Option<f64>,
    /// Whether every solver reached its tolerance.
    pub converged: bool,
}

impl MethodScores {
    /// These scores, with the summed time and the worse accuracy of both.
    #[must_use]
    pub(crate) fn with_cost_of(self, other: &Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            residual: self.residual.into_iter().chain(other.residual).reduce(f64::max),
            converged: self.converged && other.converged,
            scores: self.scores,
        }
    }
}

impl Ensemble {
    /// Trains one model per seed on all images of the task and moves them to a device.
    ///
    /// # Errors
    ///
    /// As [`DigitsTask::trained`].
    pub fn train(
        task: &DigitsTask,
        seeds: impl IntoIterator<Item = u64>,
        device: &Device,
        precision: DType,
    ) -> Result<Self, TruthError> {
        let all: Vec<usize> = (0..task.train.len()).collect();
        let models = seeds.into_iter().map(|seed| Ok(task.trained(&all, seed)?.module(device, precision)));
        let models = models.collect::<Result<Vec<_>, TruthError>>()?;
        let batches = |images: &Images| images.batches(BATCH, device, precision);
        Ok(Self { models, train: batches(&task.train), queries: batches(&task.queries) })
    }

    /// The mean over the models of a method's scores.
    ///
    /// # Errors
    ///
    /// As [`attribute`].
    pub fn score(&self, estimate: Estimate, options: &Options) -> Result<MethodScores, TruthError> {
        let began = Instant::now();
        let mut parts: Vec<Attribution> = Vec::new();
        for model in &self.models {
            let train = TaskSource::train(model, &self.train);
            let query = TaskSource::query(model, &self.queries);
            let pseudo = TaskSource::curvature(model, &self.train, estimate);
            let curvature = match estimate {
                Estimate::Empirical => CurvatureFrom::Training,
                Estimate::Sampled { .. } | Estimate::GaussNewton { .. } => CurvatureFrom::Source(&pseudo),
            };
            parts.push(attribute(&train, &query, curvature, options)?);
        }
        let mut scores = Scores::default();
        for part in &parts {
            if scores.rows.is_empty() {
                scores.rows = vec![vec![0.0; part.scores.samples()]; part.scores.queries()];
            }
            for (sum, row) in scores.rows.iter_mut().zip(&part.scores.rows) {
                sum.iter_mut().zip(row).for_each(|(sum, score)| *sum += score / parts.len() as f64);
            }
        }
        let residual = parts.iter().filter_map(Attribution::residual).reduce(f64::max);
        let converged = parts.iter().flat_map(|part| &part.blocks).all(BlockReport::converged);
        Ok(MethodScores { scores, seconds: began.elapsed().as_secs_f64(), residual, converged })
    }
}
