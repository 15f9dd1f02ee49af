//! The streams to the schedulers.
//!
//! [`Session::spawn`] keeps one stream to every configured scheduler: it connects, says hello, and
//! connects again with back-off whatever happens. The driver tells the [`SessionHandle`] what it
//! holds and wants, without ever waiting, and gets [`SessionEvent`]s. A task is looked up and
//! announced at the one of the schedulers that are up that rendezvous hashing gives it; when one
//! comes or goes, the driver is told by [`SessionEvent::Up`] to announce everything anew, so nothing
//! needs to be remembered here but who is up.
//!
//! ```text
//! driver ──SessionHandle──► placer ──► link ──► scheduler A
//!        ◄─SessionEvent──         └──► link ──► scheduler B
//! ```
//!
//! All queues are bounded. A scheduler, or a session, that falls behind is not waited for: its
//! stream is cut and begun afresh, which says everything again.

mod attempts;
mod config;
mod connect;
mod event;
mod handle;
mod link;
mod placer;

pub use config::SessionConfig;
pub use event::{SchedulerStatus, SessionEvent};
pub use handle::{Session, SessionHandle};
pub use hawker_scheduler_api::{
    BytesBySource as SchedulerBytes, Holding, Level, PeerAddress, TaskProgress as Progress,
};
