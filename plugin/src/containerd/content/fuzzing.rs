//! What must hold for any digest and any filters of a call.

use tonic::Code;

use super::{filters, message};
use crate::content::ContentInfo;

/// A digest that is taken is the one that was said, and what is refused is the caller's fault.
pub(in crate::containerd) fn answers_of_content(
    digest: &str,
    texts: &[String],
    info: &ContentInfo,
) {
    match message::content_digest(digest) {
        Ok(Some(read)) => assert_eq!(read.to_string(), digest),
        Ok(None) => assert!(!digest.starts_with("sha256:")),
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument),
    }
    match filters(texts) {
        Ok(filters) => {
            assert_eq!(filters.len(), texts.len());
            let is_wanted = message::is_content_wanted(&filters, info);
            assert!(is_wanted || !filters.is_empty());
        }
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument),
    }
    assert_eq!(message::info(info.clone()).size, i64::MAX);
}
