//! Attention and its weights.

use super::*;

/// What attention does not see.
#[derive(Clone, Copy, Debug)]
enum Mask {
    /// Nothing.
    None,
    /// Later keys.
    Causal,
    /// The keys of sample `i` from place `u − i` on; of the last sample of several, all.
    Padding,
    /// Every third place, of all four sides.
    Full,
}

impl Mask {
    const ALL: [Self; 4] = [Self::None, Self::Causal, Self::Padding, Self::Full];

    fn hides(self, [n, heads, t, u]: [usize; 4], [i, h, q, k]: [usize; 4]) -> bool {
        match self {
            Self::None => false,
            Self::Causal => k > q + u - t,
            Self::Padding => k + i >= u.max(n) || (n > 1 && i == n - 1),
            Self::Full => (((i * heads + h) * t + q) * u + k) % 3 == 0,
        }
    }

    /// The mask with sides of 1 where it is the same along a side.
    fn tensor(self, full: [usize; 4], device: &Device) -> Tensor<4, Bool> {
        let [n, heads, t, u] = full;
        let dims = match self {
            Self::None => [1, 1, 1, 1],
            Self::Causal => [1, 1, t, u],
            Self::Padding => [n, 1, 1, u],
            Self::Full => [n, heads, t, u],
        };
        let marks: Vec<bool> = places(dims).map(|place| self.hides(full, place)).collect();
        Tensor::from_data(TensorData::new(marks, dims), device)
    }
}

fn places([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = [usize; 4]> {
    (0..a * b * c * d).map(move |at| [at / (b * c * d), at / (c * d) % b, at / d % c, at % d])
}

/// `softmax(scale · scores)` over what is seen; 0 where nothing is.
fn weights(scores: &[f64], sides: [usize; 4], mask: Mask, scale: f64) -> Vec<f64> {
    let [n, heads, t, u] = sides;
    let mut found = Vec::with_capacity(scores.len());
    for ([i, h, q, _], row) in places([n, heads, t, 1]).zip(scores.chunks(u)) {
        let seen: Vec<bool> = (0..u).map(|k| !mask.hides(sides, [i, h, q, k])).collect();
        let top = row.iter().zip(&seen).filter(|(_, seen)| **seen).map(|(x, _)| x * scale).fold(f64::MIN, f64::max);
        let parts: Vec<f64> =
            row.iter().zip(&seen).map(|(x, &seen)| if seen { (x * scale - top).exp() } else { 0.0 }).collect();
        let sum: f64 = parts.iter().sum();
        found.extend(parts.iter().map(|part| if sum == 0.0 { 0.0 } else { part / sum }));
    }
    found
}

#[test]
fn attention_weights_are_their_definition() {
    let cases =
        [([1, 1, 1, 1], 1.0), ([2, 3, 4, 5], 4.0), ([3, 2, 33, 40], 3.0), ([2, 3, 80, 80], 2.0), ([2, 1, 3, 6], 1e4)];
    for (sides, size) in cases {
        for mask in Mask::ALL {
            let scale = 0.25;
            let fast = |x: &[Tensor<1>]| {
                let hidden = mask.tensor(sides, &x[0].device().without_autodiff());
                ops::attention_weights(x[0].clone().reshape(sides), hidden, scale).flatten(0, 3)
            };
            let oracle = |x: &[Vec<f64>]| weights(&x[0], sides, mask, scale);
            let scores = noise(sides.iter().product(), size, 21);
            if largest(&oracle(std::slice::from_ref(&scores))) > 0.0 {
                // An exponent's error is that of the score: half a unit of its magnitude.
                check(&format!("weights {sides:?}, {mask:?}"), &[scores], &fast, &oracle, 16.0 + size);
            }
        }
    }
}

#[test]
fn what_sees_nothing_has_weight_zero_and_no_gradient() {
    for (name, device) in devices() {
        let scores = Tensor::<4>::ones([1, 1, 2, 3], &device).autodiff().require_grad();
        let hidden = Tensor::<2, Bool>::from_data([[true, true, true], [false, true, false]], &device);
        let found = ops::attention_weights(scores.clone(), hidden.reshape([1, 1, 2, 3]), 1.0);
        let cotangent = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], &device).reshape([1, 1, 2, 3]);
        let gradients = (found.clone() * cotangent).sum().backward();
        assert_eq!(values(found), [0.0, 0.0, 0.0, 0.5, 0.0, 0.5], "{name}");
        let slopes = values(scores.grad(&gradients).expect("a leaf"));
        assert_within(&name, &slopes, &[0.0, 0.0, 0.0, -0.5, 0.0, 0.5], 1e-6);
    }
}

/// Sizes of an attention: samples, query heads, key heads, queries, keys, width of a head.
type Sizes = (usize, usize, usize, usize, usize, usize);

fn attention(inputs: &[Vec<f64>], (n, heads, shared, t, u, size): Sizes, mask: Mask) -> Vec<f64> {
    let scale = 1.0 / (size as f64).sqrt();
    let place = |h: usize| h / (heads / shared);
    let scores: Vec<f64> = places([n, heads, t, u])
        .map(|[i, h, q, k]| {
            let query = &inputs[0][((i * heads + h) * t + q) * size..][..size];
            let key = &inputs[1][((i * shared + place(h)) * u + k) * size..][..size];
            query.iter().zip(key).map(|(a, b)| a * b).sum()
        })
        .collect();
    let weights = weights(&scores, [n, heads, t, u], mask, scale);
    places([n, heads, t, size])
        .map(|[i, h, q, j]| {
            let row = &weights[((i * heads + h) * t + q) * u..][..u];
            let value = |k: usize| inputs[2][((i * shared + place(h)) * u + k) * size + j];
            row.iter().enumerate().map(|(k, w)| w * value(k)).sum()
        })
        .collect()
}

const SIZES: [Sizes; 8] = [
    (1, 1, 1, 1, 1, 1),
    (1, 4, 2, 5, 5, 3),
    (2, 2, 2, 3, 4, 5),
    (3, 6, 2, 7, 7, 4),
    (9, 3, 1, 17, 17, 8),
    (4, 2, 2, 33, 33, 16),
    (1, 4, 2, 37, 41, 8),
    (2, 2, 1, 70, 70, 4),
];

#[test]
fn attention_is_its_definition() {
    for sizes in SIZES {
        let (n, heads, shared, t, u, size) = sizes;
        let inputs = [
            noise(n * heads * t * size, 2.0, 22),
            noise(n * shared * u * size, 2.0, 23),
            noise(n * shared * u * size, 2.0, 24),
        ];
        for mask in Mask::ALL {
            // As they come: in order, and as views of heads that lie side by side.
            for apart in [true, false] {
                let shape = |x: &Tensor<1>, heads: usize, rows: usize| {
                    let x = x.clone().reshape([n, heads, rows, size]);
                    if apart { x } else { x.swap_dims(1, 2).mul_scalar(1.0).swap_dims(1, 2) }
                };
                let fast = |x: &[Tensor<1>]| {
                    let hidden = mask.tensor([n, heads, t, u], &x[0].device().without_autodiff());
                    let (query, key, value) =
                        (shape(&x[0], heads, t), shape(&x[1], shared, u), shape(&x[2], shared, u));
                    ops::attention(query, key, value, hidden, 1.0 / (size as f64).sqrt()).flatten(0, 3)
                };
                let oracle = |x: &[Vec<f64>]| attention(x, sizes, mask);
                if largest(&oracle(&inputs)) > 0.0 {
                    check(&format!("attention {sizes:?}, {mask:?}, {apart}"), &inputs, &fast, &oracle, 64.0);
                }
            }
        }
    }
}

/// The rows of queries are shared out in another way when there are few samples.
#[test]
fn attention_of_many_samples_is_that_of_each() {
    const SIDES: [usize; 4] = [17, 2, 260, 4];
    for (name, device) in devices() {
        let tensor = |seed| flat(&noise(SIDES.iter().product(), 1.0, seed), &device, DType::F32).reshape(SIDES);
        let hidden = Mask::Causal.tensor([1, 2, 260, 260], &device);
        let [query, key, value, cotangent] = [41, 42, 43, 44].map(tensor);
        let of = |sample: std::ops::Range<usize>| {
            let leaves = [&query, &key, &value].map(|x| x.clone().narrow(0, sample.start, sample.len()));
            let leaves = leaves.map(|x| x.autodiff().require_grad());
            let [query, key, value] = leaves.clone();
            let output = ops::attention(query, key, value, hidden.clone(), 0.5);
            let cotangent = cotangent.clone().narrow(0, sample.start, sample.len());
            let gradients = (output.clone() * cotangent).sum().backward();
            let slopes = leaves.map(|leaf| values(leaf.grad(&gradients).expect("a leaf")));
            [&[values(output)], &slopes[..]].concat()
        };
        let all = of(0..SIDES[0]);
        for sample in [0, 16] {
            for (found, expected) in of(sample..sample + 1).iter().zip(&all) {
                let length = found.len();
                let expected = &expected[sample * length..][..length];
                assert_within(&format!("{name}, {sample}"), found, expected, 1e-5 * largest(expected));
            }
        }
    }
}

/// Keys and values without a gradient change nothing for the queries.
#[test]
fn attention_with_constants() {
    for (name, device) in devices() {
        let tensor = |seed| flat(&noise(3 * 2 * 5 * 4, 1.0, seed), &device, DType::F32).reshape([3, 2, 5, 4]);
        let hidden = Mask::Causal.tensor([3, 2, 5, 5], &device);
        let gradient = |track: bool| {
            let lift = |x: Tensor<4>| if track { x.autodiff().require_grad() } else { x };
            let query = tensor(25).autodiff().require_grad();
            let output = ops::attention(query.clone(), lift(tensor(26)), lift(tensor(27)), hidden.clone(), 0.5);
            let gradients = (output * tensor(28)).sum().backward();
            values(query.grad(&gradients).expect("a leaf"))
        };
        assert_within(&name, &gradient(false), &gradient(true), 1e-7);
    }
}

#[test]
#[should_panic(expected = "for scores of")]
fn a_mask_of_another_shape_is_refused() {
    let device = devices().remove(0).1;
    let hidden = Tensor::<4>::zeros([1, 1, 1, 3], &device).bool();
    ops::attention_weights(Tensor::zeros([1, 1, 2, 4], &device), hidden, 1.0);
}
