//! The journal as a file: opened, cut to its intact part, appended to with fdatasync, written anew when mostly dead.
//! What stands in it is decided by [`runs::journal`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use runs::journal::{DecodeError, HEADER, Journal, JournalError, Write, decode, encode};

use crate::state_dir::sync_parent;

/// The largest journal file that is opened, in bytes: many times what the rules let it grow to.
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Why the journal cannot be opened. Nothing is thrown away: the owner decides.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("{path}: {source}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: DecodeError,
    },
    /// The records contradict each other.
    #[error("{path}: {source}")]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// How.
        source: JournalError,
    },
}

/// The open file. Its end is always the end of the last whole write.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    file: File,
    len: u64,
    /// A failed write may have left bytes behind that could not be cut off; they must go before the next write.
    dirty: bool,
}

impl JournalFile {
    /// Opens or makes the file and adds up what stands in it; a torn tail is cut off.
    pub fn open(path: &Path) -> Result<(Self, Journal), OpenError> {
        let at = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = open_for_writing(path, false).map_err(at)?;
        if file.metadata().map_err(at)?.len() > FILE_BYTES_MAX {
            return Err(at(io::Error::other("the file is larger than 1 GiB")));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at)?;
        let decoded = decode(&bytes).map_err(|source| OpenError::Damaged {
            path: path.to_owned(),
            source,
        })?;
        drop(bytes);
        if decoded.torn_len > 0 {
            tracing::warn!(bytes = decoded.torn_len, "cut a torn write off the journal");
        }
        let mut opened = Self {
            path: path.to_owned(),
            file,
            len: decoded.intact_len as u64,
            dirty: true,
        };
        opened.make_clean().map_err(at)?;
        if opened.len == 0 {
            opened.add(HEADER, true).map_err(at)?;
            sync_parent(path).map_err(at)?;
        }
        let journal = Journal::replay(decoded.records).map_err(|source| OpenError::Contradiction {
            path: path.to_owned(),
            source,
        })?;
        Ok((opened, journal))
    }

    /// Adds one write; after an error the file is as before.
    pub fn write(&mut self, write: &Write, sync: bool) -> io::Result<()> {
        let bytes = encode(&write.records).map_err(io::Error::other)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.make_clean()?;
        self.add(&bytes, sync)
    }

    /// Returns the length of the file, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Tells whether the file has not even its header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes a new file with what `journal` still holds and moves it over the old one.
    pub fn compact(&mut self, journal: &Journal) -> io::Result<()> {
        let temporary = self.path.with_extension("compacted");
        let mut file = open_for_writing(&temporary, true)?;
        file.write_all(HEADER)?;
        let mut len = HEADER.len() as u64;
        for write in journal.compacted() {
            let bytes = encode(&write.records).map_err(io::Error::other)?;
            file.write_all(&bytes)?;
            len += bytes.len() as u64;
        }
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        self.file = file;
        self.len = len;
        self.dirty = false;
        sync_parent(&self.path)
    }

    fn add(&mut self, bytes: &[u8], sync: bool) -> io::Result<()> {
        self.dirty = true;
        let written = self.file.write_all(bytes).and_then(|()| match sync {
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

    /// Makes every write fail as on a full disk, which here is the device that is always full.
    #[cfg(test)]
    pub(crate) fn fail_writes(&mut self, fail: bool) {
        let path = if fail { Path::new("/dev/full") } else { &self.path };
        self.file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("opens");
        self.file.seek(SeekFrom::Start(self.len)).expect("seeks");
    }

    fn make_clean(&mut self) -> io::Result<()> {
        if self.dirty {
            self.file.set_len(self.len)?;
            self.file.seek(SeekFrom::Start(self.len))?;
            self.dirty = false;
        }
        Ok(())
    }
}

fn open_for_writing(path: &Path, empty: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(empty)
        .mode(0o600)
        .open(path)
}
