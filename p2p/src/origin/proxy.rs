//! Upstream proxies: which requests go by one, and how the environment names them.
//!
//! What is reached without one follows Go's rules, as containerd and Docker have them: loopback
//! always, then what `NO_PROXY` lists.

use std::{net::IpAddr, path::PathBuf};

use hawker_swarm::Secret;
use http::HeaderValue;
use url::Url;

use super::{Login, account, address};

/// A proxy, and who we are there.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// `http` or `https`.
    pub url: Url,
    pub login: Option<Login>,
    /// The setting or variable that names it, for messages.
    pub setting: String,
}

impl Proxy {
    /// The proxy for people: without credentials.
    pub(super) fn shown(&self) -> String {
        super::error::shown(&self.url)
            .trim_end_matches('/')
            .to_owned()
    }

    pub(super) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    pub(super) fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(80)
    }

    /// `Proxy-Authorization`.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        self.login.as_ref().and_then(account::basic)
    }
}

/// The proxies of everything that names none of its own.
#[derive(Clone, Debug, Default)]
pub struct UsualProxies {
    /// For `http` targets.
    pub http: Option<Proxy>,
    /// For `https` targets.
    pub https: Option<Proxy>,
    /// What is reached without.
    pub except: NoProxy,
    /// Certificate authorities (PEM) of `https` proxies, besides those of the system.
    pub ca_file: Option<PathBuf>,
}

impl UsualProxies {
    /// One proxy for both, but for what `NO_PROXY` lists.
    pub fn one(proxy: Proxy, variable: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            http: Some(proxy.clone()),
            https: Some(proxy),
            except: exceptions(variable),
            ca_file: None,
        }
    }

    /// As the environment says: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, or the same in small
    /// letters. What names no proxy that can be used is told in the log, and left out.
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            http: named(&variable, "HTTP_PROXY"),
            https: named(&variable, "HTTPS_PROXY"),
            except: exceptions(&variable),
            ca_file: None,
        }
    }

    /// The proxy by which `host` is reached, if any.
    pub(super) fn of(&self, scheme: &str, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = match scheme {
            "http" => self.http.as_ref(),
            _ => self.https.as_ref(),
        }?;
        (!is_loopback(host) && !self.except.covers(host, port)).then_some(proxy)
    }
}

fn exceptions(variable: impl Fn(&str) -> Option<String>) -> NoProxy {
    let list = either_case(variable, "NO_PROXY").map(|(_, list)| list);
    NoProxy::parse(&list.unwrap_or_default())
}

fn either_case(variable: impl Fn(&str) -> Option<String>, name: &str) -> Option<(String, String)> {
    [name.to_owned(), name.to_ascii_lowercase()]
        .into_iter()
        .find_map(|name| {
            let value = variable(&name)?.trim().to_owned();
            (!value.is_empty()).then_some((name, value))
        })
}

fn named(variable: impl Fn(&str) -> Option<String>, name: &str) -> Option<Proxy> {
    let (name, value) = either_case(variable, name)?;
    let proxy = parse(&value, &name);
    if proxy.is_none() {
        // The value may hold a password.
        tracing::warn!(
            variable = %name,
            "names no http:// or https:// proxy, and is ignored; write http://HOST:PORT, or set \
             origin.proxy"
        );
    }
    proxy
}

/// A proxy as variables name it: without a scheme it is `http`; credentials may stand in it.
fn parse(value: &str, setting: &str) -> Option<Proxy> {
    let with_scheme = match value.contains("://") {
        true => value.to_owned(),
        false => format!("http://{value}"),
    };
    let mut url = Url::parse(&with_scheme).ok()?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return None;
    }
    let login = (!url.username().is_empty()).then(|| Login {
        username: decoded(url.username()),
        password: Secret::new(decoded(url.password().unwrap_or_default())),
    });
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    url.set_path("");
    url.set_query(None);
    url.set_fragment(None);
    Some(Proxy {
        url,
        login,
        setting: setting.to_owned(),
    })
}

/// Undoes percent encoding.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits are below 256.
                bytes.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => bare.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    }
}

/// What is reached without a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy {
    everything: bool,
    networks: Vec<(IpAddr, u8)>,
    addresses: Vec<(IpAddr, Option<u16>)>,
    domains: Vec<Domain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Domain {
    /// In small letters, without a leading dot.
    name: String,
    /// Whether the name itself counts, or only what is below it.
    itself: bool,
    port: Option<u16>,
}

impl NoProxy {
    /// Reads a list as `NO_PROXY` has it: with commas, or spaces.
    pub fn parse(list: &str) -> Self {
        let mut parsed = Self::default();
        for entry in list.split([',', ' ']) {
            parsed.add(entry);
        }
        parsed
    }

    /// Adds one entry. What means nothing adds nothing.
    pub fn add(&mut self, entry: &str) {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            self.everything = true;
            return;
        }
        if let Ok(super::AllowPrivate::Network { address, prefix }) = entry.parse() {
            return self.networks.push((address, prefix));
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
            _ => (entry.as_str(), None),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return self.addresses.push((address, port));
        }
        let below = host.trim_start_matches('*');
        let name = below.trim_matches('.');
        if !name.is_empty() {
            self.domains.push(Domain {
                name: name.to_owned(),
                itself: !below.starts_with('.'),
                port,
            });
        }
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        let is_port = |listed: Option<u16>| listed.is_none_or(|listed| listed == port);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if self.everything {
            return true;
        }
        if let Ok(ip) = bare.parse::<IpAddr>() {
            let within = |(network, prefix): &(IpAddr, u8)| {
                address::contains(*network, *prefix, ip.to_canonical())
            };
            let same = |(address, port): &(IpAddr, Option<u16>)| *address == ip && is_port(*port);
            return self.networks.iter().any(within) || self.addresses.iter().any(same);
        }
        let host = bare.trim_end_matches('.').to_ascii_lowercase();
        self.domains.iter().any(|domain| {
            let named = match host.strip_suffix(&domain.name) {
                Some("") => domain.itself,
                Some(before) => before.ends_with('.'),
                None => false,
            };
            named && is_port(domain.port)
        })
    }
}

/// The head of a CONNECT request to `target` (`host:port`).
pub(super) fn connect_request(target: &str, authorization: Option<&HeaderValue>) -> Vec<u8> {
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(value) = authorization {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The status in the head of an answer to CONNECT.
pub(super) fn connect_status(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\r').next()?;
    let mut words = str::from_utf8(line).ok()?.split(' ');
    let version = words.next()?;
    let status = words.next()?;
    (version.starts_with("HTTP/1.") && status.len() == 3).then(|| status.parse().ok())?
}

/// Why a proxy does not lead to an origin.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the proxy {proxy} ({setting}) {what}: {remedy}")]
pub(super) struct ProxyFailure {
    pub(super) proxy: String,
    pub(super) setting: String,
    pub(super) what: String,
    pub(super) remedy: String,
}

impl ProxyFailure {
    fn new(proxy: &Proxy, what: String, remedy: String) -> Self {
        Self {
            proxy: proxy.shown(),
            setting: proxy.setting.clone(),
            what,
            remedy,
        }
    }

    /// No connection to the proxy itself.
    pub(super) fn unreachable(proxy: &Proxy, reason: &str) -> Self {
        Self::new(
            proxy,
            format!("cannot be reached ({reason})"),
            format!(
                "mend {}, or write proxy = \"\" to do without",
                proxy.setting
            ),
        )
    }

    /// Its certificate is not believed.
    pub(super) fn certificate(proxy: &Proxy, reason: &str) -> Self {
        Self::new(
            proxy,
            format!("shows a certificate that is not trusted ({reason})"),
            "set origin.proxy_ca to the file of its authority".to_owned(),
        )
    }

    /// It answers with something else than success.
    pub(super) fn refused(proxy: &Proxy, target: &str, status: Option<u16>) -> Self {
        let Some(status) = status else {
            let what = "answers with what is no HTTP".to_owned();
            let remedy = format!("is {} the address of an HTTP proxy?", proxy.setting);
            return Self::new(proxy, what, remedy);
        };
        let account = || match proxy.setting.strip_suffix("proxy") {
            Some(section) => {
                format!("{section}proxy_username and {section}proxy_password_file")
            }
            None => format!("the user and password in {}", proxy.setting),
        };
        let (what, remedy) = match (status, &proxy.login) {
            (407, None) => ("wants a login".to_owned(), format!("set {}", account())),
            (407, Some(_)) => (
                "refuses the login".to_owned(),
                format!("correct {}", account()),
            ),
            _ => (
                format!("refuses to connect to {target} (status {status})"),
                "let the proxy permit it, or list the host in origin.no_proxy".to_owned(),
            ),
        };
        Self::new(proxy, what, remedy)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(variables: &[(&str, &str)], scheme: &str, host: &str, port: u16) -> Option<String> {
        let all = UsualProxies::of_environment(|name| {
            let found = variables.iter().find(|(key, _)| *key == name)?;
            Some(found.1.to_owned())
        });
        all.of(scheme, host, port).map(Proxy::shown)
    }

    #[test]
    fn the_environment_is_read_as_go_programs_read_it() {
        let both = [
            ("HTTP_PROXY", "p.lan:3128"),
            ("https_proxy", "https://u:p%40w@s.lan"),
        ];
        assert_eq!(
            of(&both, "http", "r.io", 80).as_deref(),
            Some("http://p.lan:3128")
        );
        assert_eq!(
            of(&both, "https", "r.io", 443).as_deref(),
            Some("https://s.lan")
        );
        for local in ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "[::1]"] {
            assert_eq!(of(&both, "https", local, 443), None, "{local}");
        }
        assert_eq!(
            of(
                &[("http_proxy", "a:1"), ("HTTP_PROXY", "b:1")],
                "http",
                "r.io",
                80
            )
            .as_deref(),
            Some("http://b:1")
        );
        for useless in ["", "socks5://p:1080", "http://", "::"] {
            assert_eq!(
                of(&[("HTTPS_PROXY", useless)], "https", "r.io", 443),
                None,
                "{useless}"
            );
        }
    }

    #[test]
    fn credentials_of_a_variable_are_decoded_and_not_shown() {
        let proxy = parse("http://an%6E:p%40w%3@p:1", "HTTP_PROXY").unwrap();
        let login = proxy.login.clone().unwrap();
        assert_eq!(
            (login.username.as_str(), login.password.expose()),
            ("ann", "p@w%3")
        );
        assert_eq!(proxy.shown(), "http://p:1");
        assert!(!format!("{proxy:?}").contains("p@w"));
    }

    #[test]
    fn exceptions_are_hosts_with_what_is_below_addresses_and_networks() {
        let list = NoProxy::parse(
            "r.lan, .corp.example,*.x.io 10.0.0.0/8,192.168.1.1:5000,[fd00::1],h:8443",
        );
        for (host, port, covered) in [
            ("r.lan", 443, true),
            ("R.LAN.", 443, true),
            ("a.r.lan", 443, true),
            ("ar.lan", 443, false),
            ("corp.example", 443, false),
            ("a.corp.example", 443, true),
            ("x.io", 443, false),
            ("a.x.io", 443, true),
            ("10.9.9.9", 1, true),
            ("11.0.0.1", 1, false),
            ("[::ffff:10.0.0.1]", 1, true),
            ("192.168.1.1", 5000, true),
            ("192.168.1.1", 5001, false),
            ("[fd00::1]", 443, true),
            ("h", 8443, true),
            ("h", 443, false),
        ] {
            assert_eq!(list.covers(host, port), covered, "{host}:{port}");
        }
        assert!(NoProxy::parse("a,*").covers("anything", 1));
        assert!(!NoProxy::parse(", ,").covers("anything", 1));
    }

    #[test]
    fn answers_to_connect_are_told_apart() {
        assert_eq!(
            connect_status(b"HTTP/1.1 200 Connection established\r\n"),
            Some(200)
        );
        assert_eq!(
            connect_status(b"HTTP/1.0 407 Proxy Authentication Required\r\nx"),
            Some(407)
        );
        assert_eq!(connect_status(b"SSH-2.0-OpenSSH\r\n"), None);
        assert_eq!(connect_status(b""), None);
    }

    proptest! {
        #[test]
        fn any_list_and_any_variable_are_survived(text in "\\PC{0,60}", host in "\\PC{0,30}") {
            let _ = NoProxy::parse(&text).covers(&host, 1);
            let _ = parse(&text, "X");
            let _ = connect_status(text.as_bytes());
        }
    }
}
