//! Training, fine-tuning and checkpoints.

mod adam_metric;
mod averaged;
mod backwards;
mod checkpoint;
mod finetune;
mod fingerprint;
mod masked;
mod optimizer;
mod pieces;
mod recorded_states;
mod recording;
mod recording_file;
mod reweighted;
mod smoothness;
mod train;
mod unroll;

pub use adam_metric::AdamMetric;
pub use averaged::AveragedTraining;
pub use checkpoint::{Checkpoints, FoundCheckpoints, is_checkpoint};
pub use finetune::{Evaluation, FinetuneConfig, FinetunedModel, finetune, finetune_shared, finetune_until};
pub use fingerprint::{RunDifference, training_digest};
pub use masked::pretrain_masked;
pub use pieces::{Piece, PieceTeam, SharedStep, shared_pieces};
pub use recording::Recording;
pub use smoothness::Smoothness;
pub use train::{OptimizerChoice, Progress, TrainConfig, train};
pub use unroll::{Unroll, Unrolled};
