//! `hawker doctor`: what is wrong on this host, and what to do.

use std::path::PathBuf;

use clap::Args;

use super::CliError;
use crate::{
    doctor::{self, Finding, Findings, Places, Verdict},
    setup::{containerd::CERTS_D, docker::DAEMON_JSON},
};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The socket of hawkerd [default: what its settings say]
    #[arg(long, value_name = "PATH", env = "HAWKER_SOCKET")]
    socket: Option<PathBuf>,
    /// hawkerd's settings [default: /etc/hawker/hawkerd.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    hawkerd_config: Option<PathBuf>,
    /// containerd's settings
    #[arg(long, value_name = "FILE", default_value = super::setup::CONTAINERD_CONFIG)]
    containerd_config: PathBuf,
    /// containerd's socket [default: what its settings say]
    #[arg(long, value_name = "PATH")]
    address: Option<PathBuf>,
    /// Where hosts.toml files lie, when containerd's settings name no place
    #[arg(long, value_name = "DIR", default_value = CERTS_D)]
    certs_dir: PathBuf,
    /// Docker's settings
    #[arg(long, value_name = "FILE", default_value = DAEMON_JSON)]
    docker_config: PathBuf,
}

pub(super) async fn run(args: DoctorArgs) -> Result<(), CliError> {
    let places = Places {
        hawkerd_config: args.hawkerd_config,
        control: args.socket,
        containerd_config: args.containerd_config,
        containerd: args.address,
        certs_d: args.certs_dir,
        docker_config: args.docker_config,
    };
    let findings = doctor::examine(&places).await;
    match args.json {
        true => {
            let text = serde_json::to_string_pretty(&findings).map_err(CliError::failed)?;
            println!("{text}");
        }
        false => print!("{}", show(&findings)),
    }
    match findings.count(Verdict::Fail) {
        0 => Ok(()),
        1 => Err(CliError::Failed("one check failed".to_owned())),
        n => Err(CliError::Failed(format!("{n} checks failed"))),
    }
}

fn show(findings: &Findings) -> String {
    let widest = |finding: &Finding| finding.check.chars().count();
    let width = findings.all.iter().map(widest).max().unwrap_or(0);
    let mut text = String::new();
    for finding in &findings.all {
        let indent = " ".repeat(width + 8);
        let what = finding
            .what
            .trim_end()
            .replace('\n', &format!("\n{indent}"));
        let verdict = finding.verdict.as_str();
        text += &format!("{verdict:4}  {:width$}  {what}\n", finding.check);
        if !finding.remedy.is_empty() {
            text += &format!("{indent}→ {}\n", finding.remedy);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_in_columns_with_their_remedy_below() {
        let mut findings = Findings::default();
        findings.ok("mirror", "answers");
        findings.fail("containerd", "two\nlines", "start it");
        assert_eq!(
            show(&findings),
            "ok    mirror      answers\n\
             FAIL  containerd  two\n                  lines\n                  → start it\n"
        );
    }
}
