use crate::{Cg, DataInf, Exact, Identity, Lissa, Schulz, Solver};

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
    ]
}

/// The solver of that name with its defaults.
pub fn solver(name: &str) -> Option<Box<dyn Solver>> {
    solvers().into_iter().find(|s| s.name() == name)
}
