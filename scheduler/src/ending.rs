//! How a stream is ended from outside, with the reason as its status.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The end of one stream, known to all who have a part in it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    token: CancellationToken,
    status: Arc<OnceLock<Status>>,
}

impl Ending {
    /// Ends the stream; the first reason counts.
    pub(crate) fn end(&self, status: Status) {
        let _ = self.status.set(status);
        self.token.cancel();
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) -> Status {
        self.token.cancelled().await;
        let status = self.status.get().cloned();
        status.unwrap_or_else(|| Status::cancelled("the stream ended"))
    }
}
