//! Figures as outputs of a command: drawn under a temporary name and moved into place with the other outputs.

use std::path::Path;

use hyperinf::store::{Staged, WriteError};
use hyperinf_figures::{FigureError, draw_bars, draw_heat_map, draw_lines};

use crate::error::CliError;

pub(crate) use hyperinf_figures::{Axis, Bar, Bars, HeatMap, Line, PATTERNS, Panel, Point};

/// Stages panels of lines as a PNG file.
pub(crate) fn stage_lines<'a>(path: &'a Path, panels: &[Panel<'_>]) -> Result<Staged<'a>, CliError> {
    stage(path, |file| draw_lines(file, panels))
}

/// Stages a heat map as a PNG file.
pub(crate) fn stage_heat_map<'a>(path: &'a Path, map: &HeatMap<'_>) -> Result<Staged<'a>, CliError> {
    stage(path, |file| draw_heat_map(file, map))
}

/// Stages bars as a PNG file.
pub(crate) fn stage_bars<'a>(path: &'a Path, bars: &Bars<'_>) -> Result<Staged<'a>, CliError> {
    stage(path, |file| draw_bars(file, bars))
}

fn stage(path: &Path, draw: impl FnOnce(&Path) -> Result<(), FigureError>) -> Result<Staged<'_>, CliError> {
    let failed = |error| WriteError::Content { what: "the figure cannot be drawn", source: Box::new(error) };
    Ok(Staged::png(path, |file| draw(file).map_err(failed))?)
}
