//! The files of one model version, as the inspection sees them.

use crate::source::Source;

/// One file of a bundle.
#[derive(Clone, Copy)]
pub struct BundleFile<'a> {
    /// Path within the version, relative, with `/` between parts.
    pub path: &'a str,
    /// The bytes.
    pub source: &'a dyn Source,
}

impl std::fmt::Debug for BundleFile<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("BundleFile")
            .field("path", &self.path)
            .field("size", &self.source.size())
            .finish()
    }
}

/// All files of one model version, sorted by path.
#[derive(Debug, Clone)]
pub struct Bundle<'a> {
    files: Vec<BundleFile<'a>>,
}

impl<'a> Bundle<'a> {
    /// Makes a bundle; the order of `files` does not matter.
    pub fn new(mut files: Vec<BundleFile<'a>>) -> Self {
        files.sort_by(|left, right| left.path.cmp(right.path));
        Self { files }
    }

    /// The files, sorted by path.
    pub fn files(&self) -> &[BundleFile<'a>] {
        &self.files
    }

    /// The file at exactly `path`.
    pub fn find(&self, path: &str) -> Option<BundleFile<'a>> {
        let index = self
            .files
            .binary_search_by(|file| file.path.cmp(path))
            .ok()?;
        self.files.get(index).copied()
    }
}
