//! Waiting for a containerd that was restarted.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::setup::verify::VerifyError;

/// How long containerd may take to come up.
const START_TIME: Duration = Duration::from_secs(60);
/// How long the old containerd may still answer after a restart that did not wait for its end.
pub(super) const STOP_TIME: Duration = Duration::from_secs(10);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);

/// Asks until containerd is as it should be, or has had its time. An answer of one without what
/// was set up may be the old one's for `stop_time`.
pub(super) async fn until_up<T>(
    stop_time: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, VerifyError>,
) -> Result<T, VerifyError> {
    let begin = Instant::now();
    loop {
        let error = match ask().await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let patience = match error {
            VerifyError::Containerd(_) => START_TIME,
            VerifyError::NoSnapshotter
            | VerifyError::NoDiffer
            | VerifyError::OtherContent { .. } => stop_time,
            _ => Duration::ZERO,
        };
        if begin.elapsed() >= patience {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::machine::ContainerdError;

    /// Asks one that gives these answers and then works; says how that ends, and how many are left.
    async fn ask(stop_time: Duration, answers: Vec<VerifyError>) -> (Result<(), String>, usize) {
        let mut answers = answers.into_iter();
        let next = async || answers.next().map_or(Ok(()), Err);
        let found = until_up(stop_time, next).await;
        (found.map_err(|error| error.to_string()), answers.len())
    }

    fn unreachable() -> VerifyError {
        VerifyError::Containerd(ContainerdError::Unreachable {
            address: "/run/x.sock".to_owned(),
            why: "refused".to_owned(),
        })
    }

    #[tokio::test]
    async fn old_containerd_that_still_answers_is_asked_again() {
        let answers = vec![VerifyError::NoSnapshotter, unreachable()];
        assert_eq!(ask(STOP_TIME, answers).await, (Ok(()), 0));
    }

    #[tokio::test]
    async fn containerd_that_was_not_restarted_is_asked_for_the_snapshotter_once() {
        let answers = vec![VerifyError::NoSnapshotter, VerifyError::NoSnapshotter];
        let (found, left) = ask(Duration::ZERO, answers).await;
        assert!(found.unwrap_err().contains("no snapshotter"));
        assert_eq!(left, 1);
    }

    #[tokio::test]
    async fn plugin_that_broke_is_told_at_once() {
        let broken = VerifyError::Plugin {
            plugin: "cri".to_owned(),
            why: "mirrors".to_owned(),
        };
        let (found, left) = ask(STOP_TIME, vec![broken, unreachable()]).await;
        assert!(found.unwrap_err().contains("mirrors"));
        assert_eq!(left, 1);
    }
}
