//! Pictures of results: lines in panels, and matrices as heat maps. PNG, with a font of the program's own.

mod bars;
mod heat;
mod lines;

use std::ops::Range;
use std::path::Path;

use epaint_default_fonts::UBUNTU_LIGHT;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use crate::error::CliError;
use hyperinf::store::{Staged, WriteError};

pub use bars::{Bar, Bars};
pub use heat::HeatMap;
pub use lines::{Line, PATTERNS, Panel, Point};

/// What the drawing library can fail with.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

const FONT: &str = "sans-serif";
const GRID: RGBColor = RGBColor(226, 226, 226);
const INK: RGBColor = RGBColor(40, 40, 40);

/// An axis: what it shows, and how.
#[derive(Clone, Debug)]
pub struct Axis<'a> {
    /// What it shows, with its unit.
    pub label: &'a str,
    /// Linear or logarithmic.
    pub scale: AxisScale,
    /// From where to where; `None` for the range of the points.
    pub range: Option<Range<f64>>,
    /// Places with labels of their own; evenly spread numbers if there are none.
    pub ticks: &'a [(f64, String)],
}

impl<'a> Axis<'a> {
    /// A linear axis over the range of the points.
    pub fn linear(label: &'a str) -> Self {
        Self { label, scale: AxisScale::Linear, range: None, ticks: &[] }
    }

    /// A logarithmic axis over the range of the points, of which those not positive are left out.
    pub fn logarithmic(label: &'a str) -> Self {
        Self { scale: AxisScale::Log, ..Self::linear(label) }
    }

    /// The same axis over this range.
    pub fn over(self, range: Range<f64>) -> Self {
        Self { range: Some(range), ..self }
    }
}

/// How an axis maps values to places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxisScale {
    /// Evenly.
    Linear,
    /// By their logarithm.
    Log,
}

/// Draws panels of lines one beside the other, under one legend, into a PNG file.
///
/// A line has the same colour in every panel, by its name. Points that are not finite, or not positive on a logarithmic
/// axis, are left out.
///
/// # Errors
///
/// If the file cannot be written; then it is as it was before.
pub fn draw_lines(path: &Path, panels: &[Panel<'_>]) -> Result<(), CliError> {
    Ok(stage_lines(path, panels)?.place()?)
}

/// [`draw_lines`] into a file that is yet to be placed.
pub(crate) fn stage_lines<'a>(path: &'a Path, panels: &[Panel<'_>]) -> Result<Staged<'a>, CliError> {
    stage(path, lines::size(panels), |area| lines::draw(area, panels))
}

/// A heat map as a PNG file that is yet to be placed.
pub(crate) fn stage_heat_map<'a>(path: &'a Path, map: &HeatMap<'_>) -> Result<Staged<'a>, CliError> {
    stage(path, heat::size(map), |area| heat::draw(area, map))
}

/// Bars as a PNG file that is yet to be placed.
pub(crate) fn stage_bars<'a>(path: &'a Path, bars: &Bars<'_>) -> Result<Staged<'a>, CliError> {
    stage(path, bars::size(bars), |area| bars::draw(area, bars))
}

fn stage(
    path: &Path,
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Result<(), Failure>,
) -> Result<Staged<'_>, CliError> {
    let staged = Staged::png(path, |file| {
        let drawn = || -> Result<(), Failure> {
            register_font(FONT, FontStyle::Normal, UBUNTU_LIGHT).map_err(|_| "the font is damaged")?;
            let area = BitMapBackend::new(file, size).into_drawing_area();
            area.fill(&WHITE)?;
            draw(&area)?;
            Ok(area.present()?)
        };
        drawn().map_err(|source| WriteError::Content { what: "the figure cannot be drawn", source })
    });
    Ok(staged?)
}

/// A number on an axis: short, and exact where it is round.
fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".into()
    } else if (1e-3..1e4).contains(&size) {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').into()
    } else {
        format!("{value:.0e}")
    }
}

/// The width of a text in pixels, about.
fn width(text: &str, size: u32) -> u32 {
    let drawn = (FONT, size).into_font().box_size(text);
    drawn.map_or(text.chars().count() as u32 * size / 2, |(width, _)| width)
}
