use std::io::{Result, Write};
use std::path::Path;

use hyperinf::scoring::{Attribution, ranking};
use serde::Serialize;

use super::summary::{Scoring, Summary};

/// Samples shown at either end of a ranking.
const SHOWN: usize = 10;
/// Queries whose ranking is shown to people.
const QUERIES: usize = 3;

/// What is told of scores on standard output.
pub(super) struct Report<'a> {
    pub(super) summary: &'a Summary,
    pub(super) attribution: &'a Attribution,
    pub(super) output: Option<&'a Path>,
    pub(super) seconds: f64,
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    output: Option<String>,
    seconds: f64,
    rankings: Vec<Ranking>,
}

/// The ends of one query's ranking.
#[derive(Serialize)]
struct Ranking {
    query_id: usize,
    /// The highest scores, the highest first.
    most_helpful: Vec<Scored>,
    /// The lowest scores, the lowest first.
    most_harmful: Vec<Scored>,
}

#[derive(Serialize)]
struct Scored {
    train_id: usize,
    score: f64,
}

impl Report<'_> {
    pub(super) fn json(&self, out: &mut dyn Write) -> Result<()> {
        let json = Json {
            summary: self.summary,
            output: self.output.map(|path| path.display().to_string()),
            seconds: self.seconds,
            rankings: self.rankings(usize::MAX),
        };
        serde_json::to_writer_pretty(&mut *out, &json)?;
        writeln!(out)
    }

    pub(super) fn text(&self, out: &mut dyn Write) -> Result<()> {
        head(out, &self.summary.scoring, self.summary.train_gradients.blocks, self.seconds)?;
        match self.output {
            Some(path) => writeln!(out, "scores    {}", path.display()),
            None => self.text_rankings(out),
        }
    }

    fn text_rankings(&self, out: &mut dyn Write) -> Result<()> {
        for Ranking { query_id, most_helpful, most_harmful } in self.rankings(QUERIES) {
            let title = if self.summary.scoring.query_mode == "mean" {
                "mean query".into()
            } else {
                format!("query {query_id}")
            };
            writeln!(out, "\n{title}\n{:>26}    {:>26}", "most helpful sample  score", "most harmful sample  score")?;
            for (good, bad) in most_helpful.iter().zip(&most_harmful) {
                let cell = |scored: &Scored| format!("{:>14}  {:>+10.3e}", scored.train_id, scored.score);
                writeln!(out, "{}    {}", cell(good), cell(bad))?;
            }
        }
        let left = self.summary.scoring.queries.saturating_sub(QUERIES);
        if left > 0 {
            writeln!(out, "\n… and {}", counted(left, "more query", "more queries"))?;
        }
        writeln!(out, "\nAll scores: --output FILE.parquet, .safetensors or .csv")
    }

    fn rankings(&self, queries: usize) -> Vec<Ranking> {
        let rows = self.attribution.scores.rows.iter().take(queries).enumerate();
        rows.map(|(query_id, row)| {
            let order = ranking(row);
            let scored = |&train_id: &usize| Scored { train_id, score: row[train_id] };
            Ranking {
                query_id,
                most_helpful: order.iter().take(SHOWN).map(scored).collect(),
                most_harmful: order.iter().rev().take(SHOWN).map(scored).collect(),
            }
        })
        .collect()
    }
}

/// What is told first of any scores: the method, and how far to trust it.
pub(crate) fn head(out: &mut dyn Write, scoring: &Scoring, blocks: usize, seconds: f64) -> Result<()> {
    let Scoring { method, samples, queries, device, precision, query_mode, .. } = scoring;
    let queries = if *query_mode == "mean" { "the mean query".into() } else { counted(*queries, "query", "queries") };
    let samples = counted(*samples, "training sample", "training samples");
    let blocks = counted(blocks, "block", "blocks");
    writeln!(out, "{method}: {samples}, {queries}, {blocks}, {} structure", scoring.structure)?;
    writeln!(out, "device    {device}, {precision}; {:.2} s", seconds)?;
    writeln!(out, "score     {}; {}", scoring.sign, scoring.unit)?;
    if let Some(damping) = &scoring.damping {
        let lambdas = || scoring.blocks.iter().filter_map(|b| b.lambda);
        let (least, most) = (lambdas().reduce(f64::min), lambdas().reduce(f64::max));
        let range = least.zip(most).map(|(a, b)| format!(": λ from {a:.3e} to {b:.3e}")).unwrap_or_default();
        writeln!(out, "damping   {} {}{range}", damping.value, damping.kind)?;
    }
    if let Some(residual) = scoring.residual {
        let tolerance = scoring.blocks.iter().filter_map(|b| b.tolerance).reduce(f64::min);
        let told = match tolerance {
            Some(tolerance) if scoring.converged => format!("tolerance {tolerance:.1e}, reached"),
            Some(tolerance) => format!("tolerance {tolerance:.1e}, NOT reached"),
            None => "by design not the inverse".into(),
        };
        writeln!(out, "residual  {residual:.2e}, the largest of a block, relative ({told})")?;
    }
    Ok(())
}

pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
