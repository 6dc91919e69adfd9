//! Every integration test of the workspace, as one program.

mod curvature;
mod device;
mod evaluation;
mod goldens;
mod gradients;
mod models;
mod networks;
mod schulz;
mod scoring;
mod solvers;
mod tape;
