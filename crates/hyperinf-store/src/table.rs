/// Columns of equal length with their names.
#[derive(Clone, Debug)]
pub struct Table<'a> {
    pub(crate) columns: Vec<(&'a str, Column<'a>)>,
}

/// The values of a column.
#[derive(Clone, Debug)]
pub enum Column<'a> {
    /// Whole numbers.
    Whole(Vec<i64>),
    /// Real numbers.
    Real(Vec<f32>),
    /// Real numbers with all their digits.
    Double(Vec<f64>),
    /// Texts.
    Text(Vec<&'a str>),
    /// True or false.
    Truth(Vec<bool>),
}

impl<'a> Table<'a> {
    /// A table of these columns.
    ///
    /// # Panics
    ///
    /// If the columns differ in length.
    pub fn new(columns: Vec<(&'a str, Column<'a>)>) -> Self {
        let table = Self { columns };
        assert!(table.columns.iter().all(|(_, c)| c.len() == table.rows()), "columns of different length");
        table
    }

    /// The length of the columns.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }
}

impl Column<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Whole(values) => values.len(),
            Self::Real(values) => values.len(),
            Self::Double(values) => values.len(),
            Self::Text(values) => values.len(),
            Self::Truth(values) => values.len(),
        }
    }

    /// The value in a row, as text.
    pub(crate) fn text(&self, row: usize) -> String {
        match self {
            Self::Whole(values) => values[row].to_string(),
            Self::Real(values) => values[row].to_string(),
            Self::Double(values) => values[row].to_string(),
            Self::Text(values) => values[row].to_owned(),
            Self::Truth(values) => values[row].to_string(),
        }
    }
}
