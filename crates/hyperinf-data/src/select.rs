use std::path::PathBuf;

use burn::tensor::Device;
use hyperinf_scoring::{
    Amount, Budget, Method, Normalisation, Options, Over, Picks, Products, RankBy, Rules, choose, choose_diverse,
};
use hyperinf_store::check_range;

use crate::crew_blocks::Job;
use crate::dataset::ReadOptions;
use crate::event::Event;
use crate::groups::{PerGroup, groups};
use crate::influence::{Influence, Rows, Selection, Target};
use crate::refined::scored;
use crate::run::Run;
use crate::{Choice, RunError, ensemble};

/// How rows are selected.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `keep` | all rows | how many rows, or rows of how many tokens | at least 1 |
/// | `diverse` | `None` | rows that help together ([`choose_diverse`]); the strength of the interaction | finite, ≥ 0 |
/// | `duplicates` | kept | which rows count as duplicates, of which the best is selected | |
/// | `groups` | `None` | the most rows of a label, or of a value of a column | |
/// | `pool` | four times the rows, at least 1,000 | the rows with the highest scores, among which gradients are compared | ≥ 1 |
/// | `targets` | none | further files of query rows | |
/// | `over` | mean | how the scores for several files become one | |
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// How much is selected.
    pub keep: Budget,
    /// The strength of the interaction of a diverse selection.
    pub diverse: Option<f64>,
    /// Which rows count as duplicates.
    pub duplicates: Duplicates,
    /// The most rows of a group.
    pub groups: Option<PerGroup>,
    /// The rows with the highest scores, among which gradients are compared.
    pub pool: Option<usize>,
    /// Files of query rows besides the run's own.
    pub targets: Vec<PathBuf>,
    /// How the scores for several files become one.
    pub over: Over,
}

/// Rows that count as duplicates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Duplicates {
    /// None.
    #[default]
    Keep,
    /// Rows that are the same to the model: equal tokens, labels and images.
    Equal,
    /// These, and rows whose gradients have at least this cosine, in (0, 1].
    Near(f64),
}

impl Default for Select {
    fn default() -> Self {
        let (keep, duplicates, over) = (Budget::Samples(Amount::Share(1.0)), Duplicates::default(), Over::default());
        Self { keep, diverse: None, duplicates, groups: None, pool: None, targets: Vec::new(), over }
    }
}

impl From<Amount> for Select {
    fn from(amount: Amount) -> Self {
        Self { keep: amount.into(), ..Self::default() }
    }
}

/// Rows in a pool for every row that is selected, and the fewest rows of a pool.
const POOL: (usize, usize) = (4, 1000);
/// A pool beyond this is a quarter larger than the selection.
const LARGE_POOL: usize = 8000;

impl Select {
    /// The rows asked for, if they are counted.
    pub(crate) fn amount(&self) -> Option<Amount> {
        match self.keep {
            Budget::Samples(amount) => Some(amount),
            Budget::Length(_) => None,
        }
    }

    /// Checks the choices, without a look at any file; the run does so itself.
    ///
    /// # Errors
    ///
    /// [`RunError::Conflict`], [`RunError::Selection`].
    pub fn validate(&self, options: &Options, rank_by: RankBy) -> Result<(), RunError> {
        let refused = |first, second, reason| Err(RunError::Conflict { first, second, reason });
        let range = |what, expected, value| Err(RunError::Selection { what, expected, value });
        if self.keep == Budget::Length(0) {
            return range("the tokens to keep", "at least 1", 0.0);
        }
        if let Some(strength) = self.diverse.filter(|strength| !strength.is_finite() || *strength < 0.0) {
            return range("the strength of a diverse selection", "at least 0 and finite", strength);
        }
        if let Duplicates::Near(cosine) = self.duplicates
            && !(cosine > 0.0 && cosine <= 1.0)
        {
            return range("the cosine of near duplicates", "above 0 and at most 1", cosine);
        }
        if self.groups.as_ref().is_some_and(|groups| groups.most == 0) {
            return range("the rows of a group", "at least 1", 0.0);
        }
        if self.pool == Some(0) {
            return range("the rows of the pool", "at least 1", 0.0);
        }
        let Some(_) = self.diverse else { return Ok(()) };
        if rank_by == RankBy::Magnitude {
            return refused(Choice::Diverse, Choice::Magnitude, "gains are sums of helpful scores");
        }
        match (options.normalisation, &options.method) {
            (Normalisation::None, _) | (Normalisation::Cosine, Method::Identity) => Ok(()),
            _ => refused(
                Choice::Diverse,
                Choice::Normalised,
                "its gains need scores and products of one scale: no normalisation, or the cosine of gradients",
            ),
        }
    }

    /// The rows whose gradients are compared, of so many rows and tokens, as far as that is known before the scores.
    pub(crate) fn planned_pool(&self, rows: usize, tokens: usize) -> Option<usize> {
        if self.diverse.is_none() && !matches!(self.duplicates, Duplicates::Near(_)) {
            return None;
        }
        let wanted = match self.keep {
            Budget::Samples(Amount::Share(share)) => (share * rows as f64).round() as usize,
            Budget::Samples(Amount::Count(count)) => count,
            Budget::Length(length) => (length as f64 * rows as f64 / tokens.max(1) as f64) as usize,
        };
        Some(self.pool.unwrap_or_else(|| usual_pool(wanted)).min(rows))
    }

    /// The rules for the rows.
    pub(crate) fn rules<'a>(&self, rows: &'a Rows, groups: Option<&'a [usize]>) -> Rules<'a> {
        Rules {
            budget: self.keep,
            lengths: &rows.lengths,
            copies: (self.duplicates != Duplicates::Keep).then_some(&rows.digests),
            near: None,
            groups: groups.zip(self.groups.as_ref().map(|groups| groups.most)),
        }
    }

    /// The samples among which gradients are compared, ascending, and the copies that were left out.
    fn pool(&self, scores: &[f64], rank_by: RankBy, rules: &Rules<'_>) -> Result<(Vec<usize>, usize), RunError> {
        let n = scores.len();
        let wanted = choose(scores, rank_by, &Rules { near: None, ..*rules })?.order.len();
        let pool = Amount::Count(self.pool.unwrap_or_else(|| usual_pool(wanted)).min(n));
        // Copies would fill it with rows that cannot be chosen.
        let rules = Rules { budget: pool.into(), copies: rules.copies, ..Rules::default() };
        let mut picks = choose(scores, rank_by, &rules)?;
        picks.order.sort_unstable();
        Ok((picks.order, picks.passed.copies))
    }
}

/// The rows of a pool for so many rows of a selection.
fn usual_pool(wanted: usize) -> usize {
    (POOL.0 * wanted).min(LARGE_POOL).max(wanted + wanted / 4).max(POOL.1)
}

impl Run {
    /// Scores the training rows for the mean query, and selects those that help it most, as `select` says; by magnitude
    /// those that matter most to it, helpful or harmful.
    ///
    /// ```no_run
    /// use hyperinf_data::{Duplicates, Run, Select};
    /// use hyperinf_scoring::Amount;
    ///
    /// # fn select(device: &burn::tensor::Device) -> Result<(), Box<dyn std::error::Error>> {
    /// let run = Run { model: "minilm".into(), train: "train.jsonl".into(), query: "query.jsonl".into(), ..Run::default() };
    /// let select = Select { diverse: Some(1.0), duplicates: Duplicates::Equal, ..Amount::Share(0.2).into() };
    /// let found = run.select(&select, device, &mut |event| println!("{event}"))?;
    /// println!("{:?}", found.picks.order);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Run::attribute`]; [`RunError::Amount`], [`RunError::Selection`]; [`RunError::Score`] if a pool is too small.
    pub fn select(
        &self,
        select: &Select,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Selection, RunError> {
        ensemble::refuse(self, Choice::Select)?;
        let run = self.of_mean();
        run.check_select(select)?;
        let influence = run.influence(device, select.amount(), &select.targets, observe)?;
        run.select_in(influence, select, device, observe)
    }

    /// [`Run::select`] by another method, as [`Run::detect_again`]; the targets are those of the earlier run.
    ///
    /// # Errors
    ///
    /// As [`Run::select`].
    pub fn select_again(
        &self,
        mut earlier: Influence,
        select: &Select,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Selection, RunError> {
        let run = self.of_mean();
        run.check_select(select)?;
        run.score_again(&mut earlier, device, observe)?;
        run.select_in(earlier, select, device, observe)
    }

    /// Checks the choices of a selection by this run, without a look at any file; it does so itself.
    ///
    /// # Errors
    ///
    /// As [`Select::validate`].
    pub fn check_select(&self, select: &Select) -> Result<(), RunError> {
        select.validate(&self.options, self.rank_by)?;
        if self.refine.is_some() && select.diverse.is_some() {
            let reason = "rows are compared with each other by the inverse of each block";
            return Err(RunError::Conflict { first: Choice::Refine, second: Choice::Diverse, reason });
        }
        Ok(())
    }

    fn select_in(
        &self,
        mut influence: Influence,
        select: &Select,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Selection, RunError> {
        let mut targets = vec![influence.attribution.scores.rows[0].clone()];
        for Target { pair, .. } in &mut influence.targets {
            (pair.memory, pair.batch_bytes) = (self.memory, self.batch_bytes);
            pair.project(self.projection, device)?;
            pair.share_curvature(&influence.pair);
            let known = influence.known.as_deref();
            let job = Job { run: self, pair, known, options: &self.options, draw: 0, device };
            let (found, refinement) = scored(&job, influence.model.as_ref(), observe)?;
            if let (Some(all), Some(more)) = (&mut influence.refinement, refinement) {
                all.extend(more);
            }
            targets.extend(found.scores.rows);
            influence.attribution.keep_worst(found.blocks);
        }
        let scores = select.over.combine(&targets)?;
        influence.attribution.scores.rows = vec![scores.clone()];
        check_range(&influence.attribution.scores)?;
        let of = select.groups.as_ref().map(|of| groups(&influence.train, of, &self.read)).transpose()?;
        let rules = select.rules(&influence.train, of.as_deref());
        let (pool, copies) = match (select.diverse, select.duplicates) {
            (None, Duplicates::Keep | Duplicates::Equal) => (Vec::new(), 0),
            _ => select.pool(&scores, self.rank_by, &rules)?,
        };
        let (pair, known) = (&influence.pair, influence.known.as_deref());
        let job = Job { run: self, pair, known, options: &self.options, draw: 0, device };
        let cosines = match select.duplicates {
            Duplicates::Near(limit) => Some((job.products(&pool, true)?, limit)),
            Duplicates::Keep | Duplicates::Equal => None,
        };
        let rules = Rules { near: cosines.as_ref().map(|(cosines, limit)| (cosines, *limit)), ..rules };
        let picks: Picks = match select.diverse {
            None => choose(&scores, self.rank_by, &rules)?,
            Some(strength) => {
                let between: Products = job.products(&pool, false)?;
                let mut picks = choose_diverse(&scores, &between, strength, &rules)?;
                picks.passed.copies += copies;
                picks
            }
        };
        let targets = if influence.targets.is_empty() { Vec::new() } else { targets };
        Ok(Selection { influence, picks, pool: pool.len(), targets })
    }
}

/// The rows of a selection by other scores than those of gradients.
pub(crate) fn select_rows(rows: &Rows, scores: &[f64], select: &Select, read: &ReadOptions) -> Result<Picks, RunError> {
    let of = select.groups.as_ref().map(|of| groups(rows, of, read)).transpose()?;
    Ok(choose(scores, RankBy::Score, &select.rules(rows, of.as_deref()))?)
}
