//! What the integration tests share: the devices, the oracles and the fixtures.

mod devices;

pub use devices::devices;
