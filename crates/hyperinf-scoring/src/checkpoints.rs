use crate::{Attribution, CurvatureFrom, Options, ScoreError, Source, attribute};

/// A model during its training, as the gradients of its samples.
pub struct Checkpoint<'a> {
    /// The learning rate of the training steps after this checkpoint.
    pub learning_rate: f64,
    /// Gradients of the training samples at this checkpoint.
    pub train: &'a dyn Source,
    /// Gradients of the queries at this checkpoint.
    pub query: &'a dyn Source,
    /// Where this checkpoint's curvature comes from, for methods that have one.
    pub curvature: CurvatureFrom<'a>,
}

/// TracIn over several checkpoints: `score = Σ_c η_c ⟨x_c, g_c⟩`, positive = helpful (Pruthi et al. 2020, section 3.2,
/// "TracInCP").
///
/// With [`Method::Identity`](crate::Method::Identity) it is the paper's. With another method or normalisation each
/// checkpoint's scores are that method's. The reports of all checkpoints are in order.
///
/// # Errors
///
/// If there is no checkpoint, a learning rate is not positive and finite, checkpoints have other numbers of samples or
/// queries, or as [`attribute`].
pub fn tracin(checkpoints: &[Checkpoint<'_>], options: &Options) -> Result<Attribution, ScoreError> {
    let mut total = TracIn::default();
    for Checkpoint { learning_rate, train, query, curvature } in checkpoints {
        total.check(*learning_rate)?;
        total.add(*learning_rate, attribute(*train, *query, curvature.clone(), options)?)?;
    }
    total.finish()
}

/// The sum of [`tracin`], for scores that are computed one checkpoint at a time.
#[derive(Clone, Debug, Default)]
pub struct TracIn {
    total: Option<Attribution>,
    checkpoints: usize,
}

impl TracIn {
    /// Adds `η` times the scores of the next checkpoint, of the same samples and queries.
    ///
    /// # Errors
    ///
    /// If the learning rate is not positive and finite, or the numbers of samples or queries differ.
    pub fn add(&mut self, learning_rate: f64, mut found: Attribution) -> Result<(), ScoreError> {
        self.check(learning_rate)?;
        self.checkpoints += 1;
        found.scores.scale(learning_rate);
        found.block_scores.iter_mut().for_each(|(_, scores)| scores.scale(learning_rate));
        found.magnitudes.iter_mut().for_each(|(_, magnitude)| *magnitude *= learning_rate);
        let Some(total) = &mut self.total else {
            self.total = Some(found);
            return Ok(());
        };
        total.scores.sum(found.scores)?;
        for ((_, sum), (_, more)) in total.block_scores.iter_mut().zip(found.block_scores) {
            sum.sum(more)?;
        }
        for ((_, sum), (_, more)) in total.magnitudes.iter_mut().zip(found.magnitudes) {
            *sum += more;
        }
        total.blocks.extend(found.blocks);
        Ok(())
    }

    /// The sum over all checkpoints.
    ///
    /// # Errors
    ///
    /// If there was none.
    pub fn finish(self) -> Result<Attribution, ScoreError> {
        self.total.ok_or(ScoreError::NoCheckpoints)
    }

    fn check(&self, learning_rate: f64) -> Result<(), ScoreError> {
        if learning_rate > 0.0 && learning_rate.is_finite() {
            return Ok(());
        }
        Err(ScoreError::LearningRate { checkpoint: self.checkpoints, value: learning_rate })
    }
}
