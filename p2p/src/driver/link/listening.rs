//! Whether a host gives a sign of life.

use std::{sync::Arc, time::Duration};

use hawker_model::HostId;
use tokio::sync::mpsc;

use crate::{driver::event::Event, transport::Pulse};

pub(super) struct Listening {
    pub(super) host: HostId,
    pub(super) link: u64,
    pub(super) pulse: Arc<Pulse>,
    pub(super) events: mpsc::Sender<Event>,
}

impl Listening {
    /// Asks for one, and tells when none comes in time; then waits until the host is heard again, and
    /// tells that as well. It is aborted with its connection.
    pub(super) async fn run(self, within: Duration) {
        let asked = self.pulse.ask();
        if self.pulse.is_answered(asked, within).await {
            return;
        }
        let (host, link) = (self.host.clone(), self.link);
        let silent = Event::Silent { host, link };
        if self.events.send(silent).await.is_ok() {
            self.pulse.answer(asked).await;
            let (host, link) = (self.host, self.link);
            let _ = self.events.send(Event::Heard { host, link }).await;
        }
    }
}
