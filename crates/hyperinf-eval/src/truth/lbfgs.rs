use crate::TruthError;

/// Pairs of steps and gradient changes kept.
const MEMORY: usize = 20;
/// Halvings of a step before it is given up.
const HALVINGS: usize = 40;

/// Differences of values below this share of the whole descent count as rounding.
const ROUNDING: f64 = 1e-6;

/// The share of the whole descent that counts as progress.
const PROGRESS: f64 = 1e-3;
/// Steps without progress and without a smaller gradient before the minimisation stops: the minimum lies on a kink
/// (ReLU), or only rounding is left of the gradient.
const PATIENCE: usize = 50;

/// The end of a minimisation.
pub(super) struct Minimum {
    pub(super) point: Vec<f64>,
    pub(super) steps: usize,
    /// The norm of the gradient over that at the start.
    pub(super) residual: f64,
}

/// Minimises a smooth function by L-BFGS (Nocedal and Wright 2006, algorithm 7.5) with backtracking until the
/// gradient's norm is `tolerance` times that at the start, for at most `max_steps` steps, or until it no longer
/// decreases: as close as a kink or rounding allow.
///
/// `f(x)` gives the value and the gradient.
pub(super) fn minimise(
    start: Vec<f64>,
    tolerance: f64,
    max_steps: usize,
    mut f: impl FnMut(&[f64]) -> Result<(f64, Vec<f64>), TruthError>,
) -> Result<Minimum, TruthError> {
    let mut point = start;
    let (mut value, mut gradient) = f(&point)?;
    let (highest, first) = (value, norm(&gradient));
    let mut pairs: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    let mut steps = 0;
    // The smallest norm, the value at the last progress, and the step of the last improvement of either.
    let (mut smallest, mut mark, mut progress) = (first, value, 0);
    while steps < max_steps && norm(&gradient) > tolerance * first && steps < progress + PATIENCE {
        let direction = direction(&gradient, &pairs);
        let slope = dot(&direction, &gradient);
        let mut found = None;
        // Before any curvature is known, the gradient's own length has the wrong unit for a step.
        let mut length = if pairs.is_empty() { 1.0 / first.max(1.0) } else { 1.0 };
        for _ in 0..HALVINGS {
            let next: Vec<f64> = point.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
            let (next_value, next_gradient) = f(&next)?;
            // Close to the minimum, values differ by rounding only, and the slope decides (approximate Wolfe condition,
            // Hager and Zhang 2005).
            let flat = next_value <= value + ROUNDING * (highest - value)
                && dot(&next_gradient, &direction).abs() <= 0.9 * slope.abs();
            if next_value <= value + 1e-4 * length * slope || flat {
                found = Some((next, next_value, next_gradient));
                break;
            }
            length /= 2.0;
        }
        let Some((next, next_value, next_gradient)) = found else {
            if pairs.is_empty() {
                break;
            }
            // The pairs no longer describe the function here; the gradient alone may still lead down.
            pairs.clear();
            continue;
        };
        let moved: Vec<f64> = next.iter().zip(&point).map(|(a, b)| a - b).collect();
        let changed: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        if dot(&moved, &changed) > 1e-12 * norm(&moved) * norm(&changed) {
            if pairs.len() == MEMORY {
                pairs.remove(0);
            }
            pairs.push((moved, changed));
        }
        (point, value, gradient) = (next, next_value, next_gradient);
        steps += 1;
        let down = mark - value > PROGRESS * (highest - value);
        if down {
            mark = value;
        }
        if norm(&gradient) < smallest || down {
            smallest = smallest.min(norm(&gradient));
            progress = steps;
        }
    }
    // NaN at the start stays NaN here, which callers refuse.
    let residual = if first == 0.0 { 0.0 } else { norm(&gradient) / first };
    Ok(Minimum { point, steps, residual })
}

/// `−H g` with the inverse Hessian H that the pairs approximate, by the two-loop recursion.
fn direction(gradient: &[f64], pairs: &[(Vec<f64>, Vec<f64>)]) -> Vec<f64> {
    let mut r: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut factors = Vec::with_capacity(pairs.len());
    for (moved, changed) in pairs.iter().rev() {
        let factor = dot(moved, &r) / dot(moved, changed);
        add(&mut r, -factor, changed);
        factors.push(factor);
    }
    if let Some((moved, changed)) = pairs.last() {
        let scale = dot(moved, changed) / dot(changed, changed);
        r.iter_mut().for_each(|value| *value *= scale);
    }
    for ((moved, changed), factor) in pairs.iter().zip(factors.into_iter().rev()) {
        let other = dot(changed, &r) / dot(moved, changed);
        add(&mut r, factor - other, moved);
    }
    r
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

fn add(a: &mut [f64], factor: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
}
