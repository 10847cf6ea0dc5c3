//! The netmap on disk: the last one that was written whole, and the deltas that came upon it since, so that a change costs the
//! disk what it says and not what the org is.
//!
//! `netmap.json` is replaced atomically. `netmap.log` has the header `runmesh netmap log v1`, and a frame ([`runs::frames`])
//! for each delta, as it came over the control stream. It is begun anew when the whole netmap is written. A crash leaves what
//! was in force before or after the last write: deltas that are older than the whole netmap, since the crash came before the
//! log was begun anew, are passed over, and a torn last one is cut off. With any other damage the log is not believed, and the
//! whole netmap alone is.
//!
//! Nothing here is checked: what is read must pass the gate as what comes over the stream does.

use std::fs;
use std::io;
use std::sync::Arc;

use runs::frames::{self, PREFIX_LEN};
use types::Netmap;
use types::netmap::NetmapDelta;

use crate::append_file::{AppendFile, open_for_writing};
use crate::state_dir::{StateDir, StateDirError, sync_parent};

const WHOLE: &str = "netmap.json";
const LOG: &str = "netmap.log";
const HEADER: &[u8] = b"runmesh netmap log v1\n";

/// The most deltas in the log, so that a start does not take longer the longer a node has run. What one more costs, the whole
/// netmap, is then shared by as many changes.
const LOG_DELTAS_MAX: usize = 1024;

/// The log may be as long as the whole netmap, but for one of a small org.
const LOG_BYTES_MIN: u64 = 64 * 1024;

/// What was kept.
#[derive(Debug, PartialEq)]
pub(crate) struct Kept {
    /// The netmap that was written whole.
    pub(crate) whole: Netmap,
    /// What came upon it, in order.
    pub(crate) deltas: Vec<NetmapDelta>,
    /// What the log must be cut to before another is added; `None` when it is to be begun anew.
    intact: Option<u64>,
}

/// The netmap's two files.
#[derive(Debug)]
pub(crate) struct NetmapFile {
    dir: Arc<StateDir>,
    whole_len: u64,
    /// Absent until it is known what stands in it.
    log: Option<Log>,
}

#[derive(Debug)]
struct Log {
    file: AppendFile,
    deltas: usize,
}

impl NetmapFile {
    pub(crate) fn new(dir: Arc<StateDir>) -> Self {
        Self {
            dir,
            whole_len: 0,
            log: None,
        }
    }

    /// Reads what was kept; `None` if there is nothing. Until [`NetmapFile::go_on`] the next write is the whole netmap.
    pub(crate) fn read(&mut self) -> Result<Option<Kept>, StateDirError> {
        self.log = None;
        let Some(whole) = self.dir.read_json::<Netmap>(WHOLE)? else {
            return Ok(None);
        };
        let bytes = self.dir.read_bytes(LOG)?.unwrap_or_default();
        let (mut deltas, intact) = match read_log(&bytes) {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(
                    error,
                    "the log of netmaps is damaged; the last whole netmap is used"
                );
                (Vec::new(), None)
            }
        };
        let newer = deltas.partition_point(|delta| delta.generation <= whole.generation);
        let is_older = newer > 0;
        Ok(Some(Kept {
            deltas: deltas.split_off(newer),
            intact: intact.filter(|_| !is_older),
            whole,
        }))
    }

    /// Adds to the log that was read, now that all of what was kept is in force.
    pub(crate) fn go_on(&mut self, kept: &Kept) {
        let Some(intact) = kept.intact else { return };
        let whole_len = fs::metadata(self.dir.file(WHOLE)).map_or(0, |meta| meta.len());
        let opened = open_for_writing(&self.dir.file(LOG), false);
        self.whole_len = whole_len;
        self.log = opened.ok().map(|file| Log {
            file: AppendFile::new(file, intact),
            deltas: kept.deltas.len(),
        });
    }

    /// Writes a netmap whole, and begins the log anew.
    pub(crate) fn write(&mut self, netmap: &Netmap) -> Result<(), StateDirError> {
        // From here on what stands in the log belongs to another netmap.
        self.log = None;
        self.whole_len = self.dir.write_json(WHOLE, netmap)?;
        // Without a log the next netmap is written whole, too.
        match self.begin_log() {
            Ok(file) => self.log = Some(Log { file, deltas: 0 }),
            Err(error) => tracing::warn!(%error, "the log of netmaps cannot be begun"),
        }
        Ok(())
    }

    /// Writes what became of the netmap that was written last by a delta, which is `netmap`.
    pub(crate) fn add(&mut self, delta: &NetmapDelta, netmap: &Netmap) -> Result<(), StateDirError> {
        let mut bytes = vec![b' '; PREFIX_LEN];
        serde_json::to_writer(&mut bytes, delta).expect("a delta has only string keys");
        let limit = self.whole_len.max(LOG_BYTES_MIN);
        // The netmap of a key that is held no longer would be refused at the next start, and all that came upon it.
        let is_other_self = delta.node.is_some();
        let log = self.log.as_mut().filter(|log| {
            let is_short = log.file.len() + frames::frame_len(&bytes[PREFIX_LEN..]) as u64 <= limit;
            is_short && log.deltas < LOG_DELTAS_MAX && !is_other_self
        });
        let (Some(log), Ok(frame)) = (log, frames::seal(bytes)) else {
            return self.write(netmap);
        };
        log.file.add(&frame, true).map_err(|source| StateDirError::Io {
            path: self.dir.file(LOG),
            source,
        })?;
        log.deltas += 1;
        Ok(())
    }

    /// Removes both files.
    pub(crate) fn remove(&mut self) -> Result<(), StateDirError> {
        self.log = None;
        // A log by itself is not read.
        self.dir.remove(WHOLE)?;
        self.dir.remove(LOG)
    }

    fn begin_log(&self) -> io::Result<AppendFile> {
        let path = self.dir.file(LOG);
        let mut file = AppendFile::new(open_for_writing(&path, true)?, 0);
        file.add(HEADER, false)?;
        sync_parent(&path)?;
        Ok(file)
    }
}

/// Returns the deltas of a log, and how much of it is intact, if anything is.
fn read_log(bytes: &[u8]) -> Result<(Vec<NetmapDelta>, Option<u64>), String> {
    let (frames, intact) = frames::read(bytes, HEADER).map_err(|error| error.to_string())?;
    let deltas = frames.into_iter().map(serde_json::from_slice);
    let deltas = deltas
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    Ok((deltas, (intact > 0).then_some(intact as u64)))
}

#[cfg(test)]
mod tests;
