//! Scores that need no model: how alike two pictures look.

use super::pictures::SIDE;
use super::rows::Drawn;

/// Levels of each colour in a histogram.
const LEVELS: usize = 4;

/// The cosine of the pixels, less each picture's mean.
pub fn pixel_cosine(train: &[Drawn], query: &[Drawn]) -> Vec<Vec<f64>> {
    let centred = |row: &Drawn| {
        let mean = row.values.iter().map(|&v| f64::from(v)).sum::<f64>() / row.values.len() as f64;
        let values: Vec<f64> = row.values.iter().map(|&v| f64::from(v) - mean).collect();
        let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
        values.into_iter().map(|v| v / norm).collect()
    };
    compare(train, query, centred, |a, b| a.iter().zip(b).map(|(a, b)| a * b).sum())
}

/// The negative mean squared difference of the pixels.
pub fn pixel_nearness(train: &[Drawn], query: &[Drawn]) -> Vec<Vec<f64>> {
    let values = |row: &Drawn| row.values.iter().map(|&v| f64::from(v)).collect();
    compare(train, query, values, |a, b| -a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.len() as f64)
}

/// The common area of the colour histograms, with four levels of each colour.
pub fn histogram(train: &[Drawn], query: &[Drawn]) -> Vec<Vec<f64>> {
    let counts = |row: &Drawn| {
        let mut counts = vec![0.0; LEVELS.pow(3)];
        let size = SIDE * SIDE;
        for at in 0..size {
            let level = |colour: usize| {
                let value = f64::from((row.values[colour * size + at] + 1.0) / 2.0);
                ((value * LEVELS as f64) as usize).min(LEVELS - 1)
            };
            counts[(level(0) * LEVELS + level(1)) * LEVELS + level(2)] += 1.0 / size as f64;
        }
        counts
    };
    compare(train, query, counts, |a, b| a.iter().zip(b).map(|(a, b)| a.min(*b)).sum())
}

fn compare(
    train: &[Drawn],
    query: &[Drawn],
    describe: impl Fn(&Drawn) -> Vec<f64>,
    alike: impl Fn(&[f64], &[f64]) -> f64,
) -> Vec<Vec<f64>> {
    let train: Vec<Vec<f64>> = train.iter().map(&describe).collect();
    let score = |row: &Drawn| {
        let query = describe(row);
        train.iter().map(|row| alike(row, &query)).collect()
    };
    query.iter().map(score).collect()
}
