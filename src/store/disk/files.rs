//! What the engine asks of a file system, and the answer of a real one.
//!
//! Everything the engine does to a disk goes through [`Files`] and [`StoreFile`], so that tests can put a disk that
//! fails, fills up or loses power in their place. Names are those of files directly in the store's directory, or
//! one folder below.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A store's directory.
pub trait Files: Debug + Send + Sync {
    /// The names of all files in the directory.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file that exists, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StoreFile>>;

    /// Makes a file that does not exist yet.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StoreFile>>;

    /// Makes a folder; one that exists is an error.
    fn create_folder(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name. A file that has this name already is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Who has it open can still read it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns once all names are as durable as the disk can make them.
    fn sync_directory(&self) -> io::Result<()>;

    /// Names the time since the machine was switched on: what was written since is still known to its file system.
    fn boot(&self) -> [u8; 16];
}

/// One file.
pub trait StoreFile: Debug + Send + Sync {
    /// Its length.
    fn length(&self) -> io::Result<u64>;

    /// Makes it this long at least, with room on the disk for every byte.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Reads some bytes; 0 only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Returns once what was written is on the disk.
    fn sync_data(&self) -> io::Result<()>;
}

/// Reads until the buffer is full or the file ends; returns how much it was.
pub(super) fn read_full(file: &dyn StoreFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of it.
pub(super) fn write_full(file: &dyn StoreFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A real directory.
#[derive(Debug)]
pub struct StdFiles {
    directory: PathBuf,
}

impl StdFiles {
    /// Of a directory that exists.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }
}

impl Files for StdFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StoreFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.directory.join(name))?;
        Ok(Arc::new(StdFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StoreFile>> {
        let path = self.directory.join(name);
        // Messages are nobody else's business.
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(StdFile(file)))
    }

    fn create_folder(&self, name: &str) -> io::Result<()> {
        std::fs::create_dir(self.directory.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn boot(&self) -> [u8; 16] {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut boot = [0; 16];
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).take(32).collect();
        for (byte, pair) in boot.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
        }
        boot
    }
}

#[derive(Debug)]
struct StdFile(File);

impl StoreFile for StdFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let now = self.length()?;
        if length <= now {
            return Ok(());
        }
        allocate(&self.0, length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, length: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length) {
        // A file system that cannot promise room.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(length),
        done => Ok(done?),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &File, length: u64) -> io::Result<()> {
    file.set_len(length)
}
