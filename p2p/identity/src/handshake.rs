//! What every verifier of certificates says of a handshake's signatures: TLS 1.3 alone, checked
//! with the algorithms of its provider.

use rustls::Error;

/// TLS 1.2 is never offered nor accepted.
pub(crate) fn no_tls12() -> Error {
    Error::General("TLS 1.2 is not used between hosts of a cluster".to_owned())
}

/// The methods about signatures that rustls wants of a verifier of servers and of one of clients,
/// for a type with a field `algorithms`. A macro, since they belong to two traits.
macro_rules! tls13_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &rustls_pki_types::CertificateDer<'_>,
            _signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Err(crate::handshake::no_tls12())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &rustls_pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, cert, signed, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

pub(crate) use tls13_signatures;
