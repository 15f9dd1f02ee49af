use hawker_enrol::{JoinRequest, JoinToken};
use hawker_identity::{AuthorityFiles, Existing, NewKey, TlsFiles, write_authority, write_host};
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
