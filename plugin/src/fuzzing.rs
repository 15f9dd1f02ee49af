//! What must hold for any bytes that clients send. The fuzz targets (`fuzz/`) call this, and the
//! tests here replay their corpus.

use hawker_enrol::{JoinRequest, JoinToken};

pub use crate::{
    access::fuzzing::{claim, jwt},
    containerd::fuzzing::{apply_request, content_request, labels},
    control::fuzzing::control_request,
    layers::fuzzing::manifest,
    mirror::fuzzing::mirror_request,
};

/// Bytes as a join token, and as what a new host asks its issuer for: what is understood is said the
/// same again, and shows no secret where it is not asked to.
pub fn join(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes)
        && let Ok(token) = text.parse::<JoinToken>()
    {
        let again = token.reveal().parse::<JoinToken>();
        assert!(again.is_ok_and(|again| again.reveal() == token.reveal()));
        assert!(!format!("{token:?}").contains(&token.secret.reveal()));
    }
    let request = serde_json::from_slice::<JoinRequest>(bytes);
    if let Ok(request) = request {
        let secret = request.secret.reveal();
        // A client may say it elsewhere as well.
        let elsewhere = [request.host.as_str(), request.request.as_str()];
        let said = elsewhere.iter().any(|text| text.contains(&*secret));
        assert!(said || !format!("{request:?}").contains(&*secret));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use containerd_client::{
        services::v1::ApplyRequest,
        types::{Descriptor, Mount},
    };
    use tonic_prost::prost::Message as _;

    use super::*;

    /// Runs a target over its corpus. With `HAWKER_WRITE_CORPUS` the seeds are written first.
    fn replay(target: &str, seeds: &[impl AsRef<[u8]>], run: impl Fn(&[u8])) {
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

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn corpus_of_claims_is_survived() {
        let seeds = [
            format!("https://r.example/v2/a/blobs/{EMPTY}\nBearer t"),
            format!("http://127.0.0.1:5000/x/v2/team/app/blobs/{EMPTY}"),
            format!("https://r.example?/v2/a/blobs/{EMPTY}"),
            format!("https://r.example#/v2/a/blobs/{EMPTY}"),
            format!("https://u:p@r.example/v2/v2/v2/blobs/{EMPTY}\nBasic YTpi"),
            format!("https://[::1]:1/v2/../v2/a/blobs/{EMPTY}"),
        ];
        replay("claim", &seeds, claim);
    }

    #[test]
    fn corpus_of_manifests_is_survived() {
        let part =
            |kind: &str| format!("{{\"mediaType\":\"{kind}\",\"digest\":\"{EMPTY}\",\"size\":3}}");
        let config = part("application/vnd.oci.image.config.v1+json");
        let layer = part("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        let seeds = [
            format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[{layer},{layer}]}}"),
            format!("{{\"schemaVersion\":2,\"manifests\":[{layer}],\"annotations\":null}}"),
            format!("{{\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{EMPTY}\"]}}}}"),
            format!("{{\"config\":{layer},\"layers\":[],\"manifests\":[]}}"),
            "{\"schemaVersion\":1,\"fsLayers\":[]}".to_owned(),
            format!("r.example:5000/a/b:tag@{EMPTY}"),
            "nginx".to_owned(),
        ];
        replay("manifest", &seeds, manifest);
    }

    #[test]
    fn corpus_of_labels_is_survived() {
        let cri = "containerd.io/snapshot/cri";
        let seeds = [
            format!(
                "containerd.io/snapshot.ref={EMPTY}\n{cri}.image-ref=r.example/a/b:1\n{cri}.manifest-digest={EMPTY}\n{cri}.layer-digest={EMPTY}\n{cri}.image-layers={EMPTY},{EMPTY},sha512:00"
            ),
            format!("{cri}.image-ref=nginx\n{cri}.layer-digest={EMPTY}\n{cri}.image-layers=,"),
            format!("{cri}.image-ref=[::1]:5000/a@{EMPTY}\n{cri}.layer-digest={EMPTY}"),
            "containerd.io/snapshot.ref=sha256:00\n=".to_owned(),
        ];
        replay("labels", &seeds, labels);
    }

    #[test]
    fn corpus_of_content_requests_is_survived() {
        let seeds = [
            format!("{EMPTY}\ndigest=={EMPTY}\nlabels.\"a.b/c\""),
            "sha512:00\nlabels.\"a.b/c\"~=^d,labels.\"\"!=x".to_owned(),
            "sha256:\nlabels.\"a\\x2eb/c\"~=|d|,size==1".to_owned(),
            "\nref~=/[a-z]{1,9}(/".to_owned(),
            "md5:x\n,\n==\n\"\"~=\"(\"".to_owned(),
        ];
        replay("content_request", &seeds, content_request);
    }

    #[test]
    fn corpus_of_diffs_is_survived() {
        let request = |media_type: &str, kind: &str, options: &[&str]| {
            let mount = Mount {
                r#type: kind.to_owned(),
                source: "/x/fs".to_owned(),
                options: options.iter().map(|option| (*option).to_owned()).collect(),
                ..Mount::default()
            };
            let diff = Descriptor {
                media_type: media_type.to_owned(),
                digest: EMPTY.to_owned(),
                ..Descriptor::default()
            };
            let request = ApplyRequest {
                diff: Some(diff),
                mounts: vec![mount],
                ..ApplyRequest::default()
            };
            request.encode_to_vec()
        };
        let oci = "application/vnd.oci.image.layer.v1.tar+gzip";
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let seeds = [
            request(
                oci,
                "overlay",
                &["lowerdir=/a:/b", "upperdir=/c", "workdir=/w"],
            ),
            request(docker, "bind", &["rw", "rbind"]),
            request(oci, "overlay", &["lowerdir=/a", "uidmap=0:1:2"]),
            request("a/b", "native", &["ro"]),
            ApplyRequest::default().encode_to_vec(),
        ];
        replay("apply_request", &seeds, apply_request);
    }

    #[test]
    fn corpus_of_control_requests_is_survived() {
        let seeds = [
            format!(
                "url=https%3A%2F%2Fh.example%2Ff%3Fa%3Db&digest={EMPTY}&tag=t&application=a\nBasic PHRva2VuPjppZA==\n{{\"dir\":\"/var/lib/containerd\"}}"
            ),
            "url=file:///etc/passwd\nBearer t\n{\"dir\":\"relative\"}".to_owned(),
            "url=http://h/&x=1\nBasic !\n{\"dir\":1}".to_owned(),
            "digest=md5:1&url=\n\n[[[[".to_owned(),
        ];
        replay("control_request", &seeds, control_request);
    }

    #[test]
    fn corpus_of_tokens_for_joining_is_survived() {
        let (id, secret) = ("00112233445a", "5".repeat(64));
        let seeds = [
            format!("hawker-join.{id}.{secret}.{}", "a".repeat(64)),
            format!(" hawker-join.{id}.{secret}.sha256:{}\n", "A".repeat(64)),
            "hawker-join...".to_owned(),
            format!(
                "{{\"token\":\"{id}\",\"secret\":\"{secret}\",\"host\":\"node-1\",\"request\":\"\"}}"
            ),
            "{\"token\":\"\",\"host\":\"../x\"}".to_owned(),
        ];
        replay("join", &seeds, join);
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
