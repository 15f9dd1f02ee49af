//! Debian's nginx with a configuration of the testbed's own: what serves files at the least cost.

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};

use super::channel::Channel;
use crate::{
    bed::{Host, Process},
    pki::PrivateCa,
};

pub(super) const PLAIN_PORT: u16 = 8088;
pub(super) const TLS_PORT: u16 = 8443;
const DIR: &str = "/run/nginx-bench";
const START_LIMIT: Duration = Duration::from_secs(10);

/// `sendfile` on and `tcp_nopush` off: over twice as fast here as with it. TLS with the cipher that
/// hosts of Hawker agree on. One process, so that all of its time is seen.
const CONFIG: &str = "\
daemon off;
master_process off;
pid /run/nginx-bench/pid;
error_log stderr warn;
events { worker_connections 64; }
http {
    access_log off;
    sendfile on;
    tcp_nopush off;
    keepalive_requests 100000000;
    client_body_temp_path /run/nginx-bench/body;
    proxy_temp_path /run/nginx-bench/proxy;
    fastcgi_temp_path /run/nginx-bench/fastcgi;
    uwsgi_temp_path /run/nginx-bench/uwsgi;
    scgi_temp_path /run/nginx-bench/scgi;
    server { listen 127.0.0.1:8088; root /var/lib/nginx-bench; }
    server {
        listen 127.0.0.1:8443 ssl;
        ssl_certificate /run/nginx-bench/cert.pem;
        ssl_certificate_key /run/nginx-bench/key.pem;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        root /var/lib/nginx-bench;
    }
}
";

/// Starts nginx on a host, where it serves these bytes as `/blob`.
pub(super) fn start(host: &Host, ca: &PrivateCa, blob: &[u8]) -> Result<Arc<Process>> {
    ensure!(
        Path::new("/usr/sbin/nginx").exists(),
        "nginx is missing: apt-get install nginx-light"
    );
    let pair = ca.server(&["localhost", "127.0.0.1"])?;
    host.write(&format!("{DIR}/cert.pem"), pair.cert_pem)?;
    host.write(&format!("{DIR}/key.pem"), pair.key_pem)?;
    host.write(&format!("{DIR}/nginx.conf"), CONFIG)?;
    let path = host.path("/var/lib/nginx-bench/blob");
    fs::create_dir_all(path.parent().context("the path has no parent")?)?;
    fs::write(&path, blob)?;
    let mut command = Command::new("/usr/sbin/nginx");
    command
        .args(["-e", "stderr", "-c"])
        .arg(format!("{DIR}/nginx.conf"));
    let process = host.spawn("nginx", &mut command)?;
    let address = ([127, 0, 0, 1], PLAIN_PORT).into();
    let is_up = || matches!(host.enter(|| Channel::connect(address, None)), Ok(Ok(_)));
    process.wait_until(START_LIMIT, is_up)?;
    Ok(process)
}

/// Gets ranges of `step` bytes of the blob one after the other and over again, until `len` bytes
/// have come.
pub(super) fn drain(channel: &mut Channel, blob_len: u64, step: u64, len: u64) -> Result<u64> {
    let mut scratch = vec![0; 1 << 20];
    let (mut at, mut got) = (0, 0);
    while got < len {
        let end = (at + step).min(blob_len);
        let request = format!(
            "GET /blob HTTP/1.1\r\nHost: localhost\r\nRange: bytes={at}-{}\r\n\r\n",
            end - 1
        );
        channel.write_all(request.as_bytes())?;
        let head = channel.read_head()?;
        ensure!(head.starts_with("HTTP/1.1 206 "), "nginx answered {head}");
        channel.discard(usize::try_from(end - at)?, &mut scratch)?;
        got += end - at;
        at = if end == blob_len { 0 } else { end };
    }
    Ok(got)
}
