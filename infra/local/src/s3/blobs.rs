//! The files that hold the bytes of objects.
//!
//! A blob has a random name, so that no key ever becomes a path, and never changes once written.
//! The database says which blobs are in use; a file that it does not know is rubbish of an interrupted write.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::checksums::{Algorithm, Digests, Hashers};

/// Draws a fresh opaque id for a blob, a version or an upload.
pub(super) fn fresh_id() -> String {
    ulid::Ulid::generate().to_string()
}

/// The folder of blobs, and who is reading them.
#[derive(Debug)]
pub(super) struct Blobs {
    folder: PathBuf,
    /// Whether to wait for the disk; a temporary store does not outlive the machine anyway.
    durable: bool,
    pins: Mutex<Pins>,
}

#[derive(Debug, Default)]
struct Pins {
    readers: HashMap<String, usize>,
    /// Unreferenced blobs that wait for their last reader.
    doomed: HashSet<String>,
}

impl Blobs {
    pub(super) fn open(folder: PathBuf, durable: bool) -> io::Result<Self> {
        for shard in 0..=u8::MAX {
            fs::create_dir_all(folder.join(format!("{shard:02x}")))?;
        }
        Ok(Self {
            folder,
            durable,
            pins: Mutex::default(),
        })
    }

    /// Removes every file that the database does not know.
    pub(super) fn sweep(&self, known: &HashSet<String>) -> io::Result<usize> {
        let mut removed = 0;
        for shard in fs::read_dir(&self.folder)? {
            for file in fs::read_dir(shard?.path())? {
                let file = file?;
                if file
                    .file_name()
                    .to_str()
                    .is_none_or(|name| !known.contains(name))
                {
                    fs::remove_file(file.path())?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    fn shard(&self, id: &str) -> PathBuf {
        // The first characters of an id are its time, which would put neighbours into one folder; the last are random.
        let shard = id
            .bytes()
            .rev()
            .take(4)
            .fold(0_u8, |sum, byte| sum.wrapping_mul(31) ^ byte);
        self.folder.join(format!("{shard:02x}"))
    }

    fn path(&self, id: &str) -> PathBuf {
        self.shard(id).join(id)
    }

    pub(super) fn file(&self, id: &str) -> io::Result<File> {
        File::open(self.path(id))
    }

    /// Starts a blob; it disappears with its writer unless it is kept.
    pub(super) fn create(
        self: &Arc<Self>,
        algorithms: impl IntoIterator<Item = Algorithm>,
    ) -> io::Result<Writer> {
        let id = fresh_id();
        let file = File::create_new(self.path(&id))?;
        Ok(Writer {
            file,
            hashers: Hashers::new(algorithms),
            length: 0,
            blob: Written {
                blobs: Arc::clone(self),
                id,
                kept: false,
            },
        })
    }

    /// Looks something up and pins the blobs it names in one step.
    ///
    /// A blob that becomes unreferenced in between is removed only after this step, and finds the pin.
    pub(super) fn pinning<T, E>(
        self: &Arc<Self>,
        look_up: impl FnOnce() -> Result<(T, Vec<String>), E>,
    ) -> Result<(T, Pin), E> {
        let mut pins = self.lock();
        let (found, ids) = look_up()?;
        for id in &ids {
            *pins.readers.entry(id.clone()).or_default() += 1;
        }
        Ok((
            found,
            Pin {
                blobs: Arc::clone(self),
                ids,
            },
        ))
    }

    /// Removes blobs that nothing refers to any more, each after its last reader.
    pub(super) fn release(&self, ids: impl IntoIterator<Item = String>) {
        let mut pins = self.lock();
        for id in ids {
            if pins.readers.contains_key(&id) {
                pins.doomed.insert(id);
            } else {
                remove(&self.path(&id));
            }
        }
    }

    /// Takes back the sentence of blobs that are referred to again.
    pub(super) fn rescue<'a>(&self, ids: impl IntoIterator<Item = &'a str>) {
        let mut pins = self.lock();
        for id in ids {
            pins.doomed.remove(id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove(path: &Path) {
    // A file that stays is swept at the next open, so a failure costs space only.
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "Could not remove a blob");
    }
}

/// Holds blobs on disk while they are read.
#[derive(Debug)]
pub(super) struct Pin {
    blobs: Arc<Blobs>,
    ids: Vec<String>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.blobs.lock();
        for id in &self.ids {
            let Some(readers) = pins.readers.get_mut(id) else {
                continue;
            };
            *readers -= 1;
            if *readers == 0 {
                pins.readers.remove(id);
                if pins.doomed.remove(id) {
                    remove(&self.blobs.path(id));
                }
            }
        }
    }
}

/// Writes a blob and hashes it on the way.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    hashers: Hashers,
    length: u64,
    blob: Written,
}

impl Writer {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hashers.update(bytes);
        self.length += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Closes the blob once its bytes, and its name in the folder, are on disk.
    pub(super) fn finish(self) -> io::Result<(Written, u64, Digests)> {
        if self.blob.blobs.durable {
            self.file.sync_all()?;
            File::open(self.blob.blobs.shard(&self.blob.id))?.sync_all()?;
        }
        Ok((self.blob, self.length, self.hashers.finish()))
    }
}

/// A complete blob that no object refers to yet.
#[derive(Debug)]
pub(super) struct Written {
    blobs: Arc<Blobs>,
    id: String,
    kept: bool,
}

impl Written {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Leaves the file in place: a committed object refers to it.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.blobs.path(&self.id));
        }
    }
}
