use std::{sync::Barrier, thread};

use hawker_enrol::{JoinRequest, JoinToken};
use hawker_identity::{
    AuthorityFiles, CertificateId, Existing, NewKey, TlsFiles, write_authority, write_host,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tempfile::TempDir;

use super::*;

/// An issuer with its files.
struct Fixture {
    dir: TempDir,
    issuer: Issuer,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = ClusterCa::create("prod", 365).unwrap();
        let ca = dir.path().join("ca");
        write_authority(&ca, &authority, Existing::Keep).unwrap();
        let subject = subject("scheduler", Role::Scheduler);
        let issued = authority.issue(&subject, 30).unwrap();
        let tls = dir.path().join("tls");
        write_host(&tls, authority.cert_pem(), &issued, Existing::Keep).unwrap();
        let issuer = open(&dir).unwrap();
        Self { dir, issuer }
    }

    fn ca(&self) -> AuthorityFiles {
        AuthorityFiles::in_dir(&self.dir.path().join("ca"))
    }

    fn token(&self, host: Option<&str>) -> JoinToken {
        let order = TokenOrder {
            role: Role::Node,
            host: host.map(|host| HostId::parse(host).unwrap()),
            uses: 1,
            lifetime: Duration::from_secs(60),
        };
        self.issuer.create_token(&order).unwrap()
    }

    /// A certificate for a host, DER.
    fn join(&self, token: &JoinToken, host: &str) -> Result<Vec<u8>, Refusal> {
        let host = HostId::parse(host).unwrap();
        let request = JoinRequest {
            token: token.id,
            secret: token.secret.clone(),
            request: NewKey::generate(&host).unwrap().request_pem,
            host,
        };
        let granted = self.issuer.join(&request, "test")?;
        Ok(der(&granted.certificate))
    }
}

fn open(dir: &TempDir) -> Result<Issuer, IssuerError> {
    let ca = AuthorityFiles::in_dir(&dir.path().join("ca"));
    let places = IssuerPlaces {
        ca_cert: ca.cert,
        ca_key: ca.key,
        listen: ([127, 0, 0, 1], 0).into(),
        days: 30,
        dir: dir.path().join("state"),
        control: dir.path().join("control.sock"),
    };
    let identity = Identity::load(&TlsFiles::in_dir(&dir.path().join("tls"))).unwrap();
    Issuer::open(&places, Arc::new(identity))
}

fn subject(host: &str, role: Role) -> Subject {
    Subject {
        host: HostId::parse(host).unwrap(),
        role,
        names: Vec::new(),
    }
}

fn der(pem: &str) -> Vec<u8> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes());
    der.unwrap().to_vec()
}

/// Renews a certificate again and again until that is refused.
fn renew_on(issuer: &Issuer, mut certificate: Vec<u8>) {
    let host = PeerCertificate::parse(&certificate).unwrap().host;
    let request = NewKey::generate(&host).unwrap().request_pem;
    for _ in 0..100 {
        issuer.state().renewals = Attempts::new(RENEWAL_WINDOW);
        let owner = PeerCertificate::parse(&certificate).unwrap();
        match issuer.renew(&owner, &certificate, &request) {
            Ok(granted) => certificate = der(&granted.certificate),
            Err(_) => return,
        }
    }
}

/// So many that looking through them takes a while.
fn issue_elsewhere(fixture: &Fixture, certificates: u32) {
    let line = |number| format!("{number:032x}\tother\tnode\t1\t2\tca\n");
    let lines: String = (1..=certificates).map(line).collect();
    fs::write(fixture.ca().issued, lines).unwrap();
}

#[test]
fn no_renewal_escapes_the_revocation_of_its_host() {
    let fixture = Fixture::new();
    issue_elsewhere(&fixture, 2000);
    let issuer = &fixture.issuer;
    for round in 0..10 {
        let name = format!("node-{round}");
        let certificate = fixture.join(&fixture.token(None), &name).unwrap();
        let start = Barrier::new(3);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    start.wait();
                    renew_on(issuer, certificate.clone());
                });
            }
            start.wait();
            issuer.revoke(&name).unwrap();
        });
        let revoked = issuer.revoked();
        let mut records = issuer.certificates().unwrap();
        records.retain(|record| record.host.as_str() == name);
        for record in records {
            assert!(
                revoked.contains(&record.serial),
                "round {round}: {record:?}"
            );
        }
    }
}

#[test]
fn no_name_is_given_out_while_the_list_of_issued_ones_cannot_be_read() {
    let fixture = Fixture::new();
    let issued = fixture.ca().issued;
    fs::create_dir(&issued).unwrap();
    let (any, bound) = (fixture.token(None), fixture.token(Some("node-2")));
    let refusal = fixture.join(&any, "node-1").unwrap_err();
    assert_eq!(refusal.status(), 500, "{refusal}");
    assert!(refusal.to_string().contains("issued.tsv"), "{refusal}");
    // Neither a name's certificates are known, then, nor what was issued at all.
    let error = fixture.issuer.revoke("node-1").unwrap_err();
    assert!(matches!(error, RevokeError::Issued(_)), "{error}");
    assert!(fixture.issuer.certificates().is_err());
    // A token for one name asks for no list.
    fixture.join(&bound, "node-2").unwrap();
    // The token was not used up.
    fs::remove_dir(&issued).unwrap();
    fixture.join(&any, "node-1").unwrap();
}

#[test]
fn revocations_here_and_where_the_authority_is_do_not_undo_each_other() {
    let fixture = Fixture::new();
    let names = ["node-1", "node-2", "node-3", "node-4"];
    let [_, two, _, four] = names.map(|name| {
        let certificate = fixture.join(&fixture.token(None), name).unwrap();
        PeerCertificate::parse(&certificate).unwrap().id
    });
    let copied = TlsFiles::in_dir(&fixture.dir.path().join("tls")).crl;
    let elsewhere = |id: &CertificateId| {
        let authority = fixture.ca().load().unwrap();
        authority.revoke(&[id.serial().clone()], None).unwrap()
    };
    let [of_two, of_four] = [&two, &four].map(elsewhere);
    fixture.issuer.revoke("node-1").unwrap();
    // Put over what the issuer has written, and not read yet when the next is revoked.
    fs::write(&copied, &of_two).unwrap();
    fixture.issuer.revoke("node-3").unwrap();
    assert_eq!(revoked(&fixture.issuer), names[..3]);
    // Put there while the scheduler does not run.
    fs::write(&copied, &of_two).unwrap();
    fs::write(fixture.ca().crl, &of_four).unwrap();
    let issuer = open(&fixture.dir).unwrap();
    assert_eq!(revoked(&issuer), names);
}

/// The names of those that are revoked.
fn revoked(issuer: &Issuer) -> Vec<String> {
    let revoked = issuer.revoked();
    let mut records = issuer.certificates().unwrap();
    records.retain(|record| revoked.contains(&record.serial));
    records
        .iter()
        .map(|record| record.host.to_string())
        .collect()
}
