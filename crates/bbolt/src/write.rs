//! Writes a bbolt file in one go.

use std::{collections::BTreeMap, io};

use goulette_env::DiskFile;

use crate::format::{
    BUCKET_HEADER, ELEMENT, KEY_MAX, LEAF_BUCKET, Meta, PAGE_BRANCH, PAGE_FREELIST, PAGE_HEADER, PAGE_LEAF, PAGE_META,
    PAGE_SIZE, VALUE_MAX, page_header,
};

/// The page of the (empty) freelist; data follow it.
const FREELIST: u64 = 2;
/// Pages are gathered up to this size, in bytes, before they are written.
const BUFFER: usize = 256 << 10;
/// A bucket whose only page is not longer than this lives in its parent's page, as bbolt would have it.
const INLINE_MAX: usize = PAGE_SIZE / 4;

/// Why a file could not be written. What there is of it has no meta page, and no reader takes it.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk refused.
    #[error("could not write the bbolt file")]
    Io(#[from] io::Error),
    /// Keys of one bucket must rise strictly.
    #[error("a key is not above the one before it")]
    Order,
    /// An empty key, a key above 32,768 bytes or a value above 2 GiB.
    #[error("bbolt takes no key of {key} bytes with a value of {value}")]
    Size {
        /// Bytes of the key.
        key: usize,
        /// Bytes of the value.
        value: usize,
    },
    /// Each bucket is written once.
    #[error("a bucket was written twice")]
    BucketTwice,
}

/// A bbolt file in the making. Buckets come in any order, one at a time; their keys in rising order.
///
/// Memory: 256 KiB, and one page for each level of the open bucket's tree.
pub struct Writer<'a> {
    file: &'a dyn DiskFile,
    buffer: Vec<u8>,
    /// Bytes of the file before the buffer's first.
    flushed: u64,
    buckets: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<'a> Writer<'a> {
    /// Begins at the start of an empty file.
    #[must_use]
    pub fn new(file: &'a dyn DiskFile) -> Self {
        let mut buffer = Vec::with_capacity(BUFFER);
        // The metas' place; they are written last.
        buffer.resize(2 * PAGE_SIZE, 0);
        buffer.extend_from_slice(&page_header(FREELIST, PAGE_FREELIST, 0, 0));
        buffer.resize(3 * PAGE_SIZE, 0);
        Self { file, buffer, flushed: 0, buckets: BTreeMap::new() }
    }

    /// Opens the top-level bucket `name`. It exists, empty or not, once [`BucketWriter::finish`] was called.
    #[must_use]
    pub fn bucket<'w>(&'w mut self, name: &[u8]) -> BucketWriter<'w, 'a> {
        BucketWriter { name: name.to_vec(), last: Vec::new(), tree: Tree::new(), writer: self }
    }

    /// Writes the root and the metas, syncs, and returns the file's length in bytes, a multiple of 4,096.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn finish(mut self) -> Result<u64, WriteError> {
        let mut root = Tree::new();
        for (name, value) in std::mem::take(&mut self.buckets) {
            root.put(&mut self, LEAF_BUCKET, &name, &value)?;
        }
        let root = root.finish(&mut self)?;
        self.flush()?;
        // Only a whole file gets its metas.
        self.file.sync_data()?;
        let pages = self.flushed / PAGE_SIZE as u64;
        let mut metas = Vec::with_capacity(2 * PAGE_SIZE);
        for id in 0..2 {
            let meta = Meta { page_size: PAGE_SIZE as u32, root, freelist: FREELIST, pages, transaction: id };
            metas.extend_from_slice(&page_header(id, PAGE_META, 0, 0));
            metas.extend_from_slice(&meta.encode());
            metas.resize((id as usize + 1) * PAGE_SIZE, 0);
        }
        self.file.write_all_at(&metas, 0)?;
        self.file.sync_data()?;
        Ok(self.flushed)
    }

    /// Writes one node as one run of pages; its first page's id.
    fn page(&mut self, node: &Node) -> Result<u64, WriteError> {
        let start = self.buffer.len();
        let id = (self.flushed + start as u64) / PAGE_SIZE as u64;
        let pages = node.bytes().div_ceil(PAGE_SIZE);
        node.encode(id, pages as u32 - 1, &mut self.buffer);
        self.buffer.resize(start + pages * PAGE_SIZE, 0);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(id)
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        self.file.write_all_at(&self.buffer, self.flushed)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// One open bucket; see [`Writer::bucket`].
pub struct BucketWriter<'w, 'a> {
    writer: &'w mut Writer<'a>,
    name: Vec<u8>,
    /// The last key, which the next one must be above.
    last: Vec<u8>,
    tree: Tree,
}

impl BucketWriter<'_, '_> {
    /// Adds a key, above all before it.
    ///
    /// # Errors
    /// [`WriteError::Order`], [`WriteError::Size`], or [`WriteError::Io`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        if key.is_empty() || key.len() > KEY_MAX || value.len() > VALUE_MAX {
            return Err(WriteError::Size { key: key.len(), value: value.len() });
        }
        if key <= self.last.as_slice() {
            return Err(WriteError::Order);
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        self.tree.put(self.writer, 0, key, value)
    }

    /// Closes the bucket.
    ///
    /// # Errors
    /// [`WriteError::BucketTwice`], [`WriteError::Size`] for a name that is no key, or [`WriteError::Io`].
    pub fn finish(self) -> Result<(), WriteError> {
        let Self { writer, name, tree, .. } = self;
        if name.is_empty() || name.len() > KEY_MAX {
            return Err(WriteError::Size { key: name.len(), value: 0 });
        }
        let mut value = vec![0; BUCKET_HEADER];
        if tree.branches.is_empty() && tree.leaf.bytes() <= INLINE_MAX {
            tree.leaf.encode(0, 0, &mut value);
        } else {
            let root = tree.finish(writer)?;
            value[..8].copy_from_slice(&root.to_le_bytes());
        }
        match writer.buckets.insert(name, value) {
            None => Ok(()),
            Some(_) => Err(WriteError::BucketTwice),
        }
    }
}

/// A B+tree that grows at its right edge: one open page per level.
struct Tree {
    leaf: Node,
    /// From the level above the leaves to the top.
    branches: Vec<Node>,
}

impl Tree {
    fn new() -> Self {
        Self { leaf: Node::new(PAGE_LEAF), branches: Vec::new() }
    }

    fn put(&mut self, writer: &mut Writer<'_>, flags: u32, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        if self.leaf.is_full_for(key.len() + value.len()) {
            let full = std::mem::replace(&mut self.leaf, Node::new(PAGE_LEAF));
            let page = writer.page(&full)?;
            self.add_child(writer, 0, full.first_key(), page)?;
        }
        self.leaf.add_leaf(flags, key, value);
        Ok(())
    }

    fn add_child(&mut self, writer: &mut Writer<'_>, level: usize, key: &[u8], page: u64) -> Result<(), WriteError> {
        if level == self.branches.len() {
            self.branches.push(Node::new(PAGE_BRANCH));
        }
        if self.branches[level].is_full_for(key.len()) {
            let full = std::mem::replace(&mut self.branches[level], Node::new(PAGE_BRANCH));
            let above = writer.page(&full)?;
            self.add_child(writer, level + 1, full.first_key(), above)?;
        }
        self.branches[level].add_branch(key, page);
        Ok(())
    }

    /// Writes the open pages from the leaf upwards; the root's page.
    fn finish(mut self, writer: &mut Writer<'_>) -> Result<u64, WriteError> {
        let mut page = writer.page(&self.leaf)?;
        let mut first = self.leaf.first_key().to_vec();
        let mut level = 0;
        while level < self.branches.len() {
            // May itself fill the page and so add a level.
            self.add_child(writer, level, &first, page)?;
            page = writer.page(&self.branches[level])?;
            first = self.branches[level].first_key().to_vec();
            level += 1;
        }
        Ok(page)
    }
}

/// One page in the making: fixed elements, then keys and values.
struct Node {
    flags: u16,
    elements: Vec<Element>,
    data: Vec<u8>,
}

struct Element {
    key: usize,
    rest: Rest,
}

enum Rest {
    Value { flags: u32, length: usize },
    Child(u64),
}

impl Node {
    fn new(flags: u16) -> Self {
        Self { flags, elements: Vec::new(), data: Vec::new() }
    }

    fn bytes(&self) -> usize {
        PAGE_HEADER + self.elements.len() * ELEMENT + self.data.len()
    }

    /// A leaf takes at least one element, a branch two (else a tree of long keys would never get narrower).
    fn is_full_for(&self, data: usize) -> bool {
        let least = if self.flags == PAGE_BRANCH { 2 } else { 1 };
        self.elements.len() >= least && self.bytes() + ELEMENT + data > PAGE_SIZE
    }

    fn first_key(&self) -> &[u8] {
        self.elements.first().map_or(&[], |first| &self.data[..first.key])
    }

    fn add_leaf(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        self.elements.push(Element { key: key.len(), rest: Rest::Value { flags, length: value.len() } });
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    fn add_branch(&mut self, key: &[u8], page: u64) {
        self.elements.push(Element { key: key.len(), rest: Rest::Child(page) });
        self.data.extend_from_slice(key);
    }

    fn encode(&self, id: u64, overflow: u32, into: &mut Vec<u8>) {
        into.extend_from_slice(&page_header(id, self.flags, self.elements.len() as u16, overflow));
        let mut data = 0;
        for (index, element) in self.elements.iter().enumerate() {
            let position = ((self.elements.len() - index) * ELEMENT + data) as u32;
            match element.rest {
                Rest::Value { flags, length } => {
                    into.extend(
                        [flags, position, element.key as u32, length as u32].into_iter().flat_map(u32::to_le_bytes),
                    );
                    data += element.key + length;
                }
                Rest::Child(page) => {
                    into.extend([position, element.key as u32].into_iter().flat_map(u32::to_le_bytes));
                    into.extend_from_slice(&page.to_le_bytes());
                    data += element.key;
                }
            }
        }
        into.extend_from_slice(&self.data);
    }
}
