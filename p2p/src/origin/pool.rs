//! Connections to origins: those that are shared, and one of its own for a single request.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Builder, Client, Error},
    rt::{TokioExecutor, TokioTimer},
};

use super::connector::Connector;

type Pool = Client<Connector, Full<Bytes>>;

/// By which connection a request goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum By {
    /// One that is open, if there is any.
    #[default]
    Any,
    /// A new one, since what is open may be dead.
    New,
}

/// The connections that are made with the same settings.
#[derive(Clone)]
pub(super) struct Http {
    pool: Pool,
    /// Keeps none.
    single: Pool,
}

impl Http {
    pub(super) fn new(connector: Connector) -> Self {
        Self {
            pool: builder(16).build(connector.clone()),
            single: builder(0).build(connector),
        }
    }

    pub(super) async fn request(
        &self,
        by: By,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Error> {
        match by {
            By::Any => self.pool.request(request).await,
            By::New => self.single.request(request).await,
        }
    }
}

fn builder(idle: usize) -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(std::time::Duration::from_secs(50))
        .pool_max_idle_per_host(idle)
        // One HTTP/2 connection carries all ranges of a blob: its windows must not be the limit.
        .http2_initial_stream_window_size(4 << 20)
        .http2_initial_connection_window_size(32 << 20)
        .http2_keep_alive_interval(std::time::Duration::from_secs(20))
        .http2_keep_alive_timeout(std::time::Duration::from_secs(10));
    builder
}
