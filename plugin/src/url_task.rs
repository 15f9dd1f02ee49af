//! Which task a URL's file is.

use hawker_model::{Digest, TaskId, UrlTask};
use url::Url;

/// Query parameters that carry a signature and its circumstances, in lower case: they differ from
/// one request to the next while the file stays the same.
const SIGNATURE_PARAMETERS: &[&str] = &[
    "accesskeyid",
    "awsaccesskeyid",
    "expires",
    "googleaccessid",
    "key-pair-id",
    "ossaccesskeyid",
    "policy",
    "q-ak",
    "q-header-list",
    "q-key-time",
    "q-sign-algorithm",
    "q-sign-time",
    "q-signature",
    "q-url-param-list",
    "security-token",
    "securitytoken",
    "signature",
    "x-cos-security-token",
];

/// The same, by how they begin: S3, Google, OBS, OSS, TOS.
const SIGNATURE_PREFIXES: &[&str] = &["x-amz-", "x-goog-", "x-obs-", "x-oss-", "x-tos-"];

/// The parameters of an Azure shared access signature. So short names mean that only beside `sig`.
const AZURE_PARAMETERS: &[&str] = &[
    "se", "sig", "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr", "st", "sv",
];

/// What a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Where the file is.
    pub(crate) url: Url,
    /// What it must be.
    pub(crate) digest: Option<Digest>,
    /// Separates otherwise equal tasks by the user's wish.
    pub(crate) tag: String,
    /// As `tag`, for programs.
    pub(crate) application: String,
}

impl Wish {
    /// The task: the digest, where it is known; else what the URL names in the revision that the
    /// origin tells.
    pub(crate) fn task(&self, revision: &str) -> TaskId {
        match self.digest {
            Some(digest) => TaskId::Blob(digest),
            None => UrlTask {
                url: without_signature(&self.url),
                tag: self.tag.clone(),
                application: self.application.clone(),
                revision: revision.to_owned(),
            }
            .id(),
        }
    }
}

/// The URL without credentials, fragment and the parameters that only sign it.
fn without_signature(url: &Url) -> String {
    let mut bare = url.clone();
    bare.set_fragment(None);
    // Fails only for URLs that cannot have a user at all.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    let Some(query) = url.query() else {
        return bare.into();
    };
    let azure = query.split('&').any(|pair| pair.starts_with("sig="));
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !is_signature(pair, azure))
        .collect();
    match kept.is_empty() {
        true => bare.set_query(None),
        false => bare.set_query(Some(&kept.join("&"))),
    }
    bare.into()
}

fn is_signature(pair: &str, azure: bool) -> bool {
    let name = pair
        .split('=')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    SIGNATURE_PARAMETERS.contains(&name.as_str())
        || SIGNATURE_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
        || azure && AZURE_PARAMETERS.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bare(url: &str) -> String {
        without_signature(&Url::parse(url).unwrap())
    }

    fn wish(url: &str) -> Wish {
        Wish {
            url: Url::parse(url).unwrap(),
            digest: None,
            tag: String::new(),
            application: String::new(),
        }
    }

    #[test]
    fn signatures_do_not_change_the_task() {
        for (signed, url) in [
            ("http://h/f?X-Amz-Signature=1&X-Amz-Date=2", "http://h/f"),
            ("http://h/f?a=1&X-Goog-Expires=9&b=2", "http://h/f?a=1&b=2"),
            (
                "http://h/f?Signature=x&Expires=1&Key-Pair-Id=k",
                "http://h/f",
            ),
            ("http://h/f?sv=1&sig=x&se=2&v=3", "http://h/f?v=3"),
            ("http://h/f?st=1&sp=2", "http://h/f?st=1&sp=2"),
            ("http://u:p@h/f?a=b#part", "http://h/f?a=b"),
        ] {
            assert_eq!(bare(signed), url);
            assert_eq!(wish(signed).task("r"), wish(url).task("r"));
        }
    }

    #[test]
    fn revision_and_tag_make_other_tasks_and_a_digest_overrides_all() {
        let plain = wish("http://h/f");
        let tagged = Wish {
            tag: "t".to_owned(),
            ..plain.clone()
        };
        assert_ne!(plain.task("1"), plain.task("2"));
        assert_ne!(plain.task("1"), tagged.task("1"));
        let digest = Digest::of(b"x");
        let exact = Wish {
            digest: Some(digest),
            ..tagged
        };
        assert_eq!(exact.task("1"), TaskId::Blob(digest));
    }

    proptest! {
        #[test]
        fn any_query_is_survived(query in "\\PC{0,60}") {
            let mut url = Url::parse("http://h/f").unwrap();
            url.set_query(Some(&query));
            let once = without_signature(&url);
            prop_assert_eq!(bare(&once), once);
        }
    }
}
