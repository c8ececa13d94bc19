//! A member's disk: a small ext4 in a file, so that it can fill up, stall, and lose its power.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::tool::run;

/// ext4's request to stop at once, as if the power went; with [`NO_FLUSH`] not even the journal is written.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
const NO_FLUSH: u32 = 2;
/// How long a killed process may keep its files open.
const BUSY: Duration = Duration::from_secs(20);
const BALLAST: &str = "ballast";

/// One file system in a file.
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    mounted: bool,
    frozen: bool,
}

impl Disk {
    /// Makes and mounts it; the file is sparse.
    ///
    /// # Errors
    /// Not root, or no loop device is free.
    pub fn create(dir: &Path, name: &str, size: u64) -> Result<Self> {
        let disk =
            Self { image: dir.join(format!("{name}.img")), mount: dir.join(name), mounted: false, frozen: false };
        File::create(&disk.image)?.set_len(size)?;
        fs::create_dir_all(&disk.mount)?;
        run(&format!("mkfs.ext4 -q -F -m 0 -N 4096 -E lazy_itable_init=0 {}", disk.image.display()))?;
        let mut disk = disk;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Mounts it if it is not.
    ///
    /// # Errors
    /// The journal cannot be replayed, or no loop device is free.
    pub fn mount(&mut self) -> Result<()> {
        if !self.mounted {
            run(&format!("mount -o loop {} {}", self.image.display(), self.mount.display()))?;
            self.mounted = true;
        }
        Ok(())
    }

    /// Unmounts it, once nobody has files there any more.
    ///
    /// # Errors
    /// Somebody still has.
    pub fn unmount(&mut self) -> Result<()> {
        let deadline = Instant::now() + BUSY;
        while self.mounted {
            match run(&format!("umount {}", self.mount.display())) {
                Ok(_) => self.mounted = false,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        Ok(())
    }

    /// Takes the power away: what was not synced is gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn power_cut(&self) -> Result<()> {
        let dir = File::open(&self.mount)?;
        // SAFETY: the descriptor is open, and this request reads one u32.
        let answer = unsafe { libc::ioctl(dir.as_raw_fd(), SHUTDOWN, &NO_FLUSH) };
        ensure!(answer == 0, "shutting ext4 down: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Lets every write wait until [`Self::thaw`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn freeze(&mut self) -> Result<()> {
        run(&format!("fsfreeze -f {}", self.mount.display()))?;
        self.frozen = true;
        Ok(())
    }

    /// Lets writes go on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&mut self) -> Result<()> {
        if self.frozen {
            run(&format!("fsfreeze -u {}", self.mount.display()))?;
            self.frozen = false;
        }
        Ok(())
    }

    /// Takes all free space.
    ///
    /// # Errors
    /// Anything but a full disk.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.mount.join(BALLAST))?;
        let mut step = 64 << 20;
        let mut size = 0;
        while step >= 4096 {
            match nix::fcntl::fallocate(&ballast, nix::fcntl::FallocateFlags::empty(), size, step) {
                Ok(()) => size += step,
                Err(nix::errno::Errno::ENOSPC) => step /= 2,
                Err(error) => return Err(error).context("filling the disk"),
            }
        }
        ballast.flush().context("filling the disk")
    }

    /// Gives the space back.
    pub fn drain(&self) {
        fs::remove_file(self.mount.join(BALLAST)).ok();
    }

    /// Removes all files.
    ///
    /// # Errors
    /// They cannot be removed.
    pub fn wipe(&self) -> Result<()> {
        for entry in fs::read_dir(&self.mount)?.flatten() {
            if entry.file_name() == "lost+found" {
                continue;
            }
            let path = entry.path();
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                .with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw().ok();
        self.unmount().ok();
        fs::remove_file(&self.image).ok();
    }
}
