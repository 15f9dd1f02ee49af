//! Which certificate: its serial number, and which authority gave it.

use std::{cmp::Ordering, fmt, str::FromStr};

use aws_lc_rs::{
    digest::{SHA256, digest},
    error::Unspecified,
    rand,
};

/// RFC 5280: at most 20 bytes.
const MOST_BYTES: usize = 20;
/// Enough that no two of one authority are the same, whoever issues them.
const NEW_BYTES: usize = 16;

/// A certificate's serial number, without leading zeros. Shown in hex.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Box<[u8]>);

/// Why a text is no serial number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no serial number: up to 40 hexadecimal digits, with or without colons")]
pub struct SerialError(String);

impl Serial {
    /// A new one, by chance.
    pub(crate) fn random() -> Result<Self, Unspecified> {
        let mut bytes = [0; NEW_BYTES];
        rand::fill(&mut bytes)?;
        // Positive, and never shortened.
        bytes[0] = (bytes[0] & 0x7f) | 0x40;
        Ok(Self(Box::from(bytes)))
    }

    /// From the big-endian bytes of a certificate or a list.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(Box::from(&bytes[zeros..]))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Ord for Serial {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |serial: &Self| serial.0.len();
        key(self)
            .cmp(&key(other))
            .then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Serial {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for Serial {
    type Err = SerialError;
    fn from_str(text: &str) -> Result<Self, SerialError> {
        let wrong = || SerialError(text.chars().take(64).collect());
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        if digits.is_empty() || digits.len() > 2 * MOST_BYTES {
            return Err(wrong());
        }
        let mut bytes = Vec::with_capacity(MOST_BYTES);
        // An odd number of digits lacks a leading zero.
        for pair in digits.rchunks(2).rev() {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            if !pair.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            bytes.push(u8::from_str_radix(pair, 16).map_err(|_| wrong())?);
        }
        Ok(Self::of(&bytes))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// Names one certificate among those of all authorities: who issued it, and its serial number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateId {
    pub(crate) issuer: IssuerId,
    pub(crate) serial: Serial,
}

impl CertificateId {
    /// The serial number.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }
}

/// An authority, by the SHA-256 of its name. Two authorities have two names: a part of each is
/// from its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct IssuerId([u8; 32]);

impl IssuerId {
    /// `name` is the distinguished name in DER.
    pub(crate) fn of(name: &[u8]) -> Self {
        Self(sha256(name))
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_survive_text() {
        for (text, shown) in [
            ("0a", "0a"),
            ("a", "0a"),
            ("00:0A:ff", "0aff"),
            ("0", "00"),
            ("123", "0123"),
        ] {
            assert_eq!(text.parse::<Serial>().unwrap().to_string(), shown, "{text}");
        }
        let random = Serial::random().unwrap();
        assert_eq!(random.to_string().parse(), Ok(random));
        for wrong in ["", ":", "xy", "+1", "é", &"f".repeat(41)] {
            assert!(wrong.parse::<Serial>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn serial_numbers_are_ordered_as_numbers() {
        let of = |text: &str| text.parse::<Serial>().unwrap();
        assert!(of("ff") < of("0100") && of("0100") < of("0101"));
    }
}
