//! Certificates of lists' signers: a connection carries each of them once.
//!
//! A certificate is about 500 bytes, and comes with each batch of chain values, of which a host gets
//! a dozen a second from every neighbour: with it they were 1.4 % of all bytes of a blob of 64 MiB,
//! without it they are 0.8 %.

use std::sync::Arc;

/// Certificates that have a number, at most: a cluster has a few seeds.
const MOST: usize = 64;
/// All that have a number, in bytes.
const MOST_LEN: usize = 64 << 10;

/// The certificates that one direction of a connection has carried, by number. Both ends keep the same:
/// one that is carried whole has the next number from then on, as long as there is room.
#[derive(Debug, Default)]
pub struct Signers {
    carried: Vec<Arc<[u8]>>,
    len: usize,
}

impl Signers {
    /// The number of a certificate, if it has one.
    pub(super) fn number(&self, signer: &[u8]) -> Option<u16> {
        let mut carried = self.carried.iter();
        let place =
            carried.position(|it| std::ptr::eq(&raw const **it, signer) || **it == *signer)?;
        u16::try_from(place).ok()
    }

    /// The certificate with a number.
    pub(super) fn get(&self, number: u16) -> Option<&Arc<[u8]>> {
        self.carried.get(usize::from(number))
    }

    /// One is carried whole. None at all has no number.
    pub(super) fn note(&mut self, signer: &Arc<[u8]>) {
        let len = self.len + signer.len();
        let fits = self.carried.len() < MOST && len <= MOST_LEN && !signer.is_empty();
        if fits && self.number(signer).is_none() {
            self.carried.push(Arc::clone(signer));
            self.len = len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(number: u16, len: usize) -> Arc<[u8]> {
        let mut bytes = vec![0; len];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        bytes.into()
    }

    #[test]
    fn certificates_are_numbered_in_order_and_each_once() {
        let mut signers = Signers::default();
        for number in [7, 8, 7, 9] {
            signers.note(&certificate(number, 500));
        }
        let numbers = [7, 8, 9, 10].map(|it| signers.number(&certificate(it, 500)));
        assert_eq!(numbers, [Some(0), Some(1), Some(2), None]);
        assert_eq!(signers.get(1), Some(&certificate(8, 500)));
        assert_eq!(signers.get(3), None);
    }

    #[test]
    fn what_a_connection_remembers_is_bounded() {
        for (len, most) in [(500, MOST), (8 << 10, 8)] {
            let mut signers = Signers::default();
            (0..1000).for_each(|number| signers.note(&certificate(number, len)));
            assert_eq!(signers.carried.len(), most);
            assert!(signers.len <= MOST_LEN);
        }
    }
}
