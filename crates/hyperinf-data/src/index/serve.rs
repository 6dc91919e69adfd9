use std::ops::ControlFlow;

use burn::tensor::Device;
use serde::Serialize;

use super::query::{AnsweredQuery, Query, QuerySeconds, Reading};
use crate::RunError;
use crate::event::Event;

/// Questions that come one after the other, and what is done with their answers: see [`Query::serve`].
pub struct Questions<'a> {
    /// The next question: a row as a JSON object. `None` ends the session.
    pub next: &'a mut dyn FnMut() -> Option<String>,
    /// Sees each answer, or why a row cannot be used; it may end the session.
    pub reply: &'a mut dyn FnMut(Result<Reply, RunError>) -> ControlFlow<()>,
    /// Sees progress and notices.
    pub observe: &'a mut dyn FnMut(Event),
}

/// The answer to one question of several.
#[derive(Clone, Debug, Serialize)]
pub struct Reply {
    /// The ends of the ranking of each of its rows.
    pub answers: Vec<AnsweredQuery>,
    /// The rows that were read in full.
    pub reading: Reading,
    /// What it took.
    pub seconds: QuerySeconds,
}

impl Query {
    /// Answers questions one after the other; `asked` is not used. The model is loaded once, with the first question;
    /// inverses are prepared once, and sketches of the rows stay in memory where they have room.
    ///
    /// A row that cannot be used is an answer that says so; the session goes on.
    ///
    /// # Errors
    ///
    /// As [`Query::ask`], for everything but a row.
    pub fn serve(&self, device: &Device, mut questions: Questions<'_>) -> Result<(), RunError> {
        let (index, run, files) = self.prepare()?;
        files.kind().serve(self, run, &files, index, device, &mut questions)
    }
}
