//! Cuts a file or standard input into lines, on a thread of its own.

use std::{
    io::{self, Read},
    thread,
};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

/// What is asked of the input at once.
const READ_BYTES: usize = 256 << 10;
/// No broker takes a record that large: rather an error than all the memory for a file without line feeds.
const LINE_BYTES_MAX: usize = 64 << 20;
/// Chunks that may wait to be sent.
const CHUNKS_MAX: usize = 4;

/// Reads the input to its end, in chunks of whole lines; see [`lines_of`].
///
/// The thread ends with the input, or at the next chunk after the receiver is gone. A thread that waits for input
/// cannot be woken: it ends with the process.
pub(super) fn read(input: impl Read + Send + 'static) -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
    let (chunks, receiver) = mpsc::channel(CHUNKS_MAX);
    let mut cutter = Cutter { input, rest: BytesMut::new() };
    thread::Builder::new().name("lines".to_owned()).spawn(move || {
        while let Some(chunk) = cutter.next_chunk().transpose() {
            let failed = chunk.is_err();
            if chunks.blocking_send(chunk).is_err() || failed {
                break;
            }
        }
    })?;
    Ok(receiver)
}

/// The lines of a chunk, without their line feeds: what lies between two of them, and what follows the last one.
pub(super) fn lines_of(mut chunk: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        if chunk.is_empty() {
            return None;
        }
        Some(match chunk.iter().position(|&byte| byte == b'\n') {
            Some(end) => chunk.split_to(end + 1).slice(..end),
            None => std::mem::take(&mut chunk),
        })
    })
}

struct Cutter<R> {
    input: R,
    /// The beginning of a line that has not ended yet.
    rest: BytesMut,
}

impl<R: Read> Cutter<R> {
    /// All the whole lines that the next read brings (nobody waits for a line that is there already), or at the end
    /// what is left; none behind that.
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let before = self.rest.len();
            if before > LINE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than 64 MiB"));
            }
            self.rest.resize(before + READ_BYTES, 0);
            let read = self.input.read(&mut self.rest[before..]);
            self.rest.truncate(before + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => return Ok(Some(self.rest.split().freeze()).filter(|rest| !rest.is_empty())),
                Ok(_) => {
                    if let Some(end) = self.rest[before..].iter().rposition(|&byte| byte == b'\n') {
                        return Ok(Some(self.rest.split_to(before + end + 1).freeze()));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives the bytes in pieces of `step`.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(self.1).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn lines(input: &[u8], step: usize) -> Vec<Bytes> {
        let mut cutter = Cutter { input: Slow(input, step), rest: BytesMut::new() };
        let mut lines = Vec::new();
        while let Some(chunk) = cutter.next_chunk().unwrap() {
            lines.extend(lines_of(chunk));
        }
        lines
    }

    #[test]
    fn a_line_is_what_lies_between_two_line_feeds() {
        for step in [1, 2, 3, 5, 1000] {
            assert_eq!(lines(b"one\n\nthr\ree\0\n", step), [&b"one"[..], b"", b"thr\ree\0"], "{step}");
            assert_eq!(lines(b"one\ntail", step), [&b"one"[..], b"tail"], "{step}");
            assert_eq!(lines(b"\n", step), [&b""[..]], "{step}");
            assert!(lines(b"", step).is_empty(), "{step}");
            assert_eq!(lines(b"\xff\xfe\n\xff", step), [&b"\xff\xfe"[..], b"\xff"], "{step}");
        }
    }

    #[test]
    fn a_line_may_span_many_reads() {
        let long = [vec![b'x'; 600 << 10], b"\ny\n".to_vec()].concat();
        let lines = lines(&long, READ_BYTES);
        assert_eq!(lines.iter().map(Bytes::len).collect::<Vec<_>>(), [600 << 10, 1]);
    }

    #[test]
    fn whole_lines_do_not_wait_for_more_input() {
        let mut cutter = Cutter { input: Slow(b"a\nb\nc", 4), rest: BytesMut::new() };
        assert_eq!(cutter.next_chunk().unwrap().as_deref(), Some(&b"a\nb\n"[..]));
        assert_eq!(cutter.next_chunk().unwrap().as_deref(), Some(&b"c"[..]));
        assert_eq!(cutter.next_chunk().unwrap(), None);
    }
}
