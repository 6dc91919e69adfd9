use std::fmt::Write;
use std::path::Path;

use hyperinf_store::{Staged, StoreError, WriteError};

use crate::escape::escape;
use crate::pack::{base64, source_hash};
use crate::report::Fact;

const STYLE: &str = "
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem; line-height: 1.5; font-size: 15px;
  font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif; color: #1c1e21; background: #fff; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
p, li, dd, td, th { overflow-wrap: anywhere; } p.under { color: #5d636b; margin: .2rem 0 0; }
table { border-collapse: collapse; } td, th { padding: .25rem .7rem; border-bottom: 1px solid #dcdedb; }
th { text-align: left; } td { font-variant-numeric: tabular-nums; text-align: right; }
td:first-child { text-align: left; } div { overflow-x: auto; } img { max-width: 100%; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem; }
";
const GENERATOR: &str = concat!("hyperinf ", env!("CARGO_PKG_VERSION"));

/// A page that compares methods: a table, pictures and facts. It has no script and needs no network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// The heading.
    pub title: String,
    /// A line below it.
    pub subtitle: String,
    /// What the reader must know before trusting the numbers.
    pub notes: Vec<String>,
    /// The columns of the table.
    pub columns: Vec<String>,
    /// Its rows, a cell for each column.
    pub rows: Vec<Vec<String>>,
    /// PNG files with a description each.
    pub pictures: Vec<(String, Vec<u8>)>,
    /// Settings, inputs and their fingerprints.
    pub facts: Vec<Fact>,
}

impl Comparison {
    /// The page.
    pub fn render(&self) -> String {
        let policy = format!(
            "default-src 'none'; style-src {}; img-src data:; base-uri 'none'; form-action 'none'",
            source_hash(STYLE)
        );
        let list = |open: &str, cells: &[String], close: &str| -> String {
            cells.iter().map(|cell| format!("{open}{}{close}", escape(cell))).collect()
        };
        let rows: String = self.rows.iter().map(|row| format!("<tr>{}</tr>\n", list("<td>", row, "</td>"))).collect();
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"generator\" content=\"{GENERATOR}\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
             <p class=\"under\">{}</p>\n<ul>{}</ul>\n<h2>Methods</h2>\n<div><table>\n<tr>{}</tr>\n{rows}</table></div>\n",
            escape(&self.subtitle),
            list("<li>", &self.notes, "</li>"),
            list("<th>", &self.columns, "</th>"),
            title = escape(&self.title),
        );
        for (what, png) in &self.pictures {
            let (what, data) = (escape(what), base64(png));
            let _ = writeln!(page, "<h2>{what}</h2>\n<img alt=\"{what}\" src=\"data:image/png;base64,{data}\">");
        }
        page.push_str("<h2>Settings and inputs</h2>\n<dl>\n");
        for Fact { name, value } in &self.facts {
            let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        }
        page.push_str("</dl>\n</body>\n</html>\n");
        page
    }

    /// Stages the page as a file.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn stage<'a>(&self, path: &'a Path) -> Result<Staged<'a>, StoreError> {
        Staged::new(path, |file| std::io::Write::write_all(file, self.render().as_bytes()).map_err(WriteError::Io))
    }
}
