//! The results of an attribution as one HTML page that needs no network.
//!
//! | item | purpose |
//! |---|---|
//! | [`Report`] | what a page shows: facts, rows with texts and columns, scores of queries, curves; [`Report::render`] |
//! | [`Results`] | the folder of a finished `attribute`, `detect` or `select`; [`Results::report`] reads it |
//! | [`is_stale`] | whether a page is of other results than a summary |
//! | [`Comparison`] | a page of methods compared with a ground truth; [`Comparison::render`] |
//! | [`Limits`] | how much of it a page has |
//!
//! ```
//! use hyperinf_report::{Column, Query, Report, Rows, Values};
//!
//! let texts = vec!["the river is cold".to_owned(), "<script>alert(1)</script>".to_owned()];
//! let report = Report {
//!     title: "Two rows".into(),
//!     rows: Rows {
//!         ids: vec!["0".into(), "1".into()],
//!         texts,
//!         columns: vec![Column { name: "loss".into(), values: Values::Numbers(vec![0.1, 2.0]) }],
//!         ..Rows::default()
//!     },
//!     queries: vec![Query { text: "a boat".into(), scores: vec![0.7, -0.2], ..Query::default() }],
//!     ..Report::default()
//! };
//! let page = report.render();
//! assert!(page.starts_with("<!doctype html>") && !page.contains("alert(1)"));
//! ```
//!
//! Texts reach the page as base64 of zlib and are shown as text nodes, never as markup. The page's content security
//! policy allows its one script and its one style by their hashes, pictures that are in the page, and nothing else.
//! Equal reports render equal pages.

mod comparison;
mod detection;
mod error;
mod escape;
mod pack;
mod page;
mod report;
mod results;
mod rows;
mod summary;
mod sweep;

// The crates whose types are in signatures, so that a manifest need not name them.
pub use {hyperinf_data, hyperinf_eval, hyperinf_models, hyperinf_scoring, hyperinf_store};

pub use comparison::Comparison;
pub use detection::DetectionCurve;
pub use error::ReportError;
pub use report::{BlockFact, Column, Fact, Heat, Limits, Query, Report, Rows, Values};
pub use results::{Results, is_stale};
pub use sweep::DampingLines;
