//! Every integration test of the workspace, as one program.

mod curvature;
mod goldens;
mod gradients;
mod models;
mod networks;
mod tape;
