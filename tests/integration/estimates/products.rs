//! Products with the Hessian and the Gauss-Newton matrix against the matrices written out.

use std::sync::Arc;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use hyperinf::gradients::{
    Block, Difference, GradientError, Gradients, Products, Tape, Target, Task, gauss_newton_products, gradients,
    gradients_looped, hessian_products,
};
use hyperinf_tests::compare::{assert_close, largest, matrix, tensor, values};
use hyperinf_tests::oracle::Matrix;

use super::case::{Batch, Data, Net, NetTask, gauss_newton, hessian};
use super::each_case;

const ALL: &[&[usize]] = &[&[0, 1, 2, 3, 4]];
const PARTS: &[&[usize]] = &[&[0, 1], &[2, 4], &[3]];

/// Rows of noise in the blocks of the task.
fn directions(task: &NetTask, batch: &Batch, rows: usize) -> (Gradients, Matrix) {
    let found = gradients(task, batch, Target::Loss).expect("the network is well-formed");
    let size: usize = found.parameters();
    let noise = Matrix::noise(rows, size, 77);
    let mut from = 0;
    let blocks = found.layout.iter().zip(&found.blocks).map(|(block, like)| {
        let part = Matrix::from_fn(rows, block.parameters(), |i, j| 3.0 * noise.at(i, from + j));
        from += block.parameters();
        tensor(&part, &like.device(), like.dtype()).reshape([rows, block.rows, block.cols])
    });
    let blocks = blocks.collect();
    let scaled = Matrix::from_fn(rows, size, |i, j| 3.0 * noise.at(i, j));
    (Gradients::new(found.layout.clone(), blocks).expect("the layout fits"), scaled)
}

type Compute = fn(&NetTask, &[Batch], &Gradients) -> Result<Products, GradientError>;

/// Products of three directions are those of the dense matrix, and what is said of their errors is true.
fn check(compute: Compute, dense: fn(&Data, &Device, DType) -> Matrix, semidefinite: bool) {
    for groups in [ALL, PARTS] {
        each_case(groups, |what, _, data, device, dtype, task, batches| {
            // The oracle is in f64 wherever there is f64.
            let exact = dense(data, device, if device.supports_dtype(DType::F64) { DType::F64 } else { dtype });
            let (rows, c) = directions(task, &batches[0], 3);
            let found = compute(task, batches, &rows).expect("the products can be computed");
            let expected = c.times(&exact.transpose());
            let product = matrix(found.rows.merged().blocks[0].clone());
            let tolerance = if dtype == DType::F64 { 1e-7 } else { 3e-3 };
            assert!(largest(&expected.values) > 0.1, "{what}: nothing to compare");
            assert_close(what, &product.values, &expected.values, tolerance);

            let square = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>();
            let away: Vec<f64> = product.row(0).iter().zip(expected.row(0)).map(|(a, b)| a - b).collect();
            let error = (square(&away) / square(expected.row(0))).sqrt();
            let told = found.error.expect("it is measured");
            assert!(told < 3.0 * tolerance, "{what}: an error of {told}");
            // Rounding errors are independent at each point; the f64 oracle is accurate to about 1e-11.
            assert!(error < 10.0 * told + 1e-9, "{what}: the error is {error}, not {told}");
            let apart = found.asymmetry.expect("three directions");
            assert!(apart < 3.0 * tolerance, "{what}: asymmetry {apart}");
            for (k, rayleigh) in found.rayleigh.iter().enumerate() {
                let expected = c.row(k).iter().zip(expected.row(k)).map(|(a, b)| a * b).sum::<f64>() / square(c.row(k));
                assert!((rayleigh - expected).abs() < tolerance * largest(&exact.values), "{what}: {rayleigh}");
                assert!(!semidefinite || *rayleigh > 0.0, "{what}: {rayleigh}");
            }
        });
    }
}

#[test]
fn products_with_the_hessian_are_those_of_the_dense_matrix() {
    check(|task, batches, rows| hessian_products(task, batches, rows, Difference::default()), hessian, false);
}

#[test]
fn products_with_gauss_newton_are_those_of_the_dense_matrix() {
    check(|task, batches, rows| gauss_newton_products(task, batches, rows, Difference::default()), gauss_newton, true);
}

#[test]
fn a_direction_of_zeros_has_the_product_zero() {
    each_case(ALL, |what, _, _, _, _, task, batches| {
        let (rows, _) = directions(task, &batches[0], 2);
        let blocks = rows.blocks.iter().map(|block| {
            let zero = block.clone().narrow(0, 0, 1).zeros_like();
            Tensor::cat(vec![zero, block.clone().narrow(0, 1, 1)], 0)
        });
        let with_zero = Gradients::new(rows.layout.clone(), blocks.collect()).expect("the layout fits");
        let products = |rows: &Gradients| {
            hessian_products(task, batches, rows, Difference::default()).expect("the products can be computed")
        };
        let (found, both) = (products(&with_zero), products(&rows));
        let (found_rows, expected) = (matrix(found.rows.merged().blocks[0].clone()), both.rows.merged());
        assert_eq!(largest(found_rows.row(0)), 0.0, "{what}");
        assert_eq!(found_rows.row(1), matrix(expected.blocks[0].clone()).row(1), "{what}");
        assert_eq!(found.rayleigh[0], 0.0, "{what}");
        assert!(found.error > Some(0.0), "{what}: the other direction is probed");
    });
}

#[test]
fn an_error_that_is_not_measured_is_not_told() {
    each_case(ALL, |what, _, _, _, _, task, batches| {
        let (rows, _) = directions(task, &batches[0], 2);
        let found = |measured| {
            let difference = Difference { measured, ..Difference::default() };
            gauss_newton_products(task, batches, &rows, difference).expect("the products can be computed")
        };
        let (plain, measured) = (found(false), found(true));
        assert!(plain.error.is_none() && measured.error.is_some(), "{what}");
        let bits = |found: &Products| matrix(found.rows.merged().blocks[0].clone()).values;
        assert_eq!(bits(&plain), bits(&measured), "{what}");
    });
}

#[test]
fn products_that_cannot_be_are_errors() {
    each_case(ALL, |what, _, _, _, _, task, batches| {
        let (rows, _) = directions(task, &batches[0], 1);
        let error = |batches: &[Batch], rows: &Gradients, length: Option<f64>| {
            let found = hessian_products(task, batches, rows, Difference { length, ..Difference::default() });
            found.map(|_| ()).expect_err(what).to_string()
        };
        let fewer = Gradients::new(vec![rows.layout[0].clone()], vec![rows.blocks[0].clone()]).expect("one block");
        assert!(error(batches, &fewer, None).contains("`head` of 4 × 3"), "{what}");
        assert!(error(&[], &rows, None).contains("no batches"), "{what}");
        assert!(error(batches, &rows, Some(0.0)).contains("displacement is 0"), "{what}");
        let none = rows.blocks.iter().map(|block| block.clone().slice([0..0])).collect();
        let none = Gradients::new(rows.layout.clone(), none).expect("the layout fits");
        assert!(error(batches, &none, None).contains("no directions"), "{what}");
        assert!(error(batches, &rows, Some(f64::INFINITY)).contains("displacement is inf"), "{what}");
    });
}

/// A task whose loss overflows far from its parameters.
struct Steep<'a>(&'a NetTask);

impl Task for Steep<'_> {
    type Batch = Batch;

    fn forward(&self, batch: &Batch, tape: &mut Tape) -> Tensor<2> {
        self.0.forward(batch, tape)
    }

    fn loss(&self, outputs: Tensor<2>, batch: &Batch) -> Tensor<1> {
        self.0.loss(outputs.exp(), batch)
    }
}

#[test]
fn a_product_that_is_not_finite_is_an_error() {
    each_case(ALL, |what, _, _, _, _, task, batches| {
        let steep = Steep(task);
        let (rows, _) = directions(task, &batches[0], 2);
        let with = |length| {
            let difference = Difference { length: Some(length), ..Difference::default() };
            hessian_products(&steep, batches, &rows, difference)
        };
        assert!(with(1e-3).is_ok(), "{what}");
        let found = with(1e6).expect_err(what);
        assert!(matches!(found, GradientError::Product { direction: 0, step: 1e6, .. }), "{what}: {found}");
        assert!(found.to_string().contains("a shorter step than 1e6 may help"), "{what}: {found}");
    });
}

/// A task whose gradients of positions are kept apart.
struct Apart(NetTask);

impl Task for Apart {
    type Batch = Batch;

    fn forward(&self, batch: &Batch, tape: &mut Tape) -> Tensor<2> {
        tape.stack(3);
        self.0.forward(batch, tape)
    }

    fn loss(&self, outputs: Tensor<2>, batch: &Batch) -> Tensor<1> {
        self.0.loss(outputs, batch)
    }
}

#[test]
fn positions_kept_apart_are_refused() {
    each_case(ALL, |what, _, _, device, dtype, task, batches| {
        let (rows, _) = directions(task, &batches[0], 1);
        let apart = Apart(NetTask(Net::new(device, dtype)));
        let error = hessian_products(&apart, batches, &rows, Difference::default()).map(|_| ()).expect_err(what);
        assert!(matches!(error, GradientError::Stacked { .. }), "{what}: {error}");
    });
}

// ---- every kind of layer -------------------------------------------------------------------------------------------

/// The product with the parameters themselves, which moves every entry of every block, is what the gradients of a loop
/// over modules with scaled parameters say. `of_block` arranges parameters as a block.
pub(crate) fn check_product_with_itself<M: Module, T: Task>(
    what: &str,
    (model, loss): (&M, &impl Fn(&M, usize) -> Tensor<1>),
    samples: usize,
    (task, batch): (&T, &T::Batch),
    of_block: impl Fn(&Gradients, &Block) -> Vec<f64>,
    (step, tolerance): (f64, f64),
) {
    let found = gradients(task, batch, Target::Loss).expect("the network is well-formed");
    let layout: Arc<[Block]> = found.layout.clone();
    // The gradient of half the squared norm.
    let own = gradients_looped(model, 1, |model, _| half_squares(model)).expect("it has parameters");
    let like = &found.blocks[0];
    let blocks = layout.iter().map(|block| {
        let data = TensorData::new(of_block(&own, block), [1, block.rows, block.cols]);
        Tensor::<3>::from_data(data, (&like.device(), like.dtype()))
    });
    let direction = Gradients::new(layout.clone(), blocks.collect()).expect("the layout fits");
    let norm = direction.squared_norms().expect("finite")[0].sqrt();
    let length = Some(step * norm);
    let product = hessian_products(task, [batch], &direction, Difference { length, ..Difference::default() })
        .expect("it can be computed");
    let at = |factor: f64| {
        let names = layout.iter().map(|block| block.name.clone()).collect();
        let mut scaling = Scaling { path: Vec::new(), names, factor };
        gradients_looped(&model.clone().map(&mut scaling), samples, loss).expect("it works for every module").sum()
    };
    let (ahead, behind) = (at(1.0 + step), at(1.0 - step));
    for (block, found) in layout.iter().zip(product.rows.blocks) {
        let (ahead, behind) = (of_block(&ahead, block), of_block(&behind, block));
        let expected: Vec<f64> =
            ahead.iter().zip(behind).map(|(a, b)| (a - b) / (2.0 * step * samples as f64)).collect();
        assert!(largest(&expected) > 1e-3, "{what}, {}: too small to show anything", block.name);
        assert_close(&format!("{what}, {}", block.name), &values(found), &expected, tolerance);
    }
}

fn half_squares<M: Module>(model: &M) -> Tensor<1> {
    struct Sum(Option<Tensor<1>>);
    impl ModuleVisitor for Sum {
        fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
            let squares = param.val().square().sum().div_scalar(2.0);
            self.0 = Some(match self.0.take() {
                Some(sum) => sum + squares,
                None => squares,
            });
        }
    }
    let mut sum = Sum(None);
    model.visit(&mut sum);
    sum.0.expect("a module with parameters")
}

/// Multiplies the parameters of these layers.
struct Scaling {
    path: Vec<String>,
    names: Vec<String>,
    factor: f64,
}

impl ModuleMapper for Scaling {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const R: usize>(&mut self, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let path = self.path.join(".");
        let within = |name: &String| path == *name || path.starts_with(&format!("{name}."));
        if !self.names.iter().any(within) {
            return param;
        }
        let factor = self.factor;
        param.map(|old| Tensor::from_inner(old.inner().mul_scalar(factor)).require_grad())
    }
}
