//! Methods as given on the command line.

use hyperinf::curvature::{Damping, Scale, Side, Storage};
use hyperinf::eval::Candidate;
use hyperinf::gradients::Estimate;
use hyperinf::scoring::{Gfim, Method, Options, methods};

use crate::args::{JudgedArgs, at_least, once};
use crate::error::CliError;

/// The variants that `all` stands for, where the registry has the method.
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

/// The seed of sampled labels.
pub(super) const LABEL_SEED: u64 = 0;

/// Label draws per image.
pub(super) fn draws(args: &JudgedArgs) -> usize {
    args.draws.unwrap_or(16)
}

/// The damping factors.
pub(super) fn dampings(args: &JudgedArgs, default: f64) -> Result<Vec<f64>, CliError> {
    let dampings = if args.damping.is_empty() { vec![default] } else { once(&args.damping) };
    match dampings.iter().find(|&&factor| Damping::Relative(factor).validate().is_err()) {
        None => Ok(dampings),
        Some(&value) => Err(CliError::Damping { flag: "--damping", value }),
    }
}

/// The methods, each once. Options without effect are refused: `--damping` unless a method or the ground truth needs
/// it, `--draws` unless a method samples labels.
pub(super) fn candidates(args: &JudgedArgs, damping_needed: bool) -> Result<Vec<Candidate>, CliError> {
    at_least("--models", args.models, 1)?;
    at_least("--draws", draws(args), 1)?;
    let expand = |spec: &str| if spec == "all" { all() } else { vec![spec.to_owned()] };
    let specs: Vec<String> = args.methods.iter().flat_map(|spec| expand(spec.trim())).collect();
    let found: Vec<Candidate> = once(&specs).iter().map(|spec| parse(spec, args)).collect::<Result<_, _>>()?;
    let useless = [
        (
            "--damping",
            !args.damping.is_empty() && !damping_needed && !found.iter().any(Candidate::has_curvature),
            "none of these methods has a curvature",
        ),
        (
            "--draws",
            args.draws.is_some() && !found.iter().any(|candidate| candidate.estimate_name() == Some("sampled")),
            "none of these methods draws labels",
        ),
    ];
    match useless.into_iter().find(|(_, useless, _)| *useless) {
        Some((flag, _, reason)) => Err(CliError::Combination { first: flag.to_owned(), second: "--methods", reason }),
        None => Ok(found),
    }
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
    let (mut merged, mut sides, mut summed) = (false, 0, false);
    for part in parts {
        sides += usize::from(matches!(part, "rows" | "cols" | "short"));
        match part {
            "rows" => gfim.side = Side::Rows,
            "cols" => gfim.side = Side::Cols,
            "short" => gfim.side = Side::Short,
            "sum" => (gfim.scale, summed) = (Scale::Sum, true),
            "merged" => merged = true,
            _ => return Err(unknown()),
        }
    }
    let sampled = Estimate::Sampled { seed: LABEL_SEED, draws: draws(args) };
    let asked = estimate.is_some();
    let estimate = match estimate {
        None if matches!(name, "kfac" | "ekfac") => sampled,
        None | Some("empirical") => Estimate::Empirical,
        Some("sampled") => sampled,
        Some("gauss-newton") => Estimate::GaussNewton { sketch: None },
        Some(_) => return Err(unknown()),
    };
    let options = Options::named(name, gfim).ok_or_else(unknown)?;
    let one_sided = matches!(options.method, Method::Inverse { storage: Storage::OneSided { .. }, .. });
    let refusals = [
        (sides > 1, "one side", "there are two"),
        (sides > 0 && !one_sided, "a side", "only hyperinf and hyperinf-authors sum over one"),
        (summed && name != "hyperinf", "`sum`", "only hyperinf has the choice"),
        (matches!(options.method, Method::Identity) && merged, "`merged`", "the method has no curvature"),
        (matches!(options.method, Method::Identity) && asked, "an @ESTIMATE", "the method has no curvature"),
    ];
    if let Some((_, second, reason)) = refusals.into_iter().find(|(refused, ..)| *refused) {
        return Err(CliError::Combination { first: format!("`{spec}`"), second, reason });
    }
    Ok(Candidate { name: spec.to_owned(), options: Options { merged, ..options }, estimate })
}
