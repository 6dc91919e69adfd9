use std::io::{Result, Write};
use std::iter::{once, repeat};
use std::path::Path;

use hyperinf::curvature::Damping;
use hyperinf::eval::Agreement;
use hyperinf::scoring::{Method, Set};
use serde::Serialize;

use super::{Comparison, JUDGE};
use crate::args::{QueryModeArg, StructureArg};
use crate::error::CliError;
use crate::grid::{Align, Grid};
use crate::score::{Input, counted, input};
use hyperinf::store::{Cells, GradientPair, Precision, ProjectionSpec, cell};

/// The comparison and its settings.
#[derive(Serialize)]
pub(super) struct Summary {
    command: &'static str,
    hyperinf_version: &'static str,
    sign: &'static str,
    damping: DampingSummary,
    query_mode: &'static str,
    structure: &'static str,
    projection: Option<ProjectionSpec>,
    device: String,
    precision: &'static str,
    queries: usize,
    samples: usize,
    top_k: usize,
    train_gradients: Input,
    query_gradients: Input,
    /// Methods that were estimated to need more were left out.
    memory_limit_gib: Option<f64>,
    peak_memory: &'static str,
    seconds: f64,
    methods: Vec<MethodSummary>,
    pairs: Vec<PairSummary>,
}

#[derive(Serialize)]
struct DampingSummary {
    kind: &'static str,
    value: f64,
}

#[derive(Serialize)]
struct MethodSummary {
    name: String,
    computed: bool,
    /// Why it was not computed.
    reason: Option<String>,
    unit: &'static str,
    /// Whether the damping matters.
    damped: bool,
    /// `null` for methods without a generalized Fisher matrix.
    gfim_side: Option<&'static str>,
    gfim_scale: Option<&'static str>,
    /// Agreement with the exact scores; `null` if they could not be computed.
    exact: Option<Agreement>,
    /// The largest over the blocks; `null` for methods without curvature.
    residual: Option<f64>,
    tolerance: Option<f64>,
    converged: Option<bool>,
    /// The largest over the blocks.
    iterations: Option<usize>,
    seconds: Option<f64>,
    needed_gib: f64,
    rise_mib: Option<f64>,
    peak_mib: Option<f64>,
}

#[derive(Serialize)]
struct PairSummary {
    first: String,
    second: String,
    #[serde(flatten)]
    agreement: Agreement,
}

impl Summary {
    /// Reads the rest of the files, for their fingerprints.
    pub(super) fn new(comparison: &Comparison<'_>, pair: &GradientPair) -> std::result::Result<Self, CliError> {
        let first = &comparison.outcomes[0].settings;
        let (Damping::Relative(value) | Damping::Absolute(value)) = first.options.damping;
        let kind = if matches!(first.options.damping, Damping::Relative(_)) { "relative" } else { "absolute" };
        let names: Vec<&str> = comparison.computed().map(|(name, _)| name).collect();
        let judge = names.iter().position(|name| *name == JUDGE);
        let exact = |name: &str| {
            let place = names.iter().position(|other| *other == name)?;
            Some(comparison.agreements[place][judge?])
        };
        let mut pairs = Vec::new();
        for (i, row) in comparison.agreements.iter().enumerate() {
            for (j, &agreement) in row.iter().enumerate().skip(i + 1) {
                pairs.push(PairSummary { first: names[i].to_owned(), second: names[j].to_owned(), agreement });
            }
        }
        let scores = comparison.computed().next().map(|(_, computed)| &computed.attribution.scores);
        let args = comparison.args;
        Ok(Self {
            command: "compare",
            hyperinf_version: env!("CARGO_PKG_VERSION"),
            sign: "positive = helpful",
            damping: DampingSummary { kind, value },
            query_mode: match args.query_mode {
                QueryModeArg::Each => "each",
                QueryModeArg::Mean => "mean",
            },
            structure: match args.shared.structure {
                StructureArg::PerBlock => "per-block",
                StructureArg::Merged => "merged",
            },
            projection: first.projection,
            device: first.device_name.clone(),
            precision: match pair.precision(&first.device) {
                Precision::Single => "f32",
                Precision::Double => "f64",
            },
            queries: scores.map_or(0, |scores| scores.queries()),
            samples: pair.train.samples(),
            top_k: comparison.top_k,
            train_gradients: input(pair, Set::Train)?,
            query_gradients: input(pair, Set::Query)?,
            memory_limit_gib: comparison.limit_gib,
            peak_memory: "highest resident memory (VmHWM) during the method: rise_mib above what was held when it began, \
                          too little by freed memory that it used again; peak_mib above what was held before the \
                          first method, too much by freed memory of others that the program kept",
            seconds: comparison.seconds,
            methods: comparison
                .outcomes
                .iter()
                .map(|outcome| method(outcome, exact(&outcome.settings.method)))
                .collect(),
            pairs,
        })
    }

    /// The data and the damping, for titles.
    pub(super) fn setting(&self) -> String {
        let queries =
            if self.query_mode == "mean" { "mean query".into() } else { counted(self.queries, "query", "queries") };
        let samples = counted(self.samples, "sample", "samples");
        format!("{samples}, {queries}, damping {} {}", self.damping.value, self.damping.kind)
    }

    pub(super) fn json(&self, out: &mut dyn Write) -> Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    pub(super) fn text(&self, folder: &Path, out: &mut dyn Write) -> Result<()> {
        writeln!(out, "{} methods: {}", self.methods.len(), self.setting())?;
        writeln!(out, "device    {}, {}; {:.2} s", self.device, self.precision, self.seconds)?;
        writeln!(out, "score     {}; the units are in summary.json, compare ranks only\n", self.sign)?;
        writeln!(out, "Agreement with the exact inverse: Spearman, Pearson, top {} in common.", self.top_k)?;
        let overlap = format!("top {}", self.top_k);
        let columns = ["method", "Spearman", "Pearson", overlap.as_str(), "residual ", "steps", "seconds", "peak MiB"];
        let mut table = Grid::new(columns.into_iter().zip(once(Align::Left).chain(repeat(Align::Right))));
        let number = |value: Option<f64>| value.map_or("–".into(), |v| format!("{v:.3}"));
        for method in self.methods.iter().filter(|m| m.computed) {
            let star = if method.converged == Some(false) { "*" } else { " " };
            let residual = method.residual.map_or("– ".into(), |r| format!("{r:.1e}{star}"));
            let steps = method.iterations.filter(|_| method.residual.is_some()).map_or("–".into(), |s| s.to_string());
            let peak = method.rise_mib.zip(method.peak_mib);
            let peak = peak.map_or("–".into(), |(rise, total)| format!("{rise:.0} to {total:.0}"));
            let exact = |of: fn(&Agreement) -> Option<f64>| number(method.exact.as_ref().and_then(of));
            table.row(vec![
                method.name.clone(),
                exact(|a| a.spearman),
                exact(|a| a.pearson),
                exact(|a| Some(a.overlap)),
                residual,
                steps,
                format!("{:.3}", method.seconds.unwrap_or_default()),
                peak,
            ]);
        }
        table.write(out)?;
        if self.methods.iter().any(|m| m.converged == Some(false)) {
            writeln!(out, "* the solver stopped before reaching its tolerance")?;
        }
        for method in self.methods.iter().filter(|m| !m.computed) {
            writeln!(out, "{} was left out: {}", method.name, method.reason.as_deref().unwrap_or("unknown"))?;
        }
        let files = "methods.csv, pairs.csv, spearman.png, summary.json";
        writeln!(out, "\nAll pairs of methods: {files} in {}", folder.display())
    }
}

fn method(outcome: &super::Outcome, exact: Option<Agreement>) -> MethodSummary {
    let computed = outcome.computed();
    let attribution = computed.map(|c| &c.attribution);
    let inverse = matches!(outcome.settings.options.method, Method::Inverse { .. });
    let (gfim_side, gfim_scale) = outcome.settings.gfim_names().unzip();
    MethodSummary {
        name: outcome.settings.method.clone(),
        computed: computed.is_some(),
        reason: outcome.result.as_ref().err().cloned(),
        unit: outcome.settings.options.unit(),
        damped: inverse,
        gfim_side,
        gfim_scale,
        exact: exact.filter(|_| computed.is_some()),
        residual: attribution.and_then(|a| a.residual()),
        tolerance: attribution.and_then(|a| a.blocks.iter().filter_map(|b| b.tolerance).reduce(f64::min)),
        converged: attribution.map(|a| a.converged()),
        iterations: attribution.map(|a| a.blocks.iter().map(|b| b.iterations).max().unwrap_or(0)),
        seconds: computed.map(|c| c.seconds),
        needed_gib: outcome.needed_gib,
        rise_mib: computed.and_then(|c| Some(c.peak?.rise)),
        peak_mib: computed.and_then(|c| Some(c.peak?.total)),
    }
}

const METHODS: [&str; 15] = [
    "method",
    "computed",
    "reason",
    "unit",
    "spearman_exact",
    "pearson_exact",
    "overlap_exact",
    "residual",
    "tolerance",
    "converged",
    "iterations",
    "seconds",
    "needed_gib",
    "rise_mib",
    "peak_mib",
];
const PAIRS: [&str; 6] = ["first", "second", "spearman", "pearson", "overlap", "queries"];

impl Summary {
    /// One row per method.
    pub(super) fn methods_table(&self) -> Cells {
        let row = |m: &MethodSummary| {
            let exact = |of: fn(&Agreement) -> Option<f64>| cell(m.exact.as_ref().and_then(of));
            vec![
                m.name.clone(),
                m.computed.to_string(),
                m.reason.clone().unwrap_or_default(),
                m.unit.to_owned(),
                exact(|a| a.spearman),
                exact(|a| a.pearson),
                exact(|a| Some(a.overlap)),
                cell(m.residual),
                cell(m.tolerance),
                cell(m.converged),
                cell(m.iterations),
                cell(m.seconds),
                m.needed_gib.to_string(),
                cell(m.rise_mib),
                cell(m.peak_mib),
            ]
        };
        Cells::new(&METHODS, self.methods.iter().map(row).collect())
    }

    /// One row per pair of methods that were computed.
    pub(super) fn pairs_table(&self) -> Cells {
        let row = |p: &PairSummary| {
            let Agreement { spearman, pearson, overlap, queries, .. } = p.agreement;
            let names = [p.first.clone(), p.second.clone()];
            [&names[..], &[cell(spearman), cell(pearson), overlap.to_string(), queries.to_string()]].concat()
        };
        Cells::new(&PAIRS, self.pairs.iter().map(row).collect())
    }
}
