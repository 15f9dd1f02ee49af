//! An answer that stays away, or stops: the same is asked for once more, by a connection of its own
//! and of another endpoint first, while the old one is kept as long as it may still go on. Whichever
//! speaks first is taken.
//!
//! What is asked once more is within the registry's limits, and never more than a few requests of
//! one registry at a time: one that is slow for everybody is not asked twice as much.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;

use super::{
    OriginClient, Redirects, Wanted,
    budget::{Spare, Visit},
    exchange::Answer,
    pool::By,
};

/// When to look again whether there is room for one more request.
const NO_ROOM: Duration = Duration::from_millis(250);

/// The silence of a body, from when it is noticed until it ends.
pub(super) struct Silence {
    pub(super) since: Instant,
    /// The body as it was asked for once more.
    again: Option<Again>,
    /// When that is done next.
    next_at: Instant,
    pause: Duration,
}

type Again = Pin<Box<dyn Future<Output = Option<Spoken>> + Send>>;

/// An answer to what was asked once more, and its first bytes.
pub(super) struct Spoken {
    pub(super) answer: Answer,
    pub(super) bytes: Bytes,
    pub(super) visit: Visit,
}

impl Silence {
    /// It is noticed now, and is one after `patience`.
    pub(super) fn begin(patience: Duration) -> Self {
        let since = Instant::now();
        Self {
            since,
            again: None,
            next_at: since + patience,
            pause: patience,
        }
    }

    /// What speaks elsewhere. `None`: it is time to ask once more. Never ends where what was asked
    /// failed, but at that time.
    pub(super) async fn next(&mut self) -> Option<Spoken> {
        let time = tokio::time::sleep_until(self.next_at.into());
        let Some(again) = &mut self.again else {
            time.await;
            return None;
        };
        tokio::select! {
            spoken = again => {
                self.again = None;
                if spoken.is_some() {
                    return spoken;
                }
            }
            () = time => return None,
        }
        tokio::time::sleep_until(self.next_at.into()).await;
        None
    }

    /// What is asked once more from now on, with twice the patience; `None`: there is no room for
    /// it.
    pub(super) fn ask(&mut self, again: Option<Again>) {
        self.next_at = Instant::now() + NO_ROOM;
        if again.is_some() {
            self.again = again;
            self.pause *= 2;
            self.next_at = Instant::now() + self.pause;
        }
    }
}

/// Asks for a body by a connection of its own, and waits for its first bytes. `None`: nothing came
/// of it; whoever is silent may still speak.
pub(super) fn ask_again(
    client: OriginClient,
    wanted: Wanted,
    headers: HeaderMap,
    spare: Spare,
) -> Again {
    let wanted = Wanted {
        by: By::New,
        ..wanted
    };
    Box::pin(async move {
        let asked = client.ask_at_once(Method::GET, &wanted, &headers, Redirects::Follow);
        let mut answer = asked.await.ok()?;
        if let Some(time) = answer.retry_after() {
            spare.close(time);
        }
        if !answer.status().is_success() {
            return None;
        }
        loop {
            let frame = answer.response.body_mut().frame().await?.ok()?;
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                let visit = spare.into_visit();
                return Some(Spoken {
                    answer,
                    bytes,
                    visit,
                });
            }
        }
    })
}
