use serde::Serialize;

/// Above this rank correlation with the dot product the curvature has no effect.
const PLAIN: f64 = 0.98;

/// The evidence about one damping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// The damping.
    pub damping: f64,
    /// Whether every block's solver reached its tolerance.
    pub converged: bool,
    /// Rank correlation with the plain dot product.
    pub dot: Option<f64>,
    /// Rank correlation with the scores at the next larger damping.
    pub next: Option<f64>,
    /// AUC with which low scores find the samples known to be bad.
    pub auc: Option<f64>,
}

/// The rule behind a recommendation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The highest AUC for samples known to be bad.
    KnownBad,
    /// The middle of the widest range of dampings with a stable ranking.
    Plateau,
    /// The best agreement with both neighbours.
    Neighbours,
}

/// A recommended damping.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// Its index among the dampings.
    #[serde(skip)]
    pub place: usize,
    /// The damping.
    pub damping: f64,
    /// The rule that chose it.
    pub rule: Rule,
    /// Why, as a clause after "because".
    pub reason: String,
}

/// Recommends one of the dampings, which increase; `None` if no damping is usable.
///
/// * Samples are known to be bad: the damping with the highest AUC, the largest of equals.
/// * Otherwise a damping is *usable* if every solver reached its tolerance and the ranking differs from that of the
///   dot product (rank correlation at most 0.98). Usable neighbours with a rank correlation of at least `stable` form
///   a plateau. Of the widest plateau, on a logarithmic scale, the damping nearest the middle is taken; among equally
///   wide plateaus, the one with the largest dampings.
/// * Without a plateau: the usable damping that agrees best with its neighbours.
///
/// ```
/// use hyperinf_eval::{Evidence, Rule, advise};
///
/// let at = |damping, next| Evidence { damping, converged: true, dot: Some(0.5), next, auc: None };
/// let advice = advise(&[at(0.01, Some(0.5)), at(0.1, Some(0.99)), at(1.0, Some(0.98)), at(10.0, None)], 0.95);
/// assert_eq!(advice.map(|advice| (advice.damping, advice.rule)), Some((1.0, Rule::Plateau)));
/// ```
pub fn advise(all: &[Evidence], stable: f64) -> Option<Advice> {
    if let Some((place, auc)) = best(all.iter().map(|evidence| evidence.auc.filter(|_| evidence.converged))) {
        let reason = format!("its low scores find the samples known to be bad best: AUC {auc:.3}");
        return Some(Advice { place, damping: all[place].damping, rule: Rule::KnownBad, reason });
    }
    let usable = |place: usize| all[place].converged && all[place].dot.is_none_or(|dot| dot <= PLAIN);
    if let Some((first, last)) = widest_plateau(all, usable, stable) {
        let (low, high) = (all[first].damping, all[last].damping);
        let middle = (low * high).sqrt().ln();
        let distance = |place: usize| (all[place].damping.ln() - middle).abs();
        // With two in the middle, the larger.
        let place =
            (first..=last).rev().fold(last, |best, p| if distance(p) < distance(best) - 1e-9 { p } else { best });
        let end =
            if first == 0 || last + 1 == all.len() { "; the plateau may go on beyond the dampings tried" } else { "" };
        let reason = format!(
            "it is the middle of the widest plateau, {low} to {high}: neighbours' rank correlations are at least {stable}{end}"
        );
        return Some(Advice { place, damping: all[place].damping, rule: Rule::Plateau, reason });
    }
    let neighbours = |place: usize| {
        let both = [place.checked_sub(1).and_then(|before| all[before].next), all[place].next];
        let known: Vec<f64> = both.into_iter().flatten().collect();
        (!known.is_empty() && usable(place)).then(|| known.iter().sum::<f64>() / known.len() as f64)
    };
    let (place, correlation) = best((0..all.len()).map(neighbours))?;
    let reason = format!(
        "it agrees best with its neighbours, {correlation:.3}; no two neighbours' rank correlation reaches {stable}"
    );
    Some(Advice { place, damping: all[place].damping, rule: Rule::Neighbours, reason })
}

/// First and last index of the widest plateau.
fn widest_plateau(all: &[Evidence], usable: impl Fn(usize) -> bool, stable: f64) -> Option<(usize, usize)> {
    let joined =
        |place: usize| usable(place) && usable(place + 1) && all[place].next.is_some_and(|next| next >= stable);
    let width = |(first, last): (usize, usize)| (all[last].damping / all[first].damping).ln();
    let mut widest: Option<(usize, usize)> = None;
    let mut first = 0;
    while first < all.len() {
        let mut last = first;
        while last + 1 < all.len() && joined(last) {
            last += 1;
        }
        if last > first && widest.is_none_or(|other| width((first, last)) >= width(other) - 1e-9) {
            widest = Some((first, last));
        }
        first = last + 1;
    }
    widest
}

/// Index and value of the maximum, the last of equals.
fn best(values: impl Iterator<Item = Option<f64>>) -> Option<(usize, f64)> {
    let known = values.enumerate().filter_map(|(place, value)| Some((place, value?)));
    known.max_by(|a, b| a.1.total_cmp(&b.1))
}
