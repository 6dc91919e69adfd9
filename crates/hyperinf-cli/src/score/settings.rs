use burn::tensor::Device;
use hyperinf::curvature::{Damping, Storage};
use hyperinf::scoring::{Gfim, Method, Normalisation, Options, methods};
use hyperinf::solvers::{solver, solvers};

use crate::args::{QueryModeArg, ScoringArgs, StructureArg};
use crate::device::open_device;
use crate::error::CliError;

/// What was typed, checked.
pub(crate) struct Settings {
    pub(crate) options: Options,
    /// The method's name.
    pub(crate) method: &'static str,
    pub(crate) structure: StructureArg,
    pub(crate) device: Device,
    pub(crate) device_name: String,
    /// Flags that were given and mean nothing here.
    pub(crate) notes: Vec<String>,
}

impl Settings {
    pub(crate) fn new(args: &ScoringArgs, query_mode: QueryModeArg) -> Result<Self, CliError> {
        let gfim = Gfim {
            side: args.gfim_side.map_or_else(Default::default, Into::into),
            scale: args.gfim_scale.map_or_else(Default::default, Into::into),
        };
        let (name, named) = named(&args.method, gfim)?;
        let normalisation = normalisation(args, name, named.normalisation)?;
        let method = solved(args, named.method)?;
        let damping = damping(args)?;
        let (device_name, device) = open_device(args.device.as_deref())?;
        let notes = unused(args, name, &method);
        // Without a curvature nothing spans the blocks, and they can be read one by one.
        let merged = args.structure == StructureArg::Merged && matches!(method, Method::Inverse { .. });
        let query = query_mode.into();
        let options = Options { method, normalisation, damping, query, merged, block_scores: false };
        Ok(Self { options, method: name, structure: args.structure, device, device_name, notes })
    }

    /// The choices of the generalized Fisher matrix, for the methods that have one.
    pub(crate) fn gfim(&self) -> Option<Gfim> {
        match self.options.method {
            Method::Inverse { storage: Storage::OneSided { side, scale }, .. } => Some(Gfim { side, scale }),
            _ => None,
        }
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
    let (flag, damping) = match (args.damping, args.damping_absolute) {
        (_, Some(value)) => ("--damping-absolute", Damping::Absolute(value)),
        (Some(factor), None) => ("--damping", Damping::Relative(factor)),
        (None, None) => ("--damping", Damping::default()),
    };
    let (Damping::Relative(value) | Damping::Absolute(value)) = damping;
    damping.validate().map_err(|_| CliError::Damping { flag, value })
}

fn unused(args: &ScoringArgs, name: &str, method: &Method) -> Vec<String> {
    let inverse = matches!(method, Method::Inverse { .. });
    let one_sided = matches!(method, Method::Inverse { storage: Storage::OneSided { .. }, .. });
    let flags = [
        ("--solver", args.solver.is_some() && !inverse),
        ("--damping", args.damping.is_some() && !inverse),
        ("--damping-absolute", args.damping_absolute.is_some() && !inverse),
        ("--gfim-side", args.gfim_side.is_some() && !one_sided),
        ("--gfim-scale", args.gfim_scale.is_some() && (!one_sided || name == "hyperinf-authors")),
    ];
    let unused = flags.into_iter().filter(|(_, unused)| *unused);
    unused.map(|(flag, _)| format!("{flag} has no effect on the method {name}")).collect()
}
