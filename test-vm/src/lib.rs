//! The testbed of Hawker: a cluster on one machine, with real daemons.
//!
//! Who calls it: `test-vm/demo` and `test-vm/test` through the binary `hawker-test-vm`; nothing of
//! the product imports it.
//!
//! How it is built, from below:
//! * [`bed`]: hosts as namespaces on a bridge, links with rate, delay and loss, processes with
//!   logs. Whatever happens to the testbed's own process, nothing of a bed outlives it.
//! * [`registry`]: a real registry behind a counter of requests and bytes, which can be told to
//!   misbehave; [`token`]: the service that issues tokens for it; [`pki`], [`proxy`]: what else
//!   private registries stand behind.
//! * [`image`]: images of real content and of synthetic oddities, cached, pushed by digest.
//! * [`cluster`]: Hawker's daemons, containerd and dockerd on the hosts.
//! * [`liar`]: a host of the cluster that lies.
//! * [`demo`], [`bench`], [`cases`], [`matrix`], [`access`], [`hostile`]: what people run.

pub mod access;
pub mod bed;
pub mod bench;
pub mod cache;
pub mod cases;
pub mod cluster;
pub mod demo;
pub mod hostile;
pub mod http;
pub mod image;
pub mod liar;
pub mod matrix;
pub mod pki;
pub mod progress;
pub mod proxy;
pub mod registry;
mod server;
mod sys;
mod table;
pub mod token;
pub mod tools;
mod tree;

pub use sys::require_root;
