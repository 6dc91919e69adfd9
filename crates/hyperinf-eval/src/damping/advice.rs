use serde::Serialize;

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

/// A recommended damping.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// Its index among the dampings.
    #[serde(skip)]
    pub place: usize,
    /// The damping.
    pub damping: f64,
    /// Whether it is the smallest or the largest that was tried: a better one may lie beyond.
    pub at_edge: bool,
    /// Why, as a clause after "because".
    pub reason: String,
}

/// Recommends the damping whose low scores find the samples known to be bad best, by AUC: of equals the largest. `None`
/// if no samples are known, or at no damping every solver reached its tolerance.
///
/// Without known samples nothing is recommended: how stable a ranking is does not say whether it is right. On labels of
/// text the middle of the widest plateau was at one of the two worst dampings of nine, and on digits the agreement with
/// retraining falls along a plateau; there is no rule that is right on both.
///
/// ```
/// use hyperinf_eval::{Evidence, advise};
///
/// let at = |damping, auc| Evidence { damping, converged: true, dot: Some(0.5), next: None, auc };
/// let advice = advise(&[at(0.01, Some(0.6)), at(0.1, Some(0.8)), at(1.0, Some(0.7))]);
/// assert_eq!(advice.map(|advice| (advice.damping, advice.at_edge)), Some((0.1, false)));
/// assert_eq!(advise(&[at(0.01, None), at(0.1, None)]), None);
/// ```
pub fn advise(all: &[Evidence]) -> Option<Advice> {
    let known = all.iter().enumerate().filter_map(|(place, e)| Some((place, e.auc.filter(|_| e.converged)?)));
    let (place, auc) = known.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let (damping, at_edge) = (all[place].damping, place == 0 || place + 1 == all.len());
    let beyond = match (at_edge, place) {
        (false, _) => "",
        (true, 0) => "; it is the smallest that was tried: try smaller ones as well",
        (true, _) => "; it is the largest that was tried: try larger ones as well",
    };
    let reason = format!("its low scores find the samples known to be bad best, AUC {auc:.3}{beyond}");
    Some(Advice { place, damping, at_edge, reason })
}

/// The stretches of dampings along which the ranking hardly changes, as their first and last index: neighbours at which
/// every solver reached its tolerance, with a rank correlation of at least `stable`.
pub fn plateaus(all: &[Evidence], stable: f64) -> Vec<(usize, usize)> {
    let joined = |place: usize| {
        all[place].converged && all[place + 1].converged && all[place].next.is_some_and(|next| next >= stable)
    };
    let (mut found, mut first) = (Vec::new(), 0);
    while first < all.len() {
        let mut last = first;
        while last + 1 < all.len() && joined(last) {
            last += 1;
        }
        if last > first {
            found.push((first, last));
        }
        first = last + 1;
    }
    found
}
