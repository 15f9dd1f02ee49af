//! What must hold for any request on the control socket.

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::Full;

use super::{content, credential::Credential, file};

/// Bytes as lines: a query for a file, an `Authorization`, and a wish to move content.
pub fn control_request(bytes: &[u8]) {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let query = String::from_utf8_lossy(lines.next().unwrap_or_default());
    match file::parse(&query) {
        Ok(asked) => {
            let url = asked.wish.url;
            assert!(matches!(url.scheme(), "http" | "https"));
            assert!(url.has_host());
        }
        Err(error) => assert!(error.status().is_client_error()),
    }
    let shown = HeaderValue::from_bytes(lines.next().unwrap_or_default());
    if let Ok(shown) = shown {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, shown)]);
        let _ = Credential::of(&headers);
    }
    let wish = content::wish(Full::new(Bytes::copy_from_slice(
        lines.next().unwrap_or_default(),
    )));
    if let Some(Ok(wish)) = wish.now_or_never() {
        assert!(wish.dir.is_absolute());
    }
}
