//! Training, fine-tuning and checkpoints.

mod checkpoint;
mod finetune;
mod masked;
mod optimizer;
mod train;

pub use checkpoint::{Checkpoints, RunDifference};
pub use finetune::{Evaluation, FinetuneConfig, FinetunedModel, finetune};
pub use masked::pretrain_masked;
pub use train::{Progress, TrainConfig, train};
