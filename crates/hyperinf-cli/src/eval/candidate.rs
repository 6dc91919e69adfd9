//! Methods as given on the command line.

use hyperinf::curvature::Damping;
use hyperinf::eval::Candidate;
use hyperinf::scoring::{EstimateKind, MethodSpec};

use crate::args::{CandidateArgs, at_least, once};
use crate::error::{CliError, Usage};

/// The seed of sampled labels.
pub(super) const LABEL_SEED: u64 = 0;

/// Label draws per image.
pub(super) fn draws(args: &CandidateArgs) -> usize {
    args.draws.unwrap_or(16)
}

/// The damping factors.
pub(super) fn dampings(args: &CandidateArgs, default: f64) -> Result<Vec<f64>, CliError> {
    let dampings = if args.damping.is_empty() { vec![default] } else { once(&args.damping) };
    match dampings.iter().find(|&&factor| Damping::Relative(factor).validate().is_err()) {
        None => Ok(dampings),
        Some(&value) => Err(Usage::Damping { flag: "--damping", value }.into()),
    }
}

/// The methods, each once. Options without effect are refused: `--damping` unless a method or the ground truth needs
/// it, `--draws` unless a method samples labels, `--refine` unless a method has an inverse.
pub(super) fn candidates(args: &CandidateArgs, damping_needed: bool) -> Result<Vec<Candidate>, CliError> {
    at_least("--models", args.models, 1)?;
    at_least("--draws", draws(args), 1)?;
    let specs = MethodSpec::list(&args.methods, &Candidate::all()?)?;
    let candidate = |spec| Candidate::new(spec, draws(args), LABEL_SEED);
    let found: Vec<Candidate> = specs.iter().map(candidate).collect::<Result<_, _>>()?;
    let steps = once(&args.refine);
    let and_refined = |plain: Candidate| {
        let refined: Vec<Candidate> = steps.iter().filter_map(|&steps| plain.refined(steps)).collect();
        [plain].into_iter().chain(refined)
    };
    let found: Vec<Candidate> = found.into_iter().flat_map(and_refined).collect();
    let useless = [
        (
            "--refine",
            !args.refine.is_empty() && !found.iter().any(Candidate::has_curvature),
            "none of these methods has an inverse to refine",
        ),
        (
            "--damping",
            !args.damping.is_empty() && !damping_needed && !found.iter().any(Candidate::has_curvature),
            "none of these methods has a curvature",
        ),
        (
            "--draws",
            args.draws.is_some()
                && !found.iter().any(|candidate| candidate.estimate_kind() == Some(EstimateKind::Sampled)),
            "none of these methods draws labels",
        ),
    ];
    match useless.into_iter().find(|(_, useless, _)| *useless) {
        Some((flag, _, reason)) => {
            Err(Usage::Combination { first: flag.to_owned(), second: "--methods", reason }.into())
        }
        None => Ok(found),
    }
}
