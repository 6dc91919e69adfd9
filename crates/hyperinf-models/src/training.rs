//! Training, fine-tuning and checkpoints.

mod averaged;
mod checkpoint;
mod finetune;
mod fingerprint;
mod masked;
mod optimizer;
mod train;

pub use averaged::AveragedTraining;
pub use checkpoint::{Checkpoints, FoundCheckpoints, is_checkpoint};
pub use finetune::{Evaluation, FinetuneConfig, FinetunedModel, finetune, finetune_until};
pub use fingerprint::{RunDifference, training_digest};
pub use masked::pretrain_masked;
pub use train::{Progress, TrainConfig, train};
