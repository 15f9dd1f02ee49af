//! What must hold for what registries say of images, and for the names that clients give them.

use super::{
    image_name::ImageName,
    manifest::{self, Manifest},
};

/// No image or index has more.
const MOST: usize = 1000;

/// Bytes as a manifest, an index, an image's config and its name: bounded, or refused.
pub fn manifest(bytes: &[u8]) {
    match Manifest::parse(bytes) {
        Ok(Manifest::Image { config, layers }) => {
            assert!(layers.len() <= MOST);
            assert!(
                layers
                    .iter()
                    .chain([&config])
                    .all(|part| part.digest.to_string().len() == 71)
            );
        }
        Ok(Manifest::Index(children)) => assert!(children.len() <= MOST),
        Err(error) => assert!(error.to_string().len() < 1000),
    }
    if let Ok(ids) = manifest::diff_ids(bytes) {
        assert!(ids.len() <= MOST);
    }
    let text = String::from_utf8_lossy(bytes);
    if let Ok(name) = ImageName::parse(&text) {
        let again = ImageName::parse(&name.to_string());
        assert_eq!(again.ok().as_ref(), Some(&name), "{text}");
    }
}
