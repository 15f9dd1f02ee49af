//! `hawker rights`: what this host's hawkerd remembers of its clients' rights.

use clap::{Args, Subcommand};
use http::Method;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::{CliError, SocketArgs, client::Client, table::table};
use crate::{
    access::RepositoryRights,
    control::{Forgotten, RightsReport},
};

#[derive(Debug, Args)]
pub(super) struct RightsArgs {
    #[command(subcommand)]
    command: Option<RightsCommand>,
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Debug, Subcommand)]
enum RightsCommand {
    /// Forget rights, so that registries are asked anew
    Forget {
        /// Only those to this registry, or to one repository of it; else all
        #[arg(value_name = "REGISTRY[/REPOSITORY]")]
        place: Option<String>,
        #[command(flatten)]
        socket: SocketArgs,
    },
}

pub(super) async fn run(args: RightsArgs) -> Result<(), CliError> {
    match args.command {
        None => {
            let report: RightsReport = ask(&args.socket, Method::GET, "/v1/rights").await?;
            print!("{}", show(&report.rights));
        }
        Some(RightsCommand::Forget { place, socket }) => {
            let target = format!("/v1/rights{}", query(place.as_deref()));
            let answer: Forgotten = ask(&socket, Method::DELETE, &target).await?;
            println!("{} forgotten", answer.forgotten);
        }
    }
    Ok(())
}

async fn ask<T: DeserializeOwned>(
    socket: &SocketArgs,
    method: Method,
    target: &str,
) -> Result<T, CliError> {
    let client = Client::connect(&socket.socket).await;
    let client = client.map_err(|error| CliError::Unreachable(error.to_string()))?;
    let response = client.send(method, target, None).await;
    let body = response.map_err(CliError::failed)?.into_body();
    let body = body.collect().await.map_err(CliError::failed)?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| {
        CliError::Failed(format!(
            "the answer of hawkerd is not understood ({error}): is it of another version?"
        ))
    })
}

fn query(place: Option<&str>) -> String {
    let Some(place) = place else {
        return String::new();
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    match place.split_once('/') {
        Some((registry, repository)) => {
            query.append_pair("registry", registry);
            query.append_pair("repository", repository);
        }
        None => {
            query.append_pair("registry", place);
        }
    }
    format!("?{}", query.finish())
}

fn show(rights: &[RepositoryRights]) -> String {
    if rights.is_empty() {
        return "No rights are remembered.\n".to_owned();
    }
    let row = |row: &RepositoryRights| {
        vec![
            row.registry.clone(),
            row.repository.clone(),
            row.holders.to_string(),
            row.fresh.to_string(),
            row.in_grace.to_string(),
        ]
    };
    let rows: Vec<_> = rights.iter().map(row).collect();
    let head = ["REGISTRY", "REPOSITORY", "CREDENTIALS", "FRESH", "IN GRACE"];
    table(&head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_a_registry_or_a_repository_of_it() {
        assert_eq!(query(None), "");
        assert_eq!(query(Some("r.io:5000")), "?registry=r.io%3A5000");
        assert_eq!(query(Some("r.io/a/b")), "?registry=r.io&repository=a%2Fb");
    }

    #[test]
    fn rights_are_shown_without_their_holders() {
        let shown = show(&[RepositoryRights {
            registry: "r.io".to_owned(),
            repository: "a".to_owned(),
            holders: 2,
            fresh: 3,
            in_grace: 1,
        }]);
        assert!(shown.contains("r.io"), "{shown}");
        assert_eq!(shown.lines().count(), 2);
        assert_eq!(show(&[]), "No rights are remembered.\n");
    }
}
