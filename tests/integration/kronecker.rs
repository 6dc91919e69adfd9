//! Kronecker structures against their definitions: K-FAC and EK-FAC from captures, the two-sided form from gradients.

use burn::tensor::{DType, Device};
use hyperinf::curvature::{Accumulator, BlockCurvature, Curvature, CurvatureError, Kronecker, Side, Storage};
use hyperinf::gradients::{Block, Capture};
use hyperinf::solvers::{Exact, Solver};
use hyperinf_tests::compare::{assert_close, assert_within, largest, matrix, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Contracted, Matrix, exact, fisher, gfim, per_sample, relative_damping};
use proptest::prelude::*;

pub(crate) const KFAC: Storage = Storage::Kronecker { corrected: false };
pub(crate) const EKFAC: Storage = Storage::Kronecker { corrected: true };
pub(crate) const TWO_SIDED: Storage = Storage::TwoSided { corrected: false };
pub(crate) const CORRECTED: Storage = Storage::TwoSided { corrected: true };

/// The inputs and output gradients of a layer, for `n` samples of `t` positions.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// `[t, rows]` of each sample.
    pub(crate) inputs: Vec<Matrix>,
    /// `[t, cols]` of each sample.
    pub(crate) deltas: Vec<Matrix>,
}

impl Layer {
    /// Noise in which every third position of a sequence is padding: any input, no output gradient.
    pub(crate) fn noise([n, t, rows, cols]: [usize; 4], seed: u64) -> Self {
        let padded = |s: usize, i: usize| t > 1 && (s + i) % 3 == 2;
        let inputs = (0..n).map(|s| Matrix::noise(t, rows, 1000 * seed + s as u64)).collect();
        let delta = |s: usize| {
            let noise = Matrix::noise(t, cols, 1000 * seed + 500 + s as u64);
            Matrix::from_fn(t, cols, |i, j| if padded(s, i) { 0.0 } else { noise.at(i, j) })
        };
        Self { inputs, deltas: (0..n).map(delta).collect() }
    }

    fn sizes(&self) -> [usize; 4] {
        [self.inputs.len(), self.inputs[0].rows, self.inputs[0].cols, self.deltas[0].cols]
    }

    pub(crate) fn block(&self) -> Block {
        let [_, _, rows, cols] = self.sizes();
        Block::new("layer", rows, cols)
    }

    /// The per-sample gradients, `[n, rows · cols]`.
    fn gradients(&self) -> Matrix {
        let [n, _, rows, cols] = self.sizes();
        let each: Vec<Matrix> = self.inputs.iter().zip(&self.deltas).map(|(a, delta)| per_sample(a, delta)).collect();
        Matrix::from_fn(n, rows * cols, |i, j| each[i].values[j])
    }

    pub(crate) fn capture(&self, device: &Device, dtype: DType) -> Capture {
        let [n, t, rows, cols] = self.sizes();
        let join = |parts: &[Matrix], width: usize| {
            let all =
                Matrix { rows: n * t, cols: width, values: parts.iter().flat_map(|m| m.values.clone()).collect() };
            tensor(&all, device, dtype).reshape([n, t, width])
        };
        Capture { block: self.block(), input: join(&self.inputs, rows), delta: join(&self.deltas, cols) }
    }

    /// Samples `start..end`.
    pub(crate) fn part(&self, start: usize, end: usize) -> Self {
        Self { inputs: self.inputs[start..end].to_vec(), deltas: self.deltas[start..end].to_vec() }
    }

    /// `A`: the mean of `a aᵀ` over positions, without padding where samples have several.
    fn a(&self) -> Matrix {
        let [n, t, rows, _] = self.sizes();
        let places = || (0..n).flat_map(|s| (0..t).map(move |i| (s, i)));
        let counts = |&(s, i): &(usize, usize)| t == 1 || self.deltas[s].row(i).iter().any(|d| *d != 0.0);
        let number = places().filter(counts).count().max(1) as f64;
        let entry = |s: usize, i: usize, j: usize, k: usize| self.inputs[s].at(i, j) * self.inputs[s].at(i, k);
        Matrix::from_fn(rows, rows, |j, k| {
            places().filter(counts).map(|(s, i)| entry(s, i, j, k)).sum::<f64>() / number
        })
    }

    /// `S`: the sum of `δ δᵀ` over positions, the mean over samples.
    fn s(&self) -> Matrix {
        let [n, _, _, cols] = self.sizes();
        Matrix::from_fn(cols, cols, |j, k| {
            let of = |d: &Matrix| (0..d.rows).map(|i| d.at(i, j) * d.at(i, k)).sum::<f64>();
            self.deltas.iter().map(of).sum::<f64>() / n as f64
        })
    }

    /// `L = mean g gᵀ` and `R = mean gᵀ g`.
    fn sides(&self) -> [Matrix; 2] {
        let [n, _, rows, cols] = self.sizes();
        let zero = [Matrix::from_fn(rows, rows, |_, _| 0.0), Matrix::from_fn(cols, cols, |_, _| 0.0)];
        self.inputs.iter().zip(&self.deltas).fold(zero, |[left, right], (a, delta)| {
            let g = per_sample(a, delta);
            let share = 1.0 / n as f64;
            [left.plus(share, &g.times(&g.transpose())), right.plus(share, &g.transpose().times(&g))]
        })
    }
}

fn kron(left: &Matrix, right: &Matrix) -> Matrix {
    let (p, q) = (right.rows, right.cols);
    Matrix::from_fn(left.rows * p, left.cols * q, |i, j| left.at(i / p, j / q) * right.at(i % p, j % q))
}

/// Accumulates captures (or their gradients) in batches of the given sizes, as often as the storage asks for.
pub(crate) fn accumulate(
    layer: &Layer,
    storage: Storage,
    (device, dtype): (&Device, DType),
    batches: &[usize],
) -> Result<BlockCurvature, CurvatureError> {
    let n = layer.inputs.len();
    let mut sum = Accumulator::new(layer.block(), storage)?;
    loop {
        let mut start = 0;
        for size in batches.iter().copied().chain([n]) {
            let end = (start + size).min(n);
            if start < end {
                sum.add_capture(&layer.part(start, end).capture(device, dtype))?;
            }
            start = end;
        }
        if !sum.end_pass()? {
            return sum.finish();
        }
    }
}

/// `check(what, accumulated, tolerance)` on every device in every type.
fn each(layer: &Layer, storage: Storage, batches: &[usize], check: impl Fn(&str, &BlockCurvature, f64)) {
    let [n, t, rows, cols] = layer.sizes();
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let found = accumulate(layer, storage, (&device, dtype), batches).expect("the layer is finite");
            // Sums of n·t products, then rotations by eigenvectors that are rounded to the type.
            let tolerance = (n * t + 20 * (rows + cols)) as f64 * epsilon;
            check(&format!("{name}, {dtype:?}, {storage:?}, {:?}", layer.sizes()), &found, tolerance);
        }
    }
}

fn parts(curvature: &Curvature) -> [Matrix; 3] {
    let Curvature::Kronecker(Kronecker { left, right, eigenvalues }) = curvature else {
        panic!("{:?}", curvature.structure())
    };
    [matrix(left.clone()), matrix(right.clone()), matrix(eigenvalues.clone())]
}

/// The uncorrected forms are products of their two factors; eigenvectors come in descending order.
fn check_factors(layer: &Layer, batches: &[usize]) {
    let [left, right] = layer.sides();
    let trace = left.trace();
    for (storage, left, right, scale) in
        [(KFAC, layer.a(), layer.s(), 1.0), (TWO_SIDED, left, right, if trace > 0.0 { trace } else { 1.0 })]
    {
        let expected = kron(&left, &right);
        let expected: Vec<f64> = expected.values.iter().map(|v| v / scale).collect();
        each(layer, storage, batches, |what, found, tolerance| {
            assert_close(what, &values(found.curvature.to_dense()), &expected, tolerance);
            let samples = layer.gradients();
            assert_close(what, &[0.1 * found.mean_square], &[relative_damping(&samples)], tolerance);
            assert_eq!(found.samples, layer.inputs.len(), "{what}");
            let [_, _, eigenvalues] = parts(&found.curvature);
            let (first, last) = (eigenvalues.at(0, 0), eigenvalues.at(eigenvalues.rows - 1, eigenvalues.cols - 1));
            assert!(eigenvalues.values.iter().all(|v| *v <= first && *v >= last && *v >= 0.0), "{what}: order");
        });
    }
}

/// The corrected forms: orthonormal bases that diagonalise the two factors, and the diagonal of `F` in them.
fn check_corrected(layer: &Layer, batches: &[usize]) {
    let fisher = fisher(&layer.gradients());
    for (storage, [left, right]) in [(EKFAC, [layer.a(), layer.s()]), (CORRECTED, layer.sides())] {
        each(layer, storage, batches, |what, found, tolerance| {
            let [q_left, q_right, eigenvalues] = parts(&found.curvature);
            for (q, factor) in [(&q_left, &left), (&q_right, &right)] {
                let square = q.transpose().times(q);
                assert_close(what, &square.values, &Matrix::identity(q.rows).values, tolerance);
                let turned = q.transpose().times(factor).times(q);
                let diagonal = Matrix::from_fn(q.rows, q.rows, |i, j| if i == j { turned.at(i, i) } else { 0.0 });
                assert_within(what, &turned.values, &diagonal.values, tolerance * largest(&factor.values) * 4.0);
            }
            let basis = kron(&q_left, &q_right);
            let turned = basis.transpose().times(&fisher).times(&basis);
            let diagonal: Vec<f64> = (0..turned.rows).map(|i| turned.at(i, i)).collect();
            assert_within(what, &eigenvalues.values, &diagonal, tolerance * fisher.trace());
            let trace = found.curvature.trace().expect("the device works");
            assert_close(&format!("{what}: trace"), &[trace], &[fisher.trace()], tolerance);
        });
    }
}

fn layers() -> impl Strategy<Value = Layer> {
    (1..=9_usize, 1..=4_usize, 1..=5_usize, 1..=4_usize, 0..1000_u64)
        .prop_map(|(n, t, rows, cols, seed)| Layer::noise([n, t, rows, cols], seed))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn factors_are_their_definition_however_samples_are_batched(
        layer in layers(),
        batches in prop::collection::vec(1..4_usize, 0..4),
    ) {
        check_factors(&layer, &batches);
    }

    #[test]
    fn corrected_eigenvalues_are_the_diagonal_of_the_fisher_in_the_eigenbases(
        layer in layers(),
        batches in prop::collection::vec(1..4_usize, 0..4),
    ) {
        check_corrected(&layer, &batches);
    }

    #[test]
    fn no_other_diagonal_is_nearer_to_the_fisher(layer in layers(), seed in 0..1000_u64, size in 1e-3..1.0_f64) {
        let fisher = fisher(&layer.gradients());
        let (_, device) = devices().remove(0);
        for storage in [EKFAC, CORRECTED] {
            let found = accumulate(&layer, storage, (&device, DType::F64), &[]).expect("the layer is finite");
            let [q_left, q_right, eigenvalues] = parts(&found.curvature);
            let basis = kron(&q_left, &q_right);
            let distance = |diagonal: &[f64]| {
                let scaled = Matrix::from_fn(basis.rows, basis.cols, |i, j| basis.at(i, j) * diagonal[j]);
                let rest = scaled.times(&basis.transpose()).plus(-1.0, &fisher);
                rest.values.iter().map(|v| v * v).sum::<f64>()
            };
            let noise = Matrix::noise(1, basis.rows, seed);
            let moved: Vec<f64> =
                eigenvalues.values.iter().zip(&noise.values).map(|(v, z)| v + size * z).collect();
            let change: f64 = noise.values.iter().map(|z| (size * z).powi(2)).sum();
            let (best, other) = (distance(&eigenvalues.values), distance(&moved));
            // Pythagoras: the difference is exactly what was moved.
            prop_assert!((other - best - change).abs() <= 1e-9 * (other + 1.0), "{storage:?}: {best} {other} {change}");
            // The product of the factors' eigenvalues is one of the others.
            let products = if storage == EKFAC { KFAC } else { TWO_SIDED };
            let found = accumulate(&layer, products, (&device, DType::F64), &[]).expect("the layer is finite");
            let rest = matrix(found.curvature.to_dense()).plus(-1.0, &fisher);
            prop_assert!(rest.values.iter().map(|v| v * v).sum::<f64>() >= best * (1.0 - 1e-9) - 1e-12);
        }
    }

    #[test]
    fn the_two_sided_form_needs_gradients_alone(layer in layers()) {
        for (name, device) in devices() {
            let gradients = layer.capture(&device, DType::F32).gradients();
            for storage in [TWO_SIDED, CORRECTED] {
                let mut sum = Accumulator::new(layer.block(), storage).expect("it is small");
                loop {
                    sum.add(gradients.clone()).expect("it is finite");
                    if !sum.end_pass().expect("it is finite") {
                        break;
                    }
                }
                let found = sum.finish().expect("all passes were made").curvature.to_dense();
                let captured = accumulate(&layer, storage, (&device, DType::F32), &[]).expect("it is finite");
                let captured = values(captured.curvature.to_dense());
                assert_close(&format!("{name}, {storage:?}"), &captured, &values(found), 1e-5);
            }
        }
    }
}

/// Positions without an output gradient change nothing, whatever their input.
#[test]
fn padding_does_not_matter() {
    let layer = Layer::noise([5, 4, 3, 2], 7);
    let junk = Matrix::noise(3, 3, 99);
    let longer = |m: &Matrix, more: &dyn Fn(usize, usize) -> f64| {
        Matrix::from_fn(m.rows + 3, m.cols, |i, j| if i < m.rows { m.at(i, j) } else { more(i - m.rows, j) })
    };
    let padded = Layer {
        inputs: layer.inputs.iter().map(|m| longer(m, &|i, j| 100.0 * junk.at(i, j))).collect(),
        deltas: layer.deltas.iter().map(|m| longer(m, &|_, _| 0.0)).collect(),
    };
    for storage in [KFAC, EKFAC, TWO_SIDED, CORRECTED] {
        let (_, device) = devices().remove(0);
        let found = accumulate(&layer, storage, (&device, DType::F64), &[]).expect("it is finite");
        let expected = values(found.curvature.to_dense());
        each(&padded, storage, &[2], |what, found, tolerance| {
            assert_close(what, &values(found.curvature.to_dense()), &expected, tolerance);
        });
    }
}

/// With one position per sample there is no padding: a sample whose loss moves nothing is a sample.
#[test]
fn samples_without_gradient_count_where_there_is_one_position() {
    let mut layer = Layer::noise([4, 1, 3, 2], 3);
    layer.deltas[1] = Matrix::from_fn(1, 2, |_, _| 0.0);
    check_factors(&layer, &[]);
    check_corrected(&layer, &[1]);
}

/// One linear layer, squared error, Gauss-Newton: what is sent back does not depend on the input, so `A ⊗ S` is exact.
#[test]
fn kfac_of_a_linear_layer_with_squared_error_is_exact() {
    // The pseudo-samples: every input with each √2·e_k sent back.
    let x = Matrix::noise(8, 4, 5);
    let one = |i: usize| Matrix::from_fn(1, 4, |_, j| x.at(i, j));
    let unit = |k: usize| Matrix::from_fn(1, 2, |_, j| if j == k { f64::sqrt(2.0) } else { 0.0 });
    let layer = Layer { inputs: (0..16).map(|s| one(s / 2)).collect(), deltas: (0..16).map(|s| unit(s % 2)).collect() };
    let expected = fisher(&layer.gradients());
    let gauss_newton = kron(&fisher(&x), &Matrix::identity(2));
    assert_close("the oracle", &expected.values, &gauss_newton.values, 1e-12);
    for storage in [KFAC, EKFAC, TWO_SIDED, CORRECTED] {
        each(&layer, storage, &[5], |what, found, tolerance| {
            assert_close(what, &values(found.curvature.to_dense()), &expected.values, tolerance);
        });
    }
}

/// One side of length 1 leaves nothing to approximate.
#[test]
fn the_two_sided_form_of_a_vector_is_the_fisher() {
    for sizes in [[6, 2, 5, 1], [6, 2, 1, 5]] {
        let layer = Layer::noise(sizes, 21);
        let expected = fisher(&layer.gradients());
        for storage in [TWO_SIDED, CORRECTED] {
            each(&layer, storage, &[], |what, found, tolerance| {
                let dense = matrix(found.curvature.to_dense());
                if storage == TWO_SIDED {
                    assert_close(what, &dense.values, &expected.values, tolerance);
                }
                assert_close(what, &[dense.trace()], &[expected.trace()], tolerance);
            });
        }
    }
}

/// The GFIM is the two-sided form with nothing known of one side: `L ⊗ R / tr L` with `R = (tr L / cols) I`.
#[test]
fn the_gfim_is_the_two_sided_form_with_one_side_alike() {
    // Gradients g U for U in the group of signed permutations of the columns: their mean gᵀg is a multiple of I.
    let g = Matrix::noise(3, 2, 4);
    let turn =
        |s: usize| Matrix::from_fn(3, 2, |i, j| g.at(i, j ^ (s & 1)) * if s & (2 << j) == 0 { 1.0 } else { -1.0 });
    let layer = Layer { inputs: vec![Matrix::identity(3); 8], deltas: (0..8).map(turn).collect() };
    let expected = gfim(&layer.gradients(), 3, 2, Contracted::Cols, true);
    each(&layer, TWO_SIDED, &[], |what, found, tolerance| {
        assert_close(what, &values(found.curvature.to_dense()), &expected.values, tolerance);
    });
    for (name, device) in devices() {
        let storage = Storage::OneSided { side: Side::Cols, scale: Default::default() };
        let found = accumulate(&layer, storage, (&device, DType::F32), &[]).expect("it is finite");
        assert_close(&name, &values(found.curvature.to_dense()), &expected.values, 1e-6);
    }
}

// ---- the inverse -------------------------------------------------------------------------------------------------

/// `Exact` inverts what is stored, to a residual in f64 although eigenvectors are rounded to f32.
#[test]
fn the_exact_inverse_is_that_of_the_matrix_stored() {
    let layer = Layer::noise([12, 3, 5, 4], 8);
    let v = Matrix::noise(3, 20, 1);
    for storage in [KFAC, EKFAC, TWO_SIDED, CORRECTED] {
        each(&layer, storage, &[], |what, found, _| {
            // The condition is about 1e6: unrefined, f32 eigenvectors would leave some 1e-2.
            let lambda = 1e-6 * found.mean_square;
            let rows = tensor(&v, &found.curvature.like().device(), found.curvature.like().dtype());
            let solution = Exact.prepare(&found.curvature, lambda).and_then(|inverse| inverse.apply(rows));
            let solution = solution.expect("it is positive definite");
            assert!(solution.converged() && solution.residual() < 1e-8, "{what}: {}", solution.residual());
            let stored = matrix(found.curvature.precise().to_dense());
            assert_close(what, &values(solution.x), &exact(&stored, lambda, &v).values, 1e-6);
        });
    }
}

#[test]
fn without_any_gradient_the_inverse_is_a_division() {
    let layer = Layer {
        inputs: (0..4).map(|s| Matrix::noise(2, 3, s)).collect(),
        deltas: vec![Matrix::from_fn(2, 2, |_, _| 0.0); 4],
    };
    let v = Matrix::noise(1, 6, 1);
    for storage in [KFAC, EKFAC, TWO_SIDED, CORRECTED] {
        each(&layer, storage, &[], |what, found, _| {
            assert_eq!(found.mean_square, 0.0, "{what}");
            let rows = tensor(&v, &found.curvature.like().device(), found.curvature.like().dtype());
            let solution = Exact.prepare(&found.curvature, 0.5).and_then(|inverse| inverse.apply(rows));
            let expected: Vec<f64> = v.values.iter().map(|v| 2.0 * v).collect();
            assert_close(what, &values(solution.expect("λ is positive").x), &expected, 1e-6);
        });
    }
}
