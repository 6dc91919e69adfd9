//! `hyperinf report`: results as a page.

use hyperinf::store::{OutputFolder, check_output};
use hyperinf_report::{Limits, Results};

use crate::args::ReportArgs;
use crate::error::CliError;
use crate::score::counted;
use crate::text::size;
use crate::to_stdout;

/// The page in the folder of its results.
pub(crate) const PAGE: &str = "report.html";

/// Writes the page.
///
/// # Errors
///
/// If the results or their rows cannot be read, or the page cannot be written.
pub(crate) fn run(args: &ReportArgs) -> Result<(), CliError> {
    let results = Results {
        folder: args.folder.clone(),
        train: args.train.clone(),
        query: args.query.clone(),
        images: args.images.clone(),
        known_bad: args.known_bad.clone(),
        true_labels: args.true_labels.clone(),
        sweep: args.sweep.clone(),
        limits: Limits { top: args.top_k, ..Limits::default() },
    };
    let path = args.output.clone().unwrap_or_else(|| results.path().join(PAGE));
    // No run may exchange the results meanwhile.
    let here = args.output.is_none() && results.path().is_dir();
    let _locked = if here { Some(OutputFolder::new(results.path(), &[PAGE], &[])?) } else { None };
    let report = results.report()?;
    check_output(&path, &[])?;
    report.write(&path)?;
    let bytes = std::fs::metadata(&path).map_or(0, |page| page.len());
    let (rows, queries) = (report.rows.ids.len(), report.queries.len());
    to_stdout(|out| {
        let (rows, queries) = (counted(rows, "row", "rows"), counted(queries, "query", "queries"));
        writeln!(out, "{rows} and {queries} in {}, {}", path.display(), size(bytes))
    })
}
