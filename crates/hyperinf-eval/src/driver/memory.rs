use hyperinf_gradients::{Block, Estimate, Sketch};
use hyperinf_scoring::{Method, Options};

use super::EvalConfig;
use crate::TruthError;
use crate::digits::{CLASSES, PIXELS};

const GIB: f64 = (1_u64 << 30) as f64;
const F64: f64 = 8.0;
/// Copies of the weights in a training: themselves, gradients, two moments, and those that a step adds.
const COPIES: f64 = 6.0;
/// Images whose gradients are taken at once, those before them included.
const IMAGES: f64 = 200.0;

/// Fails if trainings or a candidate's scores need more memory than there is, roughly.
pub(super) fn check(config: &EvalConfig) -> Result<(), TruthError> {
    // A perceptron that cannot be addressed is refused whatever the system has.
    let available = config.memory.unwrap_or(isize::MAX as f64);
    let sizes: Vec<usize> = [PIXELS].iter().chain(&config.task.hidden).chain(&[CLASSES]).copied().collect();
    let weights: f64 = sizes.windows(2).map(|pair| (pair[0] as f64 + 1.0) * pair[1] as f64).sum();
    let refused = |what: &str, bytes: f64| {
        let (needed_gib, available_gib) = (bytes / GIB, available / GIB);
        let what = what.to_owned();
        if bytes <= available { Ok(()) } else { Err(TruthError::Memory { what, weights, needed_gib, available_gib }) }
    };
    let threads = rayon::current_num_threads() as f64;
    let trainings = F64 * weights * (COPIES * threads + config.models as f64);
    refused("training", trainings)?;
    // From here on sizes fit their type.
    let blocks: Vec<Block> = sizes.windows(2).map(|pair| Block::new("", pair[0] + 1, pair[1])).collect();
    let merged = [Block::new("", 1, blocks.iter().map(Block::parameters).sum())];
    for candidate in &config.candidates {
        let of = if candidate.options.merged { &merged[..] } else { &blocks };
        // An estimate is a set of pseudo-samples.
        let draws = match candidate.estimate {
            Estimate::Empirical => 1,
            Estimate::Sampled { draws, .. } | Estimate::GaussNewton { sketch: Some(Sketch { draws, .. }) } => draws,
            Estimate::GaussNewton { sketch: None } => CLASSES,
        };
        let samples = config.task.train.saturating_mul(draws);
        let curvature: f64 = of.iter().map(|block| curvature(block, samples, &candidate.options)).sum();
        let rows = IMAGES + 3.0 * config.task.queries as f64;
        refused(&candidate.name, F64 * weights * (config.models as f64 + rows) + curvature)?;
    }
    Ok(())
}

/// The bytes of a block's curvature and its inverse.
fn curvature(block: &Block, samples: usize, options: &Options) -> f64 {
    let Method::Inverse { storage, .. } = &options.method else { return 0.0 };
    let held =
        if storage.holds_samples(block, samples) { 3.0 * samples as f64 * block.parameters() as f64 } else { 0.0 };
    F64 * held + storage.memory(block, samples)
}
