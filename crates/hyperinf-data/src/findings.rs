use std::collections::BTreeMap;
use std::error::Error;

use serde::Serialize;

use crate::listed;

/// Rows that are named in one finding.
const NAMED: usize = 6;

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, with the numbers.
    pub found: String,
    /// What to do; empty if nothing is to be done.
    pub advice: &'static str,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// Worth a look.
    Warn,
    /// Scores of these rows or by this model would be wrong or say little.
    Fail,
}

impl Finding {
    pub(crate) fn pass(name: &'static str, found: String) -> Self {
        Self { name, outcome: Outcome::Pass, found, advice: "" }
    }

    pub(crate) fn warn(name: &'static str, found: String, advice: &'static str) -> Self {
        Self { name, outcome: Outcome::Warn, found, advice }
    }

    pub(crate) fn fail(name: &'static str, found: String, advice: &'static str) -> Self {
        Self { name, outcome: Outcome::Fail, found, advice }
    }
}

/// What is counted while rows are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) lengths: Vec<usize>,
    pub(crate) cut: usize,
    /// Rows without a token that is part of the loss.
    pub(crate) unscored: Vec<usize>,
    /// Rows with the content of an earlier one.
    pub(crate) repeated: Vec<usize>,
    /// Rows with the content of an earlier one and another label.
    pub(crate) contradicted: Vec<usize>,
    pub(crate) labels: BTreeMap<String, usize>,
    /// The first row of each content, by its hash, with its label.
    pub(crate) seen: std::collections::HashMap<u128, Option<String>>,
}

impl Facts {
    /// Adds a row; `content` is the hash of all but its label.
    pub(crate) fn add(&mut self, row: usize, content: u128, label: Option<&str>) {
        if let Some(label) = label {
            *self.labels.entry(label.to_owned()).or_default() += 1;
        }
        match self.seen.get(&content) {
            Some(first) if first.as_deref() == label => self.repeated.push(row),
            Some(_) => self.contradicted.push(row),
            None => drop(self.seen.insert(content, label.map(str::to_owned))),
        }
    }

    /// The findings of `total` rows of which `bad` cannot be used; `scored` is the share of tokens that are part of the
    /// loss, where single ones are, and `known` are the labels of the model, if it names them.
    pub(crate) fn findings(
        mut self,
        total: usize,
        bad: usize,
        scored: Option<f64>,
        known: Option<&[String]>,
    ) -> Vec<Finding> {
        let mut all = Vec::new();
        all.push(match bad {
            0 => Finding::pass("rows", format!("all {total} can be used")),
            _ => Finding::warn("rows", format!("{bad} of {total} cannot be used"), "correct them, or leave them out"),
        });
        self.lengths.sort_unstable();
        if let (Some(least), Some(most)) = (self.lengths.first(), self.lengths.last()) {
            let median = self.lengths[self.lengths.len() / 2];
            let found = format!("{least} to {most} tokens, median {median}");
            all.push(match self.cut {
                0 => Finding::pass("length", found),
                cut => Finding::warn("length", format!("{found}; {cut} rows are cut"), "allow more tokens"),
            });
        }
        if let Some(share) = scored {
            all.push(match self.unscored.len() {
                0 => Finding::pass("loss", format!("{:.1} % of the tokens, in every row", 100.0 * share)),
                _ => Finding::fail(
                    "loss",
                    format!("no token of {} is part of it", named(&self.unscored)),
                    "look for answers that are cut off, empty or of weight 0",
                ),
            });
        }
        all.extend(self.labels(known));
        all.push(match self.repeated.len() {
            0 => Finding::pass("duplicates", "none".into()),
            _ => Finding::warn(
                "duplicates",
                named(&self.repeated),
                "remove them: a row that is there twice counts twice",
            ),
        });
        if !self.labels.is_empty() {
            all.push(match self.contradicted.len() {
                0 => Finding::pass("contradictions", "none".into()),
                _ => Finding::warn(
                    "contradictions",
                    format!("{}: the text of an earlier row, another label", named(&self.contradicted)),
                    "one of the labels is wrong",
                ),
            });
        }
        all
    }

    /// Whether the labels cover the classes.
    fn labels(&self, known: Option<&[String]>) -> Option<Finding> {
        let least = self.labels.values().min()?;
        let counts: Vec<String> =
            self.labels.iter().take(NAMED).map(|(label, rows)| format!("{label} {rows}")).collect();
        let more = self.labels.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let found = format!("{}{more}", counts.join(", "));
        let absent: Vec<String> =
            known.into_iter().flatten().filter(|l| !self.labels.contains_key(*l)).cloned().collect();
        Some(if self.labels.len() < 2 {
            let advice = "fine for queries; a classifier is trained on rows of two labels";
            Finding::warn("labels", format!("all rows have the same: {found}"), advice)
        } else if !absent.is_empty() {
            let found = format!("{found}; none of {}", listed(&absent));
            Finding::warn("labels", found, "add rows of these labels, if they should be learned")
        } else if *least < 2 {
            Finding::warn("labels", found, "a label with one row cannot be learned, nor its row be checked")
        } else {
            Finding::pass("labels", found)
        })
    }
}

/// Rows by their numbers.
pub(crate) fn named(rows: &[usize]) -> String {
    let shown: Vec<String> = rows.iter().take(NAMED).map(ToString::to_string).collect();
    let more = rows.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let word = if rows.len() == 1 { "row" } else { "rows" };
    format!("{word} {}{more}", shown.join(", "))
}

/// An error with its causes.
pub(crate) fn told(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
