//! The old way to name mirrors and certificates, in containerd's own file, as hosts.toml files:
//! containerd refuses to start CRI with both.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};
use url::Url;

use super::hosts::{self, NewFiles, NewHost};

/// What becomes of the old tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// hosts.toml by directory name.
    pub(crate) files: NewFiles,
    /// Lines for hawkerd's own settings, which must know of registries without TLS or with a CA of
    /// their own.
    pub(crate) hawkerd: String,
}

/// Turns `registry.mirrors` and the `tls` of `registry.configs` into files.
pub(crate) fn moved(
    mirrors: &Table,
    configs: &Table,
    mirror: &str,
) -> Result<Moved, MoveMirrorsError> {
    let tls: BTreeMap<&str, &Table> = configs
        .iter()
        .filter_map(|(host, config)| Some((host.as_str(), config.get("tls")?.as_table()?)))
        .collect();
    let names: BTreeSet<&str> = mirrors
        .keys()
        .map(String::as_str)
        .chain(
            tls.keys()
                .copied()
                .filter(|host| !is_endpoint(mirrors, host)),
        )
        .collect();
    let mut moved = Moved::default();
    for registry in names {
        let hosts = hosts_of(registry, mirrors.get(registry), &tls)?;
        let own = hosts.iter().rev().find(|host| is_at(&host.url, registry));
        let server = own.cloned().or_else(|| {
            let tls = tls.get(registry)?;
            Some(with_tls(format!("https://{registry}"), tls))
        });
        let last_is_server = hosts.last().is_some_and(|host| is_at(&host.url, registry));
        let others = match last_is_server {
            true => &hosts[..hosts.len() - 1],
            false => &hosts[..],
        };
        if let Some(server) = &server {
            moved.hawkerd += &hawkerd_lines(registry, server);
        }
        let text = hosts::new_file(mirror, server.as_ref(), others);
        moved.files.insert(hosts::dir_name(registry), text);
    }
    Ok(moved)
}

/// Why mirrors are not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("registry.mirrors.{registry:?}: the endpoint {endpoint:?} is no URL")]
pub(crate) struct MoveMirrorsError {
    registry: String,
    endpoint: String,
}

/// Whether a host is some mirror's endpoint, whose settings go where that one goes.
fn is_endpoint(mirrors: &Table, host: &str) -> bool {
    let endpoints = mirrors.values().flat_map(endpoints);
    endpoints.map(with_scheme).any(|url| is_at(&url, host))
}

fn endpoints(mirror: &Value) -> impl Iterator<Item = &str> {
    let list = mirror.get("endpoint").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

fn hosts_of(
    registry: &str,
    mirror: Option<&Value>,
    tls: &BTreeMap<&str, &Table>,
) -> Result<Vec<NewHost>, MoveMirrorsError> {
    let mut hosts = Vec::new();
    for endpoint in mirror.into_iter().flat_map(endpoints) {
        let url = with_scheme(endpoint);
        let Some(host) = authority(&url) else {
            return Err(MoveMirrorsError {
                registry: registry.to_owned(),
                endpoint: endpoint.to_owned(),
            });
        };
        let none = Table::new();
        let tls = tls.get(host.as_str()).copied().unwrap_or(&none);
        hosts.push(with_tls(url, tls));
    }
    Ok(hosts)
}

fn with_tls(url: String, tls: &Table) -> NewHost {
    let text = |key: &str| {
        let text = tls.get(key).and_then(Value::as_str).unwrap_or_default();
        (!text.is_empty()).then(|| text.to_owned())
    };
    let skip = tls.get("insecure_skip_verify").and_then(Value::as_bool);
    // With these, containerd would try an http:// host as HTTPS first.
    let plain = url.starts_with("http://");
    let path = Url::parse(&url).is_ok_and(|url| !matches!(url.path(), "" | "/"));
    NewHost {
        override_path: path,
        ca: text("ca_file").filter(|_| !plain),
        client: text("cert_file").zip(text("key_file")).filter(|_| !plain),
        skip_verify: skip == Some(true) && !plain,
        url,
    }
}

/// As containerd does it: HTTPS, but for this machine itself.
fn with_scheme(endpoint: &str) -> String {
    if endpoint.contains("://") {
        return endpoint.to_owned();
    }
    let host = endpoint.split('/').next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let local = name == "localhost" || name.starts_with("127.") || name == "[::1]";
    format!("{}://{endpoint}", if local { "http" } else { "https" })
}

/// `host` or `host:port` as the URL writes it.
fn authority(url: &str) -> Option<String> {
    let parsed = Url::parse(url).ok()?;
    parsed.host()?;
    let rest = url.split_once("://")?.1;
    Some(rest.split('/').next()?.to_owned())
}

fn is_at(url: &str, host: &str) -> bool {
    authority(url).is_some_and(|authority| authority == host)
}

fn hawkerd_lines(registry: &str, server: &NewHost) -> String {
    let quoted = |text: &str| Value::String(text.to_owned()).to_string();
    let mut lines = String::new();
    if server.url.starts_with("http://") {
        lines += &format!("endpoint = {}\n", quoted(&server.url));
    }
    if let Some(ca) = &server.ca {
        lines += &format!("ca = {}\n", quoted(ca));
    } else if server.skip_verify {
        lines += "skip_verify = true\n";
    }
    match lines.is_empty() {
        true => lines,
        false => format!("[registries.{}]\n{lines}", quoted(registry)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIRROR: &str = "http://127.0.0.1:65001";

    fn of(text: &str) -> Moved {
        let table: Table = text.parse().unwrap();
        let part = |name: &str| {
            let part = table.get(name).and_then(Value::as_table);
            part.cloned().unwrap_or_default()
        };
        moved(&part("mirrors"), &part("configs"), MIRROR).unwrap()
    }

    fn parsed(moved: &Moved, dir: &str) -> (Vec<String>, Table) {
        let text = &moved.files[dir];
        (hosts::parse(text).unwrap().hosts, text.parse().unwrap())
    }

    #[test]
    fn endpoints_follow_the_mirror_in_their_order() {
        let moved = of("[mirrors.\"docker.io\"]\n\
                        endpoint = [\"https://mirror.gcr.io\", \"cache.lan:5000/v2/hub\"]\n");
        let (hosts, table) = parsed(&moved, "docker.io");
        assert_eq!(
            hosts,
            [
                MIRROR,
                "https://mirror.gcr.io",
                "https://cache.lan:5000/v2/hub"
            ]
        );
        assert!(table.get("server").is_none());
        let cache = &table["host"]["https://cache.lan:5000/v2/hub"];
        assert_eq!(cache["override_path"].as_bool(), Some(true));
        assert_eq!(moved.hawkerd, "");
    }

    #[test]
    fn endpoint_that_is_the_registry_becomes_the_server() {
        let moved =
            of("[mirrors.\"registry.lan:5000\"]\nendpoint = [\"http://registry.lan:5000\"]\n");
        let (hosts, table) = parsed(&moved, "registry.lan_5000_");
        assert_eq!(hosts, [MIRROR]);
        assert_eq!(table["server"].as_str(), Some("http://registry.lan:5000"));
        assert_eq!(
            moved.hawkerd,
            "[registries.\"registry.lan:5000\"]\nendpoint = \"http://registry.lan:5000\"\n"
        );
    }

    #[test]
    fn certificates_go_where_their_host_goes() {
        let moved = of("[mirrors.\"quay.io\"]\nendpoint = [\"https://q.lan\"]\n\
                        [configs.\"q.lan\".tls]\nca_file = \"/ca\"\ncert_file = \"/c\"\nkey_file = \"/k\"\n\
                        [configs.\"harbor.lan\".tls]\ninsecure_skip_verify = true\n\
                        [configs.\"harbor.lan\".auth]\nusername = \"u\"\n");
        let (_, quay) = parsed(&moved, "quay.io");
        assert_eq!(quay["host"]["https://q.lan"]["ca"].as_str(), Some("/ca"));
        let (hosts, harbor) = parsed(&moved, "harbor.lan");
        assert_eq!(hosts, [MIRROR]);
        assert_eq!(harbor["skip_verify"].as_bool(), Some(true));
        assert!(!moved.files.contains_key("q.lan"));
        assert_eq!(
            moved.hawkerd,
            "[registries.\"harbor.lan\"]\nskip_verify = true\n"
        );
    }

    #[test]
    fn star_is_for_all_registries() {
        let moved = of("[mirrors.\"*\"]\nendpoint = [\"http://all.lan\"]\n");
        assert_eq!(parsed(&moved, "_default").0, [MIRROR, "http://all.lan"]);
    }

    #[test]
    fn endpoint_that_is_no_url_is_refused() {
        let mirrors: Table = "[r]\nendpoint = [\"https://\"]\n".parse().unwrap();
        assert!(moved(&mirrors, &Table::new(), MIRROR).is_err());
    }
}
