use crate::{Attribution, Options, ScoreError, Source, attribute};

/// A model during its training, as the gradients of its samples.
pub struct Checkpoint<'a> {
    /// The learning rate with which the model went on from here.
    pub learning_rate: f64,
    /// Gradients of the training samples at this checkpoint.
    pub train: &'a dyn Source,
    /// Gradients of the queries at this checkpoint.
    pub query: &'a dyn Source,
}

/// TracIn over several checkpoints: `score = Σ_c η_c ⟨x_c, g_c⟩`, positive = helpful (Pruthi et al. 2020, section 3.2,
/// "TracInCP").
///
/// With [`Method::Identity`](crate::Method::Identity) it is the paper's; with another method or normalisation each
/// checkpoint's scores are that method's. Every checkpoint has its own curvature; reports of all are in order.
///
/// # Errors
///
/// If there is no checkpoint, a learning rate is not positive and finite, checkpoints have other numbers of samples or
/// queries, or as [`attribute`].
pub fn tracin(checkpoints: &[Checkpoint<'_>], options: &Options) -> Result<Attribution, ScoreError> {
    let mut total: Option<Attribution> = None;
    for (index, checkpoint) in checkpoints.iter().enumerate() {
        let rate = checkpoint.learning_rate;
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(ScoreError::LearningRate { checkpoint: index, value: rate });
        }
        let mut found = attribute(checkpoint.train, checkpoint.query, options)?;
        found.scores.scale(rate);
        found.block_scores.iter_mut().for_each(|(_, scores)| scores.scale(rate));
        let Some(total) = &mut total else {
            total = Some(found);
            continue;
        };
        total.scores.add_same(&found.scores)?;
        for ((_, sum), (_, more)) in total.block_scores.iter_mut().zip(&found.block_scores) {
            sum.add_same(more)?;
        }
        total.blocks.extend(found.blocks);
    }
    total.ok_or(ScoreError::NoCheckpoints)
}
