//! `hyperinf convert`: gradients in another format or type.

use hyperinf::store::Convert;

use crate::args::ConvertArgs;
use crate::error::CliError;
use crate::score::counted;
use crate::to_stdout;

/// Converts gradients.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind.
pub(crate) fn run(args: &ConvertArgs) -> Result<(), CliError> {
    let found = Convert { from: args.from.clone(), to: args.to.clone(), stored: args.dtype }.run()?;
    let (samples, blocks) = (counted(found.samples, "sample", "samples"), counted(found.blocks, "block", "blocks"));
    to_stdout(|out| writeln!(out, "{samples}, {blocks}, {} parameters in {}", found.parameters, args.to.display()))
}
