//! `hawker limits`: how much of the network this host's hawkerd takes.

use clap::Args;
use hawker_config::{LimitSettings, RateLimit};
use http::Method;
use http_body_util::BodyExt;
use url::form_urlencoded;

use super::{CliError, SocketArgs, client::Client, table::table};

/// What lifts a limit, where an empty word is easily lost.
const NONE: &str = "none";

#[derive(Debug, Args)]
#[command(
    after_help = "RATE is \"100MiB/s\", \"100MiB/s burst 16MiB\", \"800Mbit/s\", or \"none\". \
                        Changes hold until hawkerd is started anew or gets SIGHUP: [limits] in its \
                        settings lasts."
)]
pub(super) struct LimitsArgs {
    /// What peers and seeds send to this host, of all blobs together
    #[arg(long, value_name = "RATE", value_parser = read)]
    download: Option<RateLimit>,
    /// The same of each blob
    #[arg(long, value_name = "RATE", value_parser = read)]
    download_per_task: Option<RateLimit>,
    /// What this host sends to peers, of all blobs together
    #[arg(long, value_name = "RATE", value_parser = read)]
    upload: Option<RateLimit>,
    /// The same of each blob
    #[arg(long, value_name = "RATE", value_parser = read)]
    upload_per_task: Option<RateLimit>,
    /// What registries send for the piece network, of all blobs together
    #[arg(long, value_name = "RATE", value_parser = read)]
    back_to_source: Option<RateLimit>,
    /// The same of each blob
    #[arg(long, value_name = "RATE", value_parser = read)]
    back_to_source_per_task: Option<RateLimit>,
    #[command(flatten)]
    socket: SocketArgs,
}

/// A rate as a command line has it.
pub(super) fn read(text: &str) -> Result<RateLimit, String> {
    match text {
        NONE => Ok(RateLimit::Unlimited),
        rate => rate.parse::<RateLimit>().map_err(|error| error.to_string()),
    }
}

impl LimitsArgs {
    fn query(&self) -> Option<String> {
        let changes = [
            ("download", self.download),
            ("download_per_task", self.download_per_task),
            ("upload", self.upload),
            ("upload_per_task", self.upload_per_task),
            ("back_to_source", self.back_to_source),
            ("back_to_source_per_task", self.back_to_source_per_task),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, rate) in changes {
            if let Some(rate) = rate {
                query.append_pair(name, &rate.to_string());
            }
        }
        Some(query.finish()).filter(|query| !query.is_empty())
    }
}

pub(super) async fn run(args: LimitsArgs) -> Result<(), CliError> {
    let client = Client::connect(&args.socket.socket).await;
    let client = client.map_err(|error| CliError::Unreachable(error.to_string()))?;
    let response = match args.query() {
        Some(query) => {
            let target = format!("/v1/limits?{query}");
            client.send(Method::PUT, &target, None).await
        }
        None => client.ask("/v1/limits").await,
    };
    let body = response.map_err(CliError::failed)?.into_body();
    let body = body.collect().await.map_err(CliError::failed)?.to_bytes();
    let limits = serde_json::from_slice(&body).map_err(|error| {
        CliError::Failed(format!(
            "the answer of hawkerd is not understood ({error}): is it of another version?"
        ))
    })?;
    print!("{}", show(&limits));
    Ok(())
}

fn show(limits: &LimitSettings) -> String {
    let shown = |rate: RateLimit| match rate {
        RateLimit::Unlimited => NONE.to_owned(),
        rate => rate.to_string(),
    };
    let row = |name: &str, total, per_task| vec![name.to_owned(), shown(total), shown(per_task)];
    let rows = [
        row("download", limits.download, limits.download_per_task),
        row("upload", limits.upload, limits.upload_per_task),
        row(
            "back to source",
            limits.back_to_source,
            limits.back_to_source_per_task,
        ),
    ];
    table(&["", "ALL", "EACH BLOB"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_changed() {
        let args = LimitsArgs {
            download: None,
            download_per_task: None,
            upload: Some(read("1MiB/s").unwrap()),
            upload_per_task: Some(read("none").unwrap()),
            back_to_source: None,
            back_to_source_per_task: None,
            socket: SocketArgs {
                socket: "/x".into(),
            },
        };
        assert_eq!(args.query().unwrap(), "upload=1MiB%2Fs&upload_per_task=");
    }

    #[test]
    fn limits_are_shown_and_their_absence() {
        let limits = LimitSettings {
            upload: RateLimit::from_bytes(1 << 20),
            ..LimitSettings::default()
        };
        let shown = show(&limits);
        assert!(
            shown.contains("1MiB/s") && shown.contains("none"),
            "{shown}"
        );
        assert_eq!(shown.lines().count(), 4);
    }
}
