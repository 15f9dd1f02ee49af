//! The scheduler daemon
