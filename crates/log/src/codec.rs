//! Reading big-endian fields out of bytes that may be anything.

use bytes::Buf;

/// The bytes end before the field that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short;

/// A cursor that never reads past the end: every field is asked for, none is assumed.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.0.try_get_u8().map_err(|_| Short)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.0.try_get_u16().map_err(|_| Short)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.0.try_get_u32().map_err(|_| Short)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.0.try_get_u64().map_err(|_| Short)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Short> {
        self.0.try_get_i64().map_err(|_| Short)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Short> {
        self.0.try_get_u128().map_err(|_| Short)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// A text of at most 65,535 bytes behind its length.
    pub(crate) fn text(&mut self) -> Result<&'a str, Short> {
        let count = self.u16()?;
        std::str::from_utf8(self.bytes(count.into())?).map_err(|_| Short)
    }

    /// How many items follow, refused unless each can have at least `item_bytes`: a count that lies allocates nothing.
    pub(crate) fn count(&mut self, item_bytes: usize) -> Result<usize, Short> {
        let count = self.u32()? as usize;
        if count.saturating_mul(item_bytes) > self.0.len() {
            return Err(Short);
        }
        Ok(count)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends a text behind its length, as [`Reader::text`] reads it.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let count = u16::try_from(text.len()).expect("names are shorter than 64 KiB");
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
