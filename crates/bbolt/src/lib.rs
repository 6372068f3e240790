//! bbolt files, the format of etcd's database and of its snapshots: written in one go from sorted keys, read as a stream.
//!
//! A file is a tree of *buckets*; a bucket maps keys to values or to further buckets, as a B+tree of pages. The [`Writer`]
//! fills each page once and in order, so it holds one page per level of the tree and never comes back, except for the two
//! meta pages, which go last: a file that was cut short has none and is refused. The [`Reader`] trusts no byte: every
//! page is checked before it is used, none is visited twice, and memory is bounded by the largest page.
//!
//! It refuses to know what the keys mean, and never changes a file in place. Start with `format`, the byte tables.

mod format;
mod read;
mod write;

pub use read::{Bucket, Item, Items, ReadError, Reader};
pub use write::{BucketWriter, WriteError, Writer};
