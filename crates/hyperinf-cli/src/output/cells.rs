use super::{Column, Table};

/// A table of texts, one row after the other.
pub(crate) struct Cells {
    names: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Cells {
    /// A table of these columns.
    ///
    /// # Panics
    ///
    /// If a row has more or fewer cells.
    pub(crate) fn new(names: &'static [&'static str], rows: Vec<Vec<String>>) -> Self {
        assert!(rows.iter().all(|row| row.len() == names.len()), "rows of other than {} cells", names.len());
        Self { names, rows }
    }

    pub(crate) fn table(&self) -> Table<'_> {
        let column = |place: usize| Column::Text(self.rows.iter().map(|row| row[place].as_str()).collect());
        Table::new(self.names.iter().enumerate().map(|(place, name)| (*name, column(place))).collect())
    }
}

/// A cell that is empty if there is no value.
pub(crate) fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}
