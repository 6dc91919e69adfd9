//! Every integration test of the workspace, as one program.

mod curvature;
mod tape;
