//! The edit of Docker's daemon.json: our mirror in front of `registry-mirrors`.

use std::path::Path;

use serde_json::Value;

use super::{
    disk::{self, DiskError},
    hosts::same_url,
    plan::Plan,
};

/// Where Docker looks for its settings.
pub(crate) const DAEMON_JSON: &str = "/etc/docker/daemon.json";
const KEY: &str = "registry-mirrors";

/// Why daemon.json is not edited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DockerPlanError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{path}, line {line}: this is not JSON: {why}; Docker refuses it too")]
    Syntax {
        path: String,
        line: usize,
        why: String,
    },
    #[error("{0}: it is no JSON object: write {{ … }}")]
    NoObject(String),
    #[error("{0}: registry-mirrors is no list of texts")]
    NoList(String),
    #[error("{0}: its form is too unusual to be edited: add registry-mirrors by hand")]
    Form(String),
}

/// The change that makes Docker ask the mirror for images of docker.io.
pub(crate) fn plan(path: &Path, mirror: &str) -> Result<Plan, DockerPlanError> {
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let old = disk::read_text(path)?;
    let mut plan = Plan::default();
    let new = with_mirror(old.as_deref().unwrap_or_default(), mirror, path)?;
    plan.change(path, old, new);
    Ok(plan)
}

fn with_mirror(text: &str, mirror: &str, path: &Path) -> Result<String, DockerPlanError> {
    let place = || path.display().to_string();
    if text.trim().is_empty() {
        return Ok(format!("{{\n  \"{KEY}\": [{mirror:?}]\n}}\n"));
    }
    let before: Value = serde_json::from_str(text).map_err(|error| DockerPlanError::Syntax {
        path: place(),
        line: error.line(),
        why: error.to_string(),
    })?;
    let object = before
        .as_object()
        .ok_or_else(|| DockerPlanError::NoObject(place()))?;
    let mirrors = mirrors(&before).ok_or_else(|| DockerPlanError::NoList(place()))?;
    if mirrors.iter().any(|there| same_url(there, mirror)) {
        return Ok(text.to_owned());
    }
    let new = match list_start(text) {
        Some(at) if object.contains_key(KEY) => {
            let comma = if mirrors.is_empty() { "" } else { ", " };
            insert(text, at, &format!("{mirror:?}{comma}"))
        }
        _ => {
            let at = text.find('{').map_or(0, |at| at + 1);
            let comma = if object.is_empty() { "\n" } else { "," };
            insert(text, at, &format!("\n  \"{KEY}\": [{mirror:?}]{comma}"))
        }
    };
    let mut wanted = before.clone();
    let mut list = vec![mirror.to_owned()];
    list.extend(mirrors);
    wanted[KEY] = list.into();
    match serde_json::from_str::<Value>(&new) {
        Ok(after) if after == wanted => Ok(new),
        _ => Err(DockerPlanError::Form(place())),
    }
}

/// The mirrors that the settings name; `None` where they are no list of texts.
pub(crate) fn mirrors(settings: &Value) -> Option<Vec<String>> {
    let Some(list) = settings.get(KEY) else {
        return Some(Vec::new());
    };
    let texts = list.as_array()?.iter();
    texts.map(|text| text.as_str().map(str::to_owned)).collect()
}

fn insert(text: &str, at: usize, new: &str) -> String {
    let (head, tail) = text.split_at(at);
    format!("{head}{new}{tail}")
}

/// Behind the `[` of the list that the key names at the top level of sound JSON.
fn list_start(text: &str) -> Option<usize> {
    let (mut depth, mut string, mut escaped) = (0_u32, None, false);
    let mut last = "";
    for (at, byte) in text.bytes().enumerate() {
        match (byte, string) {
            _ if escaped => escaped = false,
            (b'\\', Some(_)) => escaped = true,
            (b'"', Some(start)) => {
                last = &text[start..at];
                string = None;
            }
            (_, Some(_)) => {}
            (b'"', None) => string = Some(at + 1),
            (b'[', None) if depth == 1 && last == KEY => return Some(at + 1),
            (b'{' | b'[', None) => depth += 1,
            (b'}' | b']', None) => depth = depth.saturating_sub(1),
            (b',', None) => last = "",
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIRROR: &str = "http://127.0.0.1:65001";

    fn edited(text: &str) -> Result<String, DockerPlanError> {
        let new = with_mirror(text, MIRROR, Path::new("daemon.json"))?;
        let again = with_mirror(&new, MIRROR, Path::new("daemon.json"))?;
        assert_eq!(again, new, "a second time");
        Ok(new)
    }

    #[test]
    fn mirror_is_put_in_front_and_the_rest_stays_as_written() {
        for (text, expected) in [
            ("", "{\n  \"registry-mirrors\": [\"M\"]\n}\n"),
            ("{}", "{\n  \"registry-mirrors\": [\"M\"]\n}"),
            (
                "{\n  \"log-driver\": \"json-file\"\n}\n",
                "{\n  \"registry-mirrors\": [\"M\"],\n  \"log-driver\": \"json-file\"\n}\n",
            ),
            (
                "{ \"a\": {\"registry-mirrors\": []},\n \"registry-mirrors\" : [\n  \"https://m\"] }",
                "{ \"a\": {\"registry-mirrors\": []},\n \"registry-mirrors\" : [\"M\", \n  \"https://m\"] }",
            ),
            (
                "{\"x\": \"registry-mirrors\", \"y\": [1], \"registry-mirrors\": []}",
                "{\"x\": \"registry-mirrors\", \"y\": [1], \"registry-mirrors\": [\"M\"]}",
            ),
        ] {
            assert_eq!(
                edited(text).unwrap(),
                expected.replace('M', MIRROR),
                "{text}"
            );
        }
    }

    #[test]
    fn mirror_that_is_there_stays_where_it_is() {
        let text = "{\"registry-mirrors\": [\"https://m\", \"http://127.0.0.1:65001/\"]}";
        assert_eq!(edited(text).unwrap(), text);
    }

    #[test]
    fn what_docker_would_refuse_is_refused_with_its_line() {
        let error = edited("{\n  \"a\": 1,\n}").unwrap_err().to_string();
        assert!(error.starts_with("daemon.json, line 3: "), "{error}");
        assert!(edited("[]").is_err());
        assert!(edited("{\"registry-mirrors\": \"x\"}").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_edited_soundly_or_refused(text in "\\PC{0,60}", json in "\\{(\"(a|registry-mirrors)\": (1|\\[\\]|\\[\"x\"\\]|\"\\\\\\\\\\\\\"\"),?){0,4}\\}") {
            for text in [text, json] {
                if let Ok(new) = edited(&text) {
                    let new: Value = serde_json::from_str(&new).unwrap();
                    prop_assert!(mirrors(&new).unwrap().iter().any(|m| same_url(m, MIRROR)));
                }
            }
        }
    }
}
