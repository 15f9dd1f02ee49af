//! `hosts.toml`, as containerd reads it: its fields, their forms, the order of the hosts. A file with
//! anything that containerd refuses is refused whole.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use toml_edit::{Document, Item, TableLike, Value};
use url::Url;

/// A file.
#[derive(Debug)]
pub(in super::super) struct HostsFile {
    /// Asked first, in this order.
    pub(in super::super) mirrors: Vec<HostEntry>,
    /// Asked at last. Without an API it is the registry by its name.
    pub(in super::super) server: HostEntry,
    /// What is passed over, with its line.
    pub(super) warnings: Vec<(Option<usize>, String)>,
}

/// One host.
#[derive(Debug, Default)]
pub(in super::super) struct HostEntry {
    /// Where its API begins, `/v2` included unless the path is overridden.
    pub(in super::super) api: Option<Url>,
    pub(in super::super) pull: bool,
    pub(in super::super) resolve: bool,
    pub(in super::super) authorities: Vec<PathBuf>,
    /// Certificate and key; without a key the certificate's file holds it.
    pub(in super::super) client: Vec<(PathBuf, Option<PathBuf>)>,
    pub(in super::super) skip_verify: Option<bool>,
    pub(in super::super) headers: HeaderMap,
}

impl HostEntry {
    /// Whether it says anything of TLS. Then an `http://` host is tried as `https://` first.
    pub(in super::super) fn has_tls(&self) -> bool {
        !self.authorities.is_empty() || !self.client.is_empty() || self.skip_verify.is_some()
    }
}

impl HostsFile {
    /// Takes out the hosts that are `ours`.
    pub(super) fn forget(&mut self, ours: impl Fn(&HostEntry) -> bool) {
        self.mirrors.retain(|entry| !ours(entry));
        if ours(&self.server) {
            self.server.api = None;
        }
    }
}

/// A file that is refused, as containerd refuses it.
#[derive(Debug)]
pub(in super::super) struct HostsError {
    pub(super) line: Option<usize>,
    pub(super) what: String,
}

/// Reads a file that lies in `dir`.
pub(in super::super) fn parse(text: &str, dir: &Path) -> Result<HostsFile, HostsError> {
    let mut reader = Reader {
        text,
        dir,
        warnings: Vec::new(),
    };
    let document = Document::parse(text).map_err(|error| {
        let words: Vec<_> = error.message().split_whitespace().collect();
        reader.error(error.span(), words.join(" "))
    })?;
    let root = document.as_table();
    let mut mirrors = Vec::new();
    if let Some(hosts) = root.get("host") {
        let wrong = || reader.error(hosts.span(), "host is no table".to_owned());
        let hosts: &dyn TableLike = hosts.as_table_like().ok_or_else(wrong)?;
        for (url, item) in hosts.iter() {
            let wrong = || reader.error(item.span(), format!("host.{url:?} is no table"));
            let table = item.as_table_like().ok_or_else(wrong)?;
            mirrors.push(reader.entry(url, item.span(), table)?);
        }
    }
    let server = match root.get("server") {
        None => "",
        Some(item) => reader.text_of("server", item)?,
    };
    let span = root.get("server").and_then(Item::span);
    let server = reader.entry(server, span, root)?;
    Ok(HostsFile {
        mirrors,
        server,
        warnings: reader.warnings,
    })
}

struct Reader<'a> {
    text: &'a str,
    dir: &'a Path,
    warnings: Vec<(Option<usize>, String)>,
}

type Span = Option<Range<usize>>;

impl Reader<'_> {
    fn line(&self, span: Span) -> Option<usize> {
        let before = self.text.as_bytes().get(..span?.start)?;
        Some(1 + before.iter().filter(|b| **b == b'\n').count())
    }

    fn error(&self, span: Span, what: String) -> HostsError {
        HostsError {
            line: self.line(span),
            what,
        }
    }

    fn entry(
        &mut self,
        url: &str,
        span: Span,
        table: &dyn TableLike,
    ) -> Result<HostEntry, HostsError> {
        let overrides = self.truth("override_path", table)?.unwrap_or(false);
        let api = match url {
            "" => None,
            url => Some(api(url, overrides).map_err(|what| self.error(span, what))?),
        };
        let mut entry = HostEntry {
            api,
            skip_verify: self.truth("skip_verify", table)?,
            ..HostEntry::default()
        };
        self.capabilities(table, &mut entry)?;
        if let Some(item) = table.get("ca") {
            entry.authorities = self.files("ca", item)?;
        }
        if let Some(item) = table.get("client") {
            entry.client = self.clients(item)?;
        }
        if let Some(item) = table.get("header") {
            entry.headers = self.headers(item)?;
        }
        Ok(entry)
    }

    fn capabilities(&self, table: &dyn TableLike, entry: &mut HostEntry) -> Result<(), HostsError> {
        let listed = match table.get("capabilities") {
            Some(item) => self.texts("capabilities", item)?,
            None => Vec::new(),
        };
        (entry.pull, entry.resolve) = (listed.is_empty(), listed.is_empty());
        for capability in listed {
            match capability.to_ascii_lowercase().as_str() {
                "pull" => entry.pull = true,
                "resolve" => entry.resolve = true,
                "push" | "referrers" => {}
                _ => {
                    let span = table.get("capabilities").and_then(Item::span);
                    return Err(self.error(span, format!("unknown capability {capability:?}")));
                }
            }
        }
        Ok(())
    }

    fn truth(&self, key: &str, table: &dyn TableLike) -> Result<Option<bool>, HostsError> {
        let Some(item) = table.get(key) else {
            return Ok(None);
        };
        let wrong = || self.error(item.span(), format!("{key} is neither true nor false"));
        item.as_bool().map(Some).ok_or_else(wrong)
    }

    fn text_of<'a>(&self, key: &str, item: &'a Item) -> Result<&'a str, HostsError> {
        let wrong = || self.error(item.span(), format!("{key} is no text"));
        item.as_str().ok_or_else(wrong)
    }

    /// A list of texts.
    fn texts(&self, key: &str, item: &Item) -> Result<Vec<String>, HostsError> {
        let wrong = || self.error(item.span(), format!("{key} is no list of texts"));
        let array = item.as_array().ok_or_else(wrong)?;
        let texts = array.iter().map(|value| value.as_str().map(str::to_owned));
        texts.collect::<Option<_>>().ok_or_else(wrong)
    }

    /// A path or several; relative ones lie beside the file.
    fn files(&self, key: &str, item: &Item) -> Result<Vec<PathBuf>, HostsError> {
        let paths = match item.as_str() {
            Some(path) => vec![path.to_owned()],
            None => self.texts(key, item)?,
        };
        Ok(paths.into_iter().map(|path| self.dir.join(path)).collect())
    }

    /// A file, several files, or several pairs of files.
    fn clients(&self, item: &Item) -> Result<Vec<(PathBuf, Option<PathBuf>)>, HostsError> {
        let wrong = || {
            self.error(
                item.span(),
                "client is neither file nor pairs of files".to_owned(),
            )
        };
        if let Some(path) = item.as_str() {
            return Ok(vec![(self.dir.join(path), None)]);
        }
        let one = |value: &Value| match value {
            Value::String(path) => Some((self.dir.join(path.value()), None)),
            Value::Array(pair) => {
                let pair: Vec<_> = pair.iter().map(Value::as_str).collect();
                match pair[..] {
                    [Some(cert), Some("")] => Some((self.dir.join(cert), None)),
                    [Some(cert), Some(key)] => {
                        Some((self.dir.join(cert), Some(self.dir.join(key))))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let array = item.as_array().ok_or_else(wrong)?;
        array
            .iter()
            .map(one)
            .collect::<Option<_>>()
            .ok_or_else(wrong)
    }

    fn headers(&mut self, item: &Item) -> Result<HeaderMap, HostsError> {
        let wrong = || self.error(item.span(), "header is no table".to_owned());
        let table = item.as_table_like().ok_or_else(wrong)?;
        let mut headers = HeaderMap::new();
        for (name, item) in table.iter() {
            let values = match item.as_str() {
                Some(value) => vec![value.to_owned()],
                None => self.texts(&format!("header.{name:?}"), item)?,
            };
            let sound = HeaderName::try_from(name).ok();
            for value in values {
                match (&sound, HeaderValue::try_from(value)) {
                    (Some(name), Ok(mut value)) => {
                        // Often a credential.
                        value.set_sensitive(true);
                        headers.append(name, value);
                    }
                    _ => {
                        let line = self.line(item.span());
                        let what =
                            format!("header {name:?} is none that can be sent: it is left out");
                        self.warnings.push((line, what));
                    }
                }
            }
        }
        Ok(headers)
    }
}

/// Where the API of a host begins.
fn api(text: &str, overrides: bool) -> Result<Url, String> {
    let shown = super::super::error::shown_text(text);
    let text = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let mut url = Url::parse(&text).map_err(|error| format!("{shown:?} is no URL: {error}"))?;
    super::super::exchange::check_url(&url).map_err(|what| format!("{shown:?}: {what}"))?;
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/');
    let path = match overrides || path.ends_with("/v2") {
        true => path.to_owned(),
        false => format!("{path}/v2"),
    };
    url.set_path(&path);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<HostsFile, HostsError> {
        parse(text, Path::new("/etc/certs.d/r.lan"))
    }

    fn apis(file: &HostsFile) -> Vec<&str> {
        let apis = file.mirrors.iter().chain([&file.server]);
        apis.filter_map(|entry| entry.api.as_ref().map(Url::as_str))
            .collect()
    }

    #[test]
    fn hosts_are_asked_in_the_files_order_and_the_server_at_last() {
        let file = read(
            "server = \"registry.example\"\n\
             [host.\"https://z.example\"]\n\
             [host.\"http://a.example:5000/\"]\n\
             [host.\"m.example/mirror\"]\n\
             [host.\"https://o.example/a/v2\"]\n\
             [host.\"https://p.example/api/registry\"]\n  override_path = true\n",
        )
        .unwrap();
        assert_eq!(
            apis(&file),
            [
                "https://z.example/v2",
                "http://a.example:5000/v2",
                "https://m.example/mirror/v2",
                "https://o.example/a/v2",
                "https://p.example/api/registry",
                "https://registry.example/v2",
            ]
        );
    }

    #[test]
    fn every_form_of_every_field_is_read() {
        let file = read(
            "ca = \"ca.pem\"\nskip_verify = false\nclient = \"both.pem\"\n\
             [host.\"https://a\"]\n\
             capabilities = [\"pull\", \"Push\"]\n\
             ca = [\"/abs/ca.pem\", \"two.pem\"]\n\
             client = [[\"c.pem\", \"k.pem\"], [\"d.pem\", \"\"]]\n\
             dial_timeout = \"1s\"\nunknown = 1\n\
             [host.\"https://a\".header]\n\
             Authorization = \"Basic x\"\nx-two = [\"1\", \"2\"]\n\
             [host.\"https://b\"]\nclient = [\"one.pem\", \"two.pem\"]\n\
             [host.\"https://c\"]\ncapabilities = [\"resolve\", \"referrers\"]\n",
        )
        .unwrap();
        let at = |path: &str| Path::new("/etc/certs.d/r.lan").join(path);
        let [a, b, c] = &file.mirrors[..] else {
            panic!("{file:?}")
        };
        assert_eq!((a.pull, a.resolve), (true, false));
        assert_eq!((c.pull, c.resolve), (false, true));
        assert_eq!((file.server.pull, file.server.resolve), (true, true));
        assert_eq!(a.authorities, [PathBuf::from("/abs/ca.pem"), at("two.pem")]);
        assert_eq!(
            a.client,
            [(at("c.pem"), Some(at("k.pem"))), (at("d.pem"), None)]
        );
        assert_eq!(b.client, [(at("one.pem"), None), (at("two.pem"), None)]);
        assert_eq!(a.headers.get("authorization").unwrap(), "Basic x");
        assert_eq!(a.headers.get_all("x-two").iter().count(), 2);
        assert!(!format!("{a:?}").contains("Basic x"));
        assert_eq!(file.server.authorities, [at("ca.pem")]);
        assert_eq!(file.server.client, [(at("both.pem"), None)]);
        assert!(a.has_tls() && file.server.has_tls() && !c.has_tls());
        assert_eq!(file.server.api, None);
    }

    #[test]
    fn what_containerd_refuses_is_refused_with_its_line() {
        for (text, line) in [
            ("a = 1\nserver = 1", 2),
            ("\nhost = 1", 2),
            ("host.\"https://a\" = 1", 1),
            ("[host.\"https://a\"]\n\ncapabilities = [\"fly\"]", 3),
            ("[host.\"https://a\"]\ncapabilities = \"pull\"", 2),
            ("[host.\"https://a\"]\nskip_verify = \"yes\"", 2),
            ("[host.\"https://a\"]\nca = 1", 2),
            ("[host.\"https://a\"]\nclient = [[\"a\"]]", 2),
            ("[host.\"https://a\"]\nheader = 1", 2),
            ("[host.\"ftp://a\"]\n", 1),
            ("[host.\"https://a b\"]\n", 1),
            ("[host.\"https://a\"]\n[host.\"https://a\"]\n", 2),
            ("server = ", 1),
            ("ca = [1]", 1),
        ] {
            let error = read(text).map(|_| ()).unwrap_err();
            assert_eq!(error.line, Some(line), "{text:?}: {}", error.what);
            assert!(!error.what.is_empty() && !error.what.contains('\n'));
        }
    }

    #[test]
    fn a_header_that_cannot_be_sent_is_left_out_and_told() {
        let file = read("[header]\n\"a b\" = \"x\"\nok = \"y\"\nbad = \"a\\nb\"\n").unwrap();
        assert_eq!(file.server.headers.len(), 1);
        let lines: Vec<_> = file.warnings.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [Some(2), Some(4)]);
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = read(&text);
        }

        #[test]
        fn any_mix_of_sound_pieces_is_survived(pieces in proptest::collection::vec(
            prop_oneof![
                Just("server = "), Just("\"https://a\""), Just("[host.\"https://a\"]"), Just("\n"),
                Just("ca = "), Just("client = "), Just("[[\"a\"]]"), Just("["), Just("]"),
                Just("[header]"), Just("skip_verify = true"), Just("{ a = 1 }"), Just("x.y = "),
                Just("[[host]]"), Just("\"\"\""), Just("1"),
            ],
            0..12,
        )) {
            let _ = read(&pieces.concat());
        }
    }
}
