//! The index on the disk (`docs/images.md`): what is lost of it is learnt again, so that whatever
//! cannot be read is set aside, and nobody waits for a write.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use hawker_model::{Digest, RegistryHost, Repository};
use hawker_snapshotter::DiffId;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::known::{Changes, Config, Content, Image, Manifest};
use crate::layers::manifest::Part;

const FORMAT: u64 = 1;
/// Redb's own default is 1 GiB. All rows are in memory anyway.
const CACHE_LEN: usize = 1 << 20;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const MANIFESTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("manifests");
const CONFIGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("configs");
const VERSION: &str = "version";

/// The open database.
pub(super) struct Rows(Database);

/// All that is written.
#[derive(Default)]
pub(super) struct Saved {
    pub(super) manifests: Vec<(Digest, Manifest)>,
    pub(super) configs: Vec<(Digest, Config)>,
}

/// Why the index cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowsError {
    #[error("cannot make {}: {cause}", path.display())]
    Directory { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Database(#[from] Box<redb::Error>),
    #[error("it has format {found}, and {FORMAT} is known")]
    Format { found: u64 },
}

#[derive(Serialize, Deserialize)]
struct ManifestRow {
    seen: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<PartRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<PartRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    manifests: Vec<Digest>,
    /// Registries and repositories.
    places: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct PartRow {
    digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_elsewhere: bool,
}

#[derive(Serialize, Deserialize)]
struct ConfigRow {
    seen: u64,
    diff_ids: Vec<Digest>,
}

impl Rows {
    /// Opens or creates it in `dir`, and reads all of it. What cannot be read is set aside.
    pub(super) fn open(dir: &Path) -> Result<(Self, Saved), RowsError> {
        let failed = |cause| RowsError::Directory {
            path: dir.to_owned(),
            cause,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        let path = dir.join("index.redb");
        match load(&path) {
            Err(error) if path.exists() => {
                let aside = dir.join("index.redb.corrupt");
                warn!(path = %path.display(), %error, "begins anew: kept as {}", aside.display());
                fs::rename(&path, &aside).map_err(failed)?;
                load(&path)
            }
            loaded => loaded,
        }
    }

    /// Writes all changes or none.
    pub(super) fn write(&self, changes: &Changes) -> Result<(), RowsError> {
        Ok(write(&self.0, changes).map_err(Box::new)?)
    }
}

fn write(database: &Database, changes: &Changes) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(MANIFESTS)?;
        for (digest, manifest) in &changes.manifests {
            let key = digest.to_string();
            match manifest {
                Some(manifest) => table.insert(key.as_str(), json(&row(manifest))?.as_slice())?,
                None => table.remove(key.as_str())?,
            };
        }
        let mut table = transaction.open_table(CONFIGS)?;
        for (digest, config) in &changes.configs {
            let key = digest.to_string();
            match config {
                Some(config) => {
                    table.insert(key.as_str(), json(&config_row(config))?.as_slice())?
                }
                None => table.remove(key.as_str())?,
            };
        }
    }
    transaction.commit()?;
    Ok(())
}

fn json(row: &impl Serialize) -> Result<Vec<u8>, redb::Error> {
    Ok(serde_json::to_vec(row).map_err(io::Error::from)?)
}

fn load(path: &Path) -> Result<(Rows, Saved), RowsError> {
    let (rows, version, saved) = read(path).map_err(Box::new)?;
    match version {
        FORMAT => Ok((rows, saved)),
        found => Err(RowsError::Format { found }),
    }
}

fn read(path: &Path) -> Result<(Rows, u64, Saved), redb::Error> {
    let database = Database::builder().set_cache_size(CACHE_LEN).create(path)?;
    let transaction = database.begin_write()?;
    let version = {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get(VERSION)?.map(|found| found.value());
        if found.is_none() {
            meta.insert(VERSION, FORMAT)?;
        }
        transaction.open_table(MANIFESTS)?;
        transaction.open_table(CONFIGS)?;
        found.unwrap_or(FORMAT)
    };
    transaction.commit()?;
    let transaction = database.begin_read()?;
    let mut saved = Saved::default();
    for row in transaction.open_table(MANIFESTS)?.iter()? {
        let (key, value) = row?;
        let manifest = manifest(key.value(), value.value());
        saved.manifests.extend(manifest);
    }
    for row in transaction.open_table(CONFIGS)?.iter()? {
        let (key, value) = row?;
        let config = config(key.value(), value.value());
        saved.configs.extend(config);
    }
    drop(transaction);
    Ok((Rows(database), version, saved))
}

fn row(manifest: &Manifest) -> ManifestRow {
    let places = manifest.places.iter();
    let text = |place: &(RegistryHost, Repository)| (place.0.to_string(), place.1.to_string());
    let (config, layers, manifests) = match &manifest.content {
        Content::Index(manifests) => (None, Vec::new(), manifests.to_vec()),
        Content::Image(image) => (
            Some(part_row(&image.config)),
            image.layers.iter().map(part_row).collect(),
            Vec::new(),
        ),
    };
    ManifestRow {
        seen: manifest.seen,
        config,
        layers,
        manifests,
        places: places.map(text).collect(),
    }
}

/// A row that is not understood is left out: it is learnt again.
fn manifest(key: &str, value: &[u8]) -> Option<(Digest, Manifest)> {
    let row: ManifestRow = serde_json::from_slice(value).ok()?;
    let content = match row.config {
        None => Content::Index(row.manifests.into()),
        Some(config) => Content::Image(
            Image {
                config: part(config),
                layers: row.layers.into_iter().map(part).collect(),
            }
            .into(),
        ),
    };
    let place = |(registry, repository): (String, String)| {
        let registry = RegistryHost::parse(&registry).ok()?;
        Some((registry, Repository::parse(&repository).ok()?))
    };
    let places = row.places.into_iter().filter_map(place).collect();
    let manifest = Manifest::new(content, places, row.seen);
    Some((Digest::parse(key).ok()?, manifest))
}

fn config_row(config: &Config) -> ConfigRow {
    let diff_ids = config.diff_ids.iter();
    ConfigRow {
        seen: config.seen,
        diff_ids: diff_ids.map(|id| *id.digest()).collect(),
    }
}

fn config(key: &str, value: &[u8]) -> Option<(Digest, Config)> {
    let row: ConfigRow = serde_json::from_slice(value).ok()?;
    let diff_ids = row.diff_ids.into_iter().map(DiffId::from).collect();
    let config = Config::new(diff_ids, row.seen);
    Some((Digest::parse(key).ok()?, config))
}

fn part_row(part: &Part) -> PartRow {
    PartRow {
        digest: part.digest,
        size: part.size,
        is_elsewhere: part.is_elsewhere,
    }
}

fn part(row: PartRow) -> Part {
    Part {
        digest: row.digest,
        size: row.size,
        is_elsewhere: row.is_elsewhere,
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::image_index::known::Known;

    fn digest(of: u8) -> Digest {
        Digest::of(&[of])
    }

    fn known() -> Known {
        let part = |of| Part {
            digest: digest(of),
            size: Some(u64::from(of)),
            is_elsewhere: of % 2 == 0,
        };
        let image = Image {
            config: part(1),
            layers: vec![part(2), part(3)],
        };
        let place = (
            RegistryHost::parse("r.io:5000").unwrap(),
            Repository::parse("a/b").unwrap(),
        );
        let mut known = Known::default();
        known.note(digest(9), Some(place), Content::Image(image.into()));
        known.note(digest(8), None, Content::Index([digest(9)].into()));
        known.note_config(digest(1), vec![digest(4).into(), digest(5).into()]);
        known
    }

    fn saved(rows: &Saved) -> String {
        let mut lines: Vec<_> = rows
            .manifests
            .iter()
            .map(|(digest, row)| format!("{digest} {:?} {:?}", row.content, row.places))
            .chain(rows.configs.iter().map(|row| format!("{row:?}")))
            .collect();
        lines.sort();
        lines.join("\n")
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (rows, empty) = Rows::open(dir.path()).unwrap();
        assert!(empty.manifests.is_empty());
        let mut known = known();
        let changes = known.take_changes();
        rows.write(&changes).unwrap();
        drop(rows);
        let (rows, again) = Rows::open(dir.path()).unwrap();
        let written = Saved {
            manifests: changes
                .manifests
                .into_iter()
                .map(|(digest, row)| (digest, row.unwrap()))
                .collect(),
            configs: changes
                .configs
                .into_iter()
                .map(|(digest, row)| (digest, row.unwrap()))
                .collect(),
        };
        assert_eq!(saved(&again), saved(&written));
        let gone = Changes {
            manifests: vec![(digest(9), None)],
            configs: vec![(digest(1), None)],
        };
        rows.write(&gone).unwrap();
        drop(rows);
        let (_, again) = Rows::open(dir.path()).unwrap();
        assert_eq!((again.manifests.len(), again.configs.len()), (1, 0));
    }

    #[test]
    fn what_cannot_be_read_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("index.redb"), "no database").unwrap();
        let (_rows, saved) = Rows::open(dir.path()).unwrap();
        assert!(saved.manifests.is_empty());
        assert!(dir.path().join("index.redb.corrupt").exists());
    }

    #[test]
    fn later_format_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (rows, _) = Rows::open(dir.path()).unwrap();
        let transaction = rows.0.begin_write().unwrap();
        transaction
            .open_table(META)
            .unwrap()
            .insert(VERSION, FORMAT + 1)
            .unwrap();
        transaction.commit().unwrap();
        drop(rows);
        Rows::open(dir.path()).unwrap();
        assert!(dir.path().join("index.redb.corrupt").exists());
    }

    #[test]
    fn rows_that_are_not_understood_are_left_out() {
        for value in [
            "",
            "[]",
            "{}",
            r#"{"seen":1}"#,
            r#"{"seen":-1,"places":[]}"#,
        ] {
            let key = digest(1).to_string();
            assert!(manifest(&key, value.as_bytes()).is_none(), "{value}");
            assert!(config(&key, value.as_bytes()).is_none(), "{value}");
        }
        let odd = r#"{"seen":1,"manifests":[],"places":[["","a"],["r.io","../x"]]}"#;
        let (_, row) = manifest(&digest(1).to_string(), odd.as_bytes()).unwrap();
        assert!(row.places.is_empty());
        assert!(manifest("sha256:1", odd.as_bytes()).is_none());
    }
}
