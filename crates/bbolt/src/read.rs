//! Reads a bbolt file of unknown origin.

use std::io;

use bytes::Bytes;
use goulette_env::DiskFile;

use crate::format::{
    BUCKET_HEADER, ELEMENT, LEAF_BUCKET, META, Meta, PAGE_BRANCH, PAGE_HEADER, PAGE_LEAF, u16_at, u32_at, u64_at,
};

/// Longest run of pages that is read, in bytes. etcd's largest value decides it: 1.5 MiB unless configured otherwise.
const PAGE_BYTES_MAX: u64 = 256 << 20;
/// Levels of one tree. A branch page has two children or more, so 64 levels are more than any disk holds.
const DEPTH_MAX: usize = 64;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk refused.
    #[error("could not read the bbolt file")]
    Io(#[from] io::Error),
    /// No meta page is sound: another kind of file, one that was cut short, or another machine's byte order.
    #[error("not a bbolt file: no sound meta page")]
    NotBbolt,
    /// A page says something impossible.
    #[error("page {page} of the bbolt file is damaged: {what}")]
    Corrupt {
        /// The page's id.
        page: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// An open file.
pub struct Reader<'a> {
    file: &'a dyn DiskFile,
    meta: Meta,
}

impl<'a> Reader<'a> {
    /// Takes the newer of the two sound metas.
    ///
    /// # Errors
    /// [`ReadError::NotBbolt`], [`ReadError::Io`], or [`ReadError::Corrupt`] for a file shorter than its meta says.
    pub fn open(file: &'a dyn DiskFile) -> Result<Self, ReadError> {
        let first = meta_at(file, PAGE_HEADER as u64)?;
        // The second one's place depends on the page size, which a damaged first one does not tell.
        let mut second = None;
        for size in (10..=16).map(|shift| 1 << shift) {
            if first.is_none_or(|meta| meta.page_size == size) {
                second = meta_at(file, u64::from(size) + PAGE_HEADER as u64)?.filter(|meta| meta.page_size == size);
                if second.is_some() {
                    break;
                }
            }
        }
        let meta = match (first, second) {
            (Some(first), Some(second)) if second.transaction > first.transaction => second,
            (Some(meta), _) | (None, Some(meta)) => meta,
            (None, None) => return Err(ReadError::NotBbolt),
        };
        if meta.pages.checked_mul(u64::from(meta.page_size)).is_none_or(|bytes| bytes > file.len().unwrap_or(0)) {
            return Err(ReadError::Corrupt { page: meta.transaction % 2, what: "the file is shorter than its pages" });
        }
        Ok(Self { file, meta })
    }

    /// Bytes of the file that are in use; what follows is not the database's.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_size)
    }

    /// The top-level buckets, in the order of their names.
    #[must_use]
    pub fn root(&self) -> Bucket {
        Bucket { page: self.meta.root, place: Place::Page(self.meta.root) }
    }

    /// The top-level bucket `name`.
    ///
    /// # Errors
    /// As [`Items::next`].
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, ReadError> {
        for item in self.items(&self.root()) {
            match item? {
                Item::Bucket(found, bucket) if found == name => return Ok(Some(bucket)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Walks a bucket's keys in order. Memory: one page for each level of its tree, and a bit for each page of the file.
    #[must_use]
    pub fn items(&self, bucket: &Bucket) -> Items<'_> {
        Items {
            reader: self,
            seen: vec![0; (self.meta.pages as usize).div_ceil(64)],
            stack: Vec::new(),
            start: Some(bucket.clone()),
            last: None,
        }
    }

    fn page(&self, id: u64) -> Result<Page, ReadError> {
        let corrupt = |what| ReadError::Corrupt { page: id, what };
        let size = u64::from(self.meta.page_size);
        // 0 and 1 are the metas.
        if !(2..self.meta.pages).contains(&id) {
            return Err(corrupt("its id is outside of the file"));
        }
        let mut header = [0; PAGE_HEADER];
        self.file.read_exact_at(&mut header, id * size)?;
        if u64_at(&header, 0) != id {
            return Err(corrupt("it carries another page's id"));
        }
        let run = u64::from(u32_at(&header, 12)) + 1;
        if run > self.meta.pages - id || run * size > PAGE_BYTES_MAX {
            return Err(corrupt("it is longer than the file"));
        }
        let mut bytes = vec![0; (run * size) as usize];
        self.file.read_exact_at(&mut bytes, id * size)?;
        Page::new(id, bytes.into())
    }
}

fn meta_at(file: &dyn DiskFile, position: u64) -> Result<Option<Meta>, ReadError> {
    let mut bytes = [0; META];
    match file.read_exact_at(&mut bytes, position) {
        Ok(()) => Ok(Meta::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where a bucket's keys are; see [`Reader::items`].
#[derive(Clone, Debug)]
pub struct Bucket {
    /// The page that holds it or, inline, its parent's entry; for messages.
    page: u64,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Page(u64),
    Inline(Bytes),
}

/// What a bucket's key leads to.
#[derive(Clone, Debug)]
pub enum Item {
    /// A key and its value.
    Value(Bytes, Bytes),
    /// A name and the bucket of that name.
    Bucket(Bytes, Bucket),
}

/// The items of one bucket in the order of their keys; see [`Reader::items`]. Ends behind the first error.
pub struct Items<'a> {
    reader: &'a Reader<'a>,
    /// A bit for each page that was visited: none comes twice, so that no chain of pages goes round.
    seen: Vec<u64>,
    /// Pages from the root down to the current leaf, each with its next element.
    stack: Vec<(Page, usize)>,
    start: Option<Bucket>,
    last: Option<Bytes>,
}

impl Iterator for Items<'_> {
    type Item = Result<Item, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.step().transpose();
        if !matches!(item, Some(Ok(_))) {
            self.stack.clear();
        }
        item
    }
}

impl Items<'_> {
    fn step(&mut self) -> Result<Option<Item>, ReadError> {
        if let Some(bucket) = self.start.take() {
            match bucket.place {
                Place::Page(id) => self.descend(id)?,
                Place::Inline(bytes) => {
                    let page = Page::new(bucket.page, bytes)?;
                    if page.is_branch {
                        return Err(page.corrupt("an inline bucket is no leaf"));
                    }
                    self.stack.push((page, 0));
                }
            }
        }
        loop {
            let Some((page, next)) = self.stack.last_mut() else { return Ok(None) };
            if *next == page.count {
                self.stack.pop();
                continue;
            }
            let index = *next;
            *next += 1;
            if page.is_branch {
                let child = page.child(index)?;
                self.descend(child)?;
                continue;
            }
            let (key, value, is_bucket) = page.leaf(index)?;
            if self.last.as_ref().is_some_and(|last| *last >= key) {
                return Err(page.corrupt("its keys do not rise"));
            }
            self.last = Some(key.clone());
            if !is_bucket {
                return Ok(Some(Item::Value(key, value)));
            }
            if value.len() < BUCKET_HEADER {
                return Err(page.corrupt("a bucket is too short"));
            }
            let place = match u64_at(&value, 0) {
                0 => Place::Inline(value.slice(BUCKET_HEADER..)),
                root => Place::Page(root),
            };
            return Ok(Some(Item::Bucket(key, Bucket { page: page.id, place })));
        }
    }

    fn descend(&mut self, id: u64) -> Result<(), ReadError> {
        let page = self.reader.page(id)?;
        if self.stack.len() == DEPTH_MAX {
            return Err(page.corrupt("the tree is too deep"));
        }
        let (word, bit) = ((id / 64) as usize, 1 << (id % 64));
        if self.seen[word] & bit != 0 {
            return Err(page.corrupt("two pages lead to it"));
        }
        self.seen[word] |= bit;
        self.stack.push((page, 0));
        Ok(())
    }
}

/// A branch or leaf page whose elements all lie within it; their keys and values are checked one by one.
struct Page {
    id: u64,
    is_branch: bool,
    count: usize,
    bytes: Bytes,
}

impl Page {
    fn new(id: u64, bytes: Bytes) -> Result<Self, ReadError> {
        let corrupt = |what| ReadError::Corrupt { page: id, what };
        if bytes.len() < PAGE_HEADER {
            return Err(corrupt("it is too short"));
        }
        let is_branch = match u16_at(&bytes, 8) {
            PAGE_BRANCH => true,
            PAGE_LEAF => false,
            _ => return Err(corrupt("it is neither branch nor leaf")),
        };
        let count = usize::from(u16_at(&bytes, 10));
        if PAGE_HEADER + count * ELEMENT > bytes.len() {
            return Err(corrupt("it has too many elements"));
        }
        if is_branch && count == 0 {
            return Err(corrupt("a branch leads nowhere"));
        }
        Ok(Self { id, is_branch, count, bytes })
    }

    fn corrupt(&self, what: &'static str) -> ReadError {
        ReadError::Corrupt { page: self.id, what }
    }

    fn child(&self, index: usize) -> Result<u64, ReadError> {
        let at = PAGE_HEADER + index * ELEMENT;
        self.slice(at, u32_at(&self.bytes, at), u32_at(&self.bytes, at + 4))?;
        Ok(u64_at(&self.bytes, at + 8))
    }

    /// Key, value, and whether the value is a bucket.
    fn leaf(&self, index: usize) -> Result<(Bytes, Bytes, bool), ReadError> {
        let at = PAGE_HEADER + index * ELEMENT;
        let [flags, position, key, value] = [0, 4, 8, 12].map(|field| u32_at(&self.bytes, at + field));
        let key_bytes = self.slice(at, position, key)?;
        let value_at = u64::from(position) + u64::from(key);
        let value_at = u32::try_from(value_at).map_err(|_| self.corrupt("a value lies outside of it"))?;
        Ok((key_bytes, self.slice(at, value_at, value)?, flags & LEAF_BUCKET != 0))
    }

    fn slice(&self, element: usize, position: u32, length: u32) -> Result<Bytes, ReadError> {
        let start = element as u64 + u64::from(position);
        let end = start + u64::from(length);
        if end > self.bytes.len() as u64 {
            return Err(self.corrupt("an element lies outside of it"));
        }
        Ok(self.bytes.slice(start as usize..end as usize))
    }
}
