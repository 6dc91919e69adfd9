//! What the integration tests need: devices, oracles, strategies, fixtures and one comparison.

mod devices;

pub mod compare;
pub mod decoder;
pub mod digits;
pub mod encoder;
pub mod fixtures;
pub mod oracle;
pub mod strategies;

pub use devices::devices;
