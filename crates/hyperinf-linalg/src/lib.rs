//! Linear algebra on rows: products, decompositions, random numbers and statistics.
//!
//! Rows are vectors, everywhere: `[n, D]` is `n` vectors of length `D`, and a matrix acts on them from the right.
//! Tensors carry their backend in a runtime [`Device`](burn::tensor::Device); decompositions run on the host, in f64,
//! by [faer](https://docs.rs/faer). The crate knows neither samples nor models.
//!
//! | items | for |
//! |---|---|
//! | [`dots`], [`combine`], [`gram`], [`outer`], [`normal_product`] | products of rows, in their type or in f64 |
//! | [`squared_norms`], [`squared_norms_each`], [`norms`], [`scalars`], [`squares`], [`ratios`] | one number per row |
//! | [`host`], [`host_each`], [`tensor_from_host`], [`reads`] | the way to the host and back, and how often it was taken |
//! | [`precise`], [`epsilon`], [`least_square`] | types |
//! | [`Cholesky`], [`symmetric_eigen`], [`EigenDecomposition`], [`orthonormal`] | decompositions |
//! | [`RandomRows`] | the randomised Nyström approximation |
//! | [`rotate`], [`kronecker`] | Kronecker products |
//! | [`ByteRows`], [`ByteProbe`] | rows of one byte a number, and products with them within a bound |
//! | [`normals`], [`normal_pair`], [`seeded_normals`] | normal random numbers |
//! | [`mean`], [`standard_error`], [`quantile`], [`ranks`], [`pearson`], [`spearman`] | statistics of plain slices |
//!
//! ```
//! use burn::tensor::Tensor;
//! use hyperinf_linalg::{Cholesky, dots, gram, host};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (_, device) = hyperinf_tests::devices().remove(0);
//! let rows = Tensor::<2>::from_data([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]], &device);
//! let x = Tensor::<2>::from_data([[1.0, 1.0, 1.0]], &device);
//! assert_eq!(host(dots(x, rows.clone()))?, [3.0, 4.0]);
//!
//! // b (R Rᵀ + I)⁻¹ for b = (6, 0): the matrix is [[6, 2], [2, 11]].
//! let mut b = vec![62.0, 0.0];
//! Cholesky::new(host(gram(rows))?, 2, 1.0)?.solve(&mut b);
//! assert!((b[0] - 11.0).abs() < 1e-6 && (b[1] + 2.0).abs() < 1e-6);
//! # Ok(())
//! # }
//! ```

mod byte_rows;
mod cholesky;
mod eigen;
mod error;
mod host_gram;
mod kronecker;
mod norms;
mod nystrom;
mod orthonormal;
mod parts;
mod precision;
mod product;
mod random;
mod reads;
mod size;
mod statistics;

// The crates whose types are in signatures, so that a manifest need not name them.
pub use burn;

pub use byte_rows::{Bounded, ByteGroups, ByteProbe, ByteRows, GROUP, MISS};
pub use cholesky::Cholesky;
pub use eigen::{EigenDecomposition, symmetric_eigen};
pub use error::{MatrixError, ReadError, StatisticsError};
pub use kronecker::{kronecker, rotate};
pub use norms::{largest, leaves_range, norms, ratios, scalars, squared_norms, squared_norms_each, squares};
pub use nystrom::{NystromPairs, RandomRows};
pub use orthonormal::orthonormal;
pub use parts::reserve_for_products;
pub use precision::{
    epsilon, has_f64_functions, has_own_memory, least_square, precise, precise_type, rounds_products, tensor_from_host,
};
pub use product::{
    combine, combine_precise, diagonal, dots, dots_precise, gram, gram_precise, normal_product, outer, outer_precise,
    symmetric_product, widened,
};
pub use random::{normal_pair, normals, seeded_normals};
pub use reads::{host, host_each, reads};
pub use size::{TooLarge, check_size};
pub use statistics::{check_pair, mean, pearson, quantile, ranks, spearman, standard_error};
