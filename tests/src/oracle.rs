//! The definitions, in f64 on plain vectors: slow, and sharing no code with the crates that they check.
//!
//! Letters and orientation are those of the project: rows are samples, operators act on rows from the right.

/// A dense matrix of f64 in row-major order, with the few operations that the definitions need.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows · cols` values, row by row.
    pub values: Vec<f64>,
}

impl Matrix {
    /// The matrix with the entry `f(i, j)` in row `i` and column `j`.
    pub fn from_fn(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> f64) -> Self {
        let values = (0..rows * cols).map(|k| f(k / cols, k % cols)).collect();
        Self { rows, cols, values }
    }

    /// Values between −1 and 1 that look random, the same for the same seed.
    pub fn noise(rows: usize, cols: usize, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678;
        Self::from_fn(rows, cols, |_, _| {
            // Knuth's linear congruential generator; its high bits are good enough for test values.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 23) - 1.0
        })
    }

    /// `I`, `[d, d]`.
    pub fn identity(d: usize) -> Self {
        Self::from_fn(d, d, |i, j| f64::from(u8::from(i == j)))
    }

    /// The entry in row `i` and column `j`.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.cols + j]
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.cols..(i + 1) * self.cols]
    }

    /// `selfᵀ`.
    pub fn transpose(&self) -> Self {
        Self::from_fn(self.cols, self.rows, |i, j| self.at(j, i))
    }

    /// `self · other`.
    pub fn times(&self, other: &Self) -> Self {
        assert_eq!(self.cols, other.rows, "inner dimensions");
        Self::from_fn(self.rows, other.cols, |i, j| (0..self.cols).map(|k| self.at(i, k) * other.at(k, j)).sum())
    }

    /// `self + factor · other`.
    pub fn plus(&self, factor: f64, other: &Self) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols), "shapes");
        Self::from_fn(self.rows, self.cols, |i, j| self.at(i, j) + factor * other.at(i, j))
    }

    /// The sum of the diagonal.
    pub fn trace(&self) -> f64 {
        (0..self.rows).map(|i| self.at(i, i)).sum()
    }

    /// The inverse of a symmetric positive definite matrix, by Gauss–Jordan elimination with row exchanges.
    pub fn inverse(&self) -> Self {
        let d = self.rows;
        let mut left = self.clone();
        let mut right = Self::identity(d);
        for pivot in 0..d {
            let best = (pivot..d).max_by(|&i, &j| left.at(i, pivot).abs().total_cmp(&left.at(j, pivot).abs()));
            let best = best.expect("the range holds at least the pivot itself");
            for matrix in [&mut left, &mut right] {
                for j in 0..d {
                    matrix.values.swap(pivot * d + j, best * d + j);
                }
            }
            let scale = left.at(pivot, pivot);
            assert!(scale != 0.0, "the oracle was given a singular matrix");
            for matrix in [&mut left, &mut right] {
                for j in 0..d {
                    matrix.values[pivot * d + j] /= scale;
                }
            }
            for i in (0..d).filter(|&i| i != pivot) {
                let factor = left.at(i, pivot);
                for matrix in [&mut left, &mut right] {
                    for j in 0..d {
                        matrix.values[i * d + j] -= factor * matrix.values[pivot * d + j];
                    }
                }
            }
        }
        right
    }
}

/// The per-sample gradient of a linear layer, `g = Σ_t a_t ⊗ δ_t`, `[rows, cols]`, for `a` `[t, rows]` and `δ`
/// `[t, cols]`.
pub fn per_sample(a: &Matrix, delta: &Matrix) -> Matrix {
    assert_eq!(a.rows, delta.rows, "positions");
    Matrix::from_fn(a.cols, delta.cols, |i, j| (0..a.rows).map(|t| a.at(t, i) * delta.at(t, j)).sum())
}

/// `F = (1/n) Σ g_i g_iᵀ`, `[D, D]`, for samples in the rows of `[n, D]`.
pub fn fisher(samples: &Matrix) -> Matrix {
    let n = samples.rows;
    Matrix::from_fn(samples.cols, samples.cols, |a, b| {
        (0..n).map(|i| samples.at(i, a) * samples.at(i, b)).sum::<f64>() / n as f64
    })
}

/// The side of a block that the GFIM sums over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contracted {
    /// Inputs.
    Rows,
    /// Outputs.
    Cols,
}

/// The GFIM written out, `[D, D]`, for samples `[n, rows · cols]`: entry `((r, c), (r', c'))` is
/// `δ_rr' · (1/n) Σ_i Σ_s g_i[s, c] g_i[s, c']` with the rows contracted, and likewise for the columns; divided by
/// the contracted length if `mean`.
pub fn gfim(samples: &Matrix, rows: usize, cols: usize, contracted: Contracted, mean: bool) -> Matrix {
    assert_eq!(samples.cols, rows * cols, "parameters");
    let n = samples.rows;
    let g = |i: usize, r: usize, c: usize| samples.at(i, r * cols + c);
    Matrix::from_fn(rows * cols, rows * cols, |a, b| {
        let ((r, c), (r2, c2)) = ((a / cols, a % cols), (b / cols, b % cols));
        let (same, length) = match contracted {
            Contracted::Rows => (r == r2, rows),
            Contracted::Cols => (c == c2, cols),
        };
        if !same {
            return 0.0;
        }
        let sum: f64 = (0..n)
            .flat_map(|i| (0..length).map(move |s| (i, s)))
            .map(|(i, s)| match contracted {
                Contracted::Rows => g(i, s, c) * g(i, s, c2),
                Contracted::Cols => g(i, r, s) * g(i, r2, s),
            })
            .sum();
        sum / (n * if mean { length } else { 1 }) as f64
    })
}

/// `V (H + λI)⁻¹`, `[q, D]`.
pub fn exact(h: &Matrix, lambda: f64, v: &Matrix) -> Matrix {
    v.times(&h.plus(lambda, &Matrix::identity(h.rows)).inverse())
}

/// DataInf as it is defined: `V · (1/n) Σ_i (g_i g_iᵀ + λI)⁻¹`, `[q, D]`.
pub fn datainf(samples: &Matrix, lambda: f64, v: &Matrix) -> Matrix {
    let (n, d) = (samples.rows, samples.cols);
    let damped = |i: usize| {
        let g = samples.row(i);
        Matrix::from_fn(d, d, |a, b| g[a] * g[b] + if a == b { lambda } else { 0.0 })
    };
    let zero = Matrix::from_fn(d, d, |_, _| 0.0);
    let mean = (0..n).fold(zero, |sum, i| sum.plus(1.0 / n as f64, &damped(i).inverse()));
    v.times(&mean)
}

/// What `steps` Schulz steps `X ← X(2I − AX)` from `X = a·I` make of an eigenvalue `μ` of `A`:
/// `x_k(μ) = (1 − (1 − aμ)^(2^k)) / μ`.
pub fn schulz_map(a: f64, mu: f64, steps: u32) -> f64 {
    let mut error = 1.0 - a * mu;
    for _ in 0..steps {
        error *= error;
    }
    (1.0 - error) / mu
}

/// `Q diag(f(μ)) Qᵀ` for eigenvectors in the columns of `Q`.
pub fn spectral(basis: &Matrix, eigenvalues: &[f64], f: impl Fn(f64) -> f64) -> Matrix {
    let scaled = Matrix::from_fn(basis.rows, basis.cols, |i, j| basis.at(i, j) * f(eigenvalues[j]));
    scaled.times(&basis.transpose())
}

/// The eigenvalues of a symmetric matrix, largest first, by Jacobi's rotations.
pub fn eigenvalues(matrix: &Matrix) -> Vec<f64> {
    let d = matrix.rows;
    let mut a = matrix.clone();
    for _ in 0..60 {
        for p in 0..d {
            for q in p + 1..d {
                let (app, aqq, apq) = (a.at(p, p), a.at(q, q), a.at(p, q));
                if apq == 0.0 {
                    continue;
                }
                let theta = 0.5 * (2.0 * apq).atan2(aqq - app);
                let (sin, cos) = theta.sin_cos();
                for k in 0..d {
                    let (kp, kq) = (a.at(k, p), a.at(k, q));
                    (a.values[k * d + p], a.values[k * d + q]) = (cos * kp - sin * kq, sin * kp + cos * kq);
                }
                for k in 0..d {
                    let (pk, qk) = (a.at(p, k), a.at(q, k));
                    (a.values[p * d + k], a.values[q * d + k]) = (cos * pk - sin * qk, sin * pk + cos * qk);
                }
            }
        }
    }
    let mut found: Vec<f64> = (0..d).map(|i| a.at(i, i)).collect();
    found.sort_by(|x, y| y.total_cmp(x));
    found
}

/// `λ = 0.1 · mean(g²)`, the default damping.
pub fn relative_damping(samples: &Matrix) -> f64 {
    0.1 * samples.values.iter().map(|g| g * g).sum::<f64>() / samples.values.len() as f64
}

/// `X Jᵀ`, `[q, n]`: scores of samples `[n, D]` for preconditioned queries `[q, D]`.
pub fn scores(x: &Matrix, samples: &Matrix) -> Matrix {
    x.times(&samples.transpose())
}
