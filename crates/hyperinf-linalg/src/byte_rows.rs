//! Rows of one byte a number, and products with them that come with a bound on their error.
//!
//! A row is cut into groups of at most [`GROUP`] numbers. A group has a scale `s`, and each of its numbers `g` is rounded
//! at random to one of its two neighbours on the grid: `b = ⌊g/s + u⌋` with `u` uniform in [0, 1), so that `E[s b] = g`.
//! The error of a product `x · g` is then a sum of independent numbers of mean 0, each within an interval of width
//! `s |x_j|`, and by Hoeffding's inequality (1963, theorem 2)
//!
//! ```text
//! P(|x · (s b − g)| > B) ≤ δ   for   B = √(½ ln(2/δ)) · √(Σ_groups s² ||x_group||²)
//! ```
//!
//! Worst cases of the same numbers add up over groups instead: that bound is some 10 to 100 times larger, and prunes
//! nothing. Rounding in f32 is part of `B`, and so is that of `x` to 16 bits, with which products are sums of integers.

use pulp::{Arch, Simd, WithSimd};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The most numbers of a group.
pub const GROUP: usize = 64;

/// The largest chance that a product is not within its bound.
pub const MISS: f64 = 1e-12;

/// The largest byte before it is rounded up.
const LARGEST: f32 = 126.0;
/// The smallest scale: its numbers have all their digits.
const LEAST: f32 = 1e-30;
/// The largest number of a row: sums of a group stay in the range of f32.
const MOST: f32 = 1e30;

/// How the numbers of a row are grouped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteGroups {
    lengths: Vec<usize>,
    width: usize,
}

/// Rows of bytes with a scale for each group, in the order of the rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ByteRows {
    /// `[rows, numbers of a row]`.
    pub numbers: Vec<i8>,
    /// `[rows, groups]`.
    pub scales: Vec<f32>,
}

/// A product that is known up to a bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounded {
    /// Its estimate.
    pub value: f64,
    /// The most that it is away from the product, but for a chance of [`MISS`].
    pub bound: f64,
}

impl ByteGroups {
    /// Groups that do not span two of the parts of a row, which have so many numbers each.
    pub fn new(parts: impl IntoIterator<Item = usize>) -> Self {
        let mut lengths = Vec::new();
        for part in parts {
            lengths.extend(std::iter::repeat_n(GROUP, part / GROUP));
            lengths.extend((part % GROUP > 0).then_some(part % GROUP));
        }
        let width = lengths.iter().sum();
        Self { lengths, width }
    }

    /// The groups of a row.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// The numbers of a row.
    pub fn width(&self) -> usize {
        self.width
    }
}

impl ByteRows {
    /// Rounds rows `[n, width]` at random; `None` if a number is not finite or larger than 1e30.
    ///
    /// # Panics
    ///
    /// If the numbers are not whole rows.
    pub fn new(groups: &ByteGroups, rows: &[f32], seed: u64) -> Option<Self> {
        assert!(groups.width > 0 && rows.len().is_multiple_of(groups.width), "{} numbers of rows", rows.len());
        let mut rng = StdRng::seed_from_u64(seed);
        let mut found = Self { numbers: vec![0; rows.len()], scales: Vec::new() };
        found.scales.reserve(rows.len() / groups.width * groups.count());
        let (mut from, mut to) = (rows, &mut found.numbers[..]);
        for _ in 0..rows.len() / groups.width {
            for &length in &groups.lengths {
                let (group, rest) = from.split_at(length);
                let (bytes, more) = to.split_at_mut(length);
                (from, to) = (rest, more);
                found.scales.push(round(group, bytes, &mut rng)?);
            }
        }
        Some(found)
    }
}

/// Rounds a group at random, and returns its scale.
fn round(group: &[f32], bytes: &mut [i8], rng: &mut StdRng) -> Option<f32> {
    let largest = group.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    // NaN does not reach the largest.
    if !(largest <= MOST && group.iter().all(|value| value.is_finite())) {
        return None;
    }
    if largest == 0.0 {
        return Some(0.0);
    }
    let scale = (largest / LARGEST).max(LEAST);
    for (values, bytes) in group.chunks(4).zip(bytes.chunks_mut(4)) {
        let mut random = rng.next_u64();
        for (value, byte) in values.iter().zip(bytes) {
            // The middles of 65,536 equal parts of [0, 1).
            let uniform = ((random & 0xffff) as f32 + 0.5) / 65_536.0;
            random >>= 16;
            *byte = (value / scale + uniform).floor() as i8;
        }
    }
    Some(scale)
}

/// A vector whose products with many rows of bytes are taken.
#[derive(Clone, Debug)]
pub struct ByteProbe {
    groups: ByteGroups,
    /// Rounded to 16 bits: over `scale` and the step of its group.
    x: Vec<i16>,
    /// The step of each group.
    steps: Vec<f32>,
    /// The squared norm of each group of it.
    squares: Vec<f64>,
    scale: f64,
    /// `B` over the root of the sum of squares.
    factor: f64,
}

impl ByteProbe {
    /// A vector of a row's width; `None` if a number is not finite.
    ///
    /// # Panics
    ///
    /// If its width is not that of the groups.
    pub fn new(groups: &ByteGroups, x: &[f64]) -> Option<Self> {
        assert_eq!(x.len(), groups.width, "a vector as wide as a row");
        let largest = x.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        if !x.iter().all(|value| value.is_finite()) {
            return None;
        }
        let scale = if largest > 0.0 { largest.log2().floor().exp2().max(f64::MIN_POSITIVE) } else { 1.0 };
        let (mut integers, mut steps) = (Vec::with_capacity(x.len()), Vec::with_capacity(groups.count()));
        let mut squares = Vec::with_capacity(groups.count());
        let (mut rest, mut relative) = (x, 0.0);
        for &length in &groups.lengths {
            let (group, more) = rest.split_at(length);
            rest = more;
            let scaled = || group.iter().map(|value| value / scale);
            let largest = scaled().fold(0.0_f64, |most, value| most.max(value.abs()));
            // Below the range of f32 the whole group is what rounding leaves out.
            let step = (largest / f64::from(i16::MAX)) as f32;
            let step = if step < LEAST { 0.0 } else { step };
            let over = if step > 0.0 { 1.0 / f64::from(step) } else { 0.0 };
            let mut left = 0.0;
            for value in scaled() {
                // The cast ends at the largest integer, which f32's rounding of the step may exceed.
                let integer = (value * over).round() as i16;
                left += (value - f64::from(integer) * f64::from(step)).powi(2);
                integers.push(integer);
            }
            steps.push(step);
            // Numbers that f32 rounds to 0 count with the smallest norm that it resolves.
            let square = scaled().map(|value| value * value).sum::<f64>().max(1e-30);
            relative += left / square;
            squares.push(square);
        }
        // The rounding at random is itself rounded in f32, and its u has 16 bits: each number may be biased by a few ε of
        // 127 s; by Cauchy and Schwarz Σ s ||x|| ≤ √groups · √(Σ s² ||x||²). Sums in f64 round by far less.
        let rounding = 16.0 * f64::from(f32::EPSILON) * 127.0 * (GROUP as f64).sqrt();
        let hoeffding = (0.5 * (2.0 / MISS).ln()).sqrt();
        // What rounding leaves out of x, r, changes a product by at most Σ s ||r|| · 127 √64.
        let left_out = 127.0 * (GROUP as f64).sqrt() * relative.sqrt();
        let factor = hoeffding + rounding * (groups.count() as f64).sqrt() + left_out;
        Some(Self { groups: groups.clone(), x: integers, steps, squares, scale, factor })
    }

    /// The products with rows `[n, width]`, whose scales are `[n, groups]`.
    ///
    /// # Panics
    ///
    /// If the sizes do not fit each other.
    pub fn products(&self, numbers: &[i8], scales: &[f32]) -> Vec<Bounded> {
        let (n, groups) = (numbers.len() / self.groups.width, self.groups.count());
        assert_eq!((numbers.len(), scales.len()), (n * self.groups.width, n * groups), "whole rows with their scales");
        let mut found = vec![Bounded { value: 0.0, bound: 0.0 }; n];
        Arch::new().dispatch(Products { probe: self, numbers, scales, found: &mut found });
        found
    }
}

struct Products<'a> {
    probe: &'a ByteProbe,
    numbers: &'a [i8],
    scales: &'a [f32],
    found: &'a mut [Bounded],
}

impl WithSimd for Products<'_> {
    type Output = ();

    /// Compiled for the vector unit that is detected at run time: everything it calls is inlined.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { probe, numbers, scales, found } = self;
        let (groups, count) = (&probe.groups, probe.groups.count());
        let rows = numbers.chunks_exact(groups.width).zip(scales.chunks_exact(count));
        for ((numbers, scales), found) in rows.zip(found) {
            let value = product(&groups.lengths, (&probe.x, &probe.steps), numbers, scales);
            let bound = probe.factor * sum_of_squares(&probe.squares, scales).sqrt();
            *found = Bounded { value: value * probe.scale, bound: bound * probe.scale };
        }
    }
}

/// `Σ s (x · b)`.
#[inline(always)]
fn product(lengths: &[usize], (x, steps): (&[i16], &[f32]), numbers: &[i8], scales: &[f32]) -> f64 {
    let (mut total, mut at) = (0.0, 0);
    for ((&length, &scale), &step) in lengths.iter().zip(scales).zip(steps) {
        let (x, numbers) = (&x[at..at + length], &numbers[at..at + length]);
        at += length;
        let sum = match (x.try_into(), numbers.try_into()) {
            (Ok(x), Ok(numbers)) => sum(x, numbers),
            _ => {
                let (mut all_x, mut all_numbers) = ([0; GROUP], [0; GROUP]);
                all_x[..length].copy_from_slice(x);
                all_numbers[..length].copy_from_slice(numbers);
                sum(&all_x, &all_numbers)
            }
        };
        total += f64::from(scale) * f64::from(step) * f64::from(sum);
    }
    total
}

/// The product of a group, at most 64 · 127 · 32,767; of arrays, which alone become a few instructions for all numbers.
#[inline(always)]
fn sum(x: &[i16; GROUP], numbers: &[i8; GROUP]) -> i32 {
    let (mut sum, mut at) = (0_i32, 0);
    while at < GROUP {
        sum = sum.wrapping_add(i32::from(x[at]) * i32::from(numbers[at]));
        at += 1;
    }
    sum
}

/// `Σ s² ||x||²`.
#[inline(always)]
fn sum_of_squares(squares: &[f64], scales: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 4];
    let (squares, squares_rest) = squares.as_chunks::<4>();
    let (scales, scales_rest) = scales.as_chunks::<4>();
    for (squares, scales) in squares.iter().zip(scales) {
        for ((sum, square), &scale) in sums.iter_mut().zip(squares).zip(scales) {
            *sum += f64::from(scale) * f64::from(scale) * square;
        }
    }
    let rest = squares_rest.iter().zip(scales_rest).map(|(square, &scale)| f64::from(scale).powi(2) * square);
    // The sum itself rounds, too.
    (sums.iter().sum::<f64>() + rest.sum::<f64>()) * (1.0 + 1e-6)
}
