use std::collections::{HashMap, HashSet};

use crate::{Amount, Products, RankBy, ScoreError};

/// How much may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// So many samples.
    Samples(Amount),
    /// Samples whose lengths sum to at most this, in the unit of [`Rules::lengths`]: tokens, usually.
    Length(usize),
}

impl From<Amount> for Budget {
    fn from(amount: Amount) -> Self {
        Self::Samples(amount)
    }
}

/// What a choice must keep to.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `budget` | all samples | how much is chosen |
/// | `lengths` | empty | the length of each sample, `[n]`; used by [`Budget::Length`] |
/// | `copies` | `None` | a key per sample, `[n]`: of those with equal keys one is chosen |
/// | `near` | `None` | cosines, and the one from which two samples are not both chosen |
/// | `groups` | `None` | the group of each sample, `[n]`, and the most samples of one group |
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// How much is chosen.
    pub budget: Budget,
    /// The length of each sample.
    pub lengths: &'a [usize],
    /// Of samples with equal keys one is chosen.
    pub copies: Option<&'a [u128]>,
    /// Of samples with at least this cosine one is chosen.
    pub near: Option<(&'a Products, f64)>,
    /// The group of each sample, and the most samples of a group.
    pub groups: Option<(&'a [usize], usize)>,
}

impl Default for Rules<'_> {
    fn default() -> Self {
        let budget = Budget::Samples(Amount::Share(1.0));
        Self { budget, lengths: &[], copies: None, near: None, groups: None }
    }
}

/// Samples that were chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picks {
    /// The samples, in the order in which they were chosen.
    pub order: Vec<usize>,
    /// What each added to the objective, given those before it: its score, or, of a diverse choice, its gain.
    pub gains: Vec<f64>,
    /// The step `ε` of a diverse choice; 0 where the scores of the plain choice sum to no more than 0.
    pub step: Option<f64>,
    /// How many samples were passed over, and why.
    pub passed: Passed,
}

/// Samples that were looked at and passed over, by the first rule that they broke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Copies of chosen samples.
    pub copies: usize,
    /// Samples with a gradient like that of a chosen one.
    pub near: usize,
    /// Samples of groups that were full.
    pub groups: usize,
    /// Samples longer than what was left of the budget.
    pub length: usize,
}

/// The samples with the highest scores (or the largest, by [`RankBy::Magnitude`]) that keep to the rules, the highest
/// first. A sample that breaks one is passed over, and the next is looked at.
///
/// # Errors
///
/// [`ScoreError::Amount`] for a budget out of range, [`ScoreError::Pool`] if a sample is needed that the cosines lack.
///
/// # Panics
///
/// If a rule is not about as many samples as there are scores.
pub fn choose(scores: &[f64], rank_by: RankBy, rules: &Rules<'_>) -> Result<Picks, ScoreError> {
    let mut picker = Picker::new(rules, scores.len())?;
    for sample in rank_by.ranking(scores) {
        if picker.is_full() {
            break;
        }
        if picker.allows(sample)? {
            picker.take(sample, rank_by.value(scores[sample]));
        }
    }
    Ok(picker.chosen)
}

/// The most rounds in which the step is computed again.
const ROUNDS: usize = 6;

/// Samples that help together: greedy maximisation of the second-order model of the query's loss,
///
/// ```text
/// f(S) = Σ_{i∈S} s_i − ε/2 Σ_{i,j∈S} K_ij,     gain(j | S) = s_j − ε (Σ_{i∈S} K_ij + K_jj / 2)
/// ```
///
/// with the scores `s_i = v (H + λI)⁻¹ g_i` and the products `K_ij = g_i (H + λI)⁻¹ g_j` of the samples with each other.
/// A step `ε Σ_S g (H + λI)⁻¹` moves the query's gradient from `v` to `v − ε Σ_S g`, as far as its curvature is that of
/// the training: what chosen samples have already taught counts no more. With `K ≥ 0` the function is submodular.
///
/// `ε` is the step that suits the choice itself, `Σ_S s / Σ_SS K`, so that neither the scale of the scores nor that of
/// the products matters: first that of the plain choice, then that of each choice, as long as `(Σ_S s)² / 2 Σ_SS K`, the
/// reduction at the best step, grows. The result is never worse by it than the plain choice. `strength` multiplies `ε`
/// in the gains: 0 is the plain choice, 1 the model.
///
/// Only samples of `products` are chosen, which should be those of the highest scores.
///
/// # Errors
///
/// As [`choose`]; [`ScoreError::Pool`] if more samples are needed than the products have; [`ScoreError::Amount`] for a
/// strength that is negative or not finite.
///
/// # Panics
///
/// As [`choose`].
pub fn choose_diverse(
    scores: &[f64],
    products: &Products,
    strength: f64,
    rules: &Rules<'_>,
) -> Result<Picks, ScoreError> {
    if !strength.is_finite() || strength < 0.0 {
        let expected = "at least 0 and finite".into();
        return Err(ScoreError::Amount { what: "the strength of the interaction", expected, value: strength });
    }
    let objective = |choice: &Picks| Objective::of(&choice.order, scores, products);
    let plain = {
        let mut picker = Picker::new(rules, scores.len())?;
        let mut pool = products.samples.clone();
        pool.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        for sample in pool {
            if !picker.is_full() && picker.allows(sample)? {
                picker.take(sample, scores[sample]);
            }
        }
        picker.within(products, scores.len())?
    };
    let mut best = (objective(&plain), plain);
    let mut step = best.0.step();
    best.1.gains = gains(&best.1.order, scores, products, strength * step);
    best.1.step = Some(step);
    for _ in 0..ROUNDS {
        let choice = greedy(scores, products, strength * step, rules)?;
        let found = objective(&choice);
        let repeats = choice.order == best.1.order;
        if repeats || found.reduction() <= best.0.reduction() {
            break;
        }
        best = (found, Picks { step: Some(step), ..choice });
        step = best.0.step();
    }
    Ok(best.1)
}

/// The sums of a choice.
#[derive(Clone, Copy)]
struct Objective {
    scores: f64,
    products: f64,
}

impl Objective {
    fn of(order: &[usize], scores: &[f64], products: &Products) -> Self {
        let places: Vec<usize> = order.iter().filter_map(|&sample| products.place(sample)).collect();
        let pairs = places.iter().map(|&i| places.iter().map(|&j| products.at(i, j)).sum::<f64>());
        Self { scores: order.iter().map(|&sample| scores[sample]).sum(), products: pairs.sum() }
    }

    /// The step at which the model is best; 0 where none is good.
    fn step(self) -> f64 {
        let step = self.scores / self.products;
        if self.scores > 0.0 && self.products > 0.0 && step.is_finite() { step } else { 0.0 }
    }

    /// The reduction of the query's loss at that step.
    fn reduction(self) -> f64 {
        0.5 * self.scores.max(0.0) * self.step()
    }
}

/// The gains of samples in a given order.
fn gains(order: &[usize], scores: &[f64], products: &Products, step: f64) -> Vec<f64> {
    let places: Vec<usize> = order.iter().filter_map(|&sample| products.place(sample)).collect();
    let gain = |(at, &place): (usize, &usize)| {
        let before: f64 = places[..at].iter().map(|&earlier| products.at(earlier, place)).sum();
        scores[products.samples[place]] - step * (before + 0.5 * products.at(place, place))
    };
    places.iter().enumerate().map(gain).collect()
}

fn greedy(scores: &[f64], products: &Products, step: f64, rules: &Rules<'_>) -> Result<Picks, ScoreError> {
    let mut picker = Picker::new(rules, scores.len())?;
    let m = products.samples.len();
    let mut gains: Vec<f64> = (0..m).map(|p| scores[products.samples[p]] - 0.5 * step * products.at(p, p)).collect();
    let mut left: Vec<usize> = (0..m).collect();
    while !picker.is_full() && !left.is_empty() {
        // Of equal gains the first sample.
        let best = (1..left.len()).fold(0, |best, at| if gains[left[at]] > gains[left[best]] { at } else { best });
        let place = left.remove(best);
        let sample = products.samples[place];
        if picker.allows(sample)? {
            picker.take(sample, gains[place]);
            left.iter().for_each(|&other| gains[other] -= step * products.at(place, other));
        }
    }
    picker.within(products, scores.len())
}

/// A choice in the making.
struct Picker<'a> {
    rules: &'a Rules<'a>,
    chosen: Picks,
    /// Samples that may still be chosen.
    count: usize,
    /// Length that may still be chosen.
    length: usize,
    keys: HashSet<u128>,
    groups: HashMap<usize, usize>,
}

impl<'a> Picker<'a> {
    fn new(rules: &'a Rules<'a>, n: usize) -> Result<Self, ScoreError> {
        let (count, length) = match rules.budget {
            Budget::Samples(amount) => (amount.of(n)?, usize::MAX),
            Budget::Length(length) => {
                assert_eq!(rules.lengths.len(), n, "one length per sample");
                (n, length)
            }
        };
        if let Some((groups, _)) = rules.groups {
            assert_eq!(groups.len(), n, "one group per sample");
        }
        if let Some(copies) = rules.copies {
            assert_eq!(copies.len(), n, "one key per sample");
        }
        let (chosen, keys, groups) = Default::default();
        Ok(Self { rules, chosen, count, length, keys, groups })
    }

    fn is_full(&self) -> bool {
        self.count == 0 || self.length == 0
    }

    /// Whether a sample keeps to the rules; counts it if not.
    fn allows(&mut self, sample: usize) -> Result<bool, ScoreError> {
        let Rules { lengths, copies, near, groups, budget } = self.rules;
        let broken = if copies.is_some_and(|keys| self.keys.contains(&keys[sample])) {
            &mut self.chosen.passed.copies
        } else if groups.is_some_and(|(of, most)| self.groups.get(&of[sample]).is_some_and(|count| *count >= most)) {
            &mut self.chosen.passed.groups
        } else if matches!(budget, Budget::Length(_)) && lengths[sample] > self.length {
            &mut self.chosen.passed.length
        } else if let Some((cosines, limit)) = near {
            let place = cosines.place(sample).ok_or_else(|| self.pool(cosines.samples.len()))?;
            let like = |&other: &usize| cosines.place(other).is_some_and(|other| cosines.at(other, place) >= *limit);
            if !self.chosen.order.iter().any(like) {
                return Ok(true);
            }
            // Its copies are near as well, and need not be in the pool.
            self.keys.extend(copies.map(|keys| keys[sample]));
            &mut self.chosen.passed.near
        } else {
            return Ok(true);
        };
        *broken += 1;
        Ok(false)
    }

    fn take(&mut self, sample: usize, gain: f64) {
        self.chosen.order.push(sample);
        self.chosen.gains.push(gain);
        self.count -= 1;
        if let Budget::Length(_) = self.rules.budget {
            self.length -= self.rules.lengths[sample];
        }
        if let Some(keys) = self.rules.copies {
            self.keys.insert(keys[sample]);
        }
        if let Some((groups, _)) = self.rules.groups {
            *self.groups.entry(groups[sample]).or_default() += 1;
        }
    }

    /// The choice, if the pool was large enough for it.
    fn within(self, products: &Products, n: usize) -> Result<Picks, ScoreError> {
        let pool = products.samples.len();
        let n = self.rules.copies.map_or(n, |keys| keys.iter().collect::<HashSet<_>>().len());
        // Samples that do not fit into what is left of a length are no sign of a small pool.
        if pool < n && !self.is_full() && self.chosen.passed.length == 0 {
            return Err(self.pool(pool));
        }
        Ok(self.chosen)
    }

    fn pool(&self, pool: usize) -> ScoreError {
        ScoreError::Pool { pool, chosen: self.chosen.order.len(), wanted: self.chosen.order.len() + self.count }
    }
}
