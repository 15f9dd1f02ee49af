//! The swarm of one node as a state machine: what to ask of whom, what to send to whom, when to go
//! to the origin. No socket, file, clock, task, lock or global rng: `now` and the rng's seed are
//! arguments, inputs are `handle_*`, outputs are `poll_*`.

mod action;
mod message;
mod source;

pub use action::{Action, Misbehaviour, TaskFailure};
pub use message::{Envelope, Message, Refusal};
pub use source::{Secret, Source};
