use std::ops::Range;

use hyperinf_models::{Limit, SampleModel};
use serde::Serialize;
use twox_hash::XxHash3_128;

use crate::dataset::Dataset;
use crate::event::{Event, Notice};
use crate::kind::{Kind, Prepared};
use crate::{Row, RunError};

/// Limits on the length of samples.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `max` | `None` | the most tokens of a row; `None`: as the adapter was trained, else usual | at most the model's |
/// | `truncate` | `false` | longer rows are cut at their end instead of being bad rows | |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LengthOptions {
    /// The most tokens of a row.
    pub max: Option<usize>,
    /// Whether longer rows are cut.
    pub truncate: bool,
}

/// A data set with a sample for each of its rows.
pub struct Samples<K: Kind> {
    /// The rows.
    pub data: Dataset<K::Content>,
    /// The sample of each row.
    pub samples: Vec<<K::Model as SampleModel>::Sample>,
    /// The rows that were cut.
    pub cut: Vec<CutRow>,
}

/// What is kept of samples that go elsewhere.
pub(crate) struct SampleFacts {
    pub(crate) lengths: Vec<usize>,
    /// XXH3 of each sample.
    pub(crate) digests: Vec<u128>,
}

/// A row that was cut to the maximum length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CutRow {
    /// The row's number in the file, from 0.
    pub row: usize,
    /// The number of tokens left out.
    pub tokens: usize,
}

impl LengthOptions {
    /// The limit for a model whose adapter was trained on rows of at most `trained` tokens.
    ///
    /// # Errors
    ///
    /// [`RunError::MaxLength`] if the model accepts fewer tokens than `max`.
    pub fn limit<K: Kind>(&self, model: &K::Model, trained: Option<usize>) -> Result<Limit, RunError> {
        let positions = K::positions(model);
        if let Some(asked) = self.max.filter(|&asked| asked > positions) {
            return Err(RunError::MaxLength { asked, positions });
        }
        let length = self.max.or(trained).unwrap_or(K::USUAL_LENGTH).min(positions);
        Ok(if self.truncate { Limit::Cut(length) } else { Limit::Refuse(length) })
    }
}

impl<K: Kind> Samples<K> {
    /// The sample of every row; rows without one become bad rows.
    ///
    /// # Errors
    ///
    /// If a row is bad and bad rows are not skipped, or all rows are bad.
    pub fn new(
        prepared: &Prepared<K>,
        data: Dataset<K::Content>,
        limit: Limit,
        skip_bad_rows: bool,
    ) -> Result<Self, RunError> {
        let convert = |row: &Row<K::Content>| K::sample(prepared, &row.content, limit);
        let failed = RunError::data(&data);
        let found = if K::IMAGES {
            // Frozen parts of the model run for each image, on all cores.
            data.convert(skip_bad_rows, convert)
        } else {
            data.convert_at_once(skip_bad_rows, convert)
        };
        let (data, found) = found.map_err(failed)?;
        let cuts = data.rows.iter().zip(&found).filter(|(_, found)| found.cut > 0);
        let cut = cuts.map(|(row, found)| CutRow { row: row.row, tokens: found.cut }).collect();
        let samples = found.into_iter().map(|found| found.sample).collect();
        Ok(Self { data, samples, cut })
    }

    pub(crate) fn facts(&self) -> SampleFacts {
        let lengths = self.samples.iter().map(K::Model::length).collect();
        let digests = self.samples.iter().map(|sample| XxHash3_128::oneshot(&K::bytes(sample))).collect();
        SampleFacts { lengths, digests }
    }

    /// The length of each sample.
    pub(crate) fn lengths(&self) -> Vec<usize> {
        self.samples.iter().map(K::Model::length).collect()
    }

    /// The samples' numbers, the shortest sample first.
    pub(crate) fn by_length(&self) -> Vec<usize> {
        by_length::<K::Model>(&self.samples)
    }

    /// XXH3 of some samples, 128 bits.
    pub(crate) fn fingerprint(&self, rows: Range<usize>) -> String {
        let mut hasher = XxHash3_128::new();
        for sample in &self.samples[rows] {
            let bytes = K::bytes(sample);
            hasher.write(&(bytes.len() as u64).to_le_bytes());
            hasher.write(&bytes);
        }
        format!("{:032x}", hasher.finish_128())
    }
}

/// The samples' numbers, the shortest sample first.
pub(crate) fn by_length<M: SampleModel>(samples: &[M::Sample]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&sample| M::length(&samples[sample]));
    order
}

/// Reports rows that were left out or cut, and how the others are read.
pub(crate) fn notify<K: Kind>(processor: &K::Processor, set: &Samples<K>, observe: &mut dyn FnMut(Event)) {
    let path = &set.data.path;
    let tokenizer = K::tokenizer(processor);
    for notice in tokenizer.map(|tokenizer| K::row_notices(tokenizer, &set.data)).unwrap_or_default() {
        observe(Event::Notice(notice));
    }
    if !set.data.bad.is_empty() {
        let (path, bad, total) = (path.clone(), set.data.bad.clone(), set.data.total);
        observe(Event::Notice(Notice::LeftOut { path, bad, total }));
    }
    if let Some(first) = set.cut.first() {
        let (path, rows, first) = (path.clone(), set.cut.len(), first.row);
        observe(Event::Notice(Notice::Cut { path, rows, first }));
    }
}
