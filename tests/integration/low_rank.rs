//! Solvers by the largest eigenpairs, Lanczos's and the randomized Nyström approximation: against the definitions.

use burn::tensor::DType;
use hyperinf::curvature::{Curvature, Dense, Eigenpairs, Samples, Structured};
use hyperinf::solvers::{Lanczos, Nystrom, Solver, lanczos_eigen, nystrom_eigen};
use hyperinf_tests::compare::{assert_close, largest, matrix, tensor, values};
use hyperinf_tests::oracle::{Matrix, exact, fisher, spectral};
use hyperinf_tests::strategies::{Spd, orthogonal, rows, spd};
use proptest::prelude::*;

use crate::krylov::{logarithmic, noise, with_spectrum};
use crate::solvers::{precise_devices, solve, structures};

#[test]
fn low_rank_solvers_are_exact_at_full_rank() {
    for (name, device) in precise_devices() {
        let (v, rows) = noise(3, 12, &device);
        for (h, dense) in structures(&device) {
            // The samples have rank 7; one-sided curvatures repeat each eigenvalue three or four times.
            let rank = 12;
            for solver in [&Lanczos { rank, ..Lanczos::default() } as &dyn Solver, &Nystrom { rank, seed: 5 }] {
                let found = solve(solver, &h, 0.05, &rows);
                let what = format!("{} on {:?}, {name}", solver.name(), h.structure());
                assert_close(&what, &values(found.x.clone()), &exact(&dense, 0.05, &v).values, 1e-8);
                assert!(found.residual() < 1e-8 && found.tolerance == Some(0.1), "{what}: {:?}", found.residuals);
            }
        }
    }
}

#[test]
fn lanczos_keeps_the_largest_pairs_and_damps_the_rest() {
    for (name, device) in precise_devices() {
        let eigenvalues = logarithmic(24, -4.0, 2.0);
        let (h, dense) = with_spectrum(&eigenvalues, &device);
        let (v, rows) = noise(2, 24, &device);
        for rank in [1, 5, 23] {
            let found = solve(&Lanczos { rank, ..Lanczos::default() }, &h, 0.1, &rows);
            // H without its 24 − rank smallest eigenvalues.
            let basis = eigenvectors(&dense, &eigenvalues);
            let least = eigenvalues[24 - rank];
            let cut = spectral(&basis, &eigenvalues, |mu| if mu >= 0.999 * least { mu } else { 0.0 });
            assert_close(&format!("rank {rank}, {name}"), &values(found.x), &exact(&cut, 0.1, &v).values, 1e-8);
        }
    }
}

/// The eigenvectors of a symmetric matrix with well separated, known eigenvalues, in columns: inverse iteration.
fn eigenvectors(h: &Matrix, eigenvalues: &[f64]) -> Matrix {
    let d = h.rows;
    let columns: Vec<Matrix> = eigenvalues
        .iter()
        .map(|mu| {
            let shifted = h.plus(-mu * (1.0 + 1e-7), &Matrix::identity(d)).inverse();
            let mut row = Matrix::noise(1, d, 3);
            for _ in 0..4 {
                row = row.times(&shifted);
                let norm = row.values.iter().map(|v| v * v).sum::<f64>().sqrt();
                row.values.iter_mut().for_each(|v| *v /= norm);
            }
            row
        })
        .collect();
    Matrix::from_fn(d, d, |i, j| columns[j].values[i])
}

#[test]
fn lanczos_stops_at_the_rank_of_the_curvature() {
    for (name, device) in precise_devices() {
        let samples = Matrix::noise(5, 40, 3);
        let h = Curvature::from(Samples { rows: tensor(&samples, &device, DType::F64) });
        let (found, steps) = lanczos_eigen(&h, 20, 20, 0).expect("a good problem");
        assert!((5..=7).contains(&steps), "{name}: {steps} steps for a curvature of rank 5");
        assert_close(&name, &values(found.to_dense()), &fisher(&samples).values, 1e-12);
        // One of a multiple of the identity takes a fresh start at every step.
        let (h, dense) = with_spectrum(&[2.0; 9], &device);
        let (found, _) = lanczos_eigen(&h, 9, 0, 0).expect("a good problem");
        assert_close(&name, &values(found.to_dense()), &dense.values, 1e-12);
        let (found, _) = lanczos_eigen(&with_spectrum(&[0.0; 9], &device).0, 4, 4, 0).expect("a good problem");
        assert_eq!(largest(&values(found.to_dense())), 0.0);
    }
}

#[test]
fn a_low_rank_residual_shrinks_with_the_rank_and_is_the_true_one() {
    for (name, device) in precise_devices() {
        let (h, dense) = with_spectrum(&logarithmic(40, -4.0, 2.0), &device);
        let (v, rows) = noise(3, 40, &device);
        let solvers = |rank| -> [Box<dyn Solver>; 2] {
            [Box::new(Lanczos { rank, ..Lanczos::default() }), Box::new(Nystrom { rank, seed: 0 })]
        };
        let mut before = [f64::INFINITY; 2];
        for rank in [2, 10, 25] {
            for (solver, before) in solvers(rank).iter().zip(&mut before) {
                let found = solve(solver.as_ref(), &h, 0.01, &rows);
                let left = matrix(found.x).times(&dense.plus(0.01, &Matrix::identity(40))).plus(-1.0, &v);
                let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
                let true_ones: Vec<f64> = (0..3).map(|i| norm(left.row(i)) / norm(v.row(i))).collect();
                let what = format!("{} of rank {rank}, {name}", solver.name());
                assert_close(&what, &found.residuals, &true_ones, 1e-6);
                let worst = largest(&true_ones);
                assert!(worst < 0.5 * *before, "{what}: {worst} after {before}");
                *before = worst;
            }
        }
    }
}

/// The Nyström approximation of eigenvalues in a basis, of a rank, with its own matrix.
fn approximated(spd: &Spd, rank: usize, seed: u64) -> (Matrix, Matrix) {
    let (_, device) = precise_devices().remove(0);
    let h = spd.matrix();
    let found = nystrom_eigen(&Curvature::from(Dense { matrix: tensor(&h, &device, DType::F64) }), rank, seed);
    (matrix(found.expect("a positive definite matrix").to_dense()), h)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// `0 ≤ Ĥ ≤ H` (Frangella, Tropp and Udell 2023, section 2), seen by random rows, and `Ĥ = H` at full rank.
    #[test]
    fn nystrom_never_exceeds_the_curvature(
        spd in spd(2..=16, 0.0..5.0, -2.0..2.0),
        rank in 1..20_usize,
        seed in any::<u64>(),
        v in rows(1..=8, 16),
    ) {
        let (found, h) = approximated(&spd, rank, seed);
        let scale = largest(&h.values);
        for i in 0..v.rows {
            let row = Matrix { rows: 1, cols: h.rows, values: v.row(i)[..h.rows].to_vec() };
            let form = |m: &Matrix| row.times(m).times(&row.transpose()).at(0, 0);
            prop_assert!(form(&found) >= -1e-12 * scale && form(&found) <= form(&h) + 1e-10 * scale);
        }
        if rank >= h.rows {
            prop_assert!(largest(&found.plus(-1.0, &h).values) <= 1e-10 * scale);
        }
    }

    /// Orthonormal eigenvectors, whatever the spectrum: also where rank exceeds the curvature's.
    #[test]
    fn eigenvectors_found_are_orthonormal(basis in orthogonal(12), kept in 0..12_usize, rank in 1..15_usize) {
        let (_, device) = precise_devices().remove(0);
        let eigenvalues: Vec<f64> = (0..12).map(|i| if i < kept { 10.0_f64.powi(i as i32) } else { 0.0 }).collect();
        let h = Curvature::from(Dense { matrix: tensor(&spectral(&basis, &eigenvalues, |mu| mu), &device, DType::F64) });
        let lanczos = lanczos_eigen(&h, rank, 3, 1).expect("a good problem").0;
        for found in [lanczos, nystrom_eigen(&h, rank, 1).expect("a good problem")] {
            let Eigenpairs { vectors, .. } = found;
            let vectors = matrix(vectors);
            let gram = vectors.times(&vectors.transpose());
            prop_assert!(largest(&gram.plus(-1.0, &Matrix::identity(vectors.rows)).values) < 1e-10);
        }
    }
}
