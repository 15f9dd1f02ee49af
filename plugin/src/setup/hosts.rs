//! hosts.toml: whom containerd asks for a registry's images.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use toml::Value;
use toml_edit::{DocumentMut, TomlError};

use super::disk::{self, DiskError};

/// The directory of registries that have none of their own.
pub(crate) const DEFAULT_DIR: &str = "_default";
const FILE: &str = "hosts.toml";

/// A registry's directory below certs.d.
#[derive(Debug)]
pub(crate) struct HostsDir {
    /// Its name: `_default`, `quay.io`, `harbor.example_8443_`.
    pub(crate) name: String,
    /// hosts.toml in it, whether there or not.
    pub(crate) file: PathBuf,
    /// The file's text; `None` where there is none.
    pub(crate) text: Option<String>,
}

/// The directories below `certs_d`, sorted; none where it is not there.
pub(crate) fn read_all(certs_d: &Path) -> Result<Vec<HostsDir>, ReadHostsError> {
    let failed = |source| ReadHostsError::List {
        path: certs_d.to_owned(),
        source,
    };
    let entries = match fs::read_dir(certs_d) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|_| path.is_dir()) {
            found.push(HostsDir {
                name: name.to_owned(),
                file: path.join(FILE),
                text: disk::read_text(&path.join(FILE))?,
            });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Where the hosts.toml of a directory lies.
pub(crate) fn file_in(certs_d: &Path, name: &str) -> PathBuf {
    certs_d.join(name).join(FILE)
}

/// The directory's name for a registry, as containerd writes it.
pub(crate) fn dir_name(registry: &str) -> String {
    match registry.rsplit_once(':') {
        _ if registry == "*" => DEFAULT_DIR.to_owned(),
        Some((host, port)) => format!("{host}_{port}_"),
        None => registry.to_owned(),
    }
}

/// Why certs.d cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadHostsError {
    #[error("cannot list {}: {source}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What a hosts.toml says, as far as it concerns the mirror.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hosts {
    /// The hosts, in the order in which they are asked.
    pub(crate) hosts: Vec<String>,
    /// Of those, the http:// ones that containerd would try as HTTPS first.
    pub(crate) tried_as_https: Vec<String>,
}

/// Reads a hosts.toml. Errors say what containerd would say.
pub(crate) fn parse(text: &str) -> Result<Hosts, String> {
    // Unlike values alone, a document keeps the order in which hosts are asked.
    let document: DocumentMut = text.parse().map_err(|error: TomlError| {
        let words: Vec<_> = error.message().split_whitespace().collect();
        words.join(" ")
    })?;
    let mut found = Hosts {
        hosts: Vec::new(),
        tried_as_https: Vec::new(),
    };
    let Some(host) = document.get("host") else {
        return Ok(found);
    };
    for (url, settings) in host.as_table_like().ok_or("host is no table")?.iter() {
        let tls = ["ca", "client", "skip_verify"];
        if url.starts_with("http://") && tls.iter().any(|key| settings.get(key).is_some()) {
            found.tried_as_https.push(url.to_owned());
        }
        found.hosts.push(url.to_owned());
    }
    Ok(found)
}

/// The entry of a mirror.
fn entry(mirror: &str) -> String {
    format!("[host.{mirror:?}]\n  capabilities = [\"pull\", \"resolve\"]\n")
}

/// A whole file for all registries without a directory of their own. Without `server` containerd
/// falls back to the registry itself.
pub(crate) fn default_file(mirror: &str) -> String {
    format!(
        "# By `hawker setup containerd`: registries without a directory of their own are asked\n\
         # through Hawker first, then themselves.\n\n{}",
        entry(mirror)
    )
}

/// The text with the mirror in front of all hosts; `None` where it is among them already.
pub(crate) fn add_mirror(text: &str, mirror: &str) -> Result<Option<String>, AddMirrorError> {
    let before = parse(text).map_err(AddMirrorError::Syntax)?;
    if before.hosts.iter().any(|host| same_url(host, mirror)) {
        return Ok(None);
    }
    let at = place_of_first_host(text);
    let (head, tail) = text.split_at(at);
    let mut new = head.to_owned();
    if !new.is_empty() && !new.ends_with('\n') {
        new.push('\n');
    }
    if !new.is_empty() && !new.ends_with("\n\n") {
        new.push('\n');
    }
    new += &entry(mirror);
    if !tail.is_empty() {
        new.push('\n');
        new += tail;
    }
    let after = parse(&new).map_err(|_| AddMirrorError::Form)?;
    let mut expected = vec![mirror.to_owned()];
    expected.extend(before.hosts);
    match after.hosts == expected {
        true => Ok(Some(new)),
        false => Err(AddMirrorError::Form),
    }
}

/// Why the mirror cannot be put into a hosts.toml.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddMirrorError {
    #[error("it is not TOML ({0}), and containerd goes past it: mend or remove it")]
    Syntax(String),
    #[error("it is not written as [host.\"URL\"] tables: put the mirror in front by hand")]
    Form,
}

/// Whether two URLs name one host, a slash at the end aside.
pub(crate) fn same_url(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// Where the first `[host…]` line begins, with the comments right above it; the end where there is
/// none.
fn place_of_first_host(text: &str) -> usize {
    let mut start = 0;
    let mut comment = None;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        let inner = trimmed.strip_prefix('[').map(str::trim_start);
        if inner.is_some_and(|inner| inner.starts_with("host.") || inner.starts_with("host]")) {
            return match comment {
                // Comments at the very top are about the file.
                Some(0) | None => start,
                Some(above) => above,
            };
        }
        match trimmed.starts_with('#') {
            true => comment = comment.or(Some(start)),
            false => comment = None,
        }
        start += line.len();
    }
    text.len()
}

/// One host of a new file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewHost {
    pub(crate) url: String,
    /// Whether the URL's path is the API's root already.
    pub(crate) override_path: bool,
    pub(crate) ca: Option<String>,
    /// Certificate and key for the host to know the client by.
    pub(crate) client: Option<(String, String)>,
    pub(crate) skip_verify: bool,
}

impl NewHost {
    fn fields(&self, indent: &str) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        if self.override_path {
            let _ = writeln!(out, "{indent}override_path = true");
        }
        if let Some(ca) = &self.ca {
            let _ = writeln!(out, "{indent}ca = {}", quoted(ca));
        }
        if let Some((cert, key)) = &self.client {
            let _ = writeln!(
                out,
                "{indent}client = [[{}, {}]]",
                quoted(cert),
                quoted(key)
            );
        }
        if self.skip_verify {
            let _ = writeln!(out, "{indent}skip_verify = true");
        }
        out
    }
}

/// A whole file: the mirror, then `hosts`, then `server`.
pub(crate) fn new_file(mirror: &str, server: Option<&NewHost>, hosts: &[NewHost]) -> String {
    let mut out = String::from(
        "# By `hawker setup containerd`, from the registry settings of containerd's own file.\n\n",
    );
    if let Some(server) = server {
        let _ = writeln!(out, "server = {}", quoted(&server.url));
        out += &server.fields("");
        out.push('\n');
    }
    out += &entry(mirror);
    for host in hosts {
        let _ = writeln!(out, "\n[host.{}]", quoted(&host.url));
        out += "  capabilities = [\"pull\", \"resolve\"]\n";
        out += &host.fields("  ");
    }
    out
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Registries by directory name with the hosts.toml each is to have.
pub(crate) type NewFiles = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use toml::Table;

    use super::*;

    const MIRROR: &str = "http://127.0.0.1:65001";

    fn added(text: &str) -> String {
        let new = add_mirror(text, MIRROR).unwrap().unwrap();
        assert_eq!(add_mirror(&new, MIRROR), Ok(None), "a second time");
        new
    }

    #[test]
    fn mirror_goes_in_front_of_the_other_hosts() {
        assert_eq!(
            added("server = \"https://r\"\n\n# theirs\n[host.\"https://m\"]\n  ca = \"/c\"\n"),
            "server = \"https://r\"\n\n[host.\"http://127.0.0.1:65001\"]\n  capabilities = \
             [\"pull\", \"resolve\"]\n\n# theirs\n[host.\"https://m\"]\n  ca = \"/c\"\n"
        );
        assert_eq!(
            added("server = \"https://r\""),
            "server = \"https://r\"\n\n[host.\"http://127.0.0.1:65001\"]\n  capabilities = \
             [\"pull\", \"resolve\"]\n"
        );
        assert_eq!(added(""), entry(MIRROR));
        assert!(added("[host]\n[host.\"https://m\"]\n").starts_with(&entry(MIRROR)));
        assert!(added("[header]\n x = \"y\"\n").ends_with(&entry(MIRROR)));
    }

    #[test]
    fn mirror_that_is_there_stays_where_it_is() {
        let text = "[host.'https://m']\n[host.'http://127.0.0.1:65001/']\n";
        assert_eq!(add_mirror(text, MIRROR), Ok(None));
    }

    #[test]
    fn other_forms_are_refused() {
        let inline = "host = { \"https://m\" = { capabilities = [\"pull\"] } }\n";
        assert_eq!(add_mirror(inline, MIRROR), Err(AddMirrorError::Form));
        assert!(matches!(
            add_mirror("[host", MIRROR),
            Err(AddMirrorError::Syntax(_))
        ));
        assert!(add_mirror("host = 3\n", MIRROR).is_err());
    }

    #[test]
    fn plain_host_with_tls_settings_is_told() {
        let hosts =
            parse("[host.\"http://a\"]\nskip_verify = true\n[host.\"http://b\"]\n").unwrap();
        assert_eq!(hosts.hosts, ["http://a", "http://b"]);
        assert_eq!(hosts.tried_as_https, ["http://a"]);
    }

    #[test]
    fn directories_are_called_as_containerd_looks_for_them() {
        assert_eq!(dir_name("docker.io"), "docker.io");
        assert_eq!(dir_name("harbor.example:8443"), "harbor.example_8443_");
        assert_eq!(dir_name("*"), "_default");
    }

    #[test]
    fn new_file_asks_the_mirror_first() {
        let server = NewHost {
            url: "https://r:5000".to_owned(),
            ca: Some("/ca.pem".to_owned()),
            ..NewHost::default()
        };
        let host = NewHost {
            url: "http://m/v2/x".to_owned(),
            override_path: true,
            client: Some(("/c".to_owned(), "/k".to_owned())),
            skip_verify: true,
            ..NewHost::default()
        };
        let text = new_file(MIRROR, Some(&server), &[host]);
        assert_eq!(parse(&text).unwrap().hosts, [MIRROR, "http://m/v2/x"]);
        let table: Table = text.parse().unwrap();
        assert_eq!(table["ca"].as_str(), Some("/ca.pem"));
        assert_eq!(
            table["host"]["http://m/v2/x"]["client"][0][1].as_str(),
            Some("/k")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_edited_soundly_or_refused(text in "[ -~\n]{0,80}", host in "(\\[host\\.\"https://[a-z]\"\\]\n|#c\n|\n|a = 1\n){0,6}") {
            for text in [text, host] {
                if let Ok(Some(new)) = add_mirror(&text, MIRROR) {
                    prop_assert_eq!(&parse(&new).unwrap().hosts[0], MIRROR);
                }
            }
        }
    }
}
