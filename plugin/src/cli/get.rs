//! `hawker get`: one file, through `hawkerd` or straight from where it is.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use hawker_config::RateLimit;
use hawker_model::Digest;
use hawker_p2p::Account;
use http::Method;
use http_body_util::BodyExt;
use tokio::signal::unix::{SignalKind, signal};
use url::{Url, form_urlencoded};

use super::{
    CliError, SocketArgs,
    client::{Client, ClientError},
    login::{LoginArgs, authorization},
    progress::Progress,
    save::Saving,
};
use crate::{straight, url_task::Wish};

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// Where the file is: http:// or https://
    url: Url,
    /// The file to write; it appears when it is whole and checked
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What the file must be; hosts that ask for the same digest share it whatever their URL
    #[arg(long, value_name = "sha256:HEX")]
    digest: Option<Digest>,
    /// Shares the file only with downloads of the same tag
    #[arg(long, default_value = "")]
    tag: String,
    /// As --tag, for programs
    #[arg(long, default_value = "")]
    application: String,
    /// How fast it may come: "10MiB/s", "80Mbit/s". Holds unless somebody else on this host waits
    /// for the same file without a rate
    #[arg(long, value_name = "RATE", value_parser = super::limits::read)]
    rate: Option<RateLimit>,
    /// Fail instead of going straight to the URL when hawkerd cannot help
    #[arg(long)]
    no_back_to_source: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

/// A download under way.
pub(super) struct Download {
    length: Option<u64>,
    bytes: BoxStream<'static, Result<Bytes, CliError>>,
}

impl Download {
    fn new<S, E>(length: Option<u64>, bytes: S) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: std::fmt::Display,
    {
        let bytes = bytes.map_err(|error| CliError::Failed(error.to_string()));
        Self {
            length,
            bytes: bytes.boxed(),
        }
    }
}

/// Downloads; SIGINT and SIGTERM end it without leaving a part of the file.
pub(super) async fn run(mut args: GetArgs) -> Result<(), CliError> {
    // While it waits for a password, a signal ends it as it ends every program.
    let account = args.login.account(&mut args.url).await?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::failed)?;
    tokio::select! {
        result = get(args, account.as_ref()) => result,
        _ = interrupt.recv() => Err(CliError::Interrupted),
        _ = terminate.recv() => Err(CliError::Interrupted),
    }
}

async fn get(args: GetArgs, account: Option<&Account>) -> Result<(), CliError> {
    let wish = Wish {
        url: args.url.clone(),
        digest: args.digest,
        tag: args.tag.clone(),
        application: args.application.clone(),
    };
    let through_network = async {
        let download = through_network(&wish, &args, account).await?;
        save(download, &wish, &args).await
    };
    match through_network.await {
        Ok(()) => return Ok(()),
        Err(error @ (CliError::WrongDigest(_) | CliError::NotSaved(_))) => return Err(error),
        Err(error) if args.no_back_to_source => return Err(error),
        Err(error) => eprintln!(
            "hawker: {error}\nhawker: going straight to {}",
            shown(&wish.url)
        ),
    }
    let downloading = straight::download(&wish, account);
    let (length, bytes) = downloading.await.map_err(CliError::failed)?;
    let bytes = straight::paced(bytes, args.rate.and_then(crate::limits::rate));
    save(Download::new(length, bytes), &wish, &args).await
}

async fn through_network(
    wish: &Wish,
    args: &GetArgs,
    account: Option<&Account>,
) -> Result<Download, CliError> {
    let unreachable = |error: ClientError| CliError::Unreachable(error.to_string());
    let client = Client::connect(&args.socket.socket).await;
    let client = client.map_err(unreachable)?;
    let shown = account.map(authorization);
    let asked = client
        .send(Method::GET, &target(wish, args.rate), shown.as_ref())
        .await;
    let response = asked.map_err(CliError::failed)?;
    let length = response.headers().get(http::header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(Download::new(
        length,
        response.into_body().into_data_stream(),
    ))
}

fn target(wish: &Wish, rate: Option<RateLimit>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("url", wish.url.as_str());
    if let Some(digest) = wish.digest {
        query.append_pair("digest", &digest.to_string());
    }
    let rate = rate.unwrap_or_default().to_string();
    for (name, value) in [
        ("tag", &wish.tag),
        ("application", &wish.application),
        ("rate", &rate),
    ] {
        if !value.is_empty() {
            query.append_pair(name, value);
        }
    }
    format!("/v1/blob?{}", query.finish())
}

async fn save(mut download: Download, wish: &Wish, args: &GetArgs) -> Result<(), CliError> {
    let mut saving = Saving::create(&args.output)?;
    let mut progress = Progress::new(download.length, args.quiet);
    while let Some(bytes) = download.bytes.next().await {
        let bytes = bytes?;
        saving.write(&bytes)?;
        progress.advance(bytes.len() as u64);
    }
    let digest = saving.keep(download.length, wish.digest)?;
    let summary = progress.finish();
    if !args.quiet {
        eprintln!("hawker: {}: {summary}, {digest}", args.output.display());
    }
    Ok(())
}

/// A URL for people's eyes: queries carry signatures.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    let _ = url.set_password(None);
    url.into()
}
