//! The results as pictures.

use std::path::Path;

use epaint_default_fonts::UBUNTU_LIGHT;
use plotters::prelude::*;
use plotters::style::register_font;

use crate::judge::mean_and_spread;
use crate::results::{self, Detection, DetectionSetting};
use crate::tables::{SWEPT_METHODS, groups, over_seeds, swept};
use crate::{Failure, detection};

/// A line of a figure.
#[derive(Clone)]
struct Series {
    name: String,
    /// Place, mean and spread.
    points: Vec<(f64, f64, f64)>,
}

/// What is drawn around the lines.
struct Frame<'a> {
    title: &'a str,
    x: (&'a str, std::ops::Range<f64>),
    y: (&'a str, std::ops::Range<f64>),
    /// Places on the x axis with their labels; evenly spread if there are none.
    ticks: &'a [(f64, String)],
}

const SIZE: (u32, u32) = (680, 440);
/// Distinct for most eyes, on screen and in grey.
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

/// Draws every figure for which there are results.
pub fn draw(out: &Path, figures: &Path) -> Result<(), Failure> {
    register_font("sans-serif", FontStyle::Normal, UBUNTU_LIGHT).map_err(|_| "the font is damaged")?;
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
        if of.len() > 1 {
            correlations(&of, &figures.join(format!("correlation-{data}.png")))?;
        }
    }
    Ok(())
}

/// How many of the wrong labels are found after looking at a share of the samples.
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
    let partial = path.with_extension("partial.png");
    {
        let area = BitMapBackend::new(&partial, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(frame.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d(frame.x.1.clone(), frame.y.1.clone())?;
        let label = |x: &f64| {
            let near = frame.ticks.iter().find(|(place, _)| (place - x).abs() < 0.05);
            near.map_or_else(|| if frame.ticks.is_empty() { format!("{x:.1}") } else { String::new() }, |t| t.1.clone())
        };
        chart
            .configure_mesh()
            .x_desc(frame.x.0)
            .y_desc(frame.y.0)
            .x_label_formatter(&label)
            .y_label_formatter(&|y| {
                if frame.y.1.end - frame.y.1.start < 0.4 { format!("{y:.2}") } else { format!("{y:.1}") }
            })
            .x_labels(11)
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(225, 225, 225))
            .label_style(("sans-serif", 15))
            .draw()?;
        for (Series { name, points }, colour) in series.iter().zip(COLOURS.into_iter().cycle()) {
            let line = points.iter().map(|&(x, y, _)| (x, y));
            chart
                .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            chart.draw_series(line.map(|point| Circle::new(point, 2, colour.filled())))?;
            let bars = points.iter().filter(|p| p.2 > 0.0);
            chart.draw_series(bars.map(|&(x, y, s)| PathElement::new([(x, y - s), (x, y + s)], colour)))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 14))
            .draw()?;
        area.present()?;
    }
    std::fs::rename(&partial, path)?;
    println!("{}", path.display());
    Ok(())
}
