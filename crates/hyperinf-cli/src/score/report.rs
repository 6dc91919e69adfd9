use std::io::{Result, Write};
use std::path::Path;

use hyperinf::scoring::{RankBy, ranking};
use serde::Serialize;
use serde_json::{Map, Value};

use super::summary::{Scoring, Summary};
use super::variants::{Outcome, UncertaintySummary};
use crate::terminal::name;
use crate::text::excerpt;
use hyperinf::store::{IdColumn, ScoreRows};

/// Samples shown at either end of a ranking.
const SHOWN: usize = 10;
/// Ways of inverting blocks that are shown as text.
const CHOICES: usize = 3;
/// Queries whose ranking is shown as text.
const QUERIES: usize = 3;

/// The scores on standard output.
pub(super) struct Report<'a> {
    pub(super) summary: &'a Summary,
    pub(super) outcome: &'a Outcome,
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
    query_id: Value,
    /// The highest scores, the highest first.
    most_helpful: Vec<Scored>,
    /// The lowest scores, the lowest first: those below 0.
    most_harmful: Vec<Scored>,
    /// The lowest scores where none is below 0, the lowest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    least_helpful: Vec<Scored>,
    /// The largest scores of either sign, where ranks are by magnitude.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    most_influential: Vec<Scored>,
}

#[derive(Serialize)]
struct Scored {
    /// `train_id` or `group_id`.
    #[serde(flatten)]
    id: Map<String, Value>,
    score: f64,
    #[serde(flatten)]
    spread: Option<Off>,
}

/// The error bar of a score.
#[derive(Serialize)]
struct Off {
    score_std: f64,
    low: f64,
    high: f64,
}

impl Report<'_> {
    pub(super) fn json(&self, out: &mut dyn Write) -> Result<()> {
        let json = Json {
            summary: self.summary,
            output: self.output.map(|path| path.display().to_string()),
            seconds: self.seconds,
            rankings: self.rankings(usize::MAX)?,
        };
        serde_json::to_writer_pretty(&mut *out, &json)?;
        writeln!(out)
    }

    pub(super) fn text(&self, out: &mut dyn Write) -> Result<()> {
        head(out, &self.summary.scoring, self.summary.train_gradients.blocks, self.seconds)?;
        self.text_variants(out)?;
        match self.output {
            Some(path) => writeln!(out, "scores    {}", path.display()),
            None => self.text_rankings(out),
        }
    }

    fn text_variants(&self, out: &mut dyn Write) -> Result<()> {
        let Summary { checkpoints, curvature_gradients, contrast_gradients, groups, uncertainty, .. } = self.summary;
        if let Some(moments) = checkpoints {
            writeln!(out, "moments   {} checkpoints of the training, the largest residual of all", moments.len())?;
        }
        if let Some(input) = curvature_gradients {
            writeln!(out, "curvature of {} in {}", counted(input.samples, "sample", "samples"), input.file)?;
        }
        if let Some(input) = contrast_gradients {
            writeln!(
                out,
                "contrast  minus the mean of {} in {}",
                counted(input.samples, "query", "queries"),
                input.file
            )?;
        }
        if let Some(groups) = groups {
            let count = counted(groups.groups, "group", "groups");
            writeln!(out, "groups    {count} of {}, the {} of each", groups.file, groups.scores)?;
        }
        if let Some(UncertaintySummary { resamples, spearman, top, top_overlap, over, .. }) = uncertainty {
            let sets = if *over == "random projections" { "" } else { "sets of " };
            writeln!(out, "spread    over {resamples} {sets}{over}; between two of them:")?;
            writeln!(
                out,
                "          Spearman {}, {:.0} % of the {top} highest in common",
                spearman.map_or("–".into(), |found| format!("{found:.3}")),
                100.0 * top_overlap
            )?;
        }
        Ok(())
    }

    fn text_rankings(&self, out: &mut dyn Write) -> Result<()> {
        let what = if self.outcome.groups.is_some() { "group" } else { "sample" };
        let score = match &self.summary.uncertainty {
            None => "score",
            Some(spread) if spread.level.is_some() => "score ± std. error",
            Some(_) => "score ± deviation ",
        };
        let width = if self.outcome.spread.is_some() { 39 } else { 26 };
        for Ranking { query_id, most_helpful, most_harmful, least_helpful, most_influential } in
            self.rankings(QUERIES)?
        {
            let title = if self.summary.scoring.query_mode == "mean" {
                "mean query".into()
            } else {
                format!("query {}", plain(&query_id))
            };
            let named = [
                ("most influential", most_influential),
                ("most helpful", most_helpful),
                ("most harmful", most_harmful),
                ("least helpful", least_helpful),
            ];
            // By magnitude the first list says it all.
            let shown = if self.summary.scoring.rank_by == RankBy::Magnitude.name() { 1 } else { usize::MAX };
            let lists: Vec<_> = named.iter().filter(|(_, list)| !list.is_empty()).take(shown).collect();
            let heads: Vec<String> =
                lists.iter().map(|(end, _)| format!("{:>width$}", format!("{end} {what}  {score}"))).collect();
            writeln!(out, "\n{title}\n{}", heads.join("    "))?;
            for place in 0..lists.iter().map(|(_, list)| list.len()).max().unwrap_or(0) {
                let cell = |Scored { id, score, spread }: &Scored| {
                    let id = id.values().map(plain).collect::<String>();
                    let off = spread.as_ref().map_or_else(String::new, |off| format!(" ± {:>9.3e}", off.score_std));
                    format!("{:>width$}", format!("{id:>14}  {score:>+10.3e}{off}"))
                };
                let cells = lists.iter().map(|(_, list)| list.get(place).map_or_else(String::new, cell));
                writeln!(
                    out,
                    "{}",
                    cells.map(|cell| format!("{cell:>width$}")).collect::<Vec<_>>().join("    ").trim_end()
                )?;
            }
        }
        let left = self.summary.scoring.queries.saturating_sub(QUERIES);
        if left > 0 {
            writeln!(out, "\n… and {}", counted(left, "more query", "more queries"))?;
        }
        writeln!(out, "\nAll scores: --output FILE.parquet, .safetensors, .csv or .jsonl")
    }

    fn rankings(&self, queries: usize) -> Result<Vec<Ranking>> {
        let Outcome { scores, spread, ids, .. } = self.outcome;
        let ranking_of = |query: usize| {
            let row = &scores.rows(query..query + 1)?[0];
            let order = ranking(row);
            let id = |ids: &IdColumn, place: usize| -> Value {
                match ids {
                    IdColumn::Numbers(numbers) => numbers[place].into(),
                    IdColumn::Names(names) => names[place].clone().into(),
                }
            };
            let scored = |&sample: &usize| {
                let id = Map::from_iter([(ids.unit.column().to_owned(), id(&ids.train, sample))]);
                let spread = spread.as_ref().map(|spread| Off {
                    score_std: spread.std[sample],
                    low: spread.low[sample],
                    high: spread.high[sample],
                });
                Scored { id, score: row[sample], spread }
            };
            // Nothing is at both ends of a short ranking.
            let (helpful, harmful) = (SHOWN.min(order.len().div_ceil(2)), SHOWN.min(order.len() / 2));
            let lowest: Vec<Scored> = order.iter().rev().take(harmful).map(scored).collect();
            let harms = lowest.first().is_some_and(|lowest| lowest.score < 0.0);
            let (most_harmful, least_helpful) = if harms {
                (lowest.into_iter().filter(|found| found.score < 0.0).collect(), Vec::new())
            } else {
                (Vec::new(), lowest)
            };
            let influential = match RankBy::Magnitude.name() == self.summary.scoring.rank_by {
                true => RankBy::Magnitude.ranking(row),
                false => Vec::new(),
            };
            Ok(Ranking {
                query_id: id(&ids.queries, query),
                most_helpful: order.iter().take(helpful).map(scored).collect(),
                most_harmful,
                least_helpful,
                most_influential: influential.iter().take(SHOWN).map(scored).collect(),
            })
        };
        (0..scores.queries().min(queries)).map(ranking_of).collect()
    }
}

/// An id on one line.
fn plain(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), |id| excerpt(&name(id)))
}

/// The header of a result: the method, its settings and its residual.
pub(crate) fn head(out: &mut dyn Write, scoring: &Scoring, blocks: usize, seconds: f64) -> Result<()> {
    let Scoring { method, samples, queries, device, precision, query_mode, .. } = scoring;
    let queries = if *query_mode == "mean" { "the mean query".into() } else { counted(*queries, "query", "queries") };
    let samples = counted(*samples, "training sample", "training samples");
    let blocks = counted(blocks, "block", "blocks");
    writeln!(out, "{method}: {samples}, {queries}, {blocks}, {} structure", scoring.structure)?;
    writeln!(out, "device    {device}, {precision}; {:.2} s", seconds)?;
    writeln!(out, "score     {}; {}", scoring.sign, scoring.unit)?;
    if let Some(projection) = scoring.projection {
        let (rank, directions, seed) = (projection.rank, projection.directions.name(), projection.directions.seed());
        let seed = seed.map(|seed| format!(", seed {seed}")).unwrap_or_default();
        writeln!(out, "projected on {rank} {directions} directions of each side{seed}")?;
    }
    if let Some(damping) = &scoring.damping {
        let lambdas = || scoring.blocks.iter().filter_map(|b| b.lambda);
        let (least, most) = (lambdas().reduce(f64::min), lambdas().reduce(f64::max));
        let range = least.zip(most).map(|(a, b)| format!(": λ from {a:.3e} to {b:.3e}")).unwrap_or_default();
        writeln!(out, "damping   {} {}{range}", damping.value, damping.kind)?;
    }
    let chosen = chosen(scoring);
    for (chosen, blocks) in chosen.iter().take(CHOICES) {
        writeln!(out, "solver    {chosen} ({})", counted(*blocks, "block", "blocks"))?;
    }
    if chosen.len() > CHOICES {
        let left = chosen[CHOICES..].iter().map(|(_, blocks)| blocks).sum();
        writeln!(out, "          and otherwise on {}: see --json", counted(left, "more block", "more blocks"))?;
    }
    if let Some(residual) = scoring.residual {
        let tolerance = scoring.blocks.iter().filter_map(|b| b.tolerance).reduce(f64::min);
        let reached = match tolerance {
            Some(tolerance) if scoring.converged => format!("tolerance {tolerance:.1e}, reached"),
            Some(tolerance) => format!("tolerance {tolerance:.1e}, NOT reached"),
            None => "by design not the inverse".into(),
        };
        writeln!(out, "residual  {residual:.2e}, the largest of a block, relative ({reached})")?;
    }
    Ok(())
}

/// How blocks were inverted, where the solver's name is not enough, with the numbers of blocks.
fn chosen(scoring: &Scoring) -> Vec<(&str, usize)> {
    let mut found: Vec<(&str, usize)> = Vec::new();
    for chosen in scoring.blocks.iter().map(|block| block.chosen.as_str()).filter(|chosen| !chosen.is_empty()) {
        match found.iter_mut().find(|(text, _)| *text == chosen) {
            Some((_, count)) => *count += 1,
            None => found.push((chosen, 1)),
        }
    }
    found
}

pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
