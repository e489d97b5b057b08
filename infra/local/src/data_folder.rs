//! The folder that holds everything an embedded stack remembers.
//!
//! One process owns a data folder at a time. The embedded servers keep caches and counters in memory, so a second
//! process on the same files would not crash but quietly disagree, which is worse; the operating system's lock on the
//! file `lock` refuses it. The lock ends with the process, however it ends, so that nothing is left to clean up after a
//! kill.
//!
//! ```text
//! <folder>/FORMAT      the version of the layout, in decimal
//! <folder>/lock        locked by the process that uses the folder
//! <folder>/<server>/…  what each embedded server keeps
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// The version of the layout that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "lock";

/// How long a folder in use is asked for again.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// How often it is asked for.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// A locked data folder; clones share the lock, and the last one releases it.
#[derive(Clone, Debug)]
pub struct DataFolder {
    inner: Arc<Inner>,
}

/// The order of the fields matters: the lock goes before the folder does.
#[derive(Debug)]
struct Inner {
    path: PathBuf,
    _lock: File,
    _temporary: Option<tempfile::TempDir>,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataFolderError {
    /// Another process holds the lock.
    #[error("the data folder `{}` is in use by another slipway; stop it, or choose another folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A newer version made the folder.
    #[error(
        "the data folder `{}` has format {found}, and this slipway reads formats up to {supported}; \
         use the newer slipway that made it, or choose another folder",
        path.display()
    )]
    TooNew {
        /// The folder.
        path: PathBuf,
        /// The folder's format.
        found: u32,
        /// The newest format that this build reads.
        supported: u32,
    },
    /// The format file holds something else than a number.
    #[error(
        "`{}` does not hold a format number, so the folder is not a slipway data folder; choose another folder",
        path.display()
    )]
    NotADataFolder {
        /// The format file.
        path: PathBuf,
    },
    /// The folder cannot be made or written.
    #[error("the data folder `{}` is not writable; change its permissions, or choose another folder", path.display())]
    NotWritable {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl DataFolder {
    /// Opens a data folder and locks it, making it first where it is missing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataFolderError> {
        Self::lock(path.as_ref(), None)
    }

    /// Makes a data folder that is removed when its last user lets go of it.
    pub fn temporary() -> Result<Self, DataFolderError> {
        let folder = tempfile::Builder::new()
            .prefix("slipway-")
            .tempdir()
            .map_err(|source| DataFolderError::NotWritable {
                path: PathBuf::from("<temporary folder>"),
                source,
            })?;
        let path = folder.path().to_owned();
        Self::lock(&path, Some(folder))
    }

    /// Names the folder.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Returns the folder of one server, and makes it where it is missing.
    pub fn subfolder(&self, name: &str) -> Result<PathBuf, DataFolderError> {
        let path = self.inner.path.join(name);
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(DataFolderError::NotWritable { path, source }),
        }
    }

    fn lock(path: &Path, temporary: Option<tempfile::TempDir>) -> Result<Self, DataFolderError> {
        let not_writable = |source| DataFolderError::NotWritable {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(not_writable)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(not_writable)?;
        wait_for_lock(&lock).map_err(|error| match error {
            TryLockError::WouldBlock => DataFolderError::InUse {
                path: path.to_owned(),
            },
            TryLockError::Error(source) => not_writable(source),
        })?;
        // Only the owner of the lock may look at the format, because a new folder gets its format just below.
        check_format(path)?;
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                _lock: lock,
                _temporary: temporary,
            }),
        })
    }
}

/// Takes the lock, and gives a former owner that is just letting go of it a moment.
///
/// A process that was killed may still be on its way out, and a child that was being started when its parent closed the
/// file holds a copy of the lock until it runs its own program.
fn wait_for_lock(lock: &File) -> Result<(), TryLockError> {
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                thread::sleep(LOCK_INTERVAL);
            }
            outcome => return outcome,
        }
    }
}

fn check_format(folder: &Path) -> Result<(), DataFolderError> {
    let path = folder.join(FORMAT_FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return write_format(folder).map_err(|source| DataFolderError::NotWritable {
                path: folder.to_owned(),
                source,
            });
        }
        Err(source) => {
            return Err(DataFolderError::NotWritable {
                path: folder.to_owned(),
                source,
            });
        }
    };
    match std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.trim().parse().ok())
    {
        None => Err(DataFolderError::NotADataFolder { path }),
        Some(found) if found > FORMAT => Err(DataFolderError::TooNew {
            path: folder.to_owned(),
            found,
            supported: FORMAT,
        }),
        Some(_) => Ok(()),
    }
}

/// Writes the format under another name first, so that a kill in between leaves no half-written number.
fn write_format(folder: &Path) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{FORMAT}")?;
    file.as_file().sync_all()?;
    file.persist(folder.join(FORMAT_FILE))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_until_its_last_user_lets_go() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let folder = DataFolder::open(&path).unwrap();
        let clone = folder.clone();
        drop(folder);
        let error = DataFolder::open(&path).unwrap_err();
        assert!(matches!(error, DataFolderError::InUse { .. }));
        assert!(
            error.to_string().starts_with(&format!(
                "the data folder `{}` is in use by another slipway",
                path.display()
            )),
            "{error}"
        );
        drop(clone);
        DataFolder::open(&path).unwrap();
    }

    #[test]
    fn a_folder_of_a_newer_version_is_refused_with_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FORMAT_FILE), "7\n").unwrap();
        let error = DataFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("has format 7"), "{error}");
        assert!(error.contains("reads formats up to 1"), "{error}");
    }

    #[test]
    fn a_folder_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FORMAT_FILE), b"\xffPDF").unwrap();
        let error = DataFolder::open(folder.path()).unwrap_err();
        assert!(
            matches!(error, DataFolderError::NotADataFolder { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataFolder::open(file.join("data")).unwrap_err();
        assert!(
            matches!(error, DataFolderError::NotWritable { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_temporary_folder_goes_with_its_last_user() {
        let folder = DataFolder::temporary().unwrap();
        let path = folder.path().to_owned();
        folder.subfolder("dynamodb").unwrap();
        assert!(path.join("dynamodb").is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}
