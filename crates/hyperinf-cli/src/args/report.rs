use std::path::PathBuf;

use clap::Args;

/// Arguments of `hyperinf report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The folder of the results, or a summary in it.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The page, a .html file [default: report.html in DIR].
    #[arg(long, value_name = "FILE", value_parser = page)]
    pub output: Option<PathBuf>,
    /// A text file with the ids of rows that are known to be bad, one per line.
    #[arg(long, value_name = "FILE")]
    pub known_bad: Option<PathBuf>,
    /// A column of the training rows with true labels: rows with another label are known to be bad.
    #[arg(long, value_name = "COLUMN")]
    pub true_labels: Option<String>,
    /// The folder of a `hyperinf sweep` over the same rows.
    #[arg(long, value_name = "DIR")]
    pub sweep: Option<PathBuf>,
    /// Rows at either end of a ranking.
    #[arg(long, value_name = "ROWS", default_value_t = 10)]
    pub top_k: usize,
    /// Where the training rows are, if not where the summary says.
    #[arg(long, value_name = "FILE")]
    pub train: Option<PathBuf>,
    /// Where the query rows are, if not where the summary says.
    #[arg(long, value_name = "FILE")]
    pub query: Option<PathBuf>,
    /// Where relative paths of images begin [default: the folder of the rows].
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
}

fn page(typed: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(typed);
    let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
    if ending.is_some_and(|ending| ending == "html" || ending == "htm") {
        Ok(path)
    } else {
        Err("a page ends in .html")
    }
}
