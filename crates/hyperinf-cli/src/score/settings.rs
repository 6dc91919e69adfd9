use burn::tensor::Device;
use hyperinf::curvature::{Damping, Storage};
use hyperinf::data::RowMethod;
use hyperinf::scoring::{
    EstimateKind, Gfim, Method, MethodSpec, Normalisation, Options, RankBy, scale_name, side_name,
};
use hyperinf::store::ProjectionSpec;

use super::projection;
use crate::args::{QueryModeArg, ScoringArgs, SharedArgs, StructureArg};
use crate::device::open_device;
use crate::error::{CliError, Usage};

/// The flags of a command that scores, checked.
pub(crate) struct Settings {
    pub(crate) options: Options,
    /// The method as given, before the other flags.
    pub(crate) method: String,
    /// The method with the choices of all flags.
    pub(crate) spec: MethodSpec,
    pub(crate) structure: StructureArg,
    pub(crate) projection: Option<ProjectionSpec>,
    pub(crate) rank_by: RankBy,
    pub(crate) device: Device,
    pub(crate) device_name: String,
    /// Flags without effect on this method.
    pub(crate) unused: Vec<&'static str>,
}

impl Settings {
    pub(crate) fn new(args: &ScoringArgs, query_mode: QueryModeArg) -> Result<Self, CliError> {
        if args.method.contains(',') {
            let (first, reason) = (format!("--method {}", args.method), "`hyperinf compare --methods` takes several");
            return Err(Usage::Combination { first, second: "one result", reason }.into());
        }
        if RowMethod::named(args.method.trim()).is_some() {
            let reason = "it scores rows: hyperinf attribute, detect and select take it";
            let first = format!("--method {}", args.method);
            return Err(Usage::Combination { first, second: "stored gradients", reason }.into());
        }
        Self::of(args.method.trim().parse()?, args, query_mode)
    }

    /// [`Settings::new`] for another method than that of the flags.
    pub(crate) fn of(given: MethodSpec, args: &ScoringArgs, query_mode: QueryModeArg) -> Result<Self, CliError> {
        let spec = with_flags(given, args)?;
        let named = spec.options()?;
        let projection = projection::projection(&args.shared.project)?;
        let normalisation = normalisation(args, &given, named.normalisation)?;
        let damping = damping(&args.shared)?;
        let (device_name, device) = open_device(&args.shared.device)?;
        let structure = if spec.merged { StructureArg::Merged } else { args.shared.structure };
        let options = Options { normalisation, damping, query: query_mode.into(), ..named };
        let (method, unused) = (given.to_string(), unused(args, &spec));
        let rank_by = args.rank_by.into();
        Ok(Self { options, method, spec, structure, projection, rank_by, device, device_name, unused })
    }

    /// Fails if the method names an estimate that needs the model, where there are only stored gradients.
    pub(crate) fn of_stored(self) -> Result<Self, CliError> {
        match self.spec.estimate {
            None | Some(EstimateKind::Empirical) => Ok(self),
            Some(EstimateKind::Sampled | EstimateKind::GaussNewton) => Err(Usage::Combination {
                first: format!("the estimate of `{}`", self.method),
                second: "stored gradients",
                reason: "it needs the model: hyperinf attribute, detect and select compute it",
            }
            .into()),
        }
    }

    /// The choices of the generalized Fisher matrix, for the methods that have one.
    pub(crate) fn gfim(&self) -> Option<Gfim> {
        match self.options.method {
            Method::Inverse { storage: Storage::OneSided { side, scale }, .. } => Some(Gfim { side, scale }),
            _ => None,
        }
    }

    /// The words of its side and scale.
    pub(crate) fn gfim_names(&self) -> Option<(&'static str, &'static str)> {
        self.gfim().map(|Gfim { side, scale }| (side_name(side), scale_name(scale)))
    }

    /// Notes about flags without effect on any of these methods.
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

/// The method with the choices of the flags that it has.
fn with_flags(given: MethodSpec, args: &ScoringArgs) -> Result<MethodSpec, CliError> {
    let (method, shared) = (given.method, &args.shared);
    let solver = args.solver.as_deref().map(MethodSpec::solver_named).transpose()?;
    let refused = |second| {
        let reason = "the method already says otherwise";
        Usage::Combination { first: format!("--method {given}"), second, reason }
    };
    Ok(MethodSpec {
        side: either(given.side, shared.gfim_side.map(Into::into), method.has_side())
            .ok_or_else(|| refused("--gfim-side"))?,
        scale: either(given.scale, shared.gfim_scale.map(Into::into), method.has_scale())
            .ok_or_else(|| refused("--gfim-scale"))?,
        solver: either(given.solver, solver, method.has_curvature()).ok_or_else(|| refused("--solver"))?,
        // Without a curvature no matrix spans the blocks, and they can be read one by one.
        merged: given.merged || shared.structure == StructureArg::Merged && method.has_curvature(),
        ..given
    })
}

/// The choice of the method or of the flag; `None` if they differ. A flag that the method does not have is not taken.
fn either<T: PartialEq>(given: Option<T>, flag: Option<T>, has: bool) -> Option<Option<T>> {
    match (given, flag.filter(|_| has)) {
        (Some(given), Some(flag)) if given != flag => None,
        (Some(choice), _) | (None, Some(choice)) => Some(Some(choice)),
        (None, None) => Some(None),
    }
}

fn normalisation(args: &ScoringArgs, given: &MethodSpec, own: Normalisation) -> Result<Normalisation, CliError> {
    let asked: Option<Normalisation> = args.normalise.map(Into::into);
    match asked {
        Some(asked) if own != Normalisation::None && asked != own => Err(Usage::Combination {
            first: format!("--method {given}"),
            second: "another --normalise",
            reason: "the method is the dot product with a normalisation of its own; use --method identity",
        }
        .into()),
        asked => Ok(asked.unwrap_or(own)),
    }
}

fn damping(args: &SharedArgs) -> Result<Damping, CliError> {
    let (flag, damping) = match (args.damping, args.damping_absolute) {
        (_, Some(value)) => ("--damping-absolute", Damping::Absolute(value)),
        (Some(factor), None) => ("--damping", Damping::Relative(factor)),
        (None, None) => ("--damping", Damping::default()),
    };
    let (Damping::Relative(value) | Damping::Absolute(value)) = damping;
    damping.validate().map_err(|_| Usage::Damping { flag, value }.into())
}

fn unused(args: &ScoringArgs, spec: &MethodSpec) -> Vec<&'static str> {
    let (shared, method) = (&args.shared, spec.method);
    let flags = [
        ("--solver", args.solver.is_some() && !method.has_curvature()),
        ("--damping", shared.damping.is_some() && !method.has_curvature()),
        ("--damping-absolute", shared.damping_absolute.is_some() && !method.has_curvature()),
        ("--gfim-side", shared.gfim_side.is_some() && !method.has_side()),
        ("--gfim-scale", shared.gfim_scale.is_some() && !method.has_scale()),
    ];
    flags.into_iter().filter(|(_, unused)| *unused).map(|(flag, _)| flag).collect()
}
