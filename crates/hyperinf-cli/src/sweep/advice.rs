//! Which damping to take: a heuristic, and what it rests on.

use serde::Serialize;

/// Above this rank correlation with the dot product the curvature plays no part.
const PLAIN: f64 = 0.98;

/// What is known of the scores at one damping, in the order of the dampings.
#[derive(Clone, Copy)]
pub(super) struct Judged {
    pub(super) damping: f64,
    pub(super) converged: bool,
    /// Rank correlation with the plain dot product.
    pub(super) dot: Option<f64>,
    /// Rank correlation with the scores at the next larger damping.
    pub(super) next: Option<f64>,
    /// How well low scores find the samples known to be bad.
    pub(super) auc: Option<f64>,
}

/// A recommended damping.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Advice {
    #[serde(skip)]
    pub(super) place: usize,
    pub(super) damping: f64,
    pub(super) rule: &'static str,
    pub(super) reason: String,
}

/// Recommends one of the dampings, which grow.
///
/// With samples known to be bad: the one of the highest AUC, of equals the largest. Without: usable is a damping at which
/// every solver reached its tolerance and the ranking is not yet that of the dot product (rank correlation at most 0.98).
/// Neighbours whose rank correlation is at least `stable` belong to one plateau; the middle of the widest one, by the
/// logarithm, is taken, of equally wide ones the one of the largest dampings. No plateau: the usable damping that agrees
/// best with its neighbours. `None` if no damping is usable.
pub(super) fn advise(all: &[Judged], stable: f64) -> Option<Advice> {
    if let Some((place, auc)) = best(all.iter().map(|judged| judged.auc.filter(|_| judged.converged))) {
        let reason = format!("its low scores find the samples known to be bad best: AUC {auc:.3}");
        return Some(Advice { place, damping: all[place].damping, rule: "known-bad", reason });
    }
    let usable = |place: usize| all[place].converged && all[place].dot.is_none_or(|dot| dot <= PLAIN);
    let joined =
        |place: usize| usable(place) && usable(place + 1) && all[place].next.is_some_and(|next| next >= stable);
    let mut widest: Option<(usize, usize)> = None;
    let mut first = 0;
    while first < all.len() {
        let mut last = first;
        while last + 1 < all.len() && joined(last) {
            last += 1;
        }
        let width = |(first, last): (usize, usize)| (all[last].damping / all[first].damping).ln();
        if last > first && widest.is_none_or(|found| width((first, last)) >= width(found) - 1e-9) {
            widest = Some((first, last));
        }
        first = last + 1;
    }
    if let Some((first, last)) = widest {
        let (low, high) = (all[first].damping, all[last].damping);
        let middle = (low * high).sqrt().ln();
        let distance = |place: usize| (all[place].damping.ln() - middle).abs();
        // Of two in the middle the larger.
        let place =
            (first..=last).rev().fold(last, |best, p| if distance(p) < distance(best) - 1e-9 { p } else { best });
        let end =
            if first == 0 || last + 1 == all.len() { "; the plateau may go on beyond the dampings tried" } else { "" };
        let reason = format!(
            "the middle of the widest plateau, {low} to {high}: neighbours' rank correlations are at least {stable}{end}"
        );
        return Some(Advice { place, damping: all[place].damping, rule: "plateau", reason });
    }
    let neighbours = |place: usize| {
        let both = [place.checked_sub(1).and_then(|before| all[before].next), all[place].next];
        let known: Vec<f64> = both.into_iter().flatten().collect();
        (!known.is_empty() && usable(place)).then(|| known.iter().sum::<f64>() / known.len() as f64)
    };
    let (place, correlation) = best((0..all.len()).map(neighbours))?;
    let reason =
        format!("no two neighbours' rank correlation reaches {stable}; it agrees best with its own: {correlation:.3}");
    Some(Advice { place, damping: all[place].damping, rule: "neighbours", reason })
}

/// The place of the highest value, of equals the last.
fn best(values: impl Iterator<Item = Option<f64>>) -> Option<(usize, f64)> {
    let known = values.enumerate().filter_map(|(place, value)| Some((place, value?)));
    known.max_by(|a, b| a.1.total_cmp(&b.1))
}
