use std::path::Path;

use hyperinf::data::sample_ids;
use hyperinf::store::{IdColumn, Ids, Unit};

use crate::args::{IdArgs, QueryModeArg};
use crate::error::{CliError, Input};

impl IdArgs {
    /// The files that are read.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = &Path> {
        [&self.train_ids, &self.query_ids].into_iter().flatten().map(|named| file_and_column(named).0)
    }

    /// The ids of these many training samples and queries; the mean query has none.
    pub(crate) fn read(&self, samples: usize, queries: usize, mode: QueryModeArg) -> Result<Ids, CliError> {
        let read = |what, named: &Option<String>, count| match named {
            None => Ok(IdColumn::numbered(count)),
            Some(named) => {
                let (path, column) = file_and_column(named);
                let error = |source| Input::File { what, path: path.to_owned(), source };
                sample_ids(path, column, count).map_err(|e| CliError::from(error(e.into())))
            }
        };
        let train = read("training ids", &self.train_ids, samples)?;
        let queries = read("query ids", &self.query_ids, queries)?;
        let queries = if mode == QueryModeArg::Mean { IdColumn::numbered(1) } else { queries };
        Ok(Ids { queries, train, unit: Unit::Sample })
    }
}

/// The parts of `FILE[:COLUMN]`; a colon is part of the name of a file that has it.
fn file_and_column(named: &str) -> (&Path, Option<&str>) {
    match named.rsplit_once(':') {
        Some((file, column)) if !column.is_empty() && !Path::new(named).exists() => (Path::new(file), Some(column)),
        _ => (Path::new(named), None),
    }
}
