//! The little of DER that keys and certificates ask for: elements one after the other, read by their tags (X.690).

/// Tags that keys and certificates use.
pub(crate) mod tag {
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const VERSION: u8 = 0xa0;
}

/// What is left to read of some bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Der<'b>(pub(crate) &'b [u8]);

impl<'b> Der<'b> {
    /// The contents of the next element if it has this tag; then it is behind us.
    pub(crate) fn take(&mut self, tag: u8) -> Option<Der<'b>> {
        let (&[found, first], rest) = self.0.split_first_chunk()?;
        if found != tag {
            return None;
        }
        let (length, rest) = match first {
            ..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(Der(contents))
    }

    /// Passes over the next element, whatever it is.
    pub(crate) fn skip(&mut self) -> Option<()> {
        self.take(*self.0.first()?).map(drop)
    }
}

/// The key's bits in a `SubjectPublicKeyInfo` (RFC 5280, 4.1).
pub(crate) fn public_key(info: &[u8]) -> Option<Vec<u8>> {
    key_bits(Der(info).take(tag::SEQUENCE)?)
}

/// The key's bits in a certificate (RFC 5280, 4.1).
pub(crate) fn certificate_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let mut signed = Der(certificate).take(tag::SEQUENCE)?.take(tag::SEQUENCE)?;
    // A certificate of the first version does not say so.
    let _ = signed.take(tag::VERSION);
    // Serial number, algorithm, issuer, validity, subject.
    for _ in 0..5 {
        signed.skip()?;
    }
    key_bits(signed.take(tag::SEQUENCE)?)
}

fn key_bits(mut info: Der<'_>) -> Option<Vec<u8>> {
    info.skip()?;
    let bits = info.take(tag::BIT_STRING)?;
    // The first byte counts the bits that the last one does not use: none in a key.
    bits.0.strip_prefix(&[0]).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_and_its_public_key_hold_the_same_bits() {
        let made = rcgen::generate_simple_self_signed(vec!["h".to_owned()]).unwrap();
        let info = rcgen::PublicKeyData::subject_public_key_info(&made.signing_key);
        let bits = public_key(&info).unwrap();
        assert_eq!(bits.len(), 65, "a point of P-256");
        assert_eq!(certificate_key(made.cert.der()), Some(bits));
    }

    #[test]
    fn what_is_cut_or_something_else_is_none() {
        let made = rcgen::generate_simple_self_signed(vec!["h".to_owned()]).unwrap();
        let certificate = made.cert.der();
        for end in 0..certificate.len() {
            assert_eq!(certificate_key(&certificate[..end]), None);
        }
        assert_eq!(public_key(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 1]), None);
        assert_eq!(public_key(&[0x30, 0x80, 0, 0]), None);
        assert_eq!(public_key(b"{}"), None);
    }
}
