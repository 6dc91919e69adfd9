use std::borrow::Borrow;
use std::path::PathBuf;

use burn::tensor::Device;
use hyperinf_models::{Limit, PairLoss, TextTokenizer, TokenizeError, TokenizedSample};
use hyperinf_scoring::Set;
use twox_hash::XxHash3_128;

use crate::check_model;
use crate::dataset::{Content, Dataset, ReadOptions};
use crate::event::{Event, Notice};
use crate::findings::{Facts, Finding};
use crate::kind::Kind;
use crate::model_files::ModelFiles;
use crate::run::unchanged;
use crate::samples::LengthOptions;
use crate::{BadRow, DataError, Reason, Row, RunError};

/// What a model gets of rows: their tokens, and which of them are part of the loss; and what is wrong with them.
///
/// Only the tokenizer is loaded, unless a device is given: then also the model with its adapter, whose gradients of a few
/// rows are checked.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `model` | empty | a folder, a `.gguf` or llama2.c `.bin` file, or a name on the hub |
/// | `tokenizer` | the model's | a folder with `tokenizer.json`, or a llama2.c vocabulary |
/// | `adapter` | `None` | the adapter, whose length limit counts |
/// | `data` | empty | the rows: `.jsonl`, `.csv`, `.tsv` or `.parquet` |
/// | `read` | usual names | columns, and whether bad rows are skipped |
/// | `length` | the adapter's | how long rows may be; the model's own limit is not looked at |
/// | `rows` | 5 | how many rows are shown |
/// | `gradients` | 4 | rows whose gradients are checked, among the first 64 |
/// | `pairs` | `None` | rows are pairs of answers, with this loss |
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The model.
    pub model: String,
    /// The tokenizer, if it is not the model's own.
    pub tokenizer: Option<PathBuf>,
    /// The folder of the adapter.
    pub adapter: Option<PathBuf>,
    /// The rows.
    pub data: PathBuf,
    /// How rows are read.
    pub read: ReadOptions,
    /// How long rows may be.
    pub length: LengthOptions,
    /// How many rows are shown.
    pub rows: usize,
    /// Rows whose gradients are checked.
    pub gradients: usize,
    /// The loss of rows that are pairs of answers.
    pub pairs: Option<PairLoss>,
}

/// The result of a [`Check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The kind of the model.
    pub kind: &'static str,
    /// The first rows that can be used.
    pub shown: Vec<CheckedRow>,
    /// All rows that can be used.
    pub rows: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those of their tokens that are part of the loss.
    pub scored: usize,
    /// What was checked.
    pub findings: Vec<Finding>,
}

/// A row as a model gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRow {
    /// The row's number in the file, from 0.
    pub row: usize,
    /// The line where it begins, from 1; `None` for Parquet.
    pub line: Option<usize>,
    /// The label of a classifier's row.
    pub label: Option<String>,
    /// Its tokens.
    pub tokens: usize,
    /// The tokens that were cut off.
    pub cut: usize,
    /// Its text as tokenised, in pieces that are part of the loss or not.
    pub pieces: Vec<Piece>,
}

/// Consecutive tokens that are all part of the loss, or all not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Their text, with special tokens.
    pub text: String,
    /// The number of tokens.
    pub tokens: usize,
    /// Whether they are part of the loss.
    pub scored: bool,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            model: String::new(),
            tokenizer: None,
            adapter: None,
            data: PathBuf::new(),
            read: ReadOptions::default(),
            length: LengthOptions::default(),
            rows: 5,
            gradients: 4,
            pairs: None,
        }
    }
}

impl Check {
    /// Reads and tokenises all rows, and checks them; on a device also the gradients of a few.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or a row cannot be used and bad rows are not skipped. A model or an adapter that cannot
    /// be used is a [`Finding`].
    pub fn run(&self, device: Option<&Device>, observe: &mut dyn FnMut(Event)) -> Result<Checked, RunError> {
        let mut files = ModelFiles::find(&self.model, self.tokenizer.as_deref(), self.adapter.as_deref())?;
        files.read_images(&self.read, None)?;
        files.set_pairs(self.pairs)?;
        files.kind().check(self, &files, device, observe)
    }
}

impl Checked {
    /// Whether single tokens are part of the loss, as in language models; a classifier is trained on the label.
    pub fn is_scored(&self) -> bool {
        self.scored > 0
    }
}

/// What is kept of a row.
struct Seen {
    tokens: usize,
    /// Those that are part of the loss.
    scored: usize,
    /// Those that were cut off.
    cut: usize,
    /// XXH3 of its content.
    content: u128,
}

/// [`Check::run`] of one kind of model.
pub(crate) fn check<K: Kind>(
    check: &Check,
    files: &ModelFiles,
    device: Option<&Device>,
    observe: &mut dyn FnMut(Event),
) -> Result<Checked, RunError> {
    let failed = RunError::of_rows(Set::Train, &check.data);
    let read = || Dataset::<K::Content>::read(Set::Train, &check.data, &check.read).map_err(failed);
    let data = unchanged(&check.data, read)?;
    let reader = K::reader(files)?;
    let tokenizer = reader.borrow();
    for notice in tokenizer.notices() {
        observe(Event::Notice(Notice::Tokenizer(notice.clone())));
    }
    let length = check.length.max.or(files.note().map(|note| note.max_length)).unwrap_or(K::USUAL_LENGTH);
    let limit = if check.length.truncate { Limit::Cut(length) } else { Limit::Refuse(length) };
    let failed = RunError::data(&data);
    let convert = |row: &Row<K::Content>| {
        let TokenizedSample { sample, cut } = K::tokens(&reader, &row.content, limit)?;
        let scored = sample.iter().filter(|(_, scored)| *scored).count();
        let content = format!("{}\0{:?}", row.content.text(), row.content.images());
        Ok(Seen { tokens: sample.len(), scored, cut, content: XxHash3_128::oneshot(content.as_bytes()) })
    };
    let (data, rows) = data.convert_at_once(check.read.skip_bad_rows, convert).map_err(failed)?;
    let (mut tokens, mut scored, mut facts) = (0, 0, Facts::default());
    for (row, seen) in data.rows.iter().zip(&rows) {
        tokens += seen.tokens;
        scored += seen.scored;
        facts.lengths.push(seen.tokens);
        facts.cut += usize::from(seen.cut > 0);
        if seen.scored == 0 {
            facts.unscored.push(row.row);
        }
        facts.add(row.row, seen.content, row.content.label());
    }
    let show = |row: &Row<K::Content>| -> Result<CheckedRow, Reason> {
        let TokenizedSample { sample, cut } = K::tokens(&reader, &row.content, limit)?;
        let label = row.content.label().map(str::to_owned);
        let pieces = pieces(tokenizer, &sample)?;
        Ok(CheckedRow { row: row.row, line: row.line, label, tokens: sample.len(), cut, pieces })
    };
    if !data.bad.is_empty() {
        let (path, bad, total) = (data.path.clone(), data.bad.clone(), data.total);
        observe(Event::Notice(Notice::LeftOut { path, bad, total }));
    }
    K::row_notices(tokenizer, &data).into_iter().for_each(|notice| observe(Event::Notice(notice)));
    let mut shown = Vec::with_capacity(check.rows);
    for row in data.rows.iter().take(check.rows) {
        shown.push(show(row).map_err(|reason| {
            let bad = BadRow { row: row.row, line: row.line, reason };
            RunError::data(&data)(DataError::bad_rows(vec![bad], data.total, false))
        })?);
    }
    let share = (scored > 0).then(|| scored as f64 / tokens.max(1) as f64);
    let known = files.note().and_then(|note| note.labels.as_ref()).map(|labels| labels.names.as_slice());
    let mut findings = facts.findings(data.total, data.bad.len(), share, known);
    if let Some(device) = device {
        findings.extend(check_model::findings::<K>(check, files, &data, device)?);
    }
    Ok(Checked { kind: K::NAME, shown, rows: rows.len(), tokens, scored, findings })
}

fn pieces(tokenizer: &TextTokenizer, tokens: &[(u32, bool)]) -> Result<Vec<Piece>, TokenizeError> {
    let piece = |tokens: &[(u32, bool)]| {
        let numbers: Vec<u32> = tokens.iter().map(|&(token, _)| token).collect();
        Ok(Piece { text: tokenizer.spell(&numbers)?, tokens: numbers.len(), scored: tokens[0].1 })
    };
    tokens.chunk_by(|a, b| a.1 == b.1).map(piece).collect()
}
