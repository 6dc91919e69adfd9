use std::path::Path;

use hyperinf::eval::Agreement;

use super::report::variant_label;
use super::{SideSweep, Sweep};
use crate::error::CliError;
use crate::figure::{self, Axis, HeatMap, Line, Panel, Point};
use hyperinf::store::Staged;

/// The agreement of neighbouring dampings and, where known, the AUC, by damping.
pub(super) fn stage_lines<'a>(path: &'a Path, sweep: &Sweep<'_>) -> Result<Staged<'a>, CliError> {
    let several = sweep.sides.len() > 1;
    // With more variants than patterns every line gets its own style.
    let patterns = (2..=figure::PATTERNS).contains(&sweep.sides.len());
    let named = |name: &str, side: &SideSweep| match variant_label(side).filter(|_| several) {
        Some(side) => format!("{name}, {side}"),
        None => name.to_owned(),
    };
    let mut stability = Vec::new();
    let mut against = Vec::new();
    for (pattern, side) in sweep.sides.iter().enumerate() {
        // A colour for what is shown, a pattern for the variant.
        let line = |colour, name, points| Line {
            name: named(name, side),
            points,
            look: patterns.then_some((colour, pattern)),
        };
        // Between the two that are compared.
        let between = |of: &dyn Fn(&Agreement) -> Option<f64>| -> Vec<Point> {
            let points = side.study.next.iter().zip(sweep.dampings.windows(2));
            points.filter_map(|(next, d)| Some(Point::new((d[0] * d[1]).sqrt(), of(next.as_ref()?)?))).collect()
        };
        let at = |values: &mut dyn Iterator<Item = Option<f64>>| -> Vec<Point> {
            values.zip(sweep.dampings).filter_map(|(value, &damping)| Some(Point::new(damping, value?))).collect()
        };
        stability.push(line(0, "Spearman", between(&|a| a.spearman)));
        stability.push(line(1, "top-k overlap", between(&|a| Some(a.overlap))));
        against.push(line(2, "Spearman with dot product", at(&mut side.study.dot.iter().map(|a| a.spearman))));
        against.push(line(3, "explained by dot product", at(&mut side.study.dot.iter().map(|a| a.explained))));
        if side.study.auc.iter().any(Option::is_some) {
            against.push(line(4, "AUC of known bad", at(&mut side.study.auc.iter().copied())));
        }
    }
    let chosen = sweep.chosen.map(|place| &sweep.sides[place]);
    let mark = chosen.and_then(|side| Some(side.study.advice.as_ref()?.damping));
    let of = chosen.and_then(variant_label).map(|of| format!(", {of}")).unwrap_or_default();
    let kind = if sweep.args.values().1 { "damping, absolute" } else { "damping, relative" };
    let kind = mark.map_or_else(|| kind.to_owned(), |damping| format!("{kind} (line: recommended, {damping}{of})"));
    let (low, high) = (sweep.dampings[0], sweep.dampings[sweep.dampings.len() - 1]);
    let lowest = |lines: &[Line]| lines.iter().flat_map(|l| &l.points).map(|p| p.y).fold(0.9, f64::min);
    let panel = |title, lines| Panel {
        title,
        x: Axis::logarithmic(&kind).over(low / 1.2..high * 1.2),
        y: Axis::linear("agreement").over(lowest(lines) - 0.02..1.01),
        lines,
        mark,
    };
    let method = &sweep.sides[0].settings.method;
    let title = format!("{method}: agreement with the next damping");
    figure::stage_lines(path, &[panel(&title, &stability), panel("Agreement with what needs no damping", &against)])
}

/// The rank correlations of all dampings with all.
pub(super) fn stage_map<'a>(path: &'a Path, sweep: &Sweep<'_>) -> Result<Staged<'a>, CliError> {
    let name = |side: &SideSweep, damping: f64| match variant_label(side) {
        Some(of) => format!("{of}, {damping}"),
        None => damping.to_string(),
    };
    let names: Vec<String> =
        sweep.sides.iter().flat_map(|side| sweep.dampings.iter().map(move |&damping| name(side, damping))).collect();
    let cells: Vec<Vec<Option<f64>>> = sweep.all.iter().map(|row| row.iter().map(|a| a.spearman).collect()).collect();
    let title = format!("{}: rank correlation (Spearman) between dampings", sweep.sides[0].settings.method);
    figure::stage_heat_map(path, &HeatMap { title: &title, names: &names, cells: &cells })
}
