use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, FONT, Failure, GRID, INK, width};

/// Horizontal bars from 0 to a value, each with its interval.
#[derive(Clone, Debug)]
pub struct Bars<'a> {
    /// The title of the figure.
    pub title: &'a str,
    /// The bars from top to bottom; at least one.
    pub bars: &'a [Bar],
}

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Its label.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// The ends of its interval.
    pub interval: (f64, f64),
}

const LINE: u32 = 24;
const LENGTH: u32 = 460;
const NAME_FONT: u32 = 15;
const MARGIN: u32 = 16;
const TITLE: u32 = 44;
const VALUES: u32 = 56;
const FILL: RGBColor = RGBColor(120, 170, 215);

fn names_width(bars: &Bars<'_>) -> u32 {
    bars.bars.iter().map(|bar| width(&bar.name, NAME_FONT)).max().unwrap_or(0) + 10
}

pub(super) fn size(bars: &Bars<'_>) -> (u32, u32) {
    let body = names_width(bars) + LENGTH + VALUES + 2 * MARGIN;
    (body.max(width(bars.title, 18) + 2 * MARGIN), TITLE + bars.bars.len() as u32 * LINE + 2 * MARGIN)
}

pub(super) fn draw(area: &Area<'_>, bars: &Bars<'_>) -> Result<(), Failure> {
    let text = |size: u32, h: HPos, v: VPos| (FONT, size).into_font().color(&INK).pos(Pos::new(h, v));
    area.draw(&Text::new(bars.title, (MARGIN as i32, (TITLE / 2) as i32), text(18, HPos::Left, VPos::Center)))?;
    let ends = bars.bars.iter().flat_map(|bar| [bar.value, bar.interval.0, bar.interval.1]);
    let (low, high) = ends.fold((0.0_f64, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
    // All zero: any scale shows it.
    let span = if high > low { high - low } else { 1.0 };
    let left = (MARGIN + names_width(bars)) as i32;
    let at = |value: f64| left + ((value - low) / span * f64::from(LENGTH)).round() as i32;
    let (top, bottom) = (TITLE as i32, (TITLE + bars.bars.len() as u32 * LINE) as i32);
    // A grid line every tenth, or as far apart as makes at most ten of them.
    let step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0].into_iter().find(|step| span / step <= 10.0).unwrap_or(span);
    for tick in (low / step).ceil() as i32..=(high / step).floor() as i32 {
        let x = at(f64::from(tick) * step);
        area.draw(&PathElement::new([(x, top), (x, bottom)], GRID))?;
        let label = format!("{:.2}", f64::from(tick) * step);
        area.draw(&Text::new(label, (x, bottom + 4), text(13, HPos::Center, VPos::Top)))?;
    }
    for (place, bar) in bars.bars.iter().enumerate() {
        let y = top + (place as u32 * LINE) as i32;
        let middle = y + (LINE / 2) as i32;
        area.draw(&Text::new(bar.name.as_str(), (left - 8, middle), text(NAME_FONT, HPos::Right, VPos::Center)))?;
        let (start, end) = (at(bar.value.min(0.0)), at(bar.value.max(0.0)));
        area.draw(&Rectangle::new([(start, y + 4), (end, y + LINE as i32 - 5)], FILL.filled()))?;
        let (from, to) = (at(bar.interval.0), at(bar.interval.1));
        area.draw(&PathElement::new([(from, middle), (to, middle)], INK))?;
        for x in [from, to] {
            area.draw(&PathElement::new([(x, middle - 3), (x, middle + 3)], INK))?;
        }
        let value = format!("{:.3}", bar.value);
        area.draw(&Text::new(value, (to.max(end) + 6, middle), text(14, HPos::Left, VPos::Center)))?;
    }
    area.draw(&PathElement::new([(at(0.0), top), (at(0.0), bottom)], INK))?;
    Ok(())
}
