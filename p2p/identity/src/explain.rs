//! TLS failures in words, for both sides.
//!
//! The side that refuses knows why; the other one only gets an alert. Each text says which side
//! refused what, and what to look at.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use crate::moment::Moment;

/// Says in words why a TLS connection failed, when `error` came out of one; otherwise its own
/// text.
pub fn explain_io(error: &io::Error) -> String {
    match inner_tls(error) {
        Some(tls) => explain_tls(tls),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the peer closed the connection without a word".to_owned()
        }
        None => error.to_string(),
    }
}

fn inner_tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Says in words why a TLS connection failed.
pub fn explain_tls(error: &Error) -> String {
    match error {
        Error::AlertReceived(alert) => explain_alert(*alert),
        Error::InvalidCertificate(reason) => explain_certificate(reason),
        Error::NoCertificatesPresented => "the peer presented no certificate".to_owned(),
        Error::InvalidMessage(_) => {
            "the peer does not speak TLS: is its transport set to \"plain\"?".to_owned()
        }
        Error::PeerIncompatible(_) => {
            format!("the peer speaks no TLS that we do (TLS 1.3 is needed): {error}")
        }
        Error::NoApplicationProtocol => {
            "the peer speaks another protocol: is the address that of a Hawker peer port?"
                .to_owned()
        }
        other => format!("TLS failed: {other}"),
    }
}

fn explain_alert(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    let reason = match alert {
        Alert::UnknownCA => "unknown authority (another cluster's?)",
        Alert::CertificateExpired => {
            "expired or not yet valid by the peer's clock (compare both clocks)"
        }
        Alert::CertificateRequired => "none was presented, and the peer requires one",
        Alert::CertificateUnknown => "it is not one of the peer's cluster, or carries no role",
        Alert::AccessDenied => "access denied",
        Alert::BadCertificate => "it cannot be read",
        Alert::UnsupportedCertificate => "it is not meant for this use",
        Alert::CertificateRevoked => "it was revoked (get a new one: hawker join)",
        Alert::DecryptError => "its signature does not verify (another authority of that name?)",
        Alert::NoApplicationProtocol => {
            return "the peer speaks another protocol at this port: is the address right?"
                .to_owned();
        }
        Alert::ProtocolVersion | Alert::HandshakeFailure => {
            return "the peer speaks no TLS that we do (TLS 1.3 is needed)".to_owned();
        }
        Alert::DecodeError | Alert::UnexpectedMessage => {
            return "the peer did not understand us: does it expect something other than TLS?"
                .to_owned();
        }
        other => return format!("the peer ended the TLS connection: {other:?}"),
    };
    format!("the peer refused our certificate: {reason}")
}

fn explain_certificate(reason: &CertificateError) -> String {
    let reason = match reason {
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it expired on {}", Moment::from(*not_after))
        }
        CertificateError::NotValidYet => "it is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "it is not valid before {}, and our clock says {}",
            Moment::from(*not_before),
            Moment::from(*time)
        ),
        CertificateError::UnknownIssuer => "unknown authority (another cluster's?)".to_owned(),
        CertificateError::BadSignature => {
            "its signature does not verify (another authority of that name?)".to_owned()
        }
        CertificateError::Revoked => "it was revoked".to_owned(),
        CertificateError::BadEncoding => "it cannot be read".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not meant for this use (TLS server and client)".to_owned()
        }
        CertificateError::Other(other) => other.0.to_string(),
        other => other.to_string(),
    };
    format!("we refused the peer's certificate: {reason}")
}
