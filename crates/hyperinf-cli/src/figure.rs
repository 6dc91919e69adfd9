//! Figures as outputs of a command: drawn under a temporary name and moved into place with the other outputs.

use std::path::Path;

use hyperinf::data::{Contact, ShownRow};
use hyperinf::store::{Staged, StoreError, TemporaryFolder, WriteError};
use hyperinf_figures::{ContactSheet, FigureError, PictureList, PictureLists, SheetQuery, Thumbnail};
use hyperinf_figures::{draw_bars, draw_contact_sheet, draw_heat_map, draw_lines, draw_picture_lists};

use crate::error::CliError;

pub(crate) use hyperinf_figures::{Axis, Bar, Bars, HeatMap, Line, PATTERNS, Panel, Point};
pub(crate) use hyperinf_figures::{draw_bars as bars, draw_lines as lines};

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

/// Stages a contact sheet as a PNG file.
pub(crate) fn stage_contact_sheet<'a>(path: &'a Path, title: &str, found: &[Contact]) -> Result<Staged<'a>, CliError> {
    let queries: Vec<SheetQuery<'_>> = found
        .iter()
        .map(|Contact { query, helpful, harmful }| SheetQuery {
            query: thumbnail(query),
            helpful: helpful.iter().map(thumbnail).collect(),
            harmful: harmful.iter().map(thumbnail).collect(),
        })
        .collect();
    stage(path, |file| draw_contact_sheet(file, &ContactSheet { title, queries: &queries }))
}

/// Stages lists of rows with pictures under their headings as a PNG file.
pub(crate) fn stage_picture_lists<'a>(
    path: &'a Path,
    title: &str,
    lists: &[(String, Vec<ShownRow>)],
) -> Result<Staged<'a>, CliError> {
    let lists: Vec<PictureList<'_>> = lists
        .iter()
        .filter(|(_, rows)| !rows.is_empty())
        .map(|(heading, rows)| PictureList { heading, pictures: rows.iter().map(thumbnail).collect() })
        .collect();
    stage(path, |file| draw_picture_lists(file, &PictureLists { title, lists: &lists }))
}

fn thumbnail(row: &ShownRow) -> Thumbnail<'_> {
    let (caption, score) = (row.text.as_str(), row.score);
    match &row.picture {
        Some(picture) => {
            Thumbnail { width: picture.width(), height: picture.height(), pixels: picture.pixels(), caption, score }
        }
        None => Thumbnail { width: 1, height: 1, pixels: &[], caption, score },
    }
}

/// The bytes of a figure, for a file and a page.
pub(crate) fn bytes_of(draw: impl FnOnce(&Path) -> Result<(), FigureError>) -> Result<Vec<u8>, CliError> {
    let failed = |error| StoreError::output(Path::new("figure.png"), WriteError::Io(error));
    let folder = TemporaryFolder::new().map_err(failed)?;
    let path = folder.path().join("figure.png");
    stage(&path, draw)?.place()?;
    Ok(std::fs::read(&path).map_err(failed)?)
}

fn stage(path: &Path, draw: impl FnOnce(&Path) -> Result<(), FigureError>) -> Result<Staged<'_>, CliError> {
    let failed = |error| WriteError::Content { what: "the figure cannot be drawn", source: Box::new(error) };
    Ok(Staged::png(path, |file| draw(file).map_err(failed))?)
}
