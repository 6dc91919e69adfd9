//! Figures of results as PNG files: lines in panels, horizontal bars with intervals, heat maps, and contact sheets of
//! pictures with their scores.
//!
//! The font is embedded, so figures look the same on every machine.
//!
//! ```
//! use hyperinf_figures::{Axis, Line, Panel, Point, draw_lines};
//!
//! let points = (0..=10).map(|i| Point::new(f64::from(i) / 10.0, f64::from(i * i) / 100.0)).collect();
//! let lines = [Line { name: "hyperinf".into(), points, look: None }];
//! let panel = Panel {
//!     title: "Wrong labels found",
//!     x: Axis::linear("share of the samples inspected"),
//!     y: Axis::linear("share of the wrong labels found").over(0.0..1.0),
//!     lines: &lines,
//!     mark: None,
//! };
//! let path = std::env::temp_dir().join(format!("hyperinf-figures-{}.png", std::process::id()));
//! draw_lines(&path, &[panel])?;
//! assert!(std::fs::metadata(&path)?.len() > 0);
//! # std::fs::remove_file(&path)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bars;
mod heat;
mod lines;
mod sheet;

use std::ops::Range;
use std::path::Path;

use epaint_default_fonts::UBUNTU_LIGHT;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

pub use bars::{Bar, Bars};
pub use heat::HeatMap;
pub use lines::{Line, PATTERNS, Panel, Point};
pub use sheet::{ContactSheet, PictureList, PictureLists, SheetQuery, Thumbnail};

/// Why a figure was not drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FigureError {
    /// The embedded font cannot be used.
    #[error("the embedded font is damaged")]
    Font,
    /// The figure cannot be drawn, or its file cannot be written.
    #[error(transparent)]
    Draw(Box<dyn std::error::Error + Send + Sync>),
}

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

const FONT: &str = "sans-serif";
const GRID: RGBColor = RGBColor(226, 226, 226);
const INK: RGBColor = RGBColor(40, 40, 40);

/// An axis of a panel.
#[derive(Clone, Debug)]
pub struct Axis<'a> {
    /// The quantity, with its unit.
    pub label: &'a str,
    /// Linear or logarithmic.
    pub scale: AxisScale,
    /// The values at both ends; `None`: the range of the points.
    pub range: Option<Range<f64>>,
    /// Labelled values; if empty, evenly spread numbers.
    pub ticks: &'a [(f64, String)],
}

impl<'a> Axis<'a> {
    /// A linear axis over the range of the points.
    pub fn linear(label: &'a str) -> Self {
        Self { label, scale: AxisScale::Linear, range: None, ticks: &[] }
    }

    /// A logarithmic axis over the range of the positive points; other points are not drawn.
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

/// Draws panels of lines side by side, with one legend, into a PNG file.
///
/// A line has the same colour in every panel, by its name. Points that are not finite, or not positive on a logarithmic
/// axis, are not drawn.
///
/// # Errors
///
/// If the figure cannot be drawn or the file cannot be written, which may then be incomplete.
pub fn draw_lines(path: &Path, panels: &[Panel<'_>]) -> Result<(), FigureError> {
    draw(path, lines::size(panels), |area| lines::draw(area, panels))
}

/// Draws a heat map into a PNG file.
///
/// # Errors
///
/// As [`draw_lines`].
pub fn draw_heat_map(path: &Path, map: &HeatMap<'_>) -> Result<(), FigureError> {
    draw(path, heat::size(map), |area| heat::draw(area, map))
}

/// Draws horizontal bars with their intervals into a PNG file.
///
/// # Errors
///
/// As [`draw_lines`].
pub fn draw_bars(path: &Path, bars: &Bars<'_>) -> Result<(), FigureError> {
    draw(path, bars::size(bars), |area| bars::draw(area, bars))
}

/// Draws pictures with captions and scores into a PNG file: queries, and what helped and harmed them most.
///
/// # Errors
///
/// As [`draw_lines`].
pub fn draw_contact_sheet(path: &Path, sheet: &ContactSheet<'_>) -> Result<(), FigureError> {
    draw(path, sheet::size(sheet), |area| sheet::draw(area, sheet))
}

/// Draws lists of pictures with captions and scores into a PNG file; scores below 0 have the colour of harm.
///
/// # Errors
///
/// As [`draw_lines`].
pub fn draw_picture_lists(path: &Path, lists: &PictureLists<'_>) -> Result<(), FigureError> {
    draw(path, sheet::size_of_lists(lists), |area| sheet::draw_lists(area, lists))
}

/// Makes the font known: before that widths are guessed.
fn register() -> Result<(), FigureError> {
    register_font(FONT, FontStyle::Normal, UBUNTU_LIGHT).map_err(|_| FigureError::Font)
}

fn draw(
    path: &Path,
    size: (u32, u32),
    content: impl FnOnce(&Area<'_>) -> Result<(), Failure>,
) -> Result<(), FigureError> {
    register()?;
    let drawn = || -> Result<(), Failure> {
        let area = BitMapBackend::new(path, size).into_drawing_area();
        area.fill(&WHITE)?;
        content(&area)?;
        Ok(area.present()?)
    };
    drawn().map_err(FigureError::Draw)
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

/// The approximate width of a text in pixels.
fn width(text: &str, size: u32) -> u32 {
    let drawn = (FONT, size).into_font().box_size(text);
    drawn.map_or(text.chars().count() as u32 * size / 2, |(width, _)| width)
}
