//! An ext4 image whose power can be cut.
//!
//! It has one loop device for all its life, and is mounted in a mount namespace of the test's own. Both matter: a namespace
//! that somebody makes elsewhere (a container, `ip netns exec`) takes copies of all mounts that it sees, which keep a file
//! system that was shut down alive, with its blocks in memory; and a second loop device over the same image has a cache
//! of its own. Then old blocks of the dead file system may be written over those of the living one.

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::ioctl;

/// Sparse: takes what is written, and gives back what is removed.
const IMAGE_BYTES: u64 = 16 << 30;

/// `EXT4_IOC_SHUTDOWN`, and its flag that throws away what the journal has not yet written.
const SHUTDOWN: ioctl::Opcode = ioctl::opcode::read::<u32>(b'X', 125);
const NO_LOG_FLUSH: u32 = 2;

/// What is missing on this machine, if anything is.
pub(crate) fn check_machine() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("mounting needs root".into());
    }
    for (tool, argument) in
        [("mkfs.ext4", "-V"), ("e2fsck", "-V"), ("mount", "-V"), ("losetup", "-V"), ("unshare", "-V")]
    {
        if Command::new(tool).arg(argument).output().is_err() {
            return Err(format!("{tool} is not installed"));
        }
    }
    let loops = Command::new("losetup").arg("-f").output().map_err(|error| error.to_string())?;
    if !loops.status.success() {
        return Err("there are no loop devices".into());
    }
    Ok(())
}

/// Set in the process that has its own mount namespace.
const PRIVATE: &str = "GOULETTE_TEST_PRIVATE_MOUNTS";

/// Goes on in a mount namespace of its own: starts this program again there, if it is not there yet.
pub(crate) fn hide_mounts() -> Result<(), String> {
    if std::env::var_os(PRIVATE).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut again = Command::new("unshare");
    again
        .args(["--mount", "--propagation", "private"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(PRIVATE, "1");
    Err(format!("unshare: {}", again.exec()))
}

/// A mounted image; unmounted at the end, whatever happens.
pub(crate) struct Volume {
    device: PathBuf,
    mounted_at: PathBuf,
}

impl Volume {
    /// A large one.
    pub(crate) fn make(image: &Path, at: &Path) -> Self {
        Self::of(IMAGE_BYTES, image, at)
    }

    /// One of so many bytes.
    pub(crate) fn of(bytes: u64, image: &Path, at: &Path) -> Self {
        File::create(image).unwrap().set_len(bytes).unwrap();
        run("mkfs.ext4", &[Path::new("-q"), Path::new("-F"), image]);
        fs::create_dir_all(at).unwrap();
        let device = run("losetup", &[Path::new("--find"), Path::new("--show"), image]);
        let volume = Self { device: device.trim_end().into(), mounted_at: at.into() };
        volume.mount();
        volume
    }

    /// From now on nothing reaches the disk, and what had not reached it is gone.
    #[allow(unsafe_code, reason = "an ioctl: the kernel reads one u32 that lives until it returns")]
    pub(crate) fn cut_power(&self) {
        let root = File::open(&self.mounted_at).unwrap();
        // SAFETY: the opcode takes a pointer to a u32, which the kernel only reads.
        unsafe {
            let call = ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH);
            ioctl::ioctl(root.as_fd(), call).expect("ext4 takes the shutdown");
        }
    }

    /// The machine comes back: whoever had files open must be gone. The file system recovers by its journal; what
    /// `e2fsck` then has to say against it is returned, and no broker's fault.
    pub(crate) fn remount(&self) -> Result<(), String> {
        run("umount", &[&self.mounted_at]);
        run("blockdev", &[Path::new("--flushbufs"), &self.device]);
        self.mount();
        run("umount", &[&self.mounted_at]);
        let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(&self.device).output().unwrap();
        if !checked.status.success() {
            return Err(String::from_utf8_lossy(&checked.stdout).into_owned());
        }
        self.mount();
        let synced = File::open(&self.mounted_at).and_then(|root| root.sync_all());
        synced.map_err(|error| format!("the file system stays dead: {error}"))
    }

    pub(crate) fn unmount(self) {
        drop(self);
    }

    fn mount(&self) {
        run("mount", &[Path::new("-o"), Path::new("discard"), &self.device, &self.mounted_at]);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mounted_at).output();
        let _ = Command::new("losetup").arg("-d").arg(&self.device).output();
    }
}

fn run(program: &str, arguments: &[&Path]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
