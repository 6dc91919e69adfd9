use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::columns::whole;
use crate::dataset::Content;
use crate::{DataError, Reason, Row};

/// The labels of a classifier: label `i` belongs to class `i`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// The names in the order of the classes.
    pub names: Vec<String>,
    /// Whether a class may also be given by its number.
    #[serde(default)]
    pub numbers: bool,
    /// Whether the names are only the classes' numbers, because nothing names the classes.
    #[serde(skip)]
    pub unnamed: bool,
}

impl Labels {
    /// The labels of some rows: by value if all of them are whole numbers, else in alphabetical order.
    pub fn of<C: Content>(rows: &[Row<C>]) -> Self {
        let names: BTreeSet<&str> = rows.iter().filter_map(|row| row.content.label()).collect();
        let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
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

    /// The classes by label.
    pub fn index(&self) -> ClassIndex {
        let mut alike: HashMap<String, Option<usize>> = HashMap::new();
        for (class, name) in self.names.iter().enumerate() {
            if let Some(value) = value(name) {
                alike.entry(value).and_modify(|class| *class = None).or_insert(Some(class));
            }
        }
        // Of equal names the first counts.
        let classes = self.names.iter().enumerate().rev().map(|(class, name)| (name.clone(), class)).collect();
        ClassIndex { classes, alike, numbers: self.numbers, names: self.names.clone().into() }
    }

    /// Two of the labels that are one truth value in different spellings, as Python's `True` and JSON's `true`.
    pub(crate) fn alike(&self) -> Option<[&String; 2]> {
        let spelling =
            |word: &str| self.names.iter().filter(|name| name.eq_ignore_ascii_case(word)).collect::<Vec<_>>();
        ["true", "false"].into_iter().find_map(|word| spelling(word).first_chunk().copied())
    }

    /// Checks that labels which are names can be mapped to classes.
    ///
    /// # Errors
    ///
    /// [`DataError::UnnamedLabel`] with the first label that cannot.
    pub fn check<C: Content>(&self, rows: &[Row<C>]) -> Result<(), DataError> {
        let mut labels = rows.iter().filter_map(|row| row.content.label());
        match labels.find(|label| self.unnamed && label.parse::<i64>().is_err()) {
            Some(label) => Err(DataError::UnnamedLabel { label: label.to_owned(), classes: self.names.len() }),
            None => Ok(()),
        }
    }
}

/// Finds the class of a label, however many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassIndex {
    classes: HashMap<String, usize>,
    /// By [`value`]; `None` where several labels have it.
    alike: HashMap<String, Option<usize>>,
    numbers: bool,
    names: Arc<[String]>,
}

impl ClassIndex {
    /// The class of a label: by name, by number or truth value, or, where the labels allow it, by the class's number.
    ///
    /// # Errors
    ///
    /// [`Reason::Label`] if it is not one of the labels.
    pub fn class(&self, label: &str) -> Result<usize, Reason> {
        let named = self.classes.get(label).copied();
        let alike = || *self.alike.get(&value(label)?)?;
        let number = || label.parse().ok().filter(|&class: &usize| self.numbers && class < self.names.len());
        named
            .or_else(alike)
            .or_else(number)
            .ok_or_else(|| Reason::Label { label: label.to_owned(), known: self.names.clone() })
    }
}

/// The number or truth value that a label is: Python writes `True`, JSON `true`; and `1.0` stands for `1`.
fn value(label: &str) -> Option<String> {
    let truth = || ["true", "false"].into_iter().find(|word| label.eq_ignore_ascii_case(word));
    whole(label).or_else(truth).map(str::to_owned)
}
