//! How much one batch may hold.

/// Upper bounds on a batch; whatever exceeds one is refused before memory is spent on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one encoded record, without its length prefix: key, value, headers and a few bytes more. Default 1 MiB.
    pub record_bytes_max: u32,
    /// Bytes of one encoded batch, header included, compressed if it is. Default 8 MiB.
    pub batch_bytes_max: u32,
    /// Bytes of a batch's records once decompressed: what a decompression bomb can cost. Default 64 MiB.
    pub decompressed_bytes_max: u32,
}

impl Limits {
    /// As wide as the format: for bytes that were accepted once and are read again, under whatever limits they came.
    pub const WIDEST: Limits = Limits {
        record_bytes_max: i32::MAX as u32,
        batch_bytes_max: i32::MAX as u32,
        decompressed_bytes_max: i32::MAX as u32,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self { record_bytes_max: 1 << 20, batch_bytes_max: 8 << 20, decompressed_bytes_max: 64 << 20 }
    }
}
