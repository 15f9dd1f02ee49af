//! What must hold for any bytes that clients send. The fuzz targets (`fuzz/`) call this, and the
//! tests here replay their corpus.

pub use crate::{access::fuzzing::jwt, mirror::fuzzing::mirror_request};

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Runs a target over its corpus. With `HAWKER_WRITE_CORPUS` the seeds are written first.
    fn replay(target: &str, seeds: &[&str], run: impl Fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let dir = corpus.join(target);
        if std::env::var_os("HAWKER_WRITE_CORPUS").is_some() {
            fs::create_dir_all(&dir).unwrap();
            for (at, seed) in seeds.iter().enumerate() {
                fs::write(dir.join(format!("seed-{at}")), seed).unwrap();
            }
        }
        let mut count = 0;
        for file in fs::read_dir(&dir).unwrap() {
            run(&fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= seeds.len(), "{} holds {count}", dir.display());
    }

    #[test]
    fn corpus_of_tokens_is_survived() {
        let seeds = [
            "Bearer eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDAwMDAwMzB9.x",
            "Bearer eyJhbGciOiJub25lIn0.eyJleHAiOi0xZTMwOH0.x",
            "bearer e30.eyJleHAiOjFlMzA4fQ.",
            "Bearer a.b.c.d",
            "Bearer ...",
            "Basic YW5uOnB3",
        ];
        replay("jwt", &seeds, jwt);
    }

    #[test]
    fn corpus_of_requests_is_survived() {
        let seeds = [
            "GET /v2/ HTTP\nhost:127.0.0.1:65001",
            "GET /v2/library/debian/manifests/12?ns=docker.example HTTP\nhost:localhost\naccept:a/b\naccept:c/d",
            "HEAD /v2/a/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855?ns=r.example%3A5000 H\nhost:mirror.example\nrange:bytes=0-9\nauthorization:Bearer aaaaaaaaaaaaaaaaaaaaaaaa",
            "GET http://127.0.0.1:1/v2/a/tags/list?n=5&last=x HTTP\nx-dragonfly-registry:https://r.example/",
            "GET /v2/a/referrers/sha512:00?artifactType=x%2fy HTTP\nhost:[::1]:1\nif-none-match:\"x\"\nif-range:\"x\"\nuser-agent:containerd/2",
            "GET /v2/?ns=a.example&n%73=b.example HTTP\nhost:127.0.0.1\norigin:http://evil.example",
            "GET /v2/../x HTTP\nhost:127.0.0.1\nsec-fetch-site:cross-site\ncontent-length:4",
            "POST /v2/a/blobs/uploads/ HTTP\nhost:a@b\ntransfer-encoding:chunked",
            "CONNECT a.example:443 HTTP\nhost:127.0.0.1",
            "OPTIONS * HTTP\nhost:127.0.0.1\nhost:127.0.0.1",
        ];
        replay("mirror_request", &seeds, mirror_request);
    }
}
