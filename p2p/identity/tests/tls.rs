//! Who gets through TLS; who does not is told why. Refusals between peers are tested where both
//! sides report them: `p2p/tests/transport_refusals.rs`.

#![allow(clippy::unwrap_used)]

mod cluster;

use std::{io, sync::Arc};

use cluster::{Cluster, subject};
use hawker_identity::{Identity, PeerCertificate, explain_io, server_name};
use hawker_model::Role;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, rustls, server};

type Sides = (
    io::Result<server::TlsStream<DuplexStream>>,
    io::Result<client::TlsStream<DuplexStream>>,
);

async fn meet(server: Arc<rustls::ServerConfig>, client: Arc<rustls::ClientConfig>) -> Sides {
    let (here, there) = duplex(64 << 10);
    tokio::join!(
        TlsAcceptor::from(server).accept(here),
        TlsConnector::from(client).connect(server_name(), there),
    )
}

/// A pair of a cluster, server first.
fn pair() -> (Arc<Identity>, Arc<Identity>) {
    let cluster = Cluster::new("prod");
    let seed = cluster.identity("seed-1", Role::Seed);
    (seed, cluster.identity("node-1", Role::Node))
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let (seed, node) = pair();
    let (here, there) = meet(seed.server_config(&[b"x"]), node.client_config(&[b"x"])).await;
    let (mut here, mut there) = (here.unwrap(), there.unwrap());
    let client = PeerCertificate::from_tls(here.get_ref().1).unwrap();
    assert_eq!(client.spiffe_id(), "spiffe://prod/hawker/node/node-1");
    let server = PeerCertificate::from_tls(there.get_ref().1).unwrap();
    assert_eq!(server.spiffe_id(), "spiffe://prod/hawker/seed/seed-1");
    let version = here.get_ref().1.protocol_version();
    assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_3));
    here.write_all(b"piece").await.unwrap();
    here.flush().await.unwrap();
    let mut word = [0; 5];
    there.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"piece");
    let tickets = there.get_ref().1.tls13_tickets_received();
    assert_eq!(tickets, 0, "nothing to resume with");
}

#[tokio::test]
async fn another_protocol_is_told() {
    let (seed, node) = pair();
    let (here, there) = meet(
        seed.server_config(&[b"hawker/1"]),
        node.client_config(&[b"h2"]),
    )
    .await;
    for error in [here.unwrap_err(), there.unwrap_err()] {
        let text = explain_io(&error);
        assert!(text.contains("another protocol"), "{text}");
    }
}

#[tokio::test]
async fn older_tls_is_told() {
    let (seed, _) = pair();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let old = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let (here, there) = meet(seed.server_config(&[]), old.into()).await;
    for error in [here.unwrap_err(), there.unwrap_err()] {
        let text = explain_io(&error);
        assert!(text.contains("TLS 1.3 is needed"), "{text}");
    }
}

/// A client of the cluster whose certificate is as `change` makes it.
fn odd_client(
    cluster: &Cluster,
    change: impl FnOnce(&mut rcgen::CertificateParams),
) -> Arc<rustls::ClientConfig> {
    let ca_key = rcgen::KeyPair::from_pem(&cluster.authority.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(cluster.authority.cert_pem(), ca_key).unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let id = "spiffe://prod/hawker/node/node-1";
    params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
    change(&mut params);
    let own = params.signed_by(&key, &issuer).unwrap();
    let own = CertificateDer::from(own.der().to_vec());
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(cluster.authority.cert_pem().as_bytes());
    roots.add(root.unwrap()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own], key);
    config.unwrap().into()
}

async fn refused(change: impl FnOnce(&mut rcgen::CertificateParams)) -> (String, String) {
    let cluster = Cluster::new("prod");
    let mut seed = subject("seed-1", Role::Seed);
    seed.names = vec!["127.0.0.1".into()];
    let issued = cluster.authority.issue(&seed, 1).unwrap();
    let server = cluster.load(&issued, std::time::SystemTime::now()).unwrap();
    let client = odd_client(&cluster, change);
    let (here, there) = meet(server.server_config(&[]), client).await;
    // The client of TLS 1.3 hears of it when it reads.
    let alert = there.unwrap().read(&mut [0]).await.unwrap_err();
    (explain_io(&here.unwrap_err()), explain_io(&alert))
}

#[tokio::test]
async fn certificates_of_the_authority_without_role_or_of_another_cluster_are_refused() {
    let uri = |id: &str| vec![rcgen::SanType::URI(id.try_into().unwrap())];
    let cases = [
        (vec![], "carries no Hawker role"),
        (uri("spiffe://prod/hawker/admin/a"), "unknown role"),
        (
            uri("spiffe://staging/hawker/node/a"),
            "belongs to cluster \"staging\", and we to \"prod\"",
        ),
    ];
    for (names, expected) in cases {
        let (server, client) = refused(|params| params.subject_alt_names = names).await;
        assert!(
            server.contains("we refused the peer's certificate"),
            "{server}"
        );
        assert!(server.contains(expected), "{server}");
        assert!(
            client.contains("not one of the peer's cluster, or carries no role"),
            "{client}"
        );
    }
}

#[tokio::test]
async fn certificates_signed_by_a_hosts_key_are_refused() {
    let cluster = Cluster::new("prod");
    let mut server = subject("seed-1", Role::Seed);
    // For the client, which is none of ours.
    server.names = vec!["127.0.0.1".into()];
    let [seed, node] = [server, subject("node-1", Role::Node)]
        .map(|subject| cluster.authority.issue(&subject, 30).unwrap());
    let seed = cluster.load(&seed, std::time::SystemTime::now()).unwrap();
    // A node makes itself a seed with its own key.
    let key = rcgen::KeyPair::from_pem(&node.key_pem).unwrap();
    let der = CertificateDer::from_pem_slice(node.cert_pem.as_bytes()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&der, key).unwrap();
    let own_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut params = rcgen::CertificateParams::default();
    let id = "spiffe://prod/hawker/seed/seed-2".to_owned();
    params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let forged = params.signed_by(&own_key, &issuer).unwrap();
    assert!(
        seed.verify_signer(forged.der(), b"values", &[0; 64])
            .is_err()
    );
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let authority = CertificateDer::from_pem_slice(cluster.authority.cert_pem().as_bytes());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.unwrap()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![forged.der().clone(), der],
            PrivateKeyDer::try_from(own_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let (here, _) = meet(seed.server_config(&[]), client.into()).await;
    let text = explain_io(&here.unwrap_err());
    assert!(text.contains("we refused the peer's certificate"), "{text}");
}

#[tokio::test]
async fn certificates_for_another_purpose_are_refused() {
    let server_only = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let (server, client) = refused(|params| params.extended_key_usages = server_only).await;
    for text in [server, client] {
        assert!(text.contains("not meant for this use"), "{text}");
    }
}

#[tokio::test]
async fn what_is_not_tls_is_told() {
    let (seed, node) = pair();
    let (here, mut there) = duplex(1 << 10);
    there.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = TlsAcceptor::from(seed.server_config(&[]))
        .accept(here)
        .await
        .unwrap_err();
    assert!(explain_io(&error).contains("does not speak TLS"), "{error}");
    let (here, mut there) = duplex(4 << 10);
    there
        .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let connector = TlsConnector::from(node.client_config(&[]));
    let error = connector.connect(server_name(), here).await.unwrap_err();
    assert!(explain_io(&error).contains("does not speak TLS"), "{error}");
    let (here, mut there) = duplex(4 << 10);
    let hung_up = async move {
        there.read_exact(&mut [0; 100]).await.unwrap();
    };
    let connector = TlsConnector::from(node.client_config(&[]));
    let (error, ()) = tokio::join!(connector.connect(server_name(), here), hung_up);
    let text = explain_io(&error.unwrap_err());
    assert!(
        text.contains("closed the connection without a word"),
        "{text}"
    );
}
