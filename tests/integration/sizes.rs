//! Captures and dampings of every size, as in `scales` for gradients.

use burn::tensor::{DType, Device};
use hyperinf::curvature::Damping;
use hyperinf::gradients::Capture;
use hyperinf::scoring::{Batch, CurvatureFrom, Options, ScoreError, Source, attribute, methods};
use hyperinf_tests::oracle::{Matrix, scores};

use crate::kronecker::Layer;
use crate::scales::{COLS, ROWS, Spectrum, device, power_near, rows, stored};

/// The captures of one layer.
struct OneLayer(Capture);

impl OneLayer {
    /// With inputs and output gradients times these powers of two.
    fn new(layer: &Layer, [input, delta]: [f64; 2], dtype: DType, device: &Device) -> Self {
        let times = |parts: &[Matrix], scale: f64| {
            let single = |value: f64| f64::from(value as f32) * scale;
            parts.iter().map(|m| Matrix::from_fn(m.rows, m.cols, |i, j| single(m.at(i, j)))).collect()
        };
        let scaled =
            Layer { inputs: times(&layer.inputs, power_near(input)), deltas: times(&layer.deltas, power_near(delta)) };
        Self(scaled.capture(device, dtype))
    }
}

impl Source for OneLayer {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        visit(vec![self.0.clone()].into())
    }
}

#[test]
fn inputs_and_output_gradients_of_every_size() {
    let device = device();
    for (name, positions) in [("kfac", 1), ("kfac", 3), ("ekfac", 1), ("ekfac", 3)] {
        let [train, query] = [(9, 1), (2, 2)].map(|(n, seed)| Layer::noise([n, positions, ROWS, COLS], seed));
        let options = Options { damping: Damping::Relative(1e-3), ..Options::named(name).expect("a method") };
        let of = |g: [f64; 2], v: [f64; 2], dtype| {
            let (train, query) = (OneLayer::new(&train, g, dtype, &device), OneLayer::new(&query, v, dtype, &device));
            let found = attribute(&train, &query, CurvatureFrom::Training, &options);
            found.unwrap_or_else(|error| panic!("{name}, {g:?} and {v:?} in {dtype:?}: {error}")).scores.rows.concat()
        };
        let expected = of([1.0, 1.0], [1.0, 1.0], DType::F64);
        let largest = expected.iter().fold(0.0_f64, |most, e| most.max(e.abs()));
        for g in [[1e12, 1e12], [1e-12, 1e-12], [1e25, 1e-25], [1e-25, 1e25], [1e30, 1.0], [1.0, 1e-30]] {
            for v in [[1.0, 1.0], [1e-14, 1e-14], [1e28, 1e-28], [1.0, 1e30]] {
                for dtype in [DType::F32, DType::F64] {
                    let power = |[input, delta]: [f64; 2]| power_near(input) * power_near(delta);
                    let unit = power(v) / power(g);
                    let off = of(g, v, dtype).into_iter().zip(&expected).map(|(f, e)| (f / unit - e).abs());
                    let off = off.fold(0.0, f64::max);
                    let what = format!("{name}, {positions} positions, {g:?} and {v:?} in {dtype:?}");
                    assert!(off <= 1e-3 * largest, "{what}: off by {:e}", off / largest);
                }
            }
        }
    }
}

/// Next to such a damping the inverse is `I/λ`.
#[test]
fn dampings_of_every_size() {
    let device = device();
    for (n, spectrum) in [(7, Spectrum::Few), (40, Spectrum::Falling)] {
        let (j, v) = (rows(n, 1, spectrum), rows(2, 2, Spectrum::Few));
        let expected = scores(&v, &j).values;
        let largest = expected.iter().fold(0.0_f64, |most, e| most.max(e.abs()));
        for info in methods().iter().filter(|info| info.has_curvature() && !info.needs_captures()) {
            if info.name == "hyperinf-authors" {
                continue;
            }
            for lambda in [1e16, 1e20, 1e30, 1e50, 1e77, 1e100, 1e200, 1e270] {
                for dtype in [DType::F32, DType::F64] {
                    let options = Options::named(info.name).expect("a method");
                    let options = Options { damping: Damping::Absolute(lambda), ..options };
                    let (train, query) = (stored(&j, 1.0, dtype, &device), stored(&v, 1.0, dtype, &device));
                    let what = format!("{}, {n} samples, λ = {lambda:e} in {dtype:?}", info.name);
                    let found = attribute(&train, &query, CurvatureFrom::Training, &options);
                    let found = found.unwrap_or_else(|error| panic!("{what}: {error}")).scores.rows.concat();
                    let off = found.iter().zip(&expected).map(|(f, e)| (f * lambda - e).abs()).fold(0.0, f64::max);
                    assert!(off <= 1e-5 * largest, "{what}: off by {:e}", off / largest);
                }
            }
        }
    }
}
