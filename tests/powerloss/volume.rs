//! An ext4 image whose power can be cut.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
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
    for (tool, argument) in [("mkfs.ext4", "-V"), ("mount", "-V"), ("losetup", "-V")] {
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

/// A mounted image; unmounted at the end, whatever happens.
pub(crate) struct Volume {
    image: PathBuf,
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
        let volume = Self { image: image.into(), mounted_at: at.into() };
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

    /// The machine comes back: whoever had files open must be gone.
    pub(crate) fn remount(&self) {
        let deadline = Instant::now() + crate::cluster::PATIENCE;
        loop {
            run("umount", &[&self.mounted_at]);
            self.mount();
            // A mount namespace that somebody makes while the image is mounted (a container, `ip netns exec`) has a copy
            // of the mount, and keeps the dead file system alive: mounted again, it is still dead.
            match File::open(&self.mounted_at).and_then(|root| root.sync_all()) {
                Ok(()) => return,
                Err(error) => assert!(Instant::now() < deadline, "the file system stays dead: {error}"),
            }
            thread::sleep(Duration::from_millis(100)); // Until they are gone.
        }
    }

    pub(crate) fn unmount(self) {
        drop(self);
    }

    fn mount(&self) {
        run("mount", &[Path::new("-o"), Path::new("loop,discard"), &self.image, &self.mounted_at]);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mounted_at).output();
    }
}

fn run(program: &str, arguments: &[&Path]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
