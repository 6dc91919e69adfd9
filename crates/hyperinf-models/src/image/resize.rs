//! Pillow's resampling of 8-bit images, bit for bit: weights with 22 fractional bits, rows before columns, and values
//! rounded to 8 bits between the two.
//!
//! Pillow 13 resamples some pictures column by column first (those that get wider and lower, and tall ones), which
//! changes values where the two orders round differently; up to Pillow 12 rows are always first, as here.

use std::f64::consts::PI;
use std::ops::Range;

/// How a picture is resampled; in `preprocessor_config.json` by Pillow's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resampling {
    /// 0: the nearest pixel.
    Nearest,
    /// 1: a sinc with a window of three lobes.
    Lanczos,
    /// 2: a triangle.
    #[default]
    Bilinear,
    /// 3: cubic with a = −½.
    Bicubic,
    /// 4: the mean of a box.
    Box,
    /// 5: a sinc with Hamming's window.
    Hamming,
}

/// Fractional bits of a weight.
const PRECISION: u32 = 22;

impl Resampling {
    /// The filter with Pillow's number.
    pub fn of_pillow(number: u64) -> Option<Self> {
        let all = [Self::Nearest, Self::Lanczos, Self::Bilinear, Self::Bicubic, Self::Box, Self::Hamming];
        all.get(usize::try_from(number).ok()?).copied()
    }

    /// Half the width of the filter in source pixels, for enlarging.
    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        match self {
            Self::Nearest | Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming if x.abs() >= 1.0 => 0.0,
            Self::Hamming => sinc(x.abs()) * (0.54 + 0.46 * (x.abs() * PI).cos()),
            Self::Bicubic => {
                const A: f64 = -0.5;
                match x.abs() {
                    x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                    x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                    _ => 0.0,
                }
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

/// The source pixels of one target pixel, with their weights.
struct Taps {
    from: usize,
    weights: Vec<i32>,
}

/// RGB values `[h, w, 3]` of another size, given as `(width, height)`.
pub(super) fn resize(pixels: &[u8], from: (usize, usize), to: (usize, usize), how: Resampling) -> Vec<u8> {
    if how == Resampling::Nearest {
        return nearest(pixels, from, to);
    }
    let wide = if from.0 == to.0 { pixels.to_vec() } else { rows(pixels, from.0, &taps(from.0, to.0, how)) };
    if from.1 == to.1 { wide } else { columns(&wide, to.0, &taps(from.1, to.1, how)) }
}

fn taps(from: usize, to: usize, how: Resampling) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = how.support() * stretch;
    let inverse = 1.0 / stretch;
    let one = f64::from(1_u32 << PRECISION);
    let of_pixel = |pixel: usize| {
        let centre = (pixel as f64 + 0.5) * scale;
        // Casts of negative numbers give 0, as Pillow's bounds do.
        let first = (centre - support + 0.5) as usize;
        let last = ((centre + support + 0.5) as usize).min(from);
        let place = |x: usize| (x as f64 - centre + 0.5) * inverse;
        let weights: Vec<f64> = (first..last).map(|x| how.weight(place(x))).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (if sum == 0.0 { *weight } else { weight / sum } * one).round() as i32;
        Taps { from: first, weights: weights.iter().map(fixed).collect() }
    };
    (0..to).map(of_pixel).collect()
}

fn rows(pixels: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / width * taps.len());
    for row in pixels.chunks_exact(width * 3) {
        for Taps { from, weights } in taps {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[from * 3..].chunks_exact(3).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            out.extend(sums.map(rounded));
        }
    }
    out
}

fn columns(pixels: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let line = |row: usize| -> Range<usize> { row * width * 3..(row + 1) * width * 3 };
    let mut out = Vec::with_capacity(width * 3 * taps.len());
    let mut sums = vec![HALF; width * 3];
    for Taps { from, weights } in taps {
        sums.fill(HALF);
        for (row, &weight) in weights.iter().enumerate() {
            for (sum, &value) in sums.iter_mut().zip(&pixels[line(from + row)]) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().copied().map(rounded));
    }
    out
}

const HALF: i32 = 1 << (PRECISION - 1);

fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Places are added up, as Pillow does, so that halves fall to the same side.
fn nearest(pixels: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let places = |from: usize, to: usize| -> Vec<usize> {
        let step = from as f64 / to as f64;
        let mut at = step * 0.5;
        let mut next = || {
            let place = (at as usize).min(from - 1);
            at += step;
            place
        };
        (0..to).map(|_| next()).collect()
    };
    let columns = places(from.0, to.0);
    let mut out = Vec::with_capacity(to.0 * to.1 * 3);
    for y in places(from.1, to.1) {
        for x in &columns {
            let start = (y * from.0 + x) * 3;
            out.extend_from_slice(&pixels[start..start + 3]);
        }
    }
    out
}
