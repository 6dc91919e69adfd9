use crate::{
    Auto, BlockCg, Cg, Chebyshev, DataInf, Exact, Hyperpower, Identity, Lanczos, Lissa, Nystrom, Order, Solver,
    SpectralSolver,
};

/// Every solver of this crate with its defaults.
pub fn solvers() -> Vec<Box<dyn Solver>> {
    vec![
        Box::new(Identity),
        Box::new(Exact),
        Box::new(Hyperpower::default()),
        Box::new(Hyperpower::of_order(Order::Three)),
        Box::new(Hyperpower::of_order(Order::Five)),
        Box::new(Hyperpower::of_order(Order::Seven)),
        Box::new(Hyperpower::of_order(Order::Nine)),
        Box::new(Hyperpower::authors()),
        Box::new(SpectralSolver),
        Box::new(Auto::default()),
        Box::new(DataInf),
        Box::new(Lissa::default()),
        Box::new(Lissa::stochastic()),
        Box::new(Cg::default()),
        Box::new(BlockCg::default()),
        Box::new(Chebyshev::default()),
        Box::new(Lanczos::default()),
        Box::new(Nystrom::default()),
    ]
}

/// The solver of that name with its defaults.
pub fn solver(name: &str) -> Option<Box<dyn Solver>> {
    solvers().into_iter().find(|s| s.name() == name)
}
