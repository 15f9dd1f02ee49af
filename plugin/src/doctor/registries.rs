//! Registries that something is configured of: do their files hold, do they answer?

use std::time::Duration;

use futures::future::join_all;
use hawker_config::NodeConfig;
use hawker_model::RegistryHost;
use hawker_p2p::{OriginClient, OriginError};

use super::Findings;
use crate::settings;

const CHECK: &str = "registries";
/// How long one registry may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// So many are asked at most.
const MOST: usize = 50;

pub(super) async fn examine(config: &NodeConfig, findings: &mut Findings) {
    let origin = match client(config) {
        Ok(origin) => origin,
        Err(error) => {
            let remedy = "mend it, and restart hawkerd; it does not start so";
            return findings.fail(CHECK, error, remedy);
        }
    };
    for warning in origin.warnings() {
        findings.warn(
            CHECK,
            warning,
            "mend it, and restart hawkerd: it reads them once",
        );
    }
    let all = origin.configured();
    if all.is_empty() {
        return findings.info(
            CHECK,
            "none is configured: all are asked at the address that their name says",
        );
    }
    let asked = all
        .iter()
        .take(MOST)
        .map(|registry| inspect(&origin, registry));
    for of_registry in join_all(asked).await {
        for finding in of_registry.all {
            findings.all.push(finding);
        }
    }
    if all.len() > MOST {
        findings.info(CHECK, format!("{} more were not asked", all.len() - MOST));
    }
}

fn client(config: &NodeConfig) -> Result<OriginClient, settings::SettingsError> {
    Ok(OriginClient::new(settings::origin(config)?)?)
}

async fn inspect(origin: &OriginClient, registry: &RegistryHost) -> Findings {
    let mut findings = Findings::default();
    let looking = origin.inspect(registry);
    let Ok(reports) = tokio::time::timeout(PATIENCE, looking).await else {
        findings.warn(
            CHECK,
            format!("{registry}: no answer within {} s", PATIENCE.as_secs()),
            "is it up, and is the way to it open?",
        );
        return findings;
    };
    for report in reports {
        match report.outcome {
            Ok(words) => findings.ok(CHECK, format!("{registry}: {} {words}", report.url)),
            // The error says itself what mends it.
            Err(error) => findings.fail(CHECK, format!("{registry}: {error}"), remedy(&error)),
        }
    }
    findings
}

/// What mends an error that does not say so itself.
fn remedy(error: &OriginError) -> &'static str {
    match error {
        OriginError::Unreachable { .. } | OriginError::Timeout { .. } => {
            "is it up, and the way to it open? Behind a proxy: set origin.proxy"
        }
        OriginError::NotFound { .. } | OriginError::UnexpectedStatus { .. } => {
            "is that the registry? registries.NAME.endpoint says where it is"
        }
        OriginError::Server { .. } => "see the registry's own log",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::doctor::Verdict;

    async fn look(text: &str) -> Findings {
        let config = NodeConfig::parse(text, Path::new("t.toml"), None).unwrap();
        let mut findings = Findings::default();
        examine(&config, &mut findings).await;
        findings
    }

    #[tokio::test]
    async fn a_registry_that_is_not_there_is_told_with_what_to_look_at() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        let text = format!(
            "[origin]\ncerts_d = []\nproxy = \"\"\n[registries.\"r.lan\"]\n\
             endpoint = \"http://127.0.0.1:{port}\"\n"
        );
        let findings = look(&text).await;
        let [finding] = &findings.all[..] else {
            panic!("{findings:?}")
        };
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(
            finding.what.starts_with("r.lan: cannot reach"),
            "{finding:?}"
        );
        assert!(finding.remedy.contains("origin.proxy"), "{finding:?}");
    }

    #[tokio::test]
    async fn files_that_do_not_hold_are_told() {
        let text = "[origin]\ncerts_d = []\n[registries.\"r.lan\"]\nca = \"/nonexistent/ca.pem\"\n";
        let findings = look(text).await;
        assert_eq!(findings.count(Verdict::Fail), 1);
        assert!(
            findings.all[0].what.contains("/nonexistent/ca.pem"),
            "{findings:?}"
        );
    }

    #[tokio::test]
    async fn without_settings_there_is_nothing_to_ask() {
        let findings = look("[origin]\ncerts_d = []\n").await;
        assert_eq!(findings.count(Verdict::Info), 1);
    }
}
