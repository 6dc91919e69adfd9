//! Gradients of samples, batch by batch into a file.

use std::path::Path;
use std::time::Instant;

use burn::tensor::DType;
use hyperinf::gradients::{Block, Capture, GradientError, Target, capture};
use hyperinf::linalg::{ReadError, host};

use crate::error::CliError;
use crate::gradient_file::GradientWriter;
use crate::pattern::Pattern;
use crate::progress::Progress;
use crate::samples::{RowModel, Samples};

/// What is taken of which model.
pub(crate) struct Taken<'a, M> {
    pub(crate) model: &'a M,
    /// The model as the user gave it.
    pub(crate) name: &'a str,
    pub(crate) pattern: Option<&'a Pattern>,
    /// Samples of a backward pass.
    pub(crate) batch: usize,
    /// Where the files go.
    pub(crate) folder: &'a Path,
    /// All that the gradients depend on, but the samples.
    pub(crate) key: String,
}

impl<M: RowModel> Taken<'_, M> {
    /// Takes the gradients of all samples that are not in the file yet.
    ///
    /// Samples of similar length share a batch, so that little is padded; in the file they are in order.
    pub(crate) fn write(
        &self,
        file: &str,
        target: Target,
        set: &Samples<M::Sample>,
    ) -> Result<GradientWriter, CliError> {
        let mut order: Vec<usize> = (0..set.samples.len()).collect();
        order.sort_by_key(|&sample| M::tokens(&set.samples[sample]));
        let blocks = self.blocks(&set.samples[order[0]], target)?;
        let key = format!("{} {} {target:?}", self.key, set.fingerprint::<M>());
        let failed = |source: std::io::Error| CliError::Output { path: self.folder.to_owned(), source: source.into() };
        let opened = GradientWriter::open(self.folder, file, &key, set.samples.len(), &blocks);
        let mut writer = opened.map_err(failed)?;
        order.retain(|&sample| !writer.has(sample));
        // The longest first: if there is too little memory for them, nothing was done in vain.
        order.reverse();
        let what = match target {
            Target::Loss => "training gradients",
            Target::Measure => "query gradients",
        };
        let mut progress = Progress::new(what, set.samples.len() as u64);
        let mut done = set.samples.len() - order.len();
        let (began, mut tokens) = (Instant::now(), 0);
        for batch in order.chunks(self.batch) {
            let samples: Vec<&M::Sample> = batch.iter().map(|&sample| &set.samples[sample]).collect();
            let captures = capture(self.model, &self.model.collate(&samples)?, target)?;
            let losses = host(captures.values)?;
            let row = |place: usize| (set.data.set, set.data.path.clone(), set.data.rows[batch[place]].row);
            if let Some(place) = losses.iter().position(|loss| !loss.is_finite()) {
                let (set, path, row) = row(place);
                return Err(CliError::RowNotFinite { set, path, row, what: "loss".into(), value: losses[place] });
            }
            let mut values = Vec::with_capacity(blocks.len());
            for captured in captures.blocks.iter().filter(|captured| self.wanted(&captured.block)) {
                let numbers = numbers(captured)?;
                if let Some(at) = numbers.iter().position(|value| !value.is_finite()) {
                    let (set, path, row) = row(at / captured.block.parameters());
                    let what = format!("gradient in block `{}`", captured.block.name);
                    return Err(CliError::RowNotFinite { set, path, row, what, value: numbers[at].into() });
                }
                values.push(numbers);
            }
            writer.write(batch, &losses, &values).map_err(failed)?;
            done += batch.len();
            tokens += samples.iter().map(|sample| M::tokens(sample)).sum::<usize>();
            progress.at(done as u64, || format!("{:.0} tokens/s", tokens as f64 / began.elapsed().as_secs_f64()));
        }
        progress.finish();
        Ok(writer)
    }

    fn wanted(&self, block: &Block) -> bool {
        self.pattern.is_none_or(|pattern| pattern.fits(&block.name))
    }

    /// The blocks whose gradients are written, found out by taking those of one sample.
    fn blocks(&self, sample: &M::Sample, target: Target) -> Result<Vec<Block>, CliError> {
        let captures = match capture(self.model, &self.model.collate(&[sample])?, target) {
            Err(GradientError::NothingRecorded) => return Err(CliError::NoAdapter { model: self.name.to_owned() }),
            captures => captures?,
        };
        let all: Vec<Block> = captures.blocks.into_iter().map(|captured| captured.block).collect();
        let blocks: Vec<Block> = all.iter().filter(|block| self.wanted(block)).cloned().collect();
        match self.pattern {
            Some(pattern) if blocks.is_empty() => {
                let known = all.into_iter().map(|block| block.name).collect();
                Err(CliError::NoBlock { pattern: pattern.text().to_owned(), known })
            }
            _ => Ok(blocks),
        }
    }
}

fn numbers(captured: &Capture) -> Result<Vec<f32>, GradientError> {
    let data = captured.gradients().into_data_dtype(DType::F32);
    data.try_into_vec::<f32>().map_err(|error| ReadError { reason: format!("{error:?}") }.into())
}
