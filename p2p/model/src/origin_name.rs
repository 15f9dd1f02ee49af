//! Names of origins: where bytes were read, as far as it matters for who may have them.

use std::{fmt, sync::Arc};

use url::{Host, Url};

/// The origin of a URL as WHATWG's URL standard serialises it: `scheme://host`, and `:port` where
/// that is not the scheme's own. `http` and `https` only; neither user nor path nor query, so that
/// nothing secret is in it.
///
/// It names the URL that was asked, not where a redirect led. There is one spelling of each, so
/// that equal names are equal bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginName(Arc<str>);

impl OriginName {
    /// Longest name, in bytes: the longest host name, a scheme and a port fit.
    pub const MAX_LEN: usize = 300;

    /// Parses a name in its one spelling, as [`Self::as_str`] gives it.
    pub fn parse(text: &str) -> Result<Self, OriginNameError> {
        let fits = text.len() <= Self::MAX_LEN;
        let name = fits.then(|| Self::of_url(text)).flatten();
        name.filter(|name| name.as_str() == text)
            .ok_or_else(|| OriginNameError(text.chars().take(Self::MAX_LEN).collect()))
    }

    /// The origin of `url`, read as the client of origins reads it. `None` for what is no URL with
    /// a host, is neither `http` nor `https`, or has a longer name than [`Self::MAX_LEN`].
    pub fn of_url(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let scheme = url.scheme();
        let host = url.host().filter(|host| *host != Host::Domain(""))?;
        if !matches!(scheme, "http" | "https") {
            return None;
        }
        // `Url` keeps a port only where it is not the scheme's own.
        let name = match url.port() {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        };
        (name.len() <= Self::MAX_LEN).then(|| Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OriginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OriginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is no origin's name in its one spelling; at most its first 300 characters are kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no origin as scheme://host[:port]")]
pub struct OriginNameError(pub String);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(url: &str) -> Option<String> {
        OriginName::of_url(url).map(|name| name.to_string())
    }

    #[test]
    fn the_origin_of_a_url_has_one_spelling() {
        for (url, name) in [
            ("https://ghcr.io/v2/a/blobs/b?sig=s#f", "https://ghcr.io"),
            ("HTTPS://GHCR.io:443/", "https://ghcr.io"),
            ("http://r.local:5000", "http://r.local:5000"),
            ("http://u:p@r.local:80/x", "http://r.local"),
            ("https://good.example@evil.example/", "https://evil.example"),
            (
                "https:\\\\evil.example\\@good.example",
                "https://evil.example",
            ),
            ("http://0x7f.1/", "http://127.0.0.1"),
            (
                "http://[::FFFF:1.2.3.4]:8080/",
                "http://[::ffff:102:304]:8080",
            ),
            (
                "https://b\u{fc}cher.example/",
                "https://xn--bcher-kva.example",
            ),
            ("ht\ntps://a.example/", "https://a.example"),
        ] {
            assert_eq!(of(url).as_deref(), Some(name), "{url:?}");
            assert_eq!(OriginName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_has_no_host_that_can_be_asked_has_no_origin() {
        let long = format!("https://{}.example/", "a.".repeat(200));
        for url in [
            "",
            "/v2/",
            "ftp://h/",
            "file:///x",
            "data:,x",
            "https://",
            &long,
        ] {
            assert_eq!(of(url), None, "{url:?}");
        }
    }

    #[test]
    fn other_spellings_are_no_names() {
        for text in [
            "https://h/",
            "https://H",
            "https://h:443",
            "http://h:80",
            "https://u@h",
            " https://h",
            "https://h?",
            "http://0x7f.1",
            "null",
        ] {
            assert!(OriginName::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_none(text in "(https?://)?[-a-zA-Z0-9.:@/\\\\\\[\\]%]{0,40}|\\PC{0,60}") {
            if let Some(name) = OriginName::of_url(&text) {
                prop_assert_eq!(OriginName::parse(name.as_str()), Ok(name.clone()));
                let origin = Url::parse(&text).unwrap().origin();
                prop_assert_eq!(origin.ascii_serialization(), name.as_str());
            }
            if let Ok(name) = OriginName::parse(&text) {
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
