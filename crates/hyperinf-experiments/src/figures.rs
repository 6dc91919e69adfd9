//! Figures of the results.

use std::path::Path;

use hyperinf_figures::{Axis, Line, Panel, Point, draw_lines};

use crate::judge::mean_and_spread;
use crate::results::{self, Detection, DetectionSetting};
use crate::tables::{SWEPT_METHODS, groups, over_seeds, swept};
use crate::{Failure, detection};

/// A line of a figure.
#[derive(Clone)]
struct Series {
    name: String,
    /// Horizontal position, mean and spread.
    points: Vec<(f64, f64, f64)>,
}

/// Title and axes.
struct Frame<'a> {
    title: &'a str,
    x: (&'a str, std::ops::Range<f64>),
    y: (&'a str, std::ops::Range<f64>),
    /// Labelled values of the horizontal axis; if empty, evenly spread numbers.
    ticks: &'a [(f64, String)],
}

/// Draws every figure with results.
pub fn draw(out: &Path, figures: &Path) -> Result<(), Failure> {
    let groups = groups(results::read(&out.join(detection::FILE))?);
    std::fs::create_dir_all(figures)?;
    let largest = |data: &str| groups.iter().filter(|(s, _)| s.data == data).map(|(s, _)| s.train).max();
    let of = |data: &str| -> Vec<&(DetectionSetting, Vec<Detection>)> {
        groups.iter().filter(|(s, _)| s.data == data && Some(s.train) == largest(data)).collect()
    };
    for data in ["mrpc", "qqp", "spamassassin"] {
        let of = of(data);
        if let Some((setting, group)) = of.iter().find(|(s, _)| s.rank == 8) {
            curves(setting, group, &figures.join(format!("detection-{data}.png")))?;
            let names = SWEPT_METHODS.iter().flat_map(|method| swept(method));
            if names.clone().all(|(_, name)| group.iter().all(|r| r.methods.iter().any(|m| m.name == name))) {
                dampings(setting, group, &figures.join(format!("damping-{data}.png")))?;
            }
        }
        // The number of training samples that has the most ranks.
        let ranks = |train: usize| groups.iter().filter(move |(s, _)| s.data == data && s.train == train);
        let most = groups.iter().map(|(s, _)| s.train).max_by_key(|&train| ranks(train).count());
        let by_rank: Vec<_> = most.into_iter().flat_map(ranks).collect();
        if by_rank.len() > 1 {
            correlations(&by_rank, &figures.join(format!("correlation-{data}.png")))?;
        }
    }
    Ok(())
}

/// The share of wrong labels found against the share of samples inspected.
fn curves(setting: &DetectionSetting, group: &[Detection], path: &Path) -> Result<(), Failure> {
    let names =
        ["training-loss", "gradient-norm", "self-influence", "identity", "datainf", "lissa", "hyperinf", "exact"];
    let line = |name: &str| {
        let mut points = vec![(0.0, 0.0, 0.0)];
        for i in 0..20 {
            let (mean, spread) = mean_and_spread(&over_seeds(group, name, |m| m.curve.get(i).copied()));
            points.push(((i + 1) as f64 / 20.0, mean, spread));
        }
        let (auc, _) = mean_and_spread(&over_seeds(group, name, |m| Some(m.auc)));
        Series { name: format!("{name} ({auc:.3})"), points }
    };
    let title = format!(
        "{}: wrong labels found, rank {}, {} samples, seeds: {} (AUC)",
        setting.data,
        setting.rank,
        setting.train,
        group.len()
    );
    let frame = Frame {
        title: &title,
        x: ("share of the samples looked at", 0.0..1.0),
        y: ("share of the wrong labels found", 0.0..1.0),
        ticks: &[],
    };
    plot(path, &frame, &names.map(line))
}

/// AUC against the relative damping.
fn dampings(setting: &DetectionSetting, group: &[Detection], path: &Path) -> Result<(), Failure> {
    let line = |method: &'static str| {
        let point = |(damping, name): (f64, &str)| {
            let (mean, spread) = mean_and_spread(&over_seeds(group, name, |m| Some(m.auc)));
            (damping.log10(), mean, spread)
        };
        Series { name: method.to_owned(), points: swept(method).into_iter().map(point).collect() }
    };
    let mut lines = SWEPT_METHODS.map(line).to_vec();
    for name in ["identity", "training-loss"] {
        let (mean, spread) = mean_and_spread(&over_seeds(group, name, |m| Some(m.auc)));
        lines.push(Series { name: name.to_owned(), points: vec![(-1.0, mean, spread), (2.0, mean, spread)] });
    }
    let ticks: Vec<(f64, String)> = swept("exact").into_iter().map(|(c, _)| (c.log10(), c.to_string())).collect();
    let title = format!("{}: AUC of wrong labels, {} samples, seeds: {}", setting.data, setting.train, group.len());
    let points = || lines.iter().flat_map(|l| &l.points);
    let lowest = points().map(|p| p.1 - p.2).fold(1.0, f64::min);
    let highest = points().map(|p| p.1 + p.2).fold(0.0, f64::max);
    let frame = Frame {
        title: &title,
        x: ("relative damping", -1.1..2.1),
        y: ("AUC", lowest - 0.02..highest + 0.02),
        ticks: &ticks,
    };
    plot(path, &frame, &lines)
}

/// Correlation with the exact scores against the rank of the adapters.
fn correlations(groups: &[&(DetectionSetting, Vec<Detection>)], path: &Path) -> Result<(), Failure> {
    let names = ["identity", "cosine", "datainf", "lissa", "hyperinf", "hyperinf-authors"];
    let mut ticks: Vec<(f64, String)> =
        groups.iter().map(|(s, _)| ((s.rank as f64).log2(), s.rank.to_string())).collect();
    ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
    let line = |name: &str| {
        let mut points: Vec<_> = groups
            .iter()
            .map(|(setting, group)| {
                let (mean, spread) = mean_and_spread(&over_seeds(group, name, |m| m.pearson));
                ((setting.rank as f64).log2(), mean, spread)
            })
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: name.to_owned(), points }
    };
    let setting = &groups[0].0;
    let title = format!("{}: Pearson correlation with exact influence, {} samples", setting.data, setting.train);
    let (first, last) = (ticks[0].0, ticks[ticks.len() - 1].0);
    let lines = names.map(line);
    let lowest = lines.iter().flat_map(|l| &l.points).map(|p| p.1 - p.2).fold(0.0, f64::min);
    let frame = Frame {
        title: &title,
        x: ("rank of the adapters", first - 0.1..last + 0.1),
        y: ("Pearson correlation", lowest - 0.05..1.05),
        ticks: &ticks,
    };
    plot(path, &frame, &lines)
}

fn plot(path: &Path, frame: &Frame<'_>, series: &[Series]) -> Result<(), Failure> {
    let points = |points: &[(f64, f64, f64)]| points.iter().map(|&(x, y, s)| Point::spread(x, (y, s))).collect();
    let lines: Vec<Line> =
        series.iter().map(|s| Line { name: s.name.clone(), points: points(&s.points), look: None }).collect();
    let x = Axis { ticks: frame.ticks, ..Axis::linear(frame.x.0).over(frame.x.1.clone()) };
    let y = Axis::linear(frame.y.0).over(frame.y.1.clone());
    draw_lines(path, &[Panel { title: frame.title, x, y, lines: &lines, mark: None }])?;
    println!("{}", path.display());
    Ok(())
}
