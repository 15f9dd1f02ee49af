//! What must hold for any message of containerd's clients.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use hawker_model::Digest;
use hawker_snapshotter::Filter;

pub use super::diff::fuzzing::apply_request;
use super::{content::fuzzing::answers_of_content, labels};
use crate::content::{ContentInfo, ContentState};

/// Bytes as the labels of a `Prepare`, a line each: what is understood is bounded.
pub fn labels(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let owned = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let labels: BTreeMap<_, _> = owned.collect();
    let _ = labels::reference(&labels);
    if let Some(found) = labels::image_layers(&labels) {
        assert!(found.above.len() <= labels::MAX_LAYERS);
        assert!(!found.claimant.to_string().contains(char::is_whitespace));
    }
}

/// Bytes as lines: a digest, and filters of content. A digest is itself again, and filters do with
/// any content what they do.
pub fn content_request(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().map(str::to_owned);
    let Some(digest) = lines.next() else {
        return;
    };
    let filters: Vec<String> = lines.take(8).collect();
    let names: HashMap<_, _> = [("a.b/c", "d"), ("", "")].into_iter().collect();
    let info = ContentInfo {
        digest: Digest::of(bytes),
        size: u64::MAX,
        state: ContentState::ALL[0],
        images: Vec::new(),
        labels: names
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
    };
    answers_of_content(&digest, &filters, &info);
    for filter in &filters {
        if let Err(error) = Filter::parse(filter) {
            assert!(error.to_string().len() < 1000 + 8 * filter.len());
        }
    }
}
