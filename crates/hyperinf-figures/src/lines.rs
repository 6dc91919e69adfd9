use std::ops::Range;

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, Axis, AxisScale, FONT, Failure, GRID, INK, number, width};

/// A chart with lines.
#[derive(Clone, Debug)]
pub struct Panel<'a> {
    /// The title above it.
    pub title: &'a str,
    /// The horizontal axis.
    pub x: Axis<'a>,
    /// The vertical axis.
    pub y: Axis<'a>,
    /// The lines; a name has the same colour in all panels.
    pub lines: &'a [Line],
    /// A value of the horizontal axis to mark.
    pub mark: Option<f64>,
}

/// A line of a chart.
#[derive(Clone, Debug)]
pub struct Line {
    /// The name in the legend.
    pub name: String,
    /// The points, from left to right.
    pub points: Vec<Point>,
    /// The numbers of its colour and pattern; `None`: by the order of the names.
    pub look: Option<(usize, usize)>,
}

/// A point of a line with its spread.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// The horizontal position.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// The lower end of its spread.
    pub low: f64,
    /// The upper end of its spread.
    pub high: f64,
}

impl Point {
    /// A point without spread.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, low: y, high: y }
    }

    /// A mean plus and minus one standard deviation.
    pub fn spread(x: f64, (mean, deviation): (f64, f64)) -> Self {
        Self { x, y: mean, low: mean - deviation, high: mean + deviation }
    }
}

/// Colours that differ in hue and in brightness; once all are used, lines take the next pattern.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(128, 128, 128),
];
/// Solid, dashed, dotted.
pub const PATTERNS: usize = 3;
const PANEL: (u32, u32) = (600, 470);
/// The height of a legend entry and the length of its stroke.
const ENTRY: u32 = 24;
const STROKE: u32 = 30;
const LEGEND_FONT: u32 = 16;
const MARGIN: u32 = 14;

/// How a line is drawn.
#[derive(Clone, Copy)]
struct Style {
    colour: RGBColor,
    /// Solid with dots, dashed with crosses, or dotted with triangles.
    pattern: usize,
}

impl Style {
    fn stroke(self) -> ShapeStyle {
        self.colour.stroke_width(2)
    }
}

/// The names of all lines in the order of their first appearance, with their styles.
fn names<'a>(panels: &[Panel<'a>]) -> Vec<(&'a str, Style)> {
    let mut names: Vec<(&str, Style)> = Vec::new();
    for line in panels.iter().flat_map(|panel| panel.lines) {
        if names.iter().all(|(name, _)| *name != line.name) {
            let place = names.len();
            let (colour, pattern) = line.look.unwrap_or((place, place / COLOURS.len()));
            names.push((&line.name, Style { colour: COLOURS[colour % COLOURS.len()], pattern: pattern % PATTERNS }));
        }
    }
    names
}

fn legend_width(panels: &[Panel<'_>]) -> u32 {
    let widest = names(panels).into_iter().map(|(name, _)| width(name, LEGEND_FONT)).max().unwrap_or(0);
    STROKE + 8 + widest + 2 * MARGIN
}

pub(super) fn size(panels: &[Panel<'_>]) -> (u32, u32) {
    let height = PANEL.1.max(names(panels).len() as u32 * ENTRY + 4 * MARGIN);
    (panels.len() as u32 * PANEL.0 + legend_width(panels), height)
}

pub(super) fn draw(area: &Area<'_>, panels: &[Panel<'_>]) -> Result<(), Failure> {
    let names = names(panels);
    let mut rest = area.clone();
    for panel in panels {
        let (left, right) = rest.split_horizontally(PANEL.0);
        draw_panel(&left, panel, &names)?;
        rest = right;
    }
    let middle = |place: usize| (3 * MARGIN + place as u32 * ENTRY) as i32;
    let text = (FONT, LEGEND_FONT).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
    for (place, (name, style)) in names.iter().enumerate() {
        let y = middle(place);
        let points = vec![(4, y), (4 + STROKE as i32, y)];
        match dashes(*style) {
            Some((size, gap)) => rest.draw(&DashedPathElement::new(points, size, gap, style.stroke()))?,
            None => rest.draw(&PathElement::new(points, style.stroke()))?,
        }
        let centre = (4 + STROKE as i32 / 2, y);
        match style.pattern {
            0 => {}
            1 => rest.draw(&Cross::new(centre, 5, style.stroke()))?,
            _ => rest.draw(&TriangleMarker::new(centre, 6, style.stroke().filled()))?,
        }
        rest.draw(&Text::new(*name, (4 + STROKE as i32 + 8, y), &text))?;
    }
    Ok(())
}

/// The lengths of dashes and gaps; `None`: solid.
fn dashes(style: Style) -> Option<(i32, i32)> {
    [None, Some((7, 4)), Some((2, 4))][style.pattern]
}

/// The position of a value on an axis; `None` if it has none.
fn place(scale: AxisScale, value: f64) -> Option<f64> {
    let place = match scale {
        AxisScale::Linear => value,
        AxisScale::Log if value > 0.0 => value.log10(),
        AxisScale::Log => return None,
    };
    place.is_finite().then_some(place)
}

/// The range of positions on an axis.
fn span(axis: &Axis<'_>, values: impl Iterator<Item = f64>) -> Range<f64> {
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        let places = values.filter_map(|value| place(axis.scale, value));
        places.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), p| (low.min(p), high.max(p)))
    };
    if let Some(range) = &axis.range {
        let (low, high) = ends(&mut [range.start, range.end].into_iter());
        return low..high;
    }
    let (low, high) = ends(&mut values.into_iter());
    if low > high {
        return 0.0..1.0;
    }
    let margin = if high > low { 0.03 * (high - low) } else { 0.5 };
    low - margin..high + margin
}

fn draw_panel(area: &Area<'_>, panel: &Panel<'_>, names: &[(&str, Style)]) -> Result<(), Failure> {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let x = span(&panel.x, points().map(|p| p.x));
    let y = span(&panel.y, points().flat_map(|p| [p.low, p.y, p.high]));
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, (FONT, 19).into_font().color(&INK))
        .margin(MARGIN)
        .x_label_area_size(52)
        .y_label_area_size(74)
        .build_cartesian_2d(x.clone(), y.clone())?;
    let label = |axis: &Axis<'_>, range: &Range<f64>, at: f64| {
        if !axis.ticks.is_empty() {
            let near = |tick: f64| (tick - at).abs() < 0.02 * (range.end - range.start);
            let found = axis.ticks.iter().find(|(t, _)| place(axis.scale, *t).is_some_and(near));
            return found.map_or_else(String::new, |(_, text)| text.clone());
        }
        match axis.scale {
            // Rounding errors of a tick at 0.
            AxisScale::Linear if at.abs() < 1e-9 * (range.end - range.start) => number(0.0),
            AxisScale::Linear => number(at),
            // Label whole powers of ten only, if the axis has enough of them.
            AxisScale::Log if range.end - range.start < 1.5 => number(10_f64.powf(at)),
            AxisScale::Log if (at - at.round()).abs() < 1e-6 => number(10_f64.powf(at.round())),
            AxisScale::Log => String::new(),
        }
    };
    let (x_label, y_label) = (|at: &f64| label(&panel.x, &x, *at), |at: &f64| label(&panel.y, &y, *at));
    chart
        .configure_mesh()
        .x_desc(panel.x.label)
        .y_desc(panel.y.label)
        .x_label_formatter(&x_label)
        .y_label_formatter(&y_label)
        .x_labels(10)
        .y_labels(12)
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style((FONT, 15).into_font().color(&INK))
        .axis_desc_style((FONT, 17).into_font().color(&INK))
        .draw()?;
    if let Some(mark) = panel.mark.and_then(|mark| place(panel.x.scale, mark)) {
        chart.draw_series([PathElement::new([(mark, y.start), (mark, y.end)], RED.mix(0.5).stroke_width(3))])?;
    }
    let at = |x: f64, y: f64| Some((place(panel.x.scale, x)?, place(panel.y.scale, y)?));
    for line in panel.lines {
        let Some((_, style)) = names.iter().find(|(name, _)| *name == line.name) else { continue };
        let floor = 10_f64.powf(y.start);
        let low = |p: &Point| if panel.y.scale == AxisScale::Log { p.low.max(floor) } else { p.low };
        if line.points.iter().any(|p| p.high > p.low) {
            let mut band: Vec<_> = line.points.iter().filter_map(|p| at(p.x, low(p))).collect();
            band.extend(line.points.iter().rev().filter_map(|p| at(p.x, p.high)));
            chart.draw_series([Polygon::new(band, style.colour.mix(0.16))])?;
        }
        let path: Vec<_> = line.points.iter().filter_map(|p| at(p.x, p.y)).collect();
        if path.len() <= 12 {
            let points = path.iter().copied();
            match style.pattern {
                0 => drop(chart.draw_series(points.map(|at| Circle::new(at, 3, style.stroke().filled())))?),
                1 => drop(chart.draw_series(points.map(|at| Cross::new(at, 5, style.stroke())))?),
                _ => drop(chart.draw_series(points.map(|at| TriangleMarker::new(at, 6, style.stroke().filled())))?),
            }
        }
        match dashes(*style) {
            Some((size, gap)) => chart.draw_series([DashedPathElement::new(path, size, gap, style.stroke())])?,
            None => chart.draw_series([PathElement::new(path, style.stroke())])?,
        };
    }
    Ok(())
}
