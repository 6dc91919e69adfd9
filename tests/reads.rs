//! How often scoring waits for a device: once or twice per batch, however many blocks there are.
//!
//! A program of its own, since the count is the whole process's.

use burn::tensor::{Device, Distribution, Tensor};
use hyperinf::gradients::{Block, Capture, Gradients};
use hyperinf::linalg::reads;
use hyperinf::scoring::{Batch, CurvatureFrom, Options, QueryMode, ScoreError, Source, attribute};
use hyperinf_tests::devices;

/// Samples of a batch, and rows and columns of a block: enough that no block is small.
const SHAPE: [usize; 3] = [5, 460, 460];

/// Batches that are the same in every pass.
struct Batches {
    batches: Vec<Gradients>,
    /// As captures of two positions.
    captured: bool,
}

impl Batches {
    fn new(batches: usize, blocks: usize, captured: bool, device: &Device) -> Self {
        let [n, rows, cols] = SHAPE;
        let random = |rows, cols| Tensor::<3>::random([n, rows, cols], Distribution::Default, device);
        let batch = |_| Gradients {
            layout: (0..blocks).map(|l| Block::new(l.to_string(), rows, cols)).collect(),
            blocks: (0..blocks).map(|_| random(rows, cols)).collect(),
        };
        Self { batches: (0..batches).map(batch).collect(), captured }
    }
}

impl Source for Batches {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.batches.iter().try_for_each(|gradients| {
            if !self.captured {
                return visit(gradients.clone().into());
            }
            let capture = |(block, all): (&Block, &Tensor<3>)| {
                let [n, _, _] = all.dims();
                let delta = all.clone().slice([0..n, 0..2, 0..block.cols]);
                let input = Tensor::ones([n, 2, block.rows], &all.device());
                Capture { block: block.clone(), input, delta }
            };
            visit(gradients.layout.iter().zip(&gradients.blocks).map(capture).collect::<Vec<_>>().into())
        })
    }
}

/// The reads of one call, after a call that has asked the device what it can do.
fn count(batches: usize, blocks: usize, captured: bool, options: &Options, device: &Device) -> usize {
    let train = Batches::new(batches, blocks, captured, device);
    let query = Batches::new(1, blocks, captured, device);
    let run = || attribute(&train, &query, CurvatureFrom::Training, options).expect("good gradients");
    drop(run());
    let before = reads();
    drop(run());
    reads() - before
}

#[test]
fn a_batch_costs_as_many_reads_with_many_blocks_as_with_few() {
    // Reads for one more batch: of the products; of the squares that the curvature sums, or of the divisors. K-FAC and
    // EK-FAC want captures.
    let both = [false, true];
    let methods = [("identity", 1, &both[..]), ("cosine", 2, &both), ("hyperinf", 2, &both), ("diagonal", 2, &both)];
    let of_captures = [("kfac", 2, &both[1..]), ("ekfac", 2, &both[1..])];
    for (name, device) in devices() {
        for (method, expected, forms) in methods.into_iter().chain(of_captures) {
            let options = Options { query: QueryMode::Mean, ..Options::named(method).expect("a named method") };
            for &captured in forms {
                let of = |batches, blocks| count(batches, blocks, captured, &options, &device);
                let found = [1, 2].map(|blocks| of(2, blocks) - of(1, blocks));
                assert_eq!(found, [expected; 2], "{method} on {name}, captures {captured}, one block and two");
            }
        }
    }
}
