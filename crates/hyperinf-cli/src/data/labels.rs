use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Content, Row};

/// The labels of a classifier: class `i` is label `i`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels {
    /// The names in the order of the classes.
    pub names: Vec<String>,
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
        Self { names }
    }

    /// The classes `0` to `classes - 1`, without names.
    pub fn numbered(classes: usize) -> Self {
        Self { names: (0..classes).map(|class| class.to_string()).collect() }
    }

    /// The class of a label: by its name, or by its number where no name is a number.
    pub fn class(&self, label: &str) -> Option<usize> {
        let named = self.names.iter().position(|name| name == label);
        named.or_else(|| {
            let numbers = self.names.iter().any(|name| name.parse::<i64>().is_ok());
            label.parse().ok().filter(|&class: &usize| !numbers && class < self.names.len())
        })
    }
}
