//! Every integration test of the workspace, as one program.

mod curvature;
mod device;
mod encoder;
mod evaluation;
mod goldens;
mod gradients;
mod lora;
mod models;
mod networks;
mod ranking;
mod refusals;
mod schulz;
mod scoring;
mod solvers;
mod tape;
mod training;
