//! Snapshots and layers
