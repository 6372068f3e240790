//! Where lines go: one destination for the process, under one mutex.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{Format, Options};

static SINK: Mutex<Sink> = Mutex::new(Sink::Off);
/// Beside the sink, because lines are formatted outside of its lock.
static JSON: AtomicBool = AtomicBool::new(false);

/// Replaces the destination.
pub(crate) fn set(options: &Options) {
    JSON.store(options.format == Format::Json, Ordering::Relaxed);
    let new = match &options.path {
        None => Sink::Console,
        Some(path) => Sink::File(LogFile::open(path.clone(), options.rotate_bytes, options.rotate_files)),
    };
    with(|sink| *sink = new);
}

/// The format of lines to come.
pub(crate) fn format() -> Format {
    if JSON.load(Ordering::Relaxed) { Format::Json } else { Format::Text }
}

/// Runs `f` while no other thread logs.
pub(crate) fn with<R>(f: impl FnOnce(&mut Sink) -> R) -> R {
    // A panic under the lock leaves at worst a torn line behind: no reason to stop logging.
    f(&mut SINK.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The process's destination for lines.
pub(crate) enum Sink {
    Off,
    Console,
    File(LogFile),
}

impl Sink {
    pub(crate) fn write_line(&mut self, line: &[u8]) {
        match self {
            Sink::Off => {}
            Sink::Console => write_to_console(line),
            Sink::File(file) => file.write_line(line),
        }
    }

    pub(crate) fn reopen(&mut self) {
        if let Sink::File(file) = self {
            file.reopen();
        }
    }

    pub(crate) fn sync(&mut self) {
        if let Sink::File(LogFile { file: Some(file), .. }) = self {
            // Nobody is left to tell, and the lines are with the kernel anyway.
            let _ = file.sync_data();
        }
    }

    pub(crate) fn close(&mut self) {
        self.sync();
        *self = Sink::Off;
    }
}

/// A stderr that is closed or full is no reason to fail.
fn write_to_console(line: &[u8]) {
    let _ = io::stderr().lock().write_all(line);
}

/// A log file that rotates by size.
///
/// Several processes may log to one file (two producers do): each line is one append, a lock on the file lets one of
/// them rotate, and who comes late only follows.
pub(crate) struct LogFile {
    path: PathBuf,
    rotate_bytes: u64,
    rotate_files: u32,
    /// None while it cannot be opened: lines go to stderr.
    file: Option<File>,
    bytes: u64,
    /// A write ended within a line, so the next one starts with a line feed.
    torn: bool,
    /// Trouble has been reported and not yet ended: it is reported once, not per line.
    troubled: bool,
}

impl LogFile {
    fn open(path: PathBuf, rotate_bytes: u64, rotate_files: u32) -> Self {
        let rotate_bytes = if rotate_bytes == 0 { u64::MAX } else { rotate_bytes };
        let mut new = Self { path, rotate_bytes, rotate_files, file: None, bytes: 0, torn: false, troubled: false };
        new.reopen();
        new
    }

    fn reopen(&mut self) {
        match open_to_append(&self.path) {
            Ok((file, bytes)) => {
                self.file = Some(file);
                self.bytes = bytes;
                self.torn = false;
                self.troubled = false;
            }
            Err(error) if self.file.is_some() => self.report("cannot be reopened, the old file stays in use", &error),
            Err(error) => self.report("cannot be opened, the log goes to stderr", &error),
        }
    }

    fn write_line(&mut self, line: &[u8]) {
        if self.bytes > 0 && self.bytes.saturating_add(line.len() as u64) > self.rotate_bytes {
            self.rotate();
        }
        match self.append(line) {
            Some(Ok(())) => self.troubled = false,
            Some(Err(error)) => {
                self.report("cannot be written, the log goes to stderr", &error);
                write_to_console(line);
            }
            None => write_to_console(line),
        }
    }

    fn append(&mut self, line: &[u8]) -> Option<io::Result<()>> {
        let mut file = self.file.as_ref()?;
        let repaired;
        let mut rest = line;
        if self.torn {
            repaired = [b"\n", line].concat();
            rest = &repaired;
        }
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(0) => return Some(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    rest = &rest[written..];
                    self.bytes += written as u64;
                    self.torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(()))
    }

    fn rotate(&mut self) {
        // Where files cannot be locked, two processes that rotate in the same instant may lose an old file: as without
        // the lock everywhere. Opening the new file closes, and so unlocks, the old one.
        let locked = self.file.as_ref().is_some_and(|file| file.lock().is_ok());
        match self.shift_names() {
            Ok(()) => self.reopen(),
            Err(error) => {
                self.report("cannot be rotated, it grows on", &error);
                // The next attempt is due when as much has been written again.
                self.bytes = 0;
            }
        }
        if let Some(file) = self.file.as_ref().filter(|_| locked) {
            let _ = file.unlock();
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a log is for people: it lies outside of the simulated disk")]
    fn shift_names(&self) -> io::Result<()> {
        if !self.is_current()? {
            return Ok(());
        }
        for number in (1..self.rotate_files).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match self.rotate_files {
            0 => fs::remove_file(&self.path),
            _ => fs::rename(&self.path, self.numbered(1)),
        }
    }

    /// Whether the name still leads to the file that we write: not if another process has rotated it.
    fn is_current(&self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let ours = file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    fn report(&mut self, what: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.troubled, true) {
            let text = format!("warning: the log file {} {what}: {error}\n", self.path.display());
            write_to_console(text.as_bytes());
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a log is for people: it lies outside of the simulated disk")]
fn open_to_append(path: &Path) -> io::Result<(File, u64)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}
