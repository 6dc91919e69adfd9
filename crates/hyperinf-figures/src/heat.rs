use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, FONT, Failure, INK, width};

/// A square matrix of values from −1 to 1, such as correlations; each cell has a colour and its value.
#[derive(Clone, Debug)]
pub struct HeatMap<'a> {
    /// The title of the figure.
    pub title: &'a str,
    /// One name per row, which is also that of the column.
    pub names: &'a [String],
    /// The cells, row by row; `None`: no value.
    pub cells: &'a [Vec<Option<f64>>],
}

const CELL: u32 = 58;
const NAME_FONT: u32 = 16;
const MARGIN: u32 = 16;
const TITLE: u32 = 44;

fn names_width(map: &HeatMap<'_>) -> u32 {
    map.names.iter().map(|name| width(name, NAME_FONT)).max().unwrap_or(0) + 10
}

pub(super) fn size(map: &HeatMap<'_>) -> (u32, u32) {
    let (side, names) = (map.names.len() as u32 * CELL, names_width(map));
    let title = width(map.title, 19) + 2 * MARGIN;
    ((names + side + 2 * MARGIN).max(title), TITLE + side + names + MARGIN)
}

pub(super) fn draw(area: &Area<'_>, map: &HeatMap<'_>) -> Result<(), Failure> {
    let text = |size: u32, h: HPos, v: VPos| (FONT, size).into_font().color(&INK).pos(Pos::new(h, v));
    let left = (MARGIN + names_width(map)) as i32;
    let (top, cell) = (TITLE as i32, CELL as i32);
    area.draw(&Text::new(map.title, (MARGIN as i32, top / 2), text(19, HPos::Left, VPos::Center)))?;
    for (i, (name, row)) in map.names.iter().zip(map.cells).enumerate() {
        let y = top + i as i32 * cell;
        let middle = y + cell / 2;
        area.draw(&Text::new(name.as_str(), (left - 8, middle), text(NAME_FONT, HPos::Right, VPos::Center)))?;
        // Below the columns, from bottom to top.
        let under = (left + i as i32 * cell + cell / 2, top + map.names.len() as i32 * cell + 8);
        let turned = (FONT, NAME_FONT).into_font().transform(FontTransform::Rotate270).color(&INK);
        area.draw(&Text::new(name.as_str(), under, turned.pos(Pos::new(HPos::Right, VPos::Center))))?;
        for (j, value) in row.iter().enumerate() {
            let x = left + j as i32 * cell;
            let fill = value.map_or(RGBColor(240, 240, 240), colour);
            area.draw(&Rectangle::new([(x, y), (x + cell - 2, y + cell - 2)], fill.filled()))?;
            let shown = value.map_or("–".into(), |v| format!("{v:.2}"));
            let ink = if value.is_some_and(|v| v.abs() > 0.65) { WHITE } else { INK };
            let style = (FONT, 16).into_font().color(&ink).pos(Pos::new(HPos::Center, VPos::Center));
            area.draw(&Text::new(shown, (x + cell / 2 - 1, middle), style))?;
        }
    }
    Ok(())
}

/// White at 0, blue towards 1, orange towards −1: a scale that colour-blind readers can tell apart.
fn colour(value: f64) -> RGBColor {
    let end = if value >= 0.0 { (8.0, 81.0, 156.0) } else { (179.0, 71.0, 0.0) };
    let mix = |end: f64| (255.0 + (end - 255.0) * value.abs().min(1.0)).round() as u8;
    RGBColor(mix(end.0), mix(end.1), mix(end.2))
}
