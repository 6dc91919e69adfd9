//! Methods as they are typed for an evaluation.

use hyperinf::curvature::Damping;
use hyperinf::gradients::Estimate;
use hyperinf::scoring::{EstimateKind, Method, MethodSpec, Options, methods};

use crate::args::JudgedArgs;
use crate::error::CliError;

use super::setup::{at_least, once};

/// One way to score.
#[derive(Clone)]
pub(crate) struct Candidate {
    /// As typed, with the estimate if it is not the empirical one.
    pub(crate) name: String,
    pub(crate) options: Options,
    pub(crate) estimate: Estimate,
    /// The factor of the damping; `None` for what has no curvature.
    pub(crate) damping: Option<f64>,
}

/// What `all` stands for beside the other names of the registry, as far as it has them.
const VARIANTS: [&str; 12] = [
    "hyperinf:rows",
    "hyperinf:cols",
    "hyperinf:cols@gauss-newton",
    "exact",
    "exact:merged",
    "exact@gauss-newton",
    "exact:merged@gauss-newton",
    "kfac",
    "ekfac",
    "ekfac@gauss-newton",
    "shampoo",
    "shampoo@gauss-newton",
];

impl Candidate {
    /// The estimate of the curvature, as it is typed; `None` for what has no curvature.
    pub(crate) fn estimate(&self) -> Option<&'static str> {
        let inverse = matches!(self.options.method, Method::Inverse { .. });
        inverse.then_some(match self.estimate {
            Estimate::Empirical => "empirical",
            Estimate::Sampled { .. } => "sampled",
            Estimate::GaussNewton { .. } => "gauss-newton",
        })
    }
}

/// The seed of drawn labels.
pub(crate) const LABEL_SEED: u64 = 0;

/// Draws of labels per image.
pub(crate) fn draws(args: &JudgedArgs) -> usize {
    args.draws.unwrap_or(16)
}

/// The factors of the damping that are asked for.
pub(crate) fn dampings(args: &JudgedArgs, default: f64) -> Result<Vec<f64>, CliError> {
    let dampings = if args.damping.is_empty() { vec![default] } else { once(&args.damping) };
    match dampings.iter().find(|&&factor| Damping::Relative(factor).validate().is_err()) {
        None => Ok(dampings),
        Some(&value) => Err(CliError::Damping { flag: "--damping", value }),
    }
}

/// Every method that is asked for, with every damping where that matters: one that matters to none is refused.
pub(crate) fn candidates(args: &JudgedArgs) -> Result<Vec<Candidate>, CliError> {
    let found = candidates_at(args, &dampings(args, 0.1)?)?;
    if !args.damping.is_empty() && found.iter().all(|candidate| candidate.damping.is_none()) {
        return Err(CliError::Combination {
            first: "--damping".into(),
            second: "--methods",
            reason: "none of these methods has a curvature",
        });
    }
    Ok(found)
}

/// The same with these dampings, which the truth itself may need.
pub(crate) fn candidates_at(args: &JudgedArgs, dampings: &[f64]) -> Result<Vec<Candidate>, CliError> {
    at_least("--models", args.models, 1)?;
    at_least("--draws", draws(args), 1)?;
    let expand = |spec: &str| if spec == "all" { all() } else { vec![spec.to_owned()] };
    let specs: Vec<String> = args.methods.iter().flat_map(|spec| expand(spec.trim())).collect();
    let specs = once(&specs);
    let mut found = Vec::new();
    for spec in &specs {
        let candidate = parse(spec, args)?;
        if !matches!(candidate.options.method, Method::Inverse { .. }) {
            found.push(candidate);
            continue;
        }
        for &factor in dampings {
            let options = Options { damping: Damping::Relative(factor), ..candidate.options.clone() };
            found.push(Candidate { options, damping: Some(factor), ..candidate.clone() });
        }
    }
    if args.draws.is_some() && !found.iter().any(|candidate| candidate.estimate() == Some("sampled")) {
        return Err(CliError::Combination {
            first: "--draws".into(),
            second: "--methods",
            reason: "none of these methods draws labels",
        });
    }
    Ok(found)
}

fn all() -> Vec<String> {
    let base = |spec: &str| spec.split([':', '@']).next().unwrap_or_default().to_owned();
    let mut specs = Vec::new();
    for method in methods() {
        let variants: Vec<String> =
            VARIANTS.iter().filter(|spec| base(spec) == method.name).map(|spec| (*spec).to_owned()).collect();
        specs.extend(if variants.is_empty() { vec![method.name.to_owned()] } else { variants });
    }
    specs
}

fn parse(spec: &str, args: &JudgedArgs) -> Result<Candidate, CliError> {
    let found: MethodSpec = spec.parse()?;
    let kind = found.estimate.unwrap_or(found.method.estimate);
    let draws = (kind == EstimateKind::Sampled).then(|| draws(args));
    let (name, options) = (spec.to_owned(), found.options()?);
    Ok(Candidate { name, options, estimate: kind.estimate(draws, LABEL_SEED), damping: None })
}
