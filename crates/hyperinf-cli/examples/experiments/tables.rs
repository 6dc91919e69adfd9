//! The results as tables in Markdown, on standard output.

use std::path::Path;

use crate::judge::mean_and_spread;
use crate::results::{self, Detection, DetectionMethod, DetectionSetting, Influential};
use crate::{Failure, detection, influential};

/// Results that differ in nothing but the seed.
pub fn groups(results: Vec<Detection>) -> Vec<(DetectionSetting, Vec<Detection>)> {
    let mut groups: Vec<(DetectionSetting, Vec<Detection>)> = Vec::new();
    for result in results {
        let setting = DetectionSetting { seed: 0, ..result.setting.clone() };
        match groups.iter_mut().find(|(other, _)| *other == setting) {
            Some((_, group)) => group.push(result),
            None => groups.push((setting, vec![result])),
        }
    }
    groups.sort_by(|(a, _), (b, _)| (&a.data, a.train, a.epochs, a.rank).cmp(&(&b.data, b.train, b.epochs, b.rank)));
    groups
}

/// A figure of the named method over the seeds.
pub fn over_seeds(group: &[Detection], name: &str, figure: impl Fn(&DetectionMethod) -> Option<f64>) -> Vec<f64> {
    group.iter().flat_map(|result| result.methods.iter().filter(|m| m.name == name)).filter_map(figure).collect()
}

/// The methods in the order of a result.
fn names(group: &[Detection]) -> Vec<String> {
    group.first().map(|result| result.methods.iter().map(|m| m.name.clone()).collect()).unwrap_or_default()
}

/// Prints every table for which there are results.
pub fn print(out: &Path) -> Result<(), Failure> {
    let detections = groups(results::read(&out.join(detection::FILE))?);
    for (title, figure) in [
        ("AUC of wrong labels", (|m| Some(m.auc)) as fn(&DetectionMethod) -> Option<f64>),
        ("Share of the wrong labels among the first 20 %", |m| m.curve.get(3).copied()),
        ("Pearson correlation with the exact scores", |m| m.pearson),
        ("Spearman correlation with the exact scores", |m| m.spearman),
        ("Seconds of the method", |m| Some(m.seconds)),
        ("Largest relative residual", |m| m.residual),
    ] {
        table(title, &detections, figure);
    }
    println!(
        "\n### Models\n\n| data | rank | train | seeds | validation accuracy | commonest class | accuracy on true training labels | tuning, s | gradients, s |\n|---|---|---|---|---|---|---|---|---|"
    );
    for (setting, group) in &detections {
        let of = |figure: fn(&Detection) -> f64| shown(&group.iter().map(figure).collect::<Vec<_>>());
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            setting.data,
            setting.rank,
            setting.train,
            group.len(),
            of(|r| r.accuracy_validation),
            of(|r| r.commonest_class),
            of(|r| r.accuracy_true_labels),
            of(|r| r.tuning_seconds),
            of(|r| r.gradient_seconds)
        );
    }
    for result in results::read::<Influential>(&out.join(influential::FILE))? {
        let s = &result.setting;
        println!(
            "\n### {} r={} seed {}: {} × 10 training samples, {} × 10 queries, {} epochs of batches of \
             {}, rate {}\n\nLoss of the queries {:.3}, after tuning {:.3} (training samples {:.3}); {:.0} s tuning, {:.0} s gradients\n\n\
             | method | AUC | recall | AUC by size | recall by size | s | residual |\n|---|---|---|---|---|---|---|",
            s.data,
            s.rank,
            s.seed,
            s.train_per_class,
            s.test_per_class,
            s.epochs,
            s.batch_size,
            s.learning_rate,
            result.loss_before,
            result.loss_after,
            result.train_loss_after,
            result.tuning_seconds,
            result.gradient_seconds
        );
        for m in &result.methods {
            let residual = m.residual.map_or("–".into(), |r| format!("{r:.1e}"));
            println!(
                "| {} | {:.3} ± {:.3} | {:.3} ± {:.3} | {:.3} | {:.3} | {:.1} | {residual}{} |",
                m.name,
                m.auc,
                m.auc_spread,
                m.recall,
                m.recall_spread,
                m.absolute_auc,
                m.absolute_recall,
                m.seconds,
                if m.converged { "" } else { " (not converged)" }
            );
        }
    }
    Ok(())
}

fn table(title: &str, groups: &[(DetectionSetting, Vec<Detection>)], figure: impl Fn(&DetectionMethod) -> Option<f64>) {
    let Some((_, first)) = groups.first() else { return };
    let names = names(first);
    println!("\n### {title}\n\n| data | rank | train | {} |", names.join(" | "));
    println!("|---|---|---|{}", "---|".repeat(names.len()));
    for (setting, group) in groups {
        let cells: Vec<String> = names.iter().map(|name| shown(&over_seeds(group, name, &figure))).collect();
        println!("| {} | {} | {} | {} |", setting.data, setting.rank, setting.train, cells.join(" | "));
    }
}

/// The mean with its spread over the seeds, if there are several.
fn shown(values: &[f64]) -> String {
    let (mean, spread) = mean_and_spread(values);
    match values.len() {
        0 => "–".into(),
        _ if mean != 0.0 && !(1e-3..1e3).contains(&mean.abs()) => format!("{mean:.0e}"),
        1 => format!("{mean:.3}"),
        _ => format!("{mean:.3} ± {spread:.3}"),
    }
}
