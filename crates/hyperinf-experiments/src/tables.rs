//! The results as tables in Markdown, on standard output.

use std::path::Path;

use crate::judge::{SWEPT, mean_and_spread};
use crate::results::{
    self, Detection, DetectionMethod, DetectionSetting, Influential, InfluentialMethod, InfluentialSetting,
};
use crate::{Failure, cleaning, detection, emoji, influential, selections, vision};

/// Results that differ only in the seed.
pub fn groups(results: Vec<Detection>) -> Vec<(DetectionSetting, Vec<Detection>)> {
    let setting = |result: &Detection| DetectionSetting { seed: 0, ..result.setting.clone() };
    let mut groups = results::groups(results, setting);
    groups.sort_by(|(a, _), (b, _)| (&a.data, a.train, a.epochs, a.rank).cmp(&(&b.data, b.train, b.epochs, b.rank)));
    groups
}

/// One value per seed of the named method.
pub fn over_seeds(group: &[Detection], name: &str, figure: impl Fn(&DetectionMethod) -> Option<f64>) -> Vec<f64> {
    group.iter().flat_map(|result| result.methods.iter().filter(|m| m.name == name)).filter_map(figure).collect()
}

/// The methods in the order of a result, without the damping sweep.
fn names(group: &[Detection]) -> Vec<String> {
    let all = group.first().into_iter().flat_map(|result| &result.methods).map(|m| m.name.clone());
    all.filter(|name| SWEPT.iter().all(|(swept, ..)| swept != name)).collect()
}

/// The relative dampings of a method with the names of their results; the default first.
pub fn swept(method: &'static str) -> Vec<(f64, &'static str)> {
    let others = SWEPT.into_iter().filter(move |(_, base, _)| *base == method).map(|(name, _, c)| (c, name));
    std::iter::once((0.1, method)).chain(others).collect()
}

/// The methods whose damping is swept.
pub const SWEPT_METHODS: [&str; 3] = ["datainf", "hyperinf", "exact"];

/// Prints every table with results.
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
    dampings(&detections);
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
    cleaning::print(out)?;
    selections::print(out)?;
    emoji::found::print(&out.join(emoji::found::FILE))?;
    emoji::retrained::print(&out.join(emoji::retrained::FILE))?;
    vision::selection::print(&out.join(vision::easy_vqa::FILE), "colour rows")?;
    vision::selection::print(&out.join(vision::photos::FILE), "right labels")?;
    for (setting, group) in influential_groups(results::read(&out.join(influential::FILE))?) {
        influential(&setting, &group);
    }
    Ok(())
}

/// Results on classes that differ only in the seed.
fn influential_groups(results: Vec<Influential>) -> Vec<(InfluentialSetting, Vec<Influential>)> {
    let mut groups: Vec<(InfluentialSetting, Vec<Influential>)> = Vec::new();
    for result in results {
        let setting = InfluentialSetting { seed: 0, ..result.setting.clone() };
        match groups.iter_mut().find(|(other, _)| *other == setting) {
            Some((_, group)) => group.push(result),
            None => groups.push((setting, vec![result])),
        }
    }
    groups
}

/// Spreads are over the queries of a single seed, or over several seeds.
fn influential(s: &InfluentialSetting, group: &[Influential]) {
    let of = |figure: fn(&Influential) -> f64| shown(&group.iter().map(figure).collect::<Vec<_>>());
    let seeds: Vec<String> = group.iter().map(|result| result.setting.seed.to_string()).collect();
    println!(
        "\n### {} r={}, seeds {}: {} × 10 training samples, {} × 10 queries, {} epochs of batches of {} {}, rate {}\n\n\
         Loss of the queries {}, after tuning {} (training samples {}); {} s tuning, {} s gradients\n\n\
         | method | AUC | recall | AUC by size | recall by size | s | residual |\n|---|---|---|---|---|---|---|",
        s.data,
        s.rank,
        seeds.join(", "),
        s.train_per_class,
        s.test_per_class,
        s.epochs,
        s.batch_size,
        if s.by_length { "samples of like length" } else { "any samples" },
        s.learning_rate,
        of(|r| r.loss_before),
        of(|r| r.loss_after),
        of(|r| r.train_loss_after),
        of(|r| r.tuning_seconds),
        of(|r| r.gradient_seconds)
    );
    for m in group.iter().take(1).flat_map(|result| &result.methods) {
        let same: Vec<&InfluentialMethod> =
            group.iter().flat_map(|result| &result.methods).filter(|other| other.name == m.name).collect();
        let of = |figure: fn(&InfluentialMethod) -> f64| same.iter().map(|m| figure(m)).collect::<Vec<f64>>();
        let with = |values: Vec<f64>, spread: f64| match values.as_slice() {
            [one] => format!("{one:.3} ± {spread:.3}"),
            several => shown(several),
        };
        let worst = same.iter().filter_map(|m| m.residual).reduce(f64::max);
        println!(
            "| {} | {} | {} | {:.3} | {:.3} | {:.1} | {}{} |",
            m.name,
            with(of(|m| m.auc), m.auc_spread),
            with(of(|m| m.recall), m.recall_spread),
            mean_and_spread(&of(|m| m.absolute_auc)).0,
            mean_and_spread(&of(|m| m.absolute_recall)).0,
            mean_and_spread(&of(|m| m.seconds)).0,
            worst.map_or("–".into(), |r| format!("{r:.1e}")),
            if same.iter().all(|m| m.converged) { "" } else { " (not converged)" }
        );
    }
}

/// The AUC by relative damping.
fn dampings(groups: &[(DetectionSetting, Vec<Detection>)]) {
    println!(
        "\n### AUC by relative damping\n\n| data | rank | train | method | 0.1 | 1 | 10 | 100 |\n|---|---|---|---|---|---|---|---|"
    );
    for (setting, group) in groups {
        for method in SWEPT_METHODS {
            // Only complete sweeps, so that a row covers the same seeds.
            let have = |result: &&Detection| {
                swept(method).iter().all(|(_, name)| result.methods.iter().any(|m| m.name == *name))
            };
            let all: Vec<Detection> = group.iter().filter(have).cloned().collect();
            if all.is_empty() {
                continue;
            }
            let cells: Vec<String> =
                swept(method).into_iter().map(|(_, name)| shown(&over_seeds(&all, name, |m| Some(m.auc)))).collect();
            let DetectionSetting { data, rank, train, .. } = setting;
            println!("| {data} | {rank} | {train} | {method} | {} |", cells.join(" | "));
        }
    }
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

/// The mean, with its spread over several seeds.
fn shown(values: &[f64]) -> String {
    let (mean, spread) = mean_and_spread(values);
    match values.len() {
        0 => "–".into(),
        _ if mean != 0.0 && !(1e-3..1e3).contains(&mean.abs()) => format!("{mean:.0e}"),
        1 => format!("{mean:.3}"),
        _ => format!("{mean:.3} ± {spread:.3}"),
    }
}
