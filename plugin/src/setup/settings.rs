//! containerd's settings: one file and what it imports, in the order in which containerd reads them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value};
use toml_edit::DocumentMut;

use super::{
    containerd::SNAPSHOTTER,
    disk::{self, DiskError},
    version::ContainerdVersion,
};

/// The newest schema that is known.
const NEWEST_SCHEMA: i64 = 4;
/// The transfer service, in every schema.
pub(crate) const TRANSFER: &str = "io.containerd.transfer.v1.local";

/// CRI, in schema 2.
pub(crate) const LONG_CRI: &str = "io.containerd.grpc.v1.cri";
/// What CRI has of images, in schemas 3 and 4.
pub(crate) const CRI_IMAGES: &str = "io.containerd.cri.v1.images";

/// How a file names plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schema {
    /// `version = 1`, or none.
    Short,
    /// `version = 2`
    Grpc,
    /// `version = 3` and later.
    Split,
}

/// One file.
#[derive(Debug)]
pub(crate) struct SettingsFile {
    pub(crate) path: PathBuf,
    /// `None` where there is none yet.
    pub(crate) original: Option<String>,
    pub(crate) document: DocumentMut,
    pub(crate) schema: Schema,
    /// Comments of a file that has nothing else; they stay in front.
    comments: String,
    values: Table,
    version_of_containerd: ContainerdVersion,
}

/// All of containerd's files.
#[derive(Debug)]
pub(crate) struct Settings {
    /// In the order of reading; the first is the main one.
    pub(crate) files: Vec<SettingsFile>,
    version: ContainerdVersion,
}

/// Why containerd's settings cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsReadError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{}, line {line}: this is not TOML: {why}; containerd refuses it too", path.display())]
    Syntax {
        path: PathBuf,
        line: usize,
        why: String,
    },
    #[error(
        "{} has version = {version}; containerd {containerd} reads up to {newest}", path.display()
    )]
    Version {
        path: PathBuf,
        version: i64,
        newest: i64,
        containerd: ContainerdVersion,
    },
    #[error("{} imports {}, which is not there: containerd does not start so", by.display(), path.display())]
    MissingImport { path: PathBuf, by: PathBuf },
}

impl Settings {
    /// Reads the file at `path` and its imports. A file that is not there is empty.
    pub(crate) fn load(path: &Path, version: ContainerdVersion) -> Result<Self, SettingsReadError> {
        let mut settings = Self {
            files: Vec::new(),
            version,
        };
        let mut seen = BTreeSet::new();
        let mut pending = VecDeque::from([(path.to_owned(), None::<PathBuf>)]);
        while let Some((path, by)) = pending.pop_front() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let file = SettingsFile::read(&path, version)?;
            if settings.read_again(&file.path) {
                continue;
            }
            if let (None, Some(by)) = (&file.original, by) {
                return Err(SettingsReadError::MissingImport { path, by });
            }
            for import in file.imports() {
                pending.push_back((import, Some(path.clone())));
            }
            settings.files.push(file);
        }
        settings.set_schemas()?;
        Ok(settings)
    }

    /// Whether the file was read before, by another name: then it counts where containerd reads it
    /// last, and is edited once.
    fn read_again(&mut self, path: &Path) -> bool {
        let found = self.files.iter().position(|file| file.path == path);
        // The main one stays in front.
        if let Some(at) = found.filter(|at| *at > 0) {
            self.files[at..].rotate_left(1);
        }
        found.is_some()
    }

    /// Settings from one text, imports aside. `path` is for errors.
    pub(crate) fn parse(
        path: &Path,
        text: &str,
        version: ContainerdVersion,
    ) -> Result<Self, SettingsReadError> {
        let file = SettingsFile::parse(path.to_owned(), Some(text.to_owned()), version)?;
        let mut settings = Self {
            files: vec![file],
            version,
        };
        settings.set_schemas()?;
        Ok(settings)
    }

    fn set_schemas(&mut self) -> Result<(), SettingsReadError> {
        let newest = match self.version.new_schema() {
            2 => 2,
            _ => NEWEST_SCHEMA,
        };
        for file in &self.files {
            if let Some(version) = file.version().filter(|version| *version > newest) {
                return Err(SettingsReadError::Version {
                    path: file.path.clone(),
                    version,
                    newest,
                    containerd: self.version,
                });
            }
        }
        // Before 2.0 there is one version for all files: that of the last which has one.
        let merged = self.files.iter().rev().find_map(SettingsFile::version);
        let new = self.version.new_schema();
        let deep = self.version.merges_deep();
        let main_is_new = self.files.first().is_some_and(SettingsFile::is_empty);
        for file in &mut self.files {
            let own = file.version();
            let version = match (deep, merged) {
                _ if file.is_empty() => own.unwrap_or(new),
                (true, _) => own.unwrap_or(1),
                (false, Some(merged)) => merged,
                (false, None) if main_is_new => new,
                (false, None) => 1,
            };
            file.schema = match version {
                ..2 => Schema::Short,
                2 => Schema::Grpc,
                _ => Schema::Split,
            };
        }
        Ok(())
    }

    /// The file in which the table `[plugins.<name>]` counts: the last that has it, or the main one.
    pub(crate) fn file_of_plugin(&self, name: &str) -> usize {
        let has = |file: &SettingsFile| file.plugin(name).is_some();
        self.files.iter().rposition(has).unwrap_or(0)
    }

    /// The file in which CRI's image settings count.
    pub(crate) fn file_of_images(&self) -> usize {
        let found = self.files.iter().rposition(SettingsFile::has_images);
        found.unwrap_or(0)
    }

    /// The file in which a top-level table's entry counts.
    pub(crate) fn file_of(&self, table: &str, entry: &str) -> usize {
        let has = |file: &SettingsFile| file.lookup(&[table, entry]).is_some();
        self.files.iter().rposition(has).unwrap_or(0)
    }

    /// Where a proxy plugin is.
    pub(crate) fn proxy_address(&self, name: &str) -> Option<&str> {
        let path = ["proxy_plugins", name, "address"];
        let mut files = self.files.iter().rev();
        files.find_map(|file| file.lookup(&path))?.as_str()
    }

    /// Whether a proxy plugin is named.
    pub(crate) fn has_proxy_plugin(&self, name: &str) -> bool {
        let mut files = self.files.iter();
        files.any(|file| file.lookup(&["proxy_plugins", name]).is_some())
    }

    /// What CRI's image settings say at a path, all files taken together.
    pub(crate) fn images(&self, key: ImageKey) -> Option<Value> {
        let mut found = None;
        for file in &self.files {
            if !file.has_images() {
                continue;
            }
            let here = file.lookup(&file.place(key)).cloned();
            match (self.version.merges_deep(), here) {
                (true, Some(Value::Table(table))) => {
                    let mut both = match found {
                        Some(Value::Table(earlier)) => earlier,
                        _ => Table::new(),
                    };
                    both.extend(table);
                    found = Some(Value::Table(both));
                }
                (true, None) => {}
                (_, here) => found = here,
            }
        }
        found
    }

    /// CRI's snapshotter, where one is named that is not Hawker's.
    pub(crate) fn other_snapshotter(&self) -> Option<String> {
        let named = self.images(ImageKey::Snapshotter)?;
        let other = named
            .as_str()
            .filter(|name| !["", SNAPSHOTTER].contains(name));
        other.map(str::to_owned)
    }

    /// The first directory in which containerd looks for hosts.toml files, where one is named.
    pub(crate) fn certs_d(&self) -> Option<PathBuf> {
        let named = self.images(ImageKey::ConfigPath)?;
        let mut dirs = named.as_str()?.split(':');
        dirs.find(|dir| !dir.is_empty()).map(PathBuf::from)
    }

    /// Runtimes that have a snapshotter of their own, with its name.
    pub(crate) fn runtime_snapshotters(&self) -> BTreeMap<&str, &str> {
        let tables = self.files.iter().flat_map(|file| {
            let plugins = [file.images_plugin(), "io.containerd.cri.v1.runtime"];
            plugins.map(|plugin| file.lookup(&["plugins", plugin, "containerd", "runtimes"]))
        });
        let runtimes = tables.flatten().filter_map(Value::as_table).flatten();
        let own = runtimes.filter_map(|(name, runtime)| {
            let snapshotter = runtime.get("snapshotter")?.as_str()?;
            (!snapshotter.is_empty()).then_some((name.as_str(), snapshotter))
        });
        own.collect()
    }

    /// Where containerd's own socket is.
    pub(crate) fn address(&self) -> Option<PathBuf> {
        let of = |file: &SettingsFile| {
            let grpc = file.lookup(&["plugins", "io.containerd.server.v1.grpc", "address"]);
            let address = grpc
                .or_else(|| file.lookup(&["grpc", "address"]))?
                .as_str()?;
            (!address.is_empty()).then(|| PathBuf::from(address))
        };
        self.files.iter().rev().find_map(of)
    }

    /// The last file that says something at a path, or the main one.
    pub(crate) fn file_with(&self, path: &[&str]) -> usize {
        let has = |file: &SettingsFile| file.lookup(path).is_some();
        self.files.iter().rposition(has).unwrap_or(0)
    }

    /// What a plugin's settings say of a key, in the file in which they count.
    pub(crate) fn of_plugin(&self, name: &str, key: &str) -> Option<&Value> {
        let file = self.files.get(self.file_of_plugin(name))?;
        file.plugin(name)?.get(key)
    }

    /// The proxy plugins of a kind, by any of its names.
    pub(crate) fn proxies(&self, kinds: &[&str]) -> BTreeSet<&str> {
        let tables = self
            .files
            .iter()
            .filter_map(|f| f.lookup(&["proxy_plugins"]));
        let all = tables.filter_map(Value::as_table).flatten();
        let of_kind = all.filter(|(_, proxy)| {
            let kind = proxy.get("type").and_then(Value::as_str);
            kind.is_some_and(|kind| kinds.contains(&kind))
        });
        of_kind.map(|(name, _)| name.as_str()).collect()
    }

    /// containerd's directory, where one is named.
    pub(crate) fn root(&self) -> Option<PathBuf> {
        let mut files = self.files.iter().rev();
        let root = files.find_map(|file| file.lookup(&["root"])?.as_str())?;
        (!root.is_empty()).then(|| PathBuf::from(root))
    }

    /// Whether a plugin is switched off, by any of its names.
    pub(crate) fn is_disabled(&self, names: &[&str]) -> bool {
        self.is_listed("disabled_plugins", names)
    }

    /// Whether a plugin is required, by any of its names.
    pub(crate) fn is_required(&self, names: &[&str]) -> bool {
        self.is_listed("required_plugins", names)
    }

    fn is_listed(&self, key: &str, names: &[&str]) -> bool {
        let lists = self.files.iter().filter_map(|file| {
            let list = file.values.get(key)?.as_array()?;
            Some(list.iter().filter_map(Value::as_str))
        });
        lists.flatten().any(|name| names.contains(&name))
    }
}

/// One of CRI's settings about images, wherever a schema has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageKey {
    Snapshotter,
    DisableAnnotations,
    ConfigPath,
    Mirrors,
    Configs,
    Auths,
    LocalPull,
    DiscardLayers,
    Downloads,
    SyncFs,
}

impl ImageKey {
    /// Whether containerd 2 loses the key when it reads a file of an older schema. It takes some
    /// only along with a table of runtimes.
    fn is_lost(self, has_runtimes: bool) -> bool {
        match self {
            Self::Snapshotter | Self::DisableAnnotations | Self::DiscardLayers => !has_runtimes,
            Self::LocalPull => true,
            _ => false,
        }
    }

    /// The path below the plugin's table.
    fn path(self, schema: Schema) -> &'static [&'static str] {
        let split = schema == Schema::Split;
        match self {
            Self::Snapshotter if split => &["snapshotter"],
            Self::Snapshotter => &["containerd", "snapshotter"],
            Self::DisableAnnotations if split => &["disable_snapshot_annotations"],
            Self::DisableAnnotations => &["containerd", "disable_snapshot_annotations"],
            Self::DiscardLayers if split => &["discard_unpacked_layers"],
            Self::DiscardLayers => &["containerd", "discard_unpacked_layers"],
            Self::ConfigPath => &["registry", "config_path"],
            Self::Mirrors => &["registry", "mirrors"],
            Self::Configs => &["registry", "configs"],
            Self::Auths => &["registry", "auths"],
            Self::LocalPull => &["use_local_image_pull"],
            Self::Downloads => &["max_concurrent_downloads"],
            Self::SyncFs => &["image_pull_with_sync_fs"],
        }
    }
}

impl SettingsFile {
    fn read(path: &Path, version: ContainerdVersion) -> Result<Self, SettingsReadError> {
        // What is edited is the file itself, not a link to it.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let original = disk::read_text(&path)?;
        Self::parse(path, original, version)
    }

    fn parse(
        path: PathBuf,
        original: Option<String>,
        version: ContainerdVersion,
    ) -> Result<Self, SettingsReadError> {
        let text = original.as_deref().unwrap_or_default();
        let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            SettingsReadError::Syntax {
                path: path.clone(),
                line: 1 + text.as_bytes()[..at]
                    .iter()
                    .filter(|b| **b == b'\n')
                    .count(),
                why: one_line(error.message()),
            }
        })?;
        let values: Table = text.parse().unwrap_or_default();
        let (document, comments) = match values.is_empty() {
            false => (document, String::new()),
            true => (DocumentMut::new(), ended(text)),
        };
        Ok(Self {
            path,
            original,
            document,
            schema: Schema::Short,
            comments,
            values,
            version_of_containerd: version,
        })
    }

    /// Whether it says nothing, be it there or not.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// From now on, what its edits made of it counts.
    pub(crate) fn take_edits(&mut self) {
        self.values = self.document.to_string().parse().unwrap_or_default();
    }

    /// Its text with all edits.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.comments, self.document)
    }

    /// What `name` has below `[plugins]`.
    pub(crate) fn plugin(&self, name: &str) -> Option<&Table> {
        self.lookup(&["plugins", name])?.as_table()
    }

    /// The name of the plugin that has CRI's settings about images.
    pub(crate) fn images_plugin(&self) -> &'static str {
        match self.schema {
            Schema::Split => CRI_IMAGES,
            Schema::Grpc => LONG_CRI,
            Schema::Short if self.takes_new_names() && self.plugin(LONG_CRI).is_some() => LONG_CRI,
            Schema::Short => "cri",
        }
    }

    /// Whether plugins may have the names of newer schemas too.
    fn takes_new_names(&self) -> bool {
        self.version_of_containerd.merges_deep()
    }

    fn has_images(&self) -> bool {
        self.plugin(self.images_plugin()).is_some() || self.plugin(CRI_IMAGES).is_some()
    }

    /// The path at which a setting counts. What containerd 2 would lose of an older schema it takes
    /// from the newer one's table, in the same file.
    pub(crate) fn place(&self, key: ImageKey) -> Vec<&'static str> {
        let old = self.images_plugin();
        let runtimes = ["plugins", old, "containerd", "runtimes"];
        let is_new = self.schema == Schema::Split
            || self.takes_new_names() && key.is_lost(self.lookup(&runtimes).is_some());
        let (plugin, schema) = match is_new {
            true => (CRI_IMAGES, Schema::Split),
            false => (old, self.schema),
        };
        [&["plugins", plugin], key.path(schema)].concat()
    }

    /// What stands at a path.
    pub(crate) fn lookup(&self, path: &[&str]) -> Option<&Value> {
        lookup(&self.values, path)
    }

    fn version(&self) -> Option<i64> {
        let version = self.values.get("version")?.as_integer();
        version.filter(|version| *version != 0)
    }

    fn imports(&self) -> Vec<PathBuf> {
        let list = self.values.get("imports").and_then(Value::as_array);
        let root = Path::new("/");
        let dir = self.path.parent().unwrap_or(root);
        // A service's working directory is the root.
        let of_patterns = match self.version_of_containerd.globs_beside_file() {
            true => dir,
            false => root,
        };
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .flat_map(|import| match import.contains('*') {
                true => glob(&of_patterns.join(import)),
                false => vec![dir.join(import)],
            })
            .collect()
    }
}

pub(crate) fn lookup<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let first = table.get(*first)?;
    rest.iter().try_fold(first, |value, name| value.get(*name))
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn ended(text: &str) -> String {
    match text.trim().is_empty() {
        true => String::new(),
        false => format!("{}\n\n", text.trim_end()),
    }
}

/// The paths that a pattern with `*` and `?` names, sorted.
fn glob(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str();
        let Some(wild) = part.to_str().filter(|part| part.contains(['*', '?'])) else {
            for path in &mut found {
                path.push(part);
            }
            continue;
        };
        let inside = |dir: &PathBuf| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name());
            let mut matching: Vec<_> = names
                .filter(|name| matches(wild.as_bytes(), name.as_encoded_bytes()))
                .map(|name| dir.join(name))
                .collect();
            matching.sort();
            matching
        };
        found = found.iter().flat_map(inside).collect();
    }
    found.retain(|path| path.exists());
    found
}

/// Whether a name fits a pattern.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
        (Some((b'?', pattern)), Some((_, name))) => matches(pattern, name),
        (Some((one, pattern)), Some((other, name))) => one == other && matches(pattern, name),
        _ => false,
    }
}
