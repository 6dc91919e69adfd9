use std::time::Instant;

use burn::tensor::{DType, Device};
use hyperinf_gradients::{Difference, Estimate, Gradients, gauss_newton_products};
use hyperinf_scoring::{
    BlockReport, CurvatureFrom, Method, Options, QueryMode, ScoreError, Scores, Source, TaskSource, attribute,
    curvature, query_gradients, refine,
};

use super::Candidate;
use crate::TruthError;
use crate::digits::{DigitsTask, Images, Labelled, PerceptronModule};

/// Images per backward pass.
const BATCH: usize = 100;
/// The displacement of products in f64: their error is some 1e-9 of a product.
const LENGTH: f64 = 1e-6;

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

    /// The mean over the models of a method's scores, by these options in place of the candidate's.
    ///
    /// # Errors
    ///
    /// As [`attribute`] and [`refine`].
    pub fn score(&self, candidate: &Candidate, options: &Options) -> Result<MethodScores, TruthError> {
        let began = Instant::now();
        let mut parts = Vec::with_capacity(self.models.len());
        for model in &self.models {
            parts.push(self.score_of(model, candidate, options)?);
        }
        let mut scores = Scores::default();
        for (found, ..) in &parts {
            if scores.rows.is_empty() {
                scores.rows = vec![vec![0.0; found.samples()]; found.queries()];
            }
            for (sum, row) in scores.rows.iter_mut().zip(&found.rows) {
                sum.iter_mut().zip(row).for_each(|(sum, score)| *sum += score / parts.len() as f64);
            }
        }
        let residual = parts.iter().filter_map(|(_, residual, _)| *residual).reduce(f64::max);
        let converged = parts.iter().all(|(.., converged)| *converged);
        Ok(MethodScores { scores, seconds: began.elapsed().as_secs_f64(), residual, converged })
    }

    /// The scores of one model, with the largest residual and whether all solvers converged.
    fn score_of(
        &self,
        model: &PerceptronModule,
        candidate: &Candidate,
        options: &Options,
    ) -> Result<(Scores, Option<f64>, bool), TruthError> {
        let estimate = candidate.estimate;
        let train = TaskSource::train(model, &self.train);
        let query = TaskSource::query(model, &self.queries);
        let pseudo = TaskSource::curvature(model, &self.train, estimate);
        let (from, source): (_, &dyn Source) = match estimate {
            Estimate::Empirical => (CurvatureFrom::Training, &train),
            Estimate::Sampled { .. } | Estimate::GaussNewton { .. } => (CurvatureFrom::Source(&pseudo), &pseudo),
        };
        let Some(steps) = candidate.refine.filter(|_| candidate.has_curvature()) else {
            let found = attribute(&train, &query, from, options)?;
            let converged = found.blocks.iter().all(BlockReport::converged);
            return Ok((found.scores.clone(), found.residual(), converged));
        };
        let queries = query_gradients(&query, options.query)?;
        let known = curvature(source, options)?;
        // In f64, where a displacement can be so short that it crosses hardly any kinks of ReLU, which would count as
        // curvature.
        let double = train_in_f64(&self.train);
        let (precise, rows, length) = match double {
            Some(rows) => (model.cast(DType::F64), rows, Some(LENGTH)),
            None => (model.clone(), self.train.clone(), None),
        };
        let difference = Difference { length, measured: false };
        let mut products = |directions: &Gradients| {
            let dtype = precise.layers[0].weight.val().dtype();
            let blocks = directions.blocks.iter().map(|block| block.clone().cast(dtype)).collect();
            let directions = Gradients { layout: directions.layout.clone(), blocks };
            let found = gauss_newton_products(&precise, &rows, &directions, difference).map_err(ScoreError::source)?;
            Ok(found.rows)
        };
        let refined = refine(&queries, known, &mut products, options, steps)?;
        let plain = Options { method: Method::Identity, query: QueryMode::Each, merged: false, ..options.clone() };
        let found = attribute(&train, &refined.rows, CurvatureFrom::Training, &plain)?;
        let residual = refined.residuals.iter().map(|residuals| residuals.after).fold(0.0, f64::max);
        Ok((found.scores, Some(residual), true))
    }
}

/// The batches in f64, if their device has it.
fn train_in_f64(batches: &[Labelled]) -> Option<Vec<Labelled>> {
    let device = batches.first()?.pixels.device();
    device.supports_dtype(DType::F64).then(|| batches.iter().map(|batch| batch.cast(DType::F64)).collect())
}
