use burn::tensor::{DType, Tensor};
use hyperinf_linalg::{ReadError, normal_product, outer, scalars};

use crate::{Core, Curvature, SampleRows, Structure, Structured};

/// The samples themselves: `H = RᵀR/m`.
#[derive(Clone, Debug)]
pub struct Samples {
    /// `R`, one sample per row, `[m, D]`.
    pub rows: Tensor<2>,
}

impl Structured for Samples {
    fn structure(&self) -> Structure {
        Structure::Samples
    }

    fn parameters(&self) -> usize {
        self.rows.dims()[1]
    }

    fn apply(&self, v: Tensor<2>) -> Tensor<2> {
        let m = self.rows.dims()[0] as f64;
        normal_product(v, self.rows.clone(), |products, _| products.div_scalar(m)).0
    }

    fn diagonal(&self) -> Tensor<2> {
        self.rows.clone().square().mean_dim(0)
    }

    fn trace(&self) -> Result<f64, ReadError> {
        let m = self.rows.dims()[0] as f64;
        Ok(scalars(self.rows.clone(), self.rows.clone())?.iter().sum::<f64>() / m)
    }

    fn to_dense(&self) -> Tensor<2> {
        outer(self.rows.clone()).div_scalar(self.rows.dims()[0] as f64)
    }

    fn core(&self) -> Core<'_> {
        Core::Samples(SampleRows::Formed(self.rows.clone()))
    }

    fn with_core(&self, core: Tensor<2>) -> Curvature {
        Curvature::Samples(Self { rows: core })
    }

    fn cast(&self, dtype: DType) -> Curvature {
        self.with_core(self.rows.clone().cast(dtype))
    }
}
