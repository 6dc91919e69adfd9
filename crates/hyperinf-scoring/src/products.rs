use burn::tensor::{Int, Tensor, TensorData};
use hyperinf_gradients::{Capture, Gradients};

use crate::{
    Batch, CurvatureFrom, Method, Normalisation, Options, QueryMode, Samples, ScoreError, Scores, Source, attribute,
};

/// The products of some samples with each other, `[m, m]`, symmetric: `K_ij = g_i (H + λI)⁻¹ g_j`, or cosines.
#[derive(Clone, Debug, PartialEq)]
pub struct Products {
    /// The samples, ascending.
    pub samples: Vec<usize>,
    values: Vec<f64>,
}

impl Products {
    /// From the scores of the samples for themselves; a solver that stops at a tolerance gives two values per pair, whose
    /// mean is taken.
    ///
    /// # Panics
    ///
    /// If the samples do not ascend, or the scores are not `[m, m]`.
    pub fn new(samples: &[usize], scores: &Scores) -> Self {
        let m = samples.len();
        assert!(samples.windows(2).all(|pair| pair[0] < pair[1]), "samples ascend");
        assert!((scores.queries(), scores.samples()) == (m, m), "a score per pair");
        let mean = |place: usize| 0.5 * (scores.rows[place / m][place % m] + scores.rows[place % m][place / m]);
        Self { samples: samples.to_vec(), values: (0..m * m).map(mean).collect() }
    }

    /// The place of a sample; `None` if it is not among them.
    pub fn place(&self, sample: usize) -> Option<usize> {
        self.samples.binary_search(&sample).ok()
    }

    /// The product of the samples at two places.
    ///
    /// # Panics
    ///
    /// If there are no such places.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.samples.len() + j]
    }
}

/// The products of some samples with each other by the options' inverse, with the curvature of all training samples or
/// another one. With [`Normalisation::Cosine`] and no curvature: the cosines of their gradients.
///
/// `samples` ascend. Takes `m` right-hand sides and `m²` numbers; the normalisation is otherwise not used.
///
/// # Errors
///
/// As [`attribute`].
///
/// # Panics
///
/// If the samples do not ascend, or there are fewer than that.
pub fn products(
    train: &dyn Source,
    samples: &[usize],
    curvature: CurvatureFrom<'_>,
    options: &Options,
) -> Result<Products, ScoreError> {
    let picked = Picked { source: train, samples };
    let curvature = match curvature {
        CurvatureFrom::Training => CurvatureFrom::Source(train),
        other => other,
    };
    let found = attribute(&picked, &picked, curvature, &between(options))?;
    Ok(Products::new(samples, &found.scores))
}

/// The options for products of samples with each other.
#[must_use]
pub fn between(options: &Options) -> Options {
    let cosines = matches!(options.method, Method::Identity) && options.normalisation == Normalisation::Cosine;
    let normalisation = if cosines { Normalisation::Cosine } else { Normalisation::None };
    Options { query: QueryMode::Each, normalisation, block_scores: false, ..options.clone() }
}

/// Some samples of a source, which ascend.
#[derive(Clone, Copy)]
pub struct Picked<'a> {
    /// All samples.
    pub source: &'a dyn Source,
    /// Those that are visited, ascending.
    pub samples: &'a [usize],
}

impl Source for Picked<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        let (mut seen, mut next) = (0, 0);
        self.source.pass(&mut |batch| {
            let n = batch.samples();
            let inside = self.samples[next..].iter().take_while(|&&sample| sample < seen + n);
            let rows: Vec<i64> = inside.map(|&sample| (sample - seen) as i64).collect();
            (seen, next) = (seen + n, next + rows.len());
            if rows.is_empty() { Ok(()) } else { visit(pick(batch, &rows)) }
        })?;
        assert_eq!(next, self.samples.len(), "the source has fewer than the samples that are picked");
        Ok(())
    }
}

fn pick(batch: Batch, rows: &[i64]) -> Batch {
    let of = |tensor: Tensor<3>| {
        let places = TensorData::new(rows.to_vec(), [rows.len()]);
        let places = Tensor::<1, Int>::from_data(places, &tensor.device());
        tensor.select(0, places)
    };
    let samples = match batch.samples {
        Samples::Gradients(Gradients { layout, blocks }) => {
            Samples::Gradients(Gradients { layout, blocks: blocks.into_iter().map(of).collect() })
        }
        Samples::Captures(captures) => {
            let picked = |Capture { block, input, delta }| Capture { block, input: of(input), delta: of(delta) };
            Samples::Captures(captures.into_iter().map(picked).collect())
        }
    };
    Batch { samples, ..batch }
}
