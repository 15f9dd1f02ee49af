//! Bytes as text with a label, as certificates are kept in files (RFC 7468).

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Characters of a line.
const LINE: usize = 64;

/// `der` under a label such as `X509 CRL`.
pub(crate) fn pem_of(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};

    use super::*;

    #[test]
    fn bytes_survive_text() {
        for len in [0, 1, 47, 48, 49, 1000] {
            let bytes = vec![0xa5; len];
            let pem = pem_of("CERTIFICATE", &bytes);
            let read = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            assert_eq!(&read[..], &bytes[..]);
        }
    }
}
