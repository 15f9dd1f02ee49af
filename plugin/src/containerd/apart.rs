//! The thread that talks with containerd, and nothing else.
//!
//! containerd asks `Info` inside its one write transaction, so its answer must not wait until a
//! layer was hashed or unpacked. Hence containerd's connections have a thread and a runtime of
//! their own, which comes first where the system allows that. Calls that are answered from memory
//! are answered there ([`FROM_MEMORY`]); all others work on the daemon's runtime, their messages
//! are decoded and encoded there too, and only ready frames pass through this thread.

use std::{
    convert::Infallible,
    future::Future,
    io,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture, stream};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use tokio::{
    runtime::{Builder, Handle},
    sync::{mpsc, oneshot},
    task::JoinError,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Status, body::Body};
use tower::Service;
use tracing::{error, info};

use crate::sys::Precedence;

/// Before all that has the usual nice value, and at once: a nice value alone waits until whoever
/// runs has had its slice, which is milliseconds. An answer from memory takes a tenth of one.
const PRECEDENCE: Precedence = Precedence {
    nice: -10,
    slice: Duration::from_micros(100),
};
/// Calls that wait for nothing: answered where they arrive.
const FROM_MEMORY: [&str; 3] = [
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/Status",
    "/containerd.services.content.v1.Content/ListStatuses",
];
/// Frames of one answer that wait until containerd takes them.
const MOST_FRAMES: usize = 2;

/// Runs `work` to its end on a thread and a runtime of its own. Dropping the future cuts it.
pub(super) async fn run<F: Future<Output = io::Result<()>>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<()> {
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();
    let (end, ended) = oneshot::channel();
    let thread = thread::Builder::new().name("containerd".to_owned());
    thread.spawn(move || {
        // Whoever waits may have gone.
        let _ = end.send(live(work, &cut));
    })?;
    ended
        .await
        .unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
}

fn live<F: Future<Output = io::Result<()>>>(
    work: impl FnOnce() -> F,
    cut: &CancellationToken,
) -> io::Result<()> {
    if let Err(error) = PRECEDENCE.take() {
        info!(%error, nice = PRECEDENCE.nice, "containerd's questions have to wait like everything else");
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let lived = runtime.block_on(async { cut.run_until_cancelled(work()).await });
    lived.unwrap_or(Ok(()))
}

/// Answers from memory where it is called, and has everything else done on another runtime.
#[derive(Clone, Debug)]
pub(super) struct Apart<S> {
    inner: S,
    elsewhere: Handle,
}

impl<S> Apart<S> {
    pub(super) fn new(inner: S, elsewhere: Handle) -> Self {
        Self { inner, elsewhere }
    }
}

impl<S> Service<Request<Body>> for Apart<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if FROM_MEMORY.contains(&request.uri().path()) {
            return self.inner.call(request).boxed();
        }
        let (mut inner, path) = (self.inner.clone(), request.uri().path().to_owned());
        let (answer, answered) = oneshot::channel();
        let (frames, rest) = mpsc::channel(MOST_FRAMES);
        let working = self.elsewhere.spawn(async move {
            let ready = std::future::poll_fn(|context| inner.poll_ready(context)).await;
            let Ok(response) = match ready {
                Ok(()) => inner.call(request).await,
            };
            let (head, body) = response.into_parts();
            let is_over = body.is_end_stream();
            if answer.send((head, is_over)).is_ok() && !is_over {
                pass(body, &frames).await;
            }
        });
        let working = AbortOnDropHandle::new(working);
        async move {
            let Ok((head, is_over)) = answered.await else {
                let ended = working.await.err();
                return Ok(unanswered(&path, ended.as_ref()).into_http());
            };
            let body = match is_over {
                // Without a body that ends later: a client reads the status from the head then.
                true => Body::empty(),
                false => body(rest, working),
            };
            Ok(Response::from_parts(head, body))
        }
        .boxed()
    }
}

/// What is said of a call whose work ended without an answer.
fn unanswered(path: &str, ended: Option<&JoinError>) -> Status {
    match ended {
        // Its message is in the log already. Who tries again meets the same.
        Some(ended) if ended.is_panic() => {
            error!(path, "hawkerd panicked at a call of containerd");
            Status::internal("hawkerd panicked at this call; its log says where")
        }
        _ => Status::unavailable("hawkerd is stopping"),
    }
}

/// Gives away the frames of an answer until it ends or nobody wants them.
async fn pass(mut body: Body, frames: &mpsc::Sender<Result<Frame<Bytes>, Status>>) {
    while let Some(frame) = body.frame().await {
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}

/// The body of those frames. Whoever drops it ends the work on it.
fn body(
    frames: mpsc::Receiver<Result<Frame<Bytes>, Status>>,
    working: AbortOnDropHandle<()>,
) -> Body {
    let frames = stream::unfold((frames, working), |(mut frames, working)| async move {
        let frame = frames.recv().await?;
        Some((frame, (frames, working)))
    });
    Body::new(StreamBody::new(frames))
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Runtime;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    /// Answers with the name of the thread that it is called on, in two frames.
    async fn whereabouts(_: Request<Body>) -> Result<Response<Body>, Infallible> {
        let name = thread::current().name().unwrap_or_default().to_owned();
        let frames = [Bytes::from(name), Bytes::from_static(b"!")];
        let frames = frames.map(|data| Ok::<_, Status>(Frame::data(data)));
        Ok(Response::new(Body::new(StreamBody::new(stream::iter(
            frames,
        )))))
    }

    fn workers() -> Runtime {
        let mut workers = Builder::new_multi_thread();
        let workers = workers.worker_threads(1).thread_name("worker");
        workers.enable_all().build().unwrap()
    }

    async fn ask(path: &str, workers: &Handle) -> String {
        let apart = Apart::new(service_fn(whereabouts), workers.clone());
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let Ok(answer) = apart.oneshot(request).await;
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn what_is_in_memory_is_answered_here_and_all_else_elsewhere() {
        let workers = workers();
        let (asked, answers) = std::sync::mpsc::channel();
        let handle = workers.handle().clone();
        let work = move || async move {
            for path in [
                "/containerd.services.content.v1.Content/Read",
                FROM_MEMORY[0],
            ] {
                asked.send(ask(path, &handle).await).unwrap();
            }
            Ok(())
        };
        workers.block_on(run(work)).unwrap();
        assert_eq!(
            answers.iter().collect::<Vec<_>>(),
            ["worker!", "containerd!"]
        );
    }

    #[tokio::test]
    async fn refusal_says_so_at_once() {
        let refuse = |_: Request<Body>| async {
            Ok::<Response<Body>, Infallible>(Status::not_found("x").into_http())
        };
        let apart = Apart::new(service_fn(refuse), Handle::current());
        let Ok(answer) = apart.oneshot(Request::new(Body::empty())).await;
        assert!(answer.body().is_end_stream());
        assert_eq!(answer.headers()["grpc-status"], "5");
    }

    #[tokio::test]
    async fn call_that_panics_is_not_to_be_tried_again() {
        let panic = |_: Request<Body>| async { panic!("as the test wants it") };
        let apart = Apart::new(service_fn(panic), Handle::current());
        let Ok(answer) = apart.oneshot(Request::new(Body::empty())).await;
        assert_eq!(
            answer.headers()["grpc-status"],
            (tonic::Code::Internal as i32).to_string()
        );
    }

    #[tokio::test]
    async fn whoever_goes_ends_the_work_on_the_answer() {
        let (alive, ended) = mpsc::channel::<()>(1);
        let endless = move |_: Request<Body>| {
            let frames = stream::unfold(alive.clone(), |alive| async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Some((
                    Ok::<_, Status>(Frame::data(Bytes::from_static(b"x"))),
                    alive,
                ))
            });
            let body = Body::new(StreamBody::new(frames));
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        };
        let apart = Apart::new(service_fn(endless), Handle::current());
        let Ok(answer) = apart.oneshot(Request::new(Body::empty())).await;
        let mut body = answer.into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        let mut ended = ended;
        let ending = tokio::time::timeout(Duration::from_secs(10), ended.recv());
        assert_eq!(ending.await.expect("it goes on"), None);
    }
}
