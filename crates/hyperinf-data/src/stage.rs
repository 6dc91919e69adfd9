/// A stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Per-sample gradients of the training rows.
    TrainGradients,
    /// Per-sample gradients of the query rows.
    QueryGradients,
    /// The curvature of the model.
    Curvature,
    /// Scores of tokens.
    Tokens,
    /// Fine-tuning.
    Finetuning,
    /// The derivative through a training.
    Unrolling,
    /// Trainings without some rows.
    Retraining,
    /// Passes over the training rows at recorded states.
    Trajectory,
    /// Products that refine an inverse.
    Refinement,
    /// Predictions for rows.
    Evaluation,
}

impl Stage {
    /// The stage in two words.
    pub fn name(self) -> &'static str {
        match self {
            Self::TrainGradients => "training gradients",
            Self::QueryGradients => "query gradients",
            Self::Curvature => "curvature",
            Self::Tokens => "token scores",
            Self::Finetuning => "fine-tuning",
            Self::Unrolling => "unrolling",
            Self::Retraining => "retraining",
            Self::Trajectory => "recorded states",
            Self::Refinement => "refinement",
            Self::Evaluation => "evaluation",
        }
    }

    /// What the stage counts.
    pub fn unit(self) -> &'static str {
        match self {
            Self::TrainGradients => "training rows, whose gradients are kept",
            Self::QueryGradients => "query rows, whose gradients are kept",
            Self::Curvature | Self::Tokens => "backward passes",
            Self::Finetuning | Self::Unrolling => "steps",
            Self::Retraining => "trainings, whose results are kept",
            Self::Trajectory => "passes over the training rows",
            Self::Refinement => "batches of products",
            Self::Evaluation => "rows",
        }
    }
}
