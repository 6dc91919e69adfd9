use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, FONT, Failure, INK, width};

/// Pictures with captions and scores: for each query its picture, the training pictures that helped it most, and those
/// that harmed it most.
#[derive(Clone, Debug)]
pub struct ContactSheet<'a> {
    /// The title of the figure.
    pub title: &'a str,
    /// The queries from top to bottom; at least one.
    pub queries: &'a [SheetQuery<'a>],
}

/// A query with its most influential pictures.
#[derive(Clone, Debug)]
pub struct SheetQuery<'a> {
    /// The query.
    pub query: Thumbnail<'a>,
    /// The most helpful pictures, the best first.
    pub helpful: Vec<Thumbnail<'a>>,
    /// The most harmful pictures, the worst first.
    pub harmful: Vec<Thumbnail<'a>>,
}

/// Pictures with captions and scores in lists, such as the rows that look wrong.
#[derive(Clone, Debug)]
pub struct PictureLists<'a> {
    /// The title of the figure.
    pub title: &'a str,
    /// The lists from top to bottom; at least one picture.
    pub lists: &'a [PictureList<'a>],
}

/// Pictures under a heading, from left to right, [`PictureList::COLUMNS`] in a line.
#[derive(Clone, Debug)]
pub struct PictureList<'a> {
    /// What the pictures are.
    pub heading: &'a str,
    /// The pictures in their order.
    pub pictures: Vec<Thumbnail<'a>>,
}

impl PictureList<'_> {
    /// Pictures in a line.
    pub const COLUMNS: usize = 8;

    fn height(&self) -> u32 {
        HEADING + self.pictures.len().div_ceil(Self::COLUMNS) as u32 * (ROW - HEADING) + GAP
    }
}

/// A picture on a sheet. Small pictures are enlarged by a whole number, large ones are averaged.
#[derive(Clone, Copy, Debug)]
pub struct Thumbnail<'a> {
    /// The width in pixels.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
    /// Red, green and blue, `[height, width, 3]`; what is missing is white.
    pub pixels: &'a [u8],
    /// The text under it, in three lines: a longer one is cut before its end.
    pub caption: &'a str,
    /// The score, if it has one.
    pub score: Option<f64>,
}

/// The side of a cell's picture.
const SIDE: u32 = 128;
const GAP: u32 = 12;
const MARGIN: u32 = 16;
const TITLE: u32 = 44;
const HEADING: u32 = 22;
const LINE: u32 = 16;
const CAPTION_FONT: u32 = 13;
/// The lines of a caption.
const LINES: usize = 3;
/// A caption and a score.
const TEXTS: u32 = (LINES as u32 + 1) * LINE + 14;
const CELL: u32 = SIDE + GAP;
const ROW: u32 = HEADING + SIDE + TEXTS;
const GOOD: RGBColor = RGBColor(8, 81, 156);
const BAD: RGBColor = RGBColor(179, 71, 0);
const EDGE: RGBColor = RGBColor(210, 210, 210);

fn rows(query: &SheetQuery<'_>) -> u32 {
    u32::from(!query.helpful.is_empty()) + u32::from(!query.harmful.is_empty())
}

pub(super) fn size(sheet: &ContactSheet<'_>) -> (u32, u32) {
    let columns = sheet.queries.iter().map(|query| query.helpful.len().max(query.harmful.len())).max().unwrap_or(0);
    let cells = (columns as u32 + 1) * CELL + GAP;
    let height: u32 = sheet.queries.iter().map(|query| rows(query).max(1) * ROW + GAP).sum();
    ((cells + 2 * MARGIN).max(width(sheet.title, 18) + 2 * MARGIN), TITLE + height + MARGIN)
}

pub(super) fn draw(area: &Area<'_>, sheet: &ContactSheet<'_>) -> Result<(), Failure> {
    let text =
        |size: u32, colour: &RGBColor| (FONT, size).into_font().color(colour).pos(Pos::new(HPos::Left, VPos::Top));
    area.draw(&Text::new(sheet.title, (MARGIN as i32, 14), text(18, &INK)))?;
    let mut top = TITLE as i32;
    for query in sheet.queries {
        let left = MARGIN as i32;
        area.draw(&Text::new("query", (left, top), text(14, &INK)))?;
        cell(area, &query.query, (left, top + HEADING as i32), &INK)?;
        let first = left + (CELL + GAP) as i32;
        let parts = [("most helpful", &query.helpful, GOOD), ("most harmful", &query.harmful, BAD)];
        let mut row = top;
        for (heading, pictures, colour) in parts.into_iter().filter(|(_, pictures, _)| !pictures.is_empty()) {
            area.draw(&Text::new(heading, (first, row), text(14, &colour)))?;
            for (place, picture) in pictures.iter().enumerate() {
                let x = first + place as i32 * CELL as i32;
                cell(area, picture, (x, row + HEADING as i32), &colour)?;
            }
            row += ROW as i32;
        }
        top += (rows(query).max(1) * ROW + GAP) as i32;
    }
    Ok(())
}

pub(super) fn size_of_lists(figure: &PictureLists<'_>) -> (u32, u32) {
    let columns = figure.lists.iter().map(|list| list.pictures.len()).max().unwrap_or(0).min(PictureList::COLUMNS);
    let headings = figure.lists.iter().map(|list| width(list.heading, 14)).max().unwrap_or(0);
    let wide = (columns as u32 * CELL).max(headings).max(width(figure.title, 18));
    (wide + 2 * MARGIN, TITLE + figure.lists.iter().map(PictureList::height).sum::<u32>() + MARGIN)
}

pub(super) fn draw_lists(area: &Area<'_>, figure: &PictureLists<'_>) -> Result<(), Failure> {
    let text = |size: u32| (FONT, size).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Top));
    let left = MARGIN as i32;
    area.draw(&Text::new(figure.title, (left, 14), text(18)))?;
    let mut top = TITLE as i32;
    for list in figure.lists {
        area.draw(&Text::new(list.heading, (left, top), text(14)))?;
        for (place, picture) in list.pictures.iter().enumerate() {
            let (line, column) = ((place / PictureList::COLUMNS) as i32, (place % PictureList::COLUMNS) as i32);
            let corner = (left + column * CELL as i32, top + HEADING as i32 + line * (ROW - HEADING) as i32);
            let colour = if picture.score.is_some_and(|score| score < 0.0) { BAD } else { GOOD };
            cell(area, picture, corner, &colour)?;
        }
        top += list.height() as i32;
    }
    Ok(())
}

fn cell(area: &Area<'_>, picture: &Thumbnail<'_>, (x, y): (i32, i32), colour: &RGBColor) -> Result<(), Failure> {
    let side = SIDE as i32;
    let (wide, high, pixels) = fitted(picture);
    let corner = (x + (side - wide as i32) / 2, y + (side - high as i32) / 2);
    if let Some(bitmap) = BitMapElement::with_owned_buffer(corner, (wide, high), pixels) {
        area.draw(&bitmap)?;
    }
    area.draw(&Rectangle::new([(x - 1, y - 1), (x + side, y + side)], EDGE.stroke_width(1)))?;
    let text = |colour: &RGBColor| (FONT, CAPTION_FONT).into_font().color(colour).pos(Pos::new(HPos::Left, VPos::Top));
    let mut below = y + side + 4;
    if let Some(score) = picture.score {
        area.draw(&Text::new(signed(score), (x, below), text(colour)))?;
        below += LINE as i32;
    }
    for line in lines(picture.caption) {
        area.draw(&Text::new(line, (x, below), text(&INK)))?;
        below += LINE as i32;
    }
    Ok(())
}

/// A score with its sign.
fn signed(score: f64) -> String {
    let plain = score == 0.0 || (1e-3..1e5).contains(&score.abs());
    let decimals = match score.abs() {
        size if size < 10.0 => 4,
        size if size < 1000.0 => 1,
        _ => 0,
    };
    if plain { format!("{score:+.decimals$}") } else { format!("{score:+.2e}") }
}

/// The picture in the size of a cell: each pixel is the mean of those that it covers.
fn fitted(picture: &Thumbnail<'_>) -> (u32, u32, Vec<u8>) {
    let (width, height) = (picture.width.max(1), picture.height.max(1));
    let side = SIDE as usize;
    let longer = width.max(height);
    let (wide, high) = match side / longer {
        0 => ((width * side / longer).max(1), (height * side / longer).max(1)),
        factor => (width * factor, height * factor),
    };
    let span = |place: usize, from: usize, to: usize| {
        let begin = place * from / to;
        begin..((place + 1) * from / to).max(begin + 1)
    };
    let mut pixels = Vec::with_capacity(wide * high * 3);
    for y in 0..high {
        for x in 0..wide {
            for colour in 0..3 {
                let (mut sum, mut count) = (0_u64, 0);
                for row in span(y, height, high) {
                    for column in span(x, width, wide) {
                        let value = picture.pixels.get((row * width + column) * 3 + colour);
                        sum += u64::from(value.copied().unwrap_or(255));
                        count += 1;
                    }
                }
                pixels.push(((sum + count / 2) / count) as u8);
            }
        }
    }
    (wide as u32, high as u32, pixels)
}

/// A caption in at most [`LINES`] lines that fit a cell. Of a longer one the last line is its end: an answer is often
/// there.
fn lines(caption: &str) -> Vec<String> {
    let fits = |text: &str| width(text, CAPTION_FONT) <= SIDE;
    let words: Vec<&str> = caption.split_whitespace().collect();
    let mut rest = words.as_slice();
    let mut lines = Vec::new();
    while !rest.is_empty() && lines.len() < LINES {
        let fitting = (1..=rest.len()).take_while(|&count| fits(&rest[..count].join(" "))).last().unwrap_or(1);
        if lines.len() + 1 == LINES && fitting < rest.len() {
            let tail = |count: usize| format!("…{}", rest[rest.len() - count..].join(" "));
            let fitting = (1..rest.len()).take_while(|&count| fits(&tail(count))).last().unwrap_or(1);
            lines.push(shortened(&tail(fitting), fits));
            break;
        }
        lines.push(shortened(&rest[..fitting].join(" "), fits));
        rest = &rest[fitting..];
    }
    lines
}

/// A line that fits, with an ellipsis where something was left out.
fn shortened(line: &str, fits: impl Fn(&str) -> bool) -> String {
    if fits(line) {
        return line.to_owned();
    }
    let mut kept: Vec<char> = line.chars().collect();
    loop {
        let text: String = kept.iter().collect::<String>() + "…";
        if kept.is_empty() || fits(&text) {
            return text;
        }
        kept.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::{LINES, SIDE, lines, width};

    #[test]
    fn a_long_caption_keeps_its_end() {
        crate::register().expect("a font");
        let found =
            lines("user: what is the color of the largest shape that is in the picture, if any? assistant: brown");
        assert_eq!(found.len(), LINES);
        assert!(found[0].starts_with("user: what"), "{found:?}");
        assert!(found[LINES - 1].starts_with('…') && found[LINES - 1].ends_with("assistant: brown"), "{found:?}");
        let word = lines(&format!("a b {}", "Unbrechbareswort".repeat(4)));
        for line in found.iter().chain(&word) {
            assert!(width(line, super::CAPTION_FONT) <= SIDE, "{line}");
        }
        assert_eq!(lines("a caption"), ["a caption"]);
        assert!(lines(" ").is_empty());
    }
}
