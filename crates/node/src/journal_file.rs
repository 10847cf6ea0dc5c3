//! The journal as a file: opened, cut to its intact part, appended to with fdatasync, written anew when mostly dead,
//! read from where an event stands. What stands in it is decided by [`runs::journal`].

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runs::journal::{
    DecodeError, Decoder, HEADER, Journal, JournalError, Place, Record, Rewrite, Tail, Waiting, encode,
    numbered,
};
use types::EventDraft;

use crate::append_file::{AppendFile, open_for_writing};
use crate::state_dir::sync_parent;

/// What is read from the file at once when it is opened, in bytes.
const READ_BYTES: usize = 64 * 1024;

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
    file: AppendFile,
    /// The file was moved to its name, and that may not be on disk yet; it must be before the next write is answered.
    moved: bool,
}

impl JournalFile {
    /// Opens or makes the file and adds up what stands in it; a torn tail is cut off.
    pub fn open(path: &Path) -> Result<(Self, Journal), OpenError> {
        let at = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let file = open_for_writing(path, false).map_err(at)?;
        if file.metadata().map_err(at)?.len() > FILE_BYTES_MAX {
            return Err(at(io::Error::other("the file is larger than 1 GiB")));
        }
        let (journal, tail) = replay(path, &file)?;
        if tail.torn_len > 0 {
            tracing::warn!(bytes = tail.torn_len, "cut a torn write off the journal");
        }
        let mut opened = Self {
            path: path.to_owned(),
            file: AppendFile::new(file, tail.intact_len),
            moved: false,
        };
        opened.file.make_clean().map_err(at)?;
        if opened.is_empty() {
            opened.file.add(HEADER, true).map_err(at)?;
            sync_parent(path).map_err(at)?;
        }
        Ok((opened, journal))
    }

    /// Adds the records of one write and returns where each stands; after an error the file is as before.
    pub fn write(&mut self, records: &[Record], sync: bool) -> io::Result<Vec<Place>> {
        let encoded = encode(records, self.len()).map_err(io::Error::other)?;
        if !encoded.bytes.is_empty() {
            if self.moved {
                sync_parent(&self.path)?;
                self.moved = false;
            }
            self.file.add(&encoded.bytes, sync)?;
        }
        Ok(encoded.places)
    }

    /// Returns the file, to read events from. What was written into it stays where it is, whatever becomes of this.
    #[must_use]
    pub fn reader(&self) -> Arc<File> {
        self.file.reader().clone()
    }

    /// Returns the length of the file, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.file.len()
    }

    /// Tells whether the file has not even its header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.file.len() == 0
    }

    /// Writes a new file with `content`, moves it over the old one, and returns the journal that stands in it.
    pub fn compact(&mut self, content: Vec<Rewrite>) -> io::Result<Journal> {
        let temporary = self.path.with_extension("compacted");
        let mut file = open_for_writing(&temporary, true)?;
        file.write_all(HEADER)?;
        let mut len = HEADER.len() as u64;
        for write in content {
            let records = match write {
                Rewrite::Records(records) => records,
                Rewrite::Events(run_id, batch) => numbered(
                    run_id,
                    batch.first,
                    read_events(self.file.reader(), batch.events)?,
                ),
            };
            let bytes = encode(&records, len).map_err(io::Error::other)?.bytes;
            file.write_all(&bytes)?;
            len += bytes.len() as u64;
        }
        file.sync_all()?;
        let (journal, _) = replay(&temporary, &file).map_err(io::Error::other)?;
        std::fs::rename(&temporary, &self.path)?;
        self.file = AppendFile::new(file, len);
        self.moved = true;
        Ok(journal)
    }

    /// Makes every write fail as on a full disk, which here is the device that is always full.
    #[cfg(test)]
    pub(crate) fn fail_writes(&mut self, fail: bool) {
        self.file.fail_writes(&self.path, fail);
    }
}

/// Returns events in order, reading from the file those that are not in memory.
pub fn read_events(file: &File, waiting: Vec<Waiting>) -> io::Result<Vec<EventDraft>> {
    let read = |waiting| match waiting {
        Waiting::Here(draft) => Ok(draft),
        Waiting::InFile(place) => {
            let mut json = vec![0; place.len as usize];
            file.read_exact_at(&mut json, place.offset)?;
            place.event(&json).map_err(io::Error::other)
        }
    };
    waiting.into_iter().map(read).collect()
}

/// Adds up what stands in a file, from its beginning.
fn replay(path: &Path, file: &File) -> Result<(Journal, Tail), OpenError> {
    let damaged = |source| OpenError::Damaged {
        path: path.to_owned(),
        source,
    };
    let mut journal = Journal::default();
    let mut decoder = Decoder::default();
    let mut piece = vec![0; READ_BYTES];
    let mut offset = 0;
    loop {
        let len = file.read_at(&mut piece, offset).map_err(|source| OpenError::Io {
            path: path.to_owned(),
            source,
        })?;
        if len == 0 {
            return Ok((journal, decoder.finish().map_err(damaged)?));
        }
        offset += len as u64;
        decoder.push(&piece[..len]);
        while let Some(frame) = decoder.next_frame().map_err(damaged)? {
            journal.replay(frame).map_err(|source| OpenError::Contradiction {
                path: path.to_owned(),
                source,
            })?;
        }
    }
}
