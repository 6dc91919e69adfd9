use std::io::{Result, Write};
use std::path::Path;

use clap::ValueEnum;
use hyperinf::eval::Advice;
use hyperinf::scoring::{BlockReport, Method, Set};
use serde::Serialize;

use super::{SideSweep, Sweep};
use crate::args::{QueryModeArg, StructureArg};
use crate::error::CliError;
use crate::score::{Input, counted, entries, flags, input};
use hyperinf::store::{Cells, Column, GradientPair, Ids, Precision, ProjectionSpec, Staged, Table, cell, ranks};

/// The sweep and its settings.
#[derive(Serialize)]
pub(super) struct Summary {
    command: &'static str,
    hyperinf_version: &'static str,
    method: String,
    /// The solver of the equations at all dampings.
    solver: &'static str,
    sign: &'static str,
    unit: &'static str,
    damping_kind: &'static str,
    query_mode: &'static str,
    structure: &'static str,
    device: String,
    precision: &'static str,
    queries: usize,
    samples: usize,
    top_k: usize,
    stable: f64,
    known_bad: Option<String>,
    train_gradients: Input,
    query_gradients: Input,
    seconds: f64,
    /// The damping that finds the samples known to be bad best; `null` if none are known.
    recommended: Option<Recommended>,
    sides: Vec<SideSummary>,
}

#[derive(Serialize)]
struct Recommended {
    side: Option<String>,
    /// The largest rank that was tried.
    projection: Option<ProjectionSpec>,
    #[serde(flatten)]
    advice: Advice,
}

#[derive(Serialize)]
struct SideSummary {
    side: Option<String>,
    projection: Option<ProjectionSpec>,
    /// `null` for methods without a generalized Fisher matrix.
    gfim_side: Option<&'static str>,
    gfim_scale: Option<&'static str>,
    seconds: f64,
    recommended: Option<Advice>,
    /// The first and the last damping of each stretch with one ranking.
    plateaus: Vec<[f64; 2]>,
    dampings: Vec<DampingSummary>,
}

#[derive(Serialize)]
struct DampingSummary {
    damping: f64,
    /// The smallest and the largest of the blocks; `null` if all gradients are zero.
    lambda_min: Option<f64>,
    lambda_max: Option<f64>,
    residual: Option<f64>,
    converged: bool,
    /// With the next larger damping; `null` for the largest.
    spearman_next: Option<f64>,
    overlap_next: Option<f64>,
    /// With the next larger rank of the projection, at the same side and damping; `null` for the largest.
    spearman_next_rank: Option<f64>,
    /// With the plain dot product.
    spearman_dot: Option<f64>,
    /// The share of the scores' variance that the plain dot product explains: their squared
    /// correlation, averaged over the queries.
    explained_by_dot: Option<f64>,
    auc: Option<f64>,
    recommended: bool,
}

/// The name of the side.
fn side_of(side: &SideSweep) -> Option<String> {
    side.variant.side.and_then(|side| Some(side.to_possible_value()?.get_name().to_owned()))
}

/// The name of a variant among the others.
pub(super) fn variant_label(side: &SideSweep) -> Option<String> {
    label(side_of(side).as_deref(), side.variant.rank.map(|rank| rank as usize))
}

fn label(side: Option<&str>, rank: Option<usize>) -> Option<String> {
    match (side, rank) {
        (None, None) => None,
        (Some(side), None) => Some(format!("side {side}")),
        (None, Some(rank)) => Some(format!("rank {rank}")),
        (Some(side), Some(rank)) => Some(format!("side {side}, rank {rank}")),
    }
}

impl Summary {
    /// Reads the rest of the files, for their fingerprints.
    pub(super) fn new(sweep: &Sweep<'_>, pair: &GradientPair) -> std::result::Result<Self, CliError> {
        let (args, first) = (sweep.args, &sweep.sides[0]);
        let chosen = sweep.chosen.map(|place| &sweep.sides[place]);
        Ok(Self {
            command: "sweep",
            hyperinf_version: env!("CARGO_PKG_VERSION"),
            method: first.settings.method.clone(),
            solver: match &first.settings.options.method {
                Method::Inverse { solver, .. } => solver.name(),
                Method::Identity => "identity",
            },
            sign: "positive = helpful",
            unit: first.settings.options.unit(),
            damping_kind: if args.values().1 { "absolute" } else { "relative" },
            query_mode: match args.query_mode {
                QueryModeArg::Each => "each",
                QueryModeArg::Mean => "mean",
            },
            structure: match args.structure {
                StructureArg::PerBlock => "per-block",
                StructureArg::Merged => "merged",
            },
            device: first.settings.device_name.clone(),
            precision: match pair.precision(&first.settings.device) {
                Precision::Single => "f32",
                Precision::Double => "f64",
            },
            queries: first.found[0].scores.queries(),
            samples: pair.train.samples(),
            top_k: sweep.top_k,
            stable: args.stable,
            known_bad: args.known_bad.as_ref().map(|path| path.display().to_string()),
            train_gradients: input(pair, Set::Train)?,
            query_gradients: input(pair, Set::Query)?,
            seconds: sweep.seconds,
            recommended: chosen.and_then(|side| {
                Some(Recommended {
                    side: side_of(side),
                    projection: side.settings.projection,
                    advice: side.study.advice.clone()?,
                })
            }),
            sides: (0..sweep.sides.len()).map(|place| side_summary(sweep, place)).collect(),
        })
    }

    pub(super) fn json(&self, out: &mut dyn Write) -> Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    pub(super) fn text(&self, folder: &Path, out: &mut dyn Write) -> Result<()> {
        let samples = counted(self.samples, "training sample", "training samples");
        let queries =
            if self.query_mode == "mean" { "the mean query".into() } else { counted(self.queries, "query", "queries") };
        writeln!(out, "{}: {samples}, {queries}, {} structure", self.method, self.structure)?;
        writeln!(out, "device    {}, {}; {:.2} s; solver {}", self.device, self.precision, self.seconds, self.solver)?;
        writeln!(out, "score     {}; {}", self.sign, self.unit)?;
        for side in &self.sides {
            side.text(self, out)?;
        }
        match &self.recommended {
            Some(Recommended { side, projection, advice }) => {
                let side = side.as_ref().map(|side| format!("--gfim-side {side} ")).unwrap_or_default();
                let project = projection.map(flags).unwrap_or_default();
                let flag = if self.damping_kind == "absolute" { "--damping-absolute" } else { "--damping" };
                writeln!(out, "\nrecommended: {side}{project}{flag} {}", advice.damping)?;
                writeln!(out, "  because {}", advice.reason)?;
            }
            None if self.known_bad.is_some() => {
                writeln!(out, "\nno damping is recommended: at none did every solver reach its tolerance")?;
            }
            None => {
                writeln!(out, "\nno damping is recommended: a stable ranking need not be a right one")?;
                writeln!(out, "  --known-bad FILE recommends the one that finds the samples listed there best")?;
            }
        }
        let files = "sweep.csv, scores.parquet, sweep.png, spearman.png, summary.json";
        writeln!(out, "\nAll scores and correlations: {files} in {}", folder.display())
    }

    /// One row per side, rank and damping.
    pub(super) fn table(&self) -> Cells {
        let rows = self.sides.iter().flat_map(|side| side.dampings.iter().map(move |row| (side, row)));
        let row = |(side, row): (&SideSummary, &DampingSummary)| {
            vec![
                cell(side.side.as_ref()),
                cell(side.projection.map(|projection| projection.rank)),
                row.damping.to_string(),
                cell(row.lambda_min),
                cell(row.lambda_max),
                cell(row.residual),
                row.converged.to_string(),
                cell(row.spearman_next),
                cell(row.overlap_next),
                cell(row.spearman_next_rank),
                cell(row.spearman_dot),
                cell(row.explained_by_dot),
                cell(row.auc),
                row.recommended.to_string(),
            ]
        };
        Cells::new(&COLUMNS, rows.map(row).collect())
    }
}

const COLUMNS: [&str; 14] = [
    "side",
    "project",
    "damping",
    "lambda_min",
    "lambda_max",
    "residual",
    "converged",
    "spearman_next",
    "overlap_next",
    "spearman_next_rank",
    "spearman_dot",
    "explained_by_dot",
    "auc",
    "recommended",
];

fn side_summary(sweep: &Sweep<'_>, variant: usize) -> SideSummary {
    let (side, dampings) = (&sweep.sides[variant], sweep.dampings);
    let larger = sweep.sides.iter().enumerate().filter(|(_, other)| {
        other.variant.side == side.variant.side && side.variant.rank.is_some() && other.variant.rank > side.variant.rank
    });
    let next_rank = larger.min_by_key(|(_, other)| other.variant.rank).map(|(place, _)| place);
    let row = |place: usize| {
        let found = &side.found[place];
        let lambdas = || found.blocks.iter().filter_map(|block| block.lambda);
        DampingSummary {
            damping: dampings[place],
            lambda_min: lambdas().reduce(f64::min),
            lambda_max: lambdas().reduce(f64::max),
            residual: found.residual(),
            converged: found.blocks.iter().all(BlockReport::converged),
            spearman_next: side.study.next[place].and_then(|a| a.spearman),
            overlap_next: side.study.next[place].map(|a| a.overlap),
            spearman_next_rank: next_rank.and_then(|next| {
                let of = |variant: usize| variant * dampings.len() + place;
                sweep.all[of(variant)][of(next)].spearman
            }),
            spearman_dot: side.study.dot[place].spearman,
            explained_by_dot: side.study.dot[place].explained,
            auc: side.study.auc[place],
            recommended: side.study.advice.as_ref().is_some_and(|advice| advice.place == place),
        }
    };
    let (gfim_side, gfim_scale) = side.settings.gfim_names().unzip();
    SideSummary {
        side: side_of(side),
        projection: side.settings.projection,
        gfim_side,
        gfim_scale,
        seconds: side.seconds,
        recommended: side.study.advice.clone(),
        plateaus: side.study.plateaus.iter().map(|&(first, last)| [dampings[first], dampings[last]]).collect(),
        dampings: (0..dampings.len()).map(row).collect(),
    }
}

impl SideSummary {
    fn text(&self, summary: &Summary, out: &mut dyn Write) -> Result<()> {
        let title = label(self.side.as_deref(), self.projection.map(|projection| projection.rank));
        let title = title.map(|title| format!("{title}; ")).unwrap_or_default();
        writeln!(out, "\n{title}{} damping, {:.2} s", summary.damping_kind, self.seconds)?;
        let top = format!("top {}", summary.top_k);
        // Only where there is another.
        let ranked = self.dampings.iter().any(|row| row.spearman_next_rank.is_some());
        let next_rank = |header: &str| if ranked { format!("  {header:>9}") } else { String::new() };
        let (with, of) = (next_rank("next rank"), next_rank("Spearman"));
        writeln!(out, "{:>10} {:>10}  {:>18}{with}  {:>18}", "", "", "agreement with next", "with dot product")?;
        writeln!(
            out,
            "{:>10} {:>10}  {:>10} {top:>8}{of}  {:>9} {:>9}  {:>6}",
            "damping", "residual", "Spearman", "Spearman", "explained", "AUC"
        )?;
        let number = |value: Option<f64>| value.map_or("–".into(), |v| format!("{v:.3}"));
        for row in &self.dampings {
            let star = if row.converged { " " } else { "*" };
            let residual = row.residual.map_or("– ".into(), |r| format!("{r:.1e}{star}"));
            writeln!(
                out,
                "{:>10} {residual:>11} {:>10} {:>8}{}  {:>9} {:>9}  {:>6}{}",
                row.damping,
                number(row.spearman_next),
                number(row.overlap_next),
                next_rank(&number(row.spearman_next_rank)),
                number(row.spearman_dot),
                number(row.explained_by_dot),
                number(row.auc),
                if row.recommended { "  ←" } else { "" }
            )?;
        }
        if self.dampings.iter().any(|row| !row.converged) {
            writeln!(out, "* a solver stopped before reaching its tolerance")?;
        }
        for [first, last] in &self.plateaus {
            writeln!(out, "one ranking from {first} to {last}: neighbours agree to {} or more", summary.stable)?;
        }
        Ok(())
    }
}

/// The scores of every side, rank and damping.
pub(super) fn stage_scores<'a>(
    path: &'a Path,
    sweep: &Sweep<'_>,
    summary: &Summary,
    ids: &Ids,
) -> std::result::Result<Staged<'a>, CliError> {
    let rank = |side: &SideSweep| side.variant.rank.map(|rank| rank.to_string()).unwrap_or_default();
    let names: Vec<[String; 2]> = sweep.sides.iter().map(|s| [side_of(s).unwrap_or_default(), rank(s)]).collect();
    let tables = sweep.sides.iter().zip(&names).flat_map(|(side, [name, rank])| {
        side.found.iter().zip(sweep.dampings).flat_map(move |(found, &damping)| {
            found.scores.rows.iter().enumerate().map(move |(query, row)| {
                let n = row.len();
                Table::new(vec![
                    ("side", Column::Text(vec![name.as_str(); n])),
                    ("project", Column::Text(vec![rank.as_str(); n])),
                    ("damping", Column::Double(vec![damping; n])),
                    ("query_id", ids.queries.column((0..n).map(|_| query))),
                    ("train_id", ids.train.column(0..n)),
                    ("score", Column::Real(row.iter().map(|&s| s as f32).collect())),
                    ("rank", Column::Whole(ranks(row))),
                ])
            })
        })
    });
    Ok(hyperinf::store::stage_parquet(path, tables, &entries(summary))?)
}
