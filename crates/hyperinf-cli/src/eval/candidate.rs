//! Methods as they are typed for an evaluation.

use hyperinf::curvature::{Damping, Scale, Side};
use hyperinf::gradients::Estimate;
use hyperinf::scoring::{Gfim, Method, Options, methods};

use crate::args::JudgedArgs;
use crate::error::CliError;

/// One way to score.
#[derive(Clone)]
pub(crate) struct Candidate {
    /// As typed, with the estimate if it is not the empirical one.
    pub(crate) name: String,
    pub(crate) options: Options,
    pub(crate) estimate: Estimate,
    /// The factor of the relative damping; `None` for what has no curvature.
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

/// The factors of the relative damping that are asked for.
pub(crate) fn dampings(args: &JudgedArgs, default: f64) -> Vec<f64> {
    if args.damping.is_empty() { vec![default] } else { args.damping.clone() }
}

/// Every method that is asked for, with every damping where that matters.
pub(crate) fn candidates(args: &JudgedArgs) -> Result<Vec<Candidate>, CliError> {
    candidates_at(args, &dampings(args, 0.1))
}

/// The same with these dampings.
pub(crate) fn candidates_at(args: &JudgedArgs, dampings: &[f64]) -> Result<Vec<Candidate>, CliError> {
    let mut specs: Vec<String> = Vec::new();
    for spec in args.methods.iter().map(|spec| spec.trim()) {
        let expanded = if spec == "all" { all() } else { vec![spec.to_owned()] };
        for spec in expanded {
            if !specs.contains(&spec) {
                specs.push(spec);
            }
        }
    }
    let mut found = Vec::new();
    for spec in &specs {
        let candidate = parse(spec, args)?;
        if !matches!(candidate.options.method, Method::Inverse { .. }) {
            found.push(candidate);
            continue;
        }
        for &factor in dampings {
            let damping = Damping::Relative(factor);
            let damping = damping.validate().map_err(|_| CliError::Damping { flag: "--damping", value: factor })?;
            let options = Options { damping, ..candidate.options.clone() };
            found.push(Candidate { options, damping: Some(factor), ..candidate.clone() });
        }
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
    let (parts, estimate) = match spec.split_once('@') {
        Some((parts, estimate)) => (parts, Some(estimate)),
        None => (spec, None),
    };
    let unknown = || CliError::Method { name: spec.to_owned(), nearest: None };
    let mut parts = parts.split(':');
    let name = parts.next().unwrap_or_default();
    let mut gfim = Gfim::default();
    let mut merged = false;
    for part in parts {
        match part {
            "rows" => gfim.side = Side::Rows,
            "cols" => gfim.side = Side::Cols,
            "short" => gfim.side = Side::Short,
            "sum" => gfim.scale = Scale::Sum,
            "merged" => merged = true,
            _ => return Err(unknown()),
        }
    }
    let sampled = Estimate::Sampled { seed: 0, draws: args.draws };
    let estimate = match estimate {
        None if matches!(name, "kfac" | "ekfac") => sampled,
        None | Some("empirical") => Estimate::Empirical,
        Some("sampled") => sampled,
        Some("gauss-newton") => Estimate::GaussNewton { sketch: None },
        Some(_) => return Err(unknown()),
    };
    let options = Options::named(name, gfim).ok_or_else(unknown)?;
    Ok(Candidate { name: spec.to_owned(), options: Options { merged, ..options }, estimate, damping: None })
}
