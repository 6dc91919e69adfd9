use std::path::Path;

use hyperinf::eval::convergence::{ConvergenceConfig, Curve, MeanDeviation, MethodCurves, Size, SizeCurves};

use crate::error::CliError;
use crate::figure::{Axis, Line, Panel, Point, stage_lines};
use crate::score::counted;
use hyperinf::store::Staged;

/// The absolute error by step, and the relative one by time.
pub(super) fn stage<'a>(
    path: &'a Path,
    SizeCurves { size, methods }: &SizeCurves,
    config: &ConvergenceConfig,
) -> Result<Staged<'a>, CliError> {
    let lines = |of: fn(&MethodCurves, &[&Curve], usize) -> Option<Point>| -> Vec<Line> {
        let line = |method: &MethodCurves| {
            let curves = method.converged();
            let steps = (0..=config.steps).filter(|_| !curves.is_empty());
            let points = steps.filter_map(|step| of(method, &curves, step)).collect();
            Line { name: method.method.name().to_owned(), points, look: None }
        };
        methods.iter().map(line).collect()
    };
    let (by_step, by_time) = (lines(at_step), lines(at_time));
    let Size { dim, samples } = size;
    let draws = counted(config.draws, "draw", "draws");
    let title = format!("d = {dim}, N = {samples}, damping {}, {draws}", config.damping);
    let panel = |title, x, y, lines| Panel { title, x, y, lines, mark: None };
    stage_lines(
        path,
        &[
            panel(&title, Axis::linear("steps"), Axis::logarithmic("absolute error"), &by_step),
            panel("Error by time", Axis::logarithmic("seconds"), Axis::logarithmic("relative error"), &by_time),
        ],
    )
}

/// The absolute error at a step: a closed form is a level, an iteration ends where it ends.
fn at_step(method: &MethodCurves, curves: &[&Curve], step: usize) -> Option<Point> {
    let at = |curve: &&Curve| {
        let point = curve.at(step)?;
        (method.method.is_closed() || point.step == step).then_some(point.error.absolute)
    };
    let errors: Vec<f64> = curves.iter().map(at).collect::<Option<_>>()?;
    Some(between(step as f64, &errors))
}

/// The relative error of a step, at the mean time of the draws.
fn at_time(_: &MethodCurves, curves: &[&Curve], step: usize) -> Option<Point> {
    let points: Vec<_> = curves.iter().map(|c| c.points.iter().find(|p| p.step == step)).collect::<Option<_>>()?;
    let seconds: Vec<f64> = points.iter().map(|p| p.seconds).collect();
    let errors: Vec<f64> = points.iter().map(|p| p.error.relative).collect();
    Some(between(MeanDeviation::of(&seconds)?.mean, &errors))
}

/// The geometric mean with the range of the draws; a logarithmic axis leaves out values that are not positive.
fn between(x: f64, values: &[f64]) -> Point {
    let mean = values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64;
    let (low, high) = values.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), &v| (low.min(v), high.max(v)));
    Point { x, y: mean.exp(), low, high }
}
