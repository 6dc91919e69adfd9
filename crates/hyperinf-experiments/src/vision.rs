//! Experiments with vision-language models.

mod answer;
pub mod easy_vqa;
mod folder;
mod onnx;
pub mod photos;
mod question;
pub mod selection;
mod warm_up;
