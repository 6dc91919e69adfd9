//! What the integration tests need: devices, oracles, strategies, fixtures and one comparison.

mod devices;

pub mod compare;
pub mod digits;
pub mod fixtures;
pub mod oracle;
pub mod strategies;

pub use devices::devices;
