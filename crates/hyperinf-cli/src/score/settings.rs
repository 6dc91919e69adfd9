use burn::tensor::Device;
use hyperinf::curvature::{Damping, Scale, Side, Storage};
use hyperinf::scoring::{Gfim, Method, Normalisation, Options, methods};
use hyperinf::solvers::{solver, solvers};
use hyperinf::store::ProjectionSpec;

use super::projection;
use crate::args::{QueryModeArg, ScoringArgs, StructureArg};
use crate::device::open_device;
use crate::error::CliError;

/// What was typed, checked.
pub(crate) struct Settings {
    pub(crate) options: Options,
    /// The method's name.
    pub(crate) method: &'static str,
    pub(crate) structure: StructureArg,
    pub(crate) projection: Option<ProjectionSpec>,
    pub(crate) device: Device,
    pub(crate) device_name: String,
    /// Flags that were given and mean nothing here.
    pub(crate) unused: Vec<&'static str>,
}

impl Settings {
    pub(crate) fn new(args: &ScoringArgs, query_mode: QueryModeArg) -> Result<Self, CliError> {
        let gfim = Gfim {
            side: args.shared.gfim_side.map_or_else(Default::default, Into::into),
            scale: args.shared.gfim_scale.map_or_else(Default::default, Into::into),
        };
        let (name, named) = named(&args.method, gfim)?;
        let projection = projection::projection(&args.shared.project)?;
        let normalisation = normalisation(args, name, named.normalisation)?;
        let method = solved(args, named.method)?;
        let damping = damping(args)?;
        let (device_name, device) = open_device(args.shared.device.as_deref())?;
        let unused = unused(args, name, &method);
        // Without a curvature nothing spans the blocks, and they can be read one by one.
        let merged = args.shared.structure == StructureArg::Merged && matches!(method, Method::Inverse { .. });
        let query = query_mode.into();
        let options = Options { method, normalisation, damping, query, merged, block_scores: false };
        Ok(Self { options, method: name, structure: args.shared.structure, projection, device, device_name, unused })
    }

    /// The choices of the generalized Fisher matrix, for the methods that have one.
    pub(crate) fn gfim(&self) -> Option<Gfim> {
        match self.options.method {
            Method::Inverse { storage: Storage::OneSided { side, scale }, .. } => Some(Gfim { side, scale }),
            _ => None,
        }
    }

    /// Its side and its scale, as they are typed.
    pub(crate) fn gfim_names(&self) -> Option<(&'static str, &'static str)> {
        let Gfim { side, scale } = self.gfim()?;
        let side = match side {
            Side::Short => "short",
            Side::Rows => "rows",
            Side::Cols => "cols",
        };
        let scale = match scale {
            Scale::Mean => "mean",
            Scale::Sum => "sum",
        };
        Some((side, scale))
    }

    /// What is to be told of flags that none of these uses.
    pub(crate) fn notes<'a>(mut all: impl Iterator<Item = &'a Self>) -> Vec<String> {
        let Some(first) = all.next() else { return Vec::new() };
        let (mut unused, mut whom) = (first.unused.clone(), format!("the method {}", first.method));
        for other in all {
            unused.retain(|flag| other.unused.contains(flag));
            if other.method != first.method {
                whom = "any of the methods".into();
            }
        }
        unused.into_iter().map(|flag| format!("{flag} has no effect on {whom}")).collect()
    }
}

fn named(name: &str, gfim: Gfim) -> Result<(&'static str, Options), CliError> {
    let found = methods().iter().find(|m| m.name == name).and_then(|m| Some((m.name, Options::named(m.name, gfim)?)));
    found.ok_or_else(|| {
        let likeness = |other: &str| strsim::jaro_winkler(&name.to_lowercase(), other);
        let nearest = methods().iter().map(|m| m.name).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        CliError::Method { name: name.to_owned(), nearest: nearest.filter(|other| likeness(other) > 0.7) }
    })
}

/// The method with the solver that was asked for.
fn solved(args: &ScoringArgs, method: Method) -> Result<Method, CliError> {
    match (&args.solver, method) {
        (Some(name), Method::Inverse { storage, .. }) => {
            let found = solver(name).ok_or_else(|| CliError::Solver {
                name: name.clone(),
                known: solvers().iter().map(|solver| solver.name()).collect(),
            })?;
            Ok(Method::Inverse { storage, solver: found.into() })
        }
        (_, method) => Ok(method),
    }
}

fn normalisation(args: &ScoringArgs, name: &str, own: Normalisation) -> Result<Normalisation, CliError> {
    let asked: Option<Normalisation> = args.normalise.map(Into::into);
    match asked {
        Some(asked) if own != Normalisation::None && asked != own => Err(CliError::Combination {
            first: format!("--method {name}"),
            second: "another --normalise",
            reason: "the method is the dot product with a normalisation of its own; use --method identity",
        }),
        asked => Ok(asked.unwrap_or(own)),
    }
}

fn damping(args: &ScoringArgs) -> Result<Damping, CliError> {
    let (flag, damping) = match (args.shared.damping, args.shared.damping_absolute) {
        (_, Some(value)) => ("--damping-absolute", Damping::Absolute(value)),
        (Some(factor), None) => ("--damping", Damping::Relative(factor)),
        (None, None) => ("--damping", Damping::default()),
    };
    let (Damping::Relative(value) | Damping::Absolute(value)) = damping;
    damping.validate().map_err(|_| CliError::Damping { flag, value })
}

fn unused(args: &ScoringArgs, name: &str, method: &Method) -> Vec<&'static str> {
    let inverse = matches!(method, Method::Inverse { .. });
    let one_sided = matches!(method, Method::Inverse { storage: Storage::OneSided { .. }, .. });
    let flags = [
        ("--solver", args.solver.is_some() && !inverse),
        ("--damping", args.shared.damping.is_some() && !inverse),
        ("--damping-absolute", args.shared.damping_absolute.is_some() && !inverse),
        ("--gfim-side", args.shared.gfim_side.is_some() && !one_sided),
        ("--gfim-scale", args.shared.gfim_scale.is_some() && (!one_sided || name == "hyperinf-authors")),
    ];
    flags.into_iter().filter(|(_, unused)| *unused).map(|(flag, _)| flag).collect()
}
