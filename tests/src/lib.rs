//! Shared parts of the integration tests: devices, oracles, strategies, fixtures and one comparison.

mod devices;
mod one_query;
#[cfg(doctest)]
mod readmes;

pub mod compare;
pub mod decoder;
pub mod digits;
pub mod encoder;
pub mod fixtures;
pub mod oracle;
pub mod pipelines;
pub mod readers;
pub mod stores;
pub mod strategies;

pub use devices::devices;
