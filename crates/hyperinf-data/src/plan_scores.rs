//! What scores cost: the method on the gradients of a few rows.

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::Block;
use hyperinf_store::{GradientPair, GradientWriter, RunKey, StoreError, score, self_influence};

use crate::RunError;
use crate::plan::Goal;
use crate::run::Run;

/// Bytes of the larger measured file.
const BYTES: usize = 48 << 20;
/// Rows of the larger measured file.
const ROWS: [usize; 2] = [8, 1024];
/// Queries that are measured at most.
const QUERIES: usize = 64;
/// Seconds after which a measurement is not repeated.
const PATIENCE: f64 = 0.3;

/// Gradients that were taken of a few rows.
pub(crate) struct Stored<'a> {
    pub(crate) blocks: &'a [Block],
    /// For each block `[rows, parameters]`.
    pub(crate) kept: &'a [Vec<f32>],
    pub(crate) folder: &'a Path,
}

/// Seconds of scores, as `c₀ + c₁ n + c₂ q + c₃ n q` of `n` training rows and `q` queries.
pub(crate) struct ScoreCosts {
    /// The blocks that are scored, projected if they are.
    pub(crate) blocks: Vec<Block>,
    terms: [f64; 4],
    /// Seconds of the influence of rows on themselves, as `c₀ + c₁ n`.
    of_self: Option<[f64; 2]>,
}

impl ScoreCosts {
    /// From two numbers of training rows and of queries each.
    pub(crate) fn measure(
        run: &Run,
        goal: &Goal,
        stored: &Stored<'_>,
        of: [usize; 2],
        known: Option<&[BlockCurvature]>,
        device: &Device,
    ) -> Result<Self, RunError> {
        let [train, query] = of;
        let row: usize = 4 * stored.blocks.iter().map(Block::parameters).sum::<usize>();
        let most = (BYTES / row.max(1)).clamp(ROWS[0], ROWS[1]).min(train.max(2));
        let (rows, queries) = ([most.div_ceil(2), most], [query.min(QUERIES).div_ceil(2), query.min(QUERIES)]);
        let mut options = run.options.clone();
        options.block_scores = false;
        let mut seconds = [[0.0; 2]; 2];
        let (mut blocks, mut of_self) = (Vec::new(), [0.0; 2]);
        for (i, &rows) in rows.iter().enumerate() {
            for (j, &queries) in queries.iter().enumerate() {
                let [train, query] = [stored.write("train", rows, 1)?, stored.write("query", queries, 2)?];
                let mut pair = GradientPair::open(&train, &query)?;
                // The plan tells of memory; this much there is.
                pair.memory = Some(f64::INFINITY);
                let began = Instant::now();
                pair.project(run.projection, device)?;
                drop(score(&pair, known, &options, device)?);
                seconds[i][j] = began.elapsed().as_secs_f64();
                // The first time anything may have to be prepared.
                if seconds[i][j] < PATIENCE {
                    let began = Instant::now();
                    pair.project(run.projection, device)?;
                    drop(score(&pair, known, &options, device)?);
                    seconds[i][j] = began.elapsed().as_secs_f64().min(seconds[i][j]);
                }
                blocks = pair.scored_blocks();
                if *goal == Goal::Detect && j == 0 {
                    let began = Instant::now();
                    self_influence(&pair, known, &options, device)?;
                    of_self[i] = began.elapsed().as_secs_f64();
                }
            }
        }
        let of_self = (*goal == Goal::Detect).then(|| line(rows, of_self));
        Ok(Self { blocks, terms: terms(rows, queries, seconds), of_self })
    }

    /// Seconds of scores.
    pub(crate) fn seconds(&self, train: usize, queries: usize) -> f64 {
        let (n, q) = (train as f64, queries as f64);
        let [constant, of_rows, of_queries, of_pairs] = self.terms;
        constant + of_rows * n + of_queries * q + of_pairs * n * q
    }

    /// Seconds of the products of `pool` training rows with each other, by the curvature of all.
    pub(crate) fn products(&self, train: usize, pool: usize) -> f64 {
        let (n, m) = (train as f64, pool as f64);
        let [constant, of_rows, of_queries, of_pairs] = self.terms;
        constant + of_rows * n + of_queries * m + of_pairs * m * m
    }

    /// Seconds of the influence of each row on itself, where the run takes it.
    pub(crate) fn self_influence(&self, train: usize) -> Option<f64> {
        self.of_self.map(|[constant, each]| constant + each * train as f64)
    }
}

/// `[c₀, c₁]` of two measurements; no time is negative.
fn line(rows: [usize; 2], seconds: [f64; 2]) -> [f64; 2] {
    let [a, b] = rows.map(|rows| rows as f64);
    let each = if b > a { ((seconds[1] - seconds[0]) / (b - a)).clamp(0.0, seconds[1] / b) } else { seconds[1] / b };
    [(seconds[1] - each * b).max(0.0), each]
}

fn terms(rows: [usize; 2], queries: [usize; 2], seconds: [[f64; 2]; 2]) -> [f64; 4] {
    let by_rows = [0, 1].map(|j| line(rows, [seconds[0][j], seconds[1][j]]));
    let [constant, of_queries] = line(queries, [by_rows[0][0], by_rows[1][0]]);
    if queries[0] == queries[1] {
        return [by_rows[1][0], by_rows[1][1], 0.0, 0.0];
    }
    let [of_rows, of_pairs] = line(queries, [by_rows[0][1], by_rows[1][1]]);
    [constant, of_rows, of_queries, of_pairs]
}

impl Stored<'_> {
    /// Writes a file of mixtures of the gradients, each with other weights.
    fn write(&self, name: &str, rows: usize, seed: u32) -> Result<std::path::PathBuf, RunError> {
        let failed = |source| StoreError::output(self.folder, source);
        let name = format!("{name}-{rows}");
        let path = self.folder.join(&name);
        if path.exists() {
            return Ok(path);
        }
        let mut writer =
            GradientWriter::open(self.folder, &name, &RunKey::default(), rows, self.blocks).map_err(failed)?;
        let mixed = self.blocks.iter().zip(self.kept).map(|(block, values)| {
            let parameters = block.parameters();
            let there = values.len() / parameters;
            let mut state = seed;
            let mut mixture = Vec::with_capacity(rows * parameters);
            for row in 0..rows {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let weight = (state >> 8) as f32 / (1_u32 << 24) as f32 + 0.5;
                let of = |row: usize| &values[row % there * parameters..(row % there + 1) * parameters];
                let pair = of(row).iter().zip(of(row / there + row + 1));
                mixture.extend(pair.map(|(a, b)| weight * a + (1.0 - weight) * b));
            }
            mixture
        });
        let values: Vec<Vec<f32>> = mixed.collect();
        writer.write(&(0..rows).collect::<Vec<_>>(), &vec![0.0; rows], &values).map_err(failed)?;
        writer.place(&path).map_err(failed)?;
        Ok(path)
    }
}
