//! Scores of single tokens.

use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::tensor::Device;
use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::Block;
use hyperinf_models::TextTokenizer;
use hyperinf_scoring::{PositionScorer, QueryMode, Scores, ranking};
use hyperinf_store::{GradientPair, Staged};
use serde::Serialize;

use crate::crew_blocks::Job;
use crate::crew_tokens::{OfRow, of_rows};
use crate::event::Event;
use crate::influence::Influence;
use crate::kind::Kind;
use crate::ranking::RowId;
use crate::run::Run;
use crate::scored::{ModelSamples, OfModel};
use crate::{Choice, RunError};

/// The score of each token of a training row for a query; with `whole` they sum to the row's score.
///
/// A token's score is the part of the row's gradient that its position contributes. Attention has mixed the tokens
/// before: it is not the score of the token alone.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScores {
    /// The query's place among the rows of scores.
    pub query: usize,
    /// The training row's place among those that were used.
    pub sample: usize,
    /// The texts of the tokens, as the tokenizer spells them in their place; special tokens are among them.
    pub tokens: Vec<String>,
    /// Their scores; positive = helpful.
    pub scores: Vec<f64>,
    /// The score of layers that see the row as a whole, as a classifier's head does.
    pub whole: f64,
}

/// The token scores of one row for all queries.
pub(crate) struct RowPositions {
    tokens: Vec<String>,
    /// `[queries, tokens]`.
    scores: Vec<Vec<f64>>,
    whole: Vec<f64>,
}

impl RowPositions {
    fn new(tokens: Vec<String>, found: OfRow) -> Self {
        let (mut scores, mut whole) = (Vec::new(), Vec::new());
        for (mut row, of_whole) in found.scores.into_iter().zip(found.whole) {
            // What is beyond the tokens is padding; of layers that see all rows as wholes there is one position.
            let rest: f64 =
                if row.len() < tokens.len() { row.drain(..).sum() } else { row.drain(tokens.len()..).sum() };
            row.resize(tokens.len(), 0.0);
            scores.push(row);
            whole.push(of_whole + rest);
        }
        Self { tokens, scores, whole }
    }
}

/// A line of the file.
#[derive(Serialize)]
struct Line<'a> {
    query_id: RowId,
    train_id: RowId,
    score: f64,
    whole: f64,
    tokens: &'a [String],
    scores: &'a [f64],
}

/// Refuses scores of tokens where there are none.
pub(crate) fn check(run: &Run) -> Result<(), RunError> {
    let refused = |second, reason| Err(RunError::Conflict { first: Choice::Positions, second, reason });
    match run.positions {
        None => Ok(()),
        Some(_) if run.projection.is_some() => {
            refused(Choice::Projection, "scores of tokens need each layer's inputs, which no gradient file has")
        }
        Some(_) if run.seeds.is_some() => refused(Choice::ErrorBars, "scores of tokens are of one scoring"),
        Some(_) => Ok(()),
    }
}

/// The scores of the tokens of the `run.positions` rows at either end of each query's ranking, query by query, the most
/// helpful row first.
pub(crate) fn token_scores(
    run: &Run,
    (pair, known): (&GradientPair, Option<&[BlockCurvature]>),
    scores: &Scores,
    model: &dyn OfModel,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<TokenScores>, RunError> {
    let Some(k) = run.positions.filter(|&k| k > 0) else { return Ok(Vec::new()) };
    // Those of `Influence::ranking`, each once.
    let ends = |scores: &Vec<f64>| {
        let order = ranking(scores);
        let harms = order.last().is_some_and(|&lowest| scores[lowest] < 0.0);
        let place = |(place, &row): (usize, &usize)| {
            (place < k || place + k >= order.len() && (scores[row] < 0.0 || !harms)).then_some(row)
        };
        order.iter().enumerate().filter_map(place).collect::<Vec<usize>>()
    };
    let ends: Vec<Vec<usize>> = scores.rows.iter().map(ends).collect();
    let rows: Vec<usize> = ends.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let scorer = Job { run, pair, known, options: &run.options, draw: 0, device }.position_scorer()?;
    let blocks: Vec<&Block> = pair.train.blocks().iter().map(|stored| &stored.block).collect();
    let found = model.positions(run, &blocks, &rows, scorer, observe)?;
    let of_pair = |query: usize, sample: usize| {
        let row = &found[rows.binary_search(&sample).unwrap_or_default()];
        let (tokens, scores) = (row.tokens.clone(), row.scores[query].clone());
        TokenScores { query, sample, tokens, scores, whole: row.whole[query] }
    };
    let pairs = ends.iter().enumerate().flat_map(|(query, ends)| ends.iter().map(move |&row| (query, row)));
    Ok(pairs.map(|(query, row)| of_pair(query, row)).collect())
}

impl<K: Kind> ModelSamples<K> {
    /// [`OfModel::positions`].
    pub(crate) fn token_scores(
        &self,
        run: &Run,
        blocks: &[&Block],
        rows: &[usize],
        scorer: PositionScorer,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Vec<RowPositions>, RunError> {
        let found = of_rows(run, &self.model, &self.samples, blocks, rows, scorer, observe)?;
        let positions = rows.iter().zip(found).map(|(&row, found)| {
            let tokens = K::token_ids(&self.samples[row]).unwrap_or_default();
            let tokens = K::tokenizer(&self.processor).map(|tokenizer| spelled(tokenizer, &tokens)).unwrap_or_default();
            RowPositions::new(tokens, found)
        });
        Ok(positions.collect())
    }
}

/// The text that each token adds to those before it. Tokens that are a part of a character add nothing; the last of them
/// adds the character.
fn spelled(tokenizer: &TextTokenizer, tokens: &[u32]) -> Vec<String> {
    let spell = |tokens: &[u32]| tokenizer.spell(tokens).unwrap_or_default();
    let mut texts = Vec::with_capacity(tokens.len());
    // As decoders of streams do it: a word's spelling depends on the word before.
    let (mut before, mut from) = (0, 0);
    for place in 0..tokens.len() {
        let (known, all) = (spell(&tokens[before..from]), spell(&tokens[before..=place]));
        let last = place + 1 == tokens.len();
        if all.ends_with(char::REPLACEMENT_CHARACTER) && !last && place - from < 4 {
            texts.push(String::new());
            continue;
        }
        let alone = || tokenizer.token(tokens[place]).unwrap_or_default();
        texts.push(all.strip_prefix(&known).map_or_else(alone, str::to_owned));
        (before, from) = (from, place + 1);
    }
    texts
}

impl Influence {
    /// Stages the scores of tokens as JSON lines: `query_id`, `train_id`, the row's `score`, `whole`, and `tokens` with
    /// their `scores`.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn stage_positions<'a>(&self, path: &'a Path) -> Result<Staged<'a>, RunError> {
        let query_id = |query: usize| match self.query_mode {
            QueryMode::Each => self.query.id(query),
            QueryMode::Mean => RowId::Number(0),
        };
        let staged = Staged::new(path, |file| {
            let mut out = BufWriter::new(file);
            for TokenScores { query, sample, tokens, scores, whole } in &self.positions {
                let (query_id, train_id) = (query_id(*query), self.train.id(*sample));
                let score = self.attribution.scores.rows[*query][*sample];
                serde_json::to_writer(&mut out, &Line { query_id, train_id, score, whole: *whole, tokens, scores })?;
                writeln!(out)?;
            }
            Ok(out.flush()?)
        });
        Ok(staged?)
    }
}
