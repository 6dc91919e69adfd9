//! The flags of a projection.

use hyperinf::store::{Directions, GradientPair, ProjectionSpec, StoredBlock};

use super::Settings;
use crate::args::{DirectionsArg, ProjectArgs, StructureArg};
use crate::error::{CliError, Usage};

/// The projection that the arguments describe.
///
/// # Errors
///
/// If a seed is given and nothing is drawn.
pub(super) fn projection(args: &ProjectArgs) -> Result<Option<ProjectionSpec>, CliError> {
    let Some(rank) = args.project else { return Ok(None) };
    let directions = match (args.project_on.unwrap_or_default(), args.project_seed) {
        (DirectionsArg::Random, own) => Directions::Random { seed: own.or(args.seed).unwrap_or(0) },
        (DirectionsArg::Principal, None) => Directions::Principal,
        (DirectionsArg::Principal, Some(_)) => {
            let (first, second) = ("--project-on principal".into(), "--project-seed");
            return Err(Usage::Combination { first, second, reason: "nothing is drawn for it" }.into());
        }
    };
    Ok(Some(ProjectionSpec { rank: rank as usize, directions }))
}

/// The flags of a projection.
pub(crate) fn flags(projection: ProjectionSpec) -> String {
    let directions = match projection.directions {
        Directions::Random { seed: 0 } => String::new(),
        Directions::Random { seed } => format!("--seed {seed} "),
        Directions::Principal => "--project-on principal ".into(),
    };
    format!("--project {} {directions}", projection.rank)
}

/// A note about blocks without sides, of which a one-sided curvature is the whole matrix.
pub(crate) fn flat<'a>(pair: &GradientPair, mut all: impl Iterator<Item = &'a Settings>) -> Option<String> {
    let whole = all.find(|settings| settings.gfim().is_some() && settings.structure == StructureArg::PerBlock)?;
    let flat = |stored: &&StoredBlock| stored.shape.len() == 2 && stored.shape[1] > 1;
    let largest = pair.train.blocks().iter().filter(flat).max_by_key(|stored| stored.shape[1])?;
    let (name, d, method) = (&largest.block.name, largest.shape[1], &whole.method);
    Some(format!(
        "block `{name}` is stored as {:?}, without sides: {method} inverts the whole {d} × {d} matrix of it; write \
         [samples, rows, cols] for one factor per block",
        largest.shape
    ))
}

/// A note about a projection that has no effect.
pub(crate) fn note(pair: &GradientPair, projection: Option<ProjectionSpec>) -> Option<String> {
    let rank = projection.filter(|projection| pair.is_within(projection.rank))?.rank;
    Some(format!("--project {rank} has no effect: no side of any block is longer"))
}
