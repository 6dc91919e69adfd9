//! The program `hyperinf` as a user meets it, on every device of the tests, and its reader of gradient files.

mod demo;
mod digits;
mod errors;
mod outputs;
mod reader;
mod score;
mod support;
