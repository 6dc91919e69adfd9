//! Every integration test of the workspace, as one program.

mod curvature;
mod decoder;
mod device;
mod encoder;
mod evaluation;
mod folders;
mod gguf;
mod goldens;
mod gradients;
mod hub;
mod loading;
mod lora;
mod models;
mod names;
mod networks;
mod peft;
mod ranking;
mod reference;
mod refusals;
mod schulz;
mod scoring;
mod settings;
mod solvers;
mod tape;
mod tokenizer;
mod training;
