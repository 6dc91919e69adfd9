use super::rows::{Hessian, Rows, dot};
use crate::{Retrain, TruthError};

/// Ridge regression: `Σ_i ½ (x_i θ − y_i)² + α/2 ||θ||²`, whose minimum is a linear system.
#[derive(Clone, Debug, PartialEq)]
pub struct Ridge {
    /// Training samples.
    pub train: Rows,
    /// Queries, with as many features.
    pub queries: Rows,
    /// α, not divided by the number of samples; positive.
    pub penalty: f64,
}

impl Ridge {
    /// `θ` for a subset of the samples: `(XᵀX + αI)⁻¹ Xᵀy`.
    ///
    /// # Errors
    ///
    /// If the matrix is not positive definite.
    pub fn fit(&self, subset: &[usize]) -> Result<Vec<f64>, TruthError> {
        let hessian = Hessian::new(&self.train, subset, |_| 1.0, self.penalty)?;
        let mut right = vec![0.0; self.train.width];
        for &i in subset {
            right.iter_mut().zip(self.train.row(i)).for_each(|(sum, x)| *sum += x * self.train.targets[i]);
        }
        Ok(hessian.solve(&right))
    }

    /// The effect of leaving each sample out on each query's loss `½ (x θ − y)²`, exactly and without retraining,
    /// `[q][n]`; positive = helpful.
    ///
    /// From one factorisation (Cook 1977): `θ_{−i} = θ + H⁻¹ x_i r_i / (1 − h_i)` with `r_i = x_i θ − y_i` and the
    /// leverage `h_i = x_i H⁻¹ x_i`.
    ///
    /// # Errors
    ///
    /// If the matrix is not positive definite.
    pub fn leave_one_out(&self) -> Result<Vec<Vec<f64>>, TruthError> {
        self.changes(|query, shift, residual, leverage| {
            let after = query + shift * residual / (1.0 - leverage);
            (after * after - query * query) / 2.0
        })
    }

    /// The first-order effect: `v H⁻¹ g_i` with the exact Hessian `H = XᵀX + αI`, the gradients `g_i = x_i r_i` and
    /// `v` of the query, `[q][n]`. An influence score with damping `α/n`, over n.
    ///
    /// # Errors
    ///
    /// If the matrix is not positive definite.
    pub fn influence(&self) -> Result<Vec<Vec<f64>>, TruthError> {
        self.changes(|query, shift, residual, _| query * shift * residual)
    }

    /// `change(query's residual, x_q H⁻¹ x_i, r_i, h_i)` for each query and sample.
    fn changes(&self, change: impl Fn(f64, f64, f64, f64) -> f64) -> Result<Vec<Vec<f64>>, TruthError> {
        let Self { train, queries, penalty } = self;
        let all: Vec<usize> = (0..train.len()).collect();
        let theta = self.fit(&all)?;
        let hessian = Hessian::new(train, &all, |_| 1.0, *penalty)?;
        let solved: Vec<Vec<f64>> = all.iter().map(|&i| hessian.solve(train.row(i))).collect();
        let of_query = |q: usize| {
            let residual = queries.output(q, &theta) - queries.targets[q];
            let of_sample = |&i: &usize| {
                let own = train.output(i, &theta) - train.targets[i];
                change(residual, dot(queries.row(q), &solved[i]), own, dot(train.row(i), &solved[i]))
            };
            all.iter().map(of_sample).collect()
        };
        Ok((0..queries.len()).map(of_query).collect())
    }
}

impl Retrain for Ridge {
    fn samples(&self) -> usize {
        self.train.len()
    }

    fn queries(&self) -> usize {
        self.queries.len()
    }

    fn fingerprint(&self) -> String {
        format!("ridge {:016x} {:016x}, penalty {}", self.train.checksum(), self.queries.checksum(), self.penalty)
    }

    fn query_losses(&self, subset: &[usize], _seed: u64) -> Result<Vec<f64>, TruthError> {
        let theta = self.fit(subset)?;
        let loss = |q| 0.5 * (self.queries.output(q, &theta) - self.queries.targets[q]).powi(2);
        Ok((0..self.queries.len()).map(loss).collect())
    }
}
