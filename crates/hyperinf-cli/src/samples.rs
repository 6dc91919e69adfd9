//! From rows to what a model takes.

use std::path::Path;

use hyperinf::models::{
    CausalLm, EncoderClassifier, Limit, LmSample, Sample, SampleModel, TextTokenizer, TokenizedSample,
};
use serde::Serialize;
use twox_hash::XxHash3_128;

use crate::args::{ColumnArgs, LengthArgs};
use crate::data::{Content, Dataset, Labels, Reason, Row, TextTask};
use crate::error::CliError;
use hyperinf::scoring::Set;

/// A model whose samples are made from rows.
pub(crate) trait RowModel: SampleModel {
    /// What the rows must hold.
    const TASK: TextTask;
    /// The most tokens of a sample, where neither the model nor the user says less.
    const USUAL_LENGTH: usize;

    /// The most tokens that the model takes.
    fn positions(&self) -> usize;

    /// The number of tokens that it knows.
    fn vocabulary(&self) -> usize;

    /// The sample of a row; `class` is that of the row's label.
    fn sample(
        tokenizer: &TextTokenizer,
        content: &Content,
        class: usize,
        limit: Limit,
    ) -> Result<TokenizedSample<Self::Sample>, Reason>;

    /// A sample's tokens.
    fn token_numbers(sample: &Self::Sample) -> &[u32];

    /// All that makes up a sample, for its fingerprint.
    fn bytes(sample: &Self::Sample) -> Vec<u8>;
}

impl RowModel for EncoderClassifier {
    const TASK: TextTask = TextTask::Classification;
    const USUAL_LENGTH: usize = 512;

    fn positions(&self) -> usize {
        self.encoder.config().max_tokens
    }

    fn vocabulary(&self) -> usize {
        self.encoder.config().vocabulary
    }

    fn sample(
        tokenizer: &TextTokenizer,
        content: &Content,
        class: usize,
        limit: Limit,
    ) -> Result<TokenizedSample<Sample>, Reason> {
        let Content::Classified { text, pair, .. } = content else {
            unreachable!("the rows of a classifier are read as such")
        };
        tokenizer.classification(text, pair.as_deref(), class, limit).map_err(Reason::tokens)
    }

    fn token_numbers(sample: &Sample) -> &[u32] {
        &sample.tokens
    }

    fn bytes(sample: &Sample) -> Vec<u8> {
        let numbers = sample.tokens.iter().chain(&sample.segments).copied();
        numbers.chain([sample.label as u32]).flat_map(u32::to_le_bytes).collect()
    }
}

impl RowModel for CausalLm {
    const TASK: TextTask = TextTask::LanguageModel;
    const USUAL_LENGTH: usize = 2048;

    fn positions(&self) -> usize {
        self.decoder().config().max_tokens
    }

    fn vocabulary(&self) -> usize {
        self.decoder().config().vocabulary
    }

    fn sample(
        tokenizer: &TextTokenizer,
        content: &Content,
        _class: usize,
        limit: Limit,
    ) -> Result<TokenizedSample<LmSample>, Reason> {
        let sample = match content {
            Content::Completion { prompt, completion } => tokenizer.completion(prompt, completion, limit),
            Content::Text(text) => tokenizer.text(text, limit),
            Content::Messages(messages) => tokenizer.chat(messages, limit),
            Content::Classified { .. } => unreachable!("the rows of a language model are read as such"),
        };
        sample.map_err(Reason::tokens)
    }

    fn token_numbers(sample: &LmSample) -> &[u32] {
        &sample.tokens
    }

    fn bytes(sample: &LmSample) -> Vec<u8> {
        let tokens = sample.tokens.iter().flat_map(|token| token.to_le_bytes());
        tokens.chain(sample.scored.iter().map(|&scored| u8::from(scored))).collect()
    }
}

/// What turns rows into samples.
pub(crate) struct Reader<'a> {
    pub(crate) tokenizer: &'a TextTokenizer,
    /// The classes, for a classifier.
    pub(crate) labels: Option<&'a Labels>,
    pub(crate) limit: Limit,
    pub(crate) columns: &'a ColumnArgs,
}

/// A data set with a sample for each of its rows.
pub(crate) struct Samples<S> {
    pub(crate) data: Dataset,
    pub(crate) samples: Vec<S>,
    /// Rows of which not all tokens were kept.
    pub(crate) cut: Vec<CutRow>,
}

/// A row that was cut.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CutRow {
    pub(crate) row: usize,
    /// The number of tokens left out.
    pub(crate) tokens: usize,
}

/// How long samples may be: as asked for, as the adapter was trained, or as the model takes.
pub(crate) fn limit<M: RowModel>(model: &M, args: &LengthArgs, trained: Option<usize>) -> Result<Limit, CliError> {
    let positions = model.positions();
    let asked = args.max_length.map(|length| length as usize);
    if let Some(asked) = asked.filter(|&asked| asked > positions) {
        return Err(CliError::MaxLength { asked, positions });
    }
    let length = asked.or(trained).unwrap_or(M::USUAL_LENGTH).min(positions);
    Ok(if args.truncate { Limit::Cut(length) } else { Limit::Refuse(length) })
}

impl Reader<'_> {
    /// Makes a sample of every row.
    pub(crate) fn samples<M: RowModel>(&self, data: Dataset, model: &M) -> Result<Samples<M::Sample>, CliError> {
        let vocabulary = model.vocabulary();
        let mut cut = Vec::new();
        let convert = |row: &Row| {
            let tokenized = M::sample(self.tokenizer, &row.content, self.class(row)?, self.limit)?;
            if let Some(&token) = M::token_numbers(&tokenized.sample).iter().find(|&&t| t as usize >= vocabulary) {
                return Err(Reason::Vocabulary { token, vocabulary });
            }
            if tokenized.cut > 0 {
                cut.push(CutRow { row: row.row, tokens: tokenized.cut });
            }
            Ok(tokenized.sample)
        };
        let (set, path) = (data.set, data.path.clone());
        let converted = data.convert(self.columns.skip_bad_rows, convert);
        let (data, samples) = converted.map_err(|source| CliError::Dataset { set, path, source })?;
        Ok(Samples { data, samples, cut })
    }

    fn class(&self, row: &Row) -> Result<usize, Reason> {
        let (Some(labels), Some(label)) = (self.labels, row.content.label()) else { return Ok(0) };
        labels.class(label).ok_or_else(|| Reason::Label { label: label.to_owned(), known: labels.names.clone() })
    }
}

impl<S> Samples<S> {
    /// The XXH3 hash of all samples.
    pub(crate) fn fingerprint<M: RowModel<Sample = S>>(&self) -> String {
        let mut hasher = XxHash3_128::new();
        for sample in &self.samples {
            let bytes = M::bytes(sample);
            hasher.write(&(bytes.len() as u64).to_le_bytes());
            hasher.write(&bytes);
        }
        format!("{:032x}", hasher.finish_128())
    }
}

/// Reads a data set for a model's task.
pub(crate) fn read_data(set: Set, path: &Path, task: TextTask, columns: &ColumnArgs) -> Result<Dataset, CliError> {
    Dataset::read(set, path, task, columns).map_err(|source| CliError::Dataset { set, path: path.to_owned(), source })
}
