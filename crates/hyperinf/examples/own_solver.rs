//! A user-defined solver, used like the built-in ones: `cargo run --release -p hyperinf --example own_solver`.
//!
//! It inverts only the diagonal of the damped curvature (a Jacobi approximation), says so in its residual, and is
//! compared with the exact inverse on the gradients of a small regression.

use hyperinf::burn::nn::{Linear, LinearConfig};
use hyperinf::burn::tensor::{Distribution, Tensor};
use hyperinf::curvature::{Dense, Diagonal};
use hyperinf::prelude::*;
use hyperinf::solvers::{Inverse, Solution, SolveError, Solver, relative_residuals};

/// `X = V / (diag(H) + λ)`.
struct Jacobi;

impl Solver for Jacobi {
    fn name(&self) -> &'static str {
        "jacobi"
    }

    fn supports(&self, structure: Structure) -> bool {
        matches!(structure, Structure::Dense | Structure::Diagonal)
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        let diagonal = match h {
            Curvature::Diagonal(Diagonal { values: diagonal }) => diagonal.clone(),
            Curvature::Dense(Dense { matrix }) => {
                let eye = Tensor::<2>::eye(h.parameters(), &matrix.device()).cast(matrix.dtype());
                (matrix.clone() * eye).sum_dim(0).squeeze_dim(0)
            }
            _ => {
                let supported = Structure::ALL.into_iter().filter(|s| self.supports(*s)).collect();
                return Err(SolveError::Unsupported { solver: self.name(), structure: h.structure(), supported });
            }
        };
        Ok(Box::new(Prepared { h: h.clone(), lambda, divisor: diagonal.add_scalar(lambda) }))
    }
}

struct Prepared {
    h: Curvature,
    lambda: f64,
    divisor: Tensor<1>,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        let x = v.clone() / self.divisor.clone().unsqueeze();
        let residuals = relative_residuals(&self.h, self.lambda, x.clone(), v)?;
        // No tolerance: an approximation by design.
        Ok(Solution { x, iterations: 0, residuals, tolerance: None, products: None })
    }
}

/// Linear regression with squared error.
struct Regression {
    layer: Linear,
}

impl Task for Regression {
    type Batch = (Tensor<2>, Tensor<2>);

    fn forward(&self, (x, _): &Self::Batch, tape: &mut Tape) -> Tensor<2> {
        tape.linear("regression", &self.layer, x.clone())
    }

    fn loss(&self, outputs: Tensor<2>, (_, y): &Self::Batch) -> Tensor<1> {
        (outputs - y.clone()).square().sum_dim(1).squeeze_dim(1)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = device("flex")?;
    let task = Regression { layer: LinearConfig::new(8, 2).init(&device) };
    let normal = |n, d| Tensor::<2>::random([n, d], Distribution::Normal(0.0, 1.0), &device);
    let (train, query) = ([(normal(64, 8), normal(64, 2))], [(normal(4, 8), normal(4, 2))]);
    let (train, query) = (TaskSource::train(&task, &train), TaskSource::query(&task, &query));

    let score = |options| attribute(&train, &query, CurvatureFrom::Training, &options);
    let own = score(Options { method: Method::inverse(Storage::Dense, Jacobi), ..Options::default() })?;
    let exact = score(Options::named("exact")?)?;
    for (own, exact) in own.scores.rows.iter().zip(&exact.scores.rows) {
        println!("Spearman with the exact scores: {:.3}", hyperinf::eval::spearman(own, exact)?);
    }
    println!("residual of the Jacobi approximation: {:.3}", own.blocks[0].residual);
    Ok(())
}
