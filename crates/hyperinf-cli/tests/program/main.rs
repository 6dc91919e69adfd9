//! The program `hyperinf` as a user meets it, on every device of the tests, and its reader of gradient files.

mod compare;
mod converge;
mod demo;
mod digits;
mod errors;
mod estimates;
mod eval;
mod formats;
mod guide;
mod help;
mod inspect;
mod labels;
mod methods;
mod outputs;
mod pipeline;
mod projection;
mod reader;
mod resume;
mod rows;
mod score;
mod support;
mod sweep;
mod text_errors;
mod texts;
mod variants;
