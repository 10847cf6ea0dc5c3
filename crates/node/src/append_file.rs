//! A file that is only ever added to: its end is always the end of the last whole write.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// The open file.
#[derive(Debug)]
pub(crate) struct AppendFile {
    /// Shared with those who read from it; nobody else writes.
    file: Arc<File>,
    len: u64,
    /// A failed write may have left bytes behind that could not be cut off; they must go before the next write.
    dirty: bool,
}

impl AppendFile {
    /// Takes a file whose first `len` bytes count; what stands behind them is cut off before the next write.
    pub(crate) fn new(file: File, len: u64) -> Self {
        Self {
            file: Arc::new(file),
            len,
            dirty: true,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the file, to read from. What was written into it stays where it is.
    pub(crate) fn reader(&self) -> &Arc<File> {
        &self.file
    }

    /// Adds some bytes and has them on disk, if `sync` says so; after an error the file is as before.
    pub(crate) fn add(&mut self, bytes: &[u8], sync: bool) -> io::Result<()> {
        self.make_clean()?;
        self.dirty = true;
        let written = self.file.write_all_at(bytes, self.len).and_then(|()| match sync {
            true => self.file.sync_data(),
            false => Ok(()),
        });
        match written {
            Ok(()) => {
                self.dirty = false;
                self.len += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Tried now so that a full disk gets its bytes back, and again before the next write.
                let _ = self.make_clean();
                Err(error)
            }
        }
    }

    /// Cuts off what does not count.
    pub(crate) fn make_clean(&mut self) -> io::Result<()> {
        if self.dirty {
            self.file.set_len(self.len)?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Makes every write fail as on a full disk, which here is the device that is always full.
    #[cfg(test)]
    pub(crate) fn fail_writes(&mut self, path: &Path, fail: bool) {
        let path = if fail { Path::new("/dev/full") } else { path };
        let file = OpenOptions::new().read(true).write(true).open(path);
        self.file = Arc::new(file.expect("opens"));
    }
}

/// Opens a file with mode 0600 to read and to write, making it if it is missing, and emptying it if `empty` says so.
pub(crate) fn open_for_writing(path: &Path, empty: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(empty)
        .mode(0o600)
        .open(path)
}
