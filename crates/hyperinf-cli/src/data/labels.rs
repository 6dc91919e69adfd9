use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Content, Row};
use crate::error::CliError;

/// The labels of a classifier: class `i` is label `i`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// The names in the order of the classes.
    pub names: Vec<String>,
    /// Whether a class may be given by its number, too.
    #[serde(default)]
    pub numbers: bool,
    /// Whether the names are nothing but the numbers, for want of better ones.
    #[serde(skip)]
    pub unnamed: bool,
}

impl Labels {
    /// The labels of some rows: by value if all of them are whole numbers, else in alphabetical order.
    pub fn of(rows: &[Row]) -> Self {
        let labels = rows.iter().filter_map(|row| match &row.content {
            Content::Classified { label, .. } => Some(label.clone()),
            _ => None,
        });
        let names: BTreeSet<String> = labels.collect();
        let mut names: Vec<String> = names.into_iter().collect();
        if names.iter().all(|name| name.parse::<i64>().is_ok()) {
            names.sort_by_key(|name| name.parse::<i64>().unwrap_or_default());
        }
        Self { names, numbers: false, unnamed: false }
    }

    /// The classes of a model that names them.
    pub fn of_model(names: Vec<String>) -> Self {
        let numbers = names.iter().all(|name| name.parse::<i64>().is_err());
        Self { names, numbers, unnamed: false }
    }

    /// The classes `0` to `classes - 1`, without names.
    pub fn numbered(classes: usize) -> Self {
        Self { names: (0..classes).map(|class| class.to_string()).collect(), numbers: false, unnamed: true }
    }

    /// The class of a label.
    pub fn class(&self, label: &str) -> Option<usize> {
        let named = self.names.iter().position(|name| name == label);
        let number = || label.parse().ok().filter(|&class: &usize| self.numbers && class < self.names.len());
        named.or_else(number)
    }

    /// Fails if labels are names, and nothing says which classes they are.
    ///
    /// # Errors
    ///
    /// [`CliError::Unnamed`] with the first such label.
    pub fn check(&self, rows: &[Row]) -> Result<(), CliError> {
        let mut labels = rows.iter().filter_map(|row| row.content.label());
        match labels.find(|label| self.unnamed && label.parse::<i64>().is_err()) {
            Some(label) => Err(CliError::Unnamed { label: label.to_owned(), classes: self.names.len() }),
            None => Ok(()),
        }
    }
}
