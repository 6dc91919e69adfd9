use crate::{BlockCg, Cg, DataInf, Exact, Identity, Lanczos, Lissa, Nystrom, Schulz, Solver};

/// Every solver of this crate with its defaults.
pub fn solvers() -> Vec<Box<dyn Solver>> {
    vec![
        Box::new(Identity),
        Box::new(Exact),
        Box::new(Schulz::default()),
        Box::new(Schulz::authors()),
        Box::new(DataInf),
        Box::new(Lissa::default()),
        Box::new(Lissa::stochastic()),
        Box::new(Cg::default()),
        Box::new(BlockCg::default()),
        Box::new(Lanczos::default()),
        Box::new(Nystrom::default()),
    ]
}

/// The solver of that name with its defaults.
pub fn solver(name: &str) -> Option<Box<dyn Solver>> {
    solvers().into_iter().find(|s| s.name() == name)
}
