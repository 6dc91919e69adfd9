use crate::{Column, Table};

/// A table of texts, row by row.
pub struct Cells {
    names: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Cells {
    /// A table with these columns.
    ///
    /// # Panics
    ///
    /// If a row has more or fewer cells than there are columns.
    pub fn new(names: &'static [&'static str], rows: Vec<Vec<String>>) -> Self {
        assert!(rows.iter().all(|row| row.len() == names.len()), "rows of other than {} cells", names.len());
        Self { names, rows }
    }

    /// The same table, column by column.
    pub fn table(&self) -> Table<'_> {
        let column = |place: usize| Column::Text(self.rows.iter().map(|row| row[place].as_str()).collect());
        Table::new(self.names.iter().enumerate().map(|(place, name)| (*name, column(place))).collect())
    }
}

/// The text of a cell, empty if there is no value.
pub fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}
