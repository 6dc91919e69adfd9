//! [`Query`]s of one kind of model.

use std::time::Instant;

use burn::tensor::Device;
use hyperinf_scoring::Set;
use hyperinf_store::{IndexFolder, StoreError, TemporaryFolder};

use super::query::{Answer, Asked, Query, write_row};
use super::serve::{Questions, Reply};
use super::session::{self, Ready, Session};
use crate::RunError;
use crate::dataset::Dataset;
use crate::event::Event;
use crate::kind::Kind;
use crate::model_files::ModelFiles;
use crate::run::{Run, unchanged};

/// Takes the gradients of the queries, and scores the rows of the index for them.
pub(crate) fn query<K: Kind>(
    query: &Query,
    mut run: Run,
    files: ModelFiles,
    index: IndexFolder,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Answer, RunError> {
    let began = Instant::now();
    let folder = temporary()?;
    if let Asked::Row(cells) = &query.asked {
        let text = serde_json::to_string(cells).map_err(|e| StoreError::output(folder.path(), e))?;
        run.query = write_row(folder.path(), &text).map_err(|e| StoreError::output(folder.path(), e))?;
    }
    let data = read::<K>(&run)?;
    let mut session = Session::<K>::open(query, run, &files, index, &data, device, observe)?;
    let load = began.elapsed().as_secs_f64();
    let session::Asked { rows, attribution, answers, reading, mut seconds } = session.ask(data, device, observe)?;
    seconds.load = load;
    let Session { index, ready, .. } = session;
    let Some(Ready { pair, factors, .. }) = ready else { unreachable!("a question was asked") };
    let query_mode = query.options.query;
    Ok(Answer { index, query: rows, attribution, pair, query_mode, answers, factors, reading, seconds })
}

/// Answers questions until there are no more: [`Query::serve`].
pub(crate) fn serve<K: Kind>(
    query: &Query,
    run: Run,
    files: &ModelFiles,
    index: IndexFolder,
    device: &Device,
    questions: &mut Questions<'_>,
) -> Result<(), RunError> {
    let (folder, mut session) = (temporary()?, None::<Session<K>>);
    while let Some(line) = (questions.next)() {
        if query.stop.is_requested() {
            break;
        }
        let began = Instant::now();
        let mut answer = || -> Result<Reply, RunError> {
            let path = write_row(folder.path(), line.trim()).map_err(|e| StoreError::output(folder.path(), e))?;
            let run = Run { query: path, ..run.clone() };
            let data = read::<K>(&run)?;
            let observe = &mut *questions.observe;
            let asked = match &mut session {
                Some(session) => session.ask(data, device, observe)?,
                none => {
                    let mut opened = Session::<K>::open(query, run, files, index.clone(), &data, device, observe)?;
                    let load = began.elapsed().as_secs_f64();
                    let mut first = opened.ask(data, device, observe)?;
                    first.seconds.load = load;
                    opened.hold()?;
                    *none = Some(opened);
                    first
                }
            };
            Ok(Reply { answers: asked.answers, reading: asked.reading, seconds: asked.seconds })
        };
        match answer() {
            // A row that cannot be used says nothing of the next one.
            Err(error) if !error.is_of_rows() => return Err(error),
            reply => {
                if (questions.reply)(reply).is_break() {
                    break;
                }
            }
        }
    }
    Ok(())
}

fn temporary() -> Result<TemporaryFolder, RunError> {
    Ok(TemporaryFolder::new().map_err(|e| StoreError::output(&std::env::temp_dir(), e))?)
}

fn read<K: Kind>(run: &Run) -> Result<Dataset<K::Content>, RunError> {
    unchanged(&run.query, || {
        let failed = RunError::of_rows(Set::Query, &run.query);
        Dataset::<K::Content>::read(Set::Query, &run.query, &run.read).map_err(failed)
    })
}
