use std::io::{self, Write};

use hyperinf::data::{Influence, MetricUsed, Refinement};

use crate::progress::warn;
use crate::score::counted;

/// Says how many adapters scores are the mean of, which metric gradients are in, and what a refinement did, if there are any.
pub(crate) fn details(out: &mut dyn Write, found: &Influence) -> io::Result<()> {
    if let members @ 1.. = found.ensemble.len() {
        writeln!(out, "ensemble  the mean over {} adapters", members + 1)?;
    }
    if let Some(MetricUsed { path, steps, .. }) = &found.metric {
        writeln!(out, "metric    AdamW's second moments after {steps} steps: {}", path.display())?;
    }
    let Some(found) = &found.refinement else { return Ok(()) };
    let Refinement { steps, rows, fresh, error, residual_before, residual_after, queries, .. } = found;
    let (steps, rows) = (counted(*steps, "step", "steps"), counted(*rows, "row", "rows"));
    let of = if queries.len() == 1 { String::new() } else { format!(", the largest of {} queries", queries.len()) };
    let (matrix, against) = match fresh {
        true => (format!("each with the Gauss-Newton matrix of {rows} drawn for it"), "that of as many others"),
        false => (format!("with the Gauss-Newton matrix of {rows}"), "it"),
    };
    let comma = if *fresh { "," } else { "" };
    writeln!(
        out,
        "refined   {steps}{comma} {matrix}: residual against {against} {residual_before:.2e} before, \
         {residual_after:.2e} after{of}"
    )?;
    if let Some(spearman) = found.lowest_spearman() {
        writeln!(
            out,
            "          ranks before and after: Spearman {spearman:.3}{}",
            if of.is_empty() { "" } else { " at least" }
        )?;
    }
    if let Some(error) = error {
        writeln!(out, "          products with the matrix are right to {error:.0e}")?;
    }
    Ok(())
}

/// Warns of a refinement that went astray.
pub(crate) fn warn_of(found: &Influence) {
    let Some(Refinement { steps: 1.., residual_before, residual_after, .. }) = &found.refinement else { return };
    if residual_after > residual_before {
        warn(&format!(
            "the refinement's residual rose from {residual_before:.2e} to {residual_after:.2e}: take more steps, or a \
             larger --damping"
        ));
    }
}
