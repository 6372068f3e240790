//! Whether the wall clock can be trusted: it is compared with the monotonic one, within a life of the log and from one life to
//! the next.
//!
//! Ages are told by the wall clock, which may be wrong all of a sudden. A clock that was wrong before anybody looked, and one
//! that jumps while the machine is off, are beyond this.

use std::{path::Path, time::Duration};

use goulette_env::{Disk, Env, OpenMode};
use goulette_types::Timestamp;

use crate::{
    checkpoint_file::replace_file,
    codec::{Reader, put_text},
    engine::{Engine, boot_id},
    error::{FlushError, Poisoned},
    fragment::read_file,
    retention::RetentionEvent,
};

/// What the clocks said when they last agreed, in the data directory. Layout: `docs/formats/clock.md`.
const FILE: &str = "clock";
const MAGIC: u32 = u32::from_be_bytes(*b"GLCT");
const VERSION: u32 = 1;
/// How often it is stored.
const STORE_INTERVAL: Duration = Duration::from_secs(600);

/// Tells whether the wall clock can be trusted, by comparing it with the monotonic one from look to look.
#[derive(Debug)]
pub(crate) struct ClockWatch {
    /// Both clocks when they last agreed.
    monotonic: Duration,
    wall: Timestamp,
    trusted: bool,
    /// When that was last stored for the next life; none if nothing is stored.
    stored: Option<Duration>,
}

/// More than anybody corrects a clock by in small steps, less than any retention.
const JUMP_MS: i64 = 60_000;

impl ClockWatch {
    fn new(monotonic: Duration, wall: Timestamp) -> Self {
        Self { monotonic, wall, trusted: true, stored: None }
    }

    /// A watch that begins where the last life of the log left it, if the machine was not started anew since: then the wall
    /// clock may not have jumped in between either.
    pub(crate) fn open(env: &Env, dir: &Path) -> Self {
        let mut watch = Self::new(env.clock.now(), Timestamp(env.clock.wall_ms()));
        let before = read_file(&*env.disk, &dir.join(FILE)).ok().and_then(|bytes| Agreed::decode(&bytes));
        if let (Some(before), Some(uptime_ms)) = (before, uptime_ms(&*env.disk))
            && before.boot == boot_id(&*env.disk)
        {
            watch.wall = Timestamp(before.wall.0.saturating_add(uptime_ms.saturating_sub(before.uptime_ms)));
        }
        watch
    }

    /// Keeps for the next life what the clocks agree upon. When they do not it is forgotten: who starts the broker again then
    /// says that the wall clock is right.
    pub(crate) fn store(&mut self, engine: &Engine) {
        let (disk, now) = (&*engine.env.disk, engine.env.clock.now());
        if !self.trusted {
            if self.stored.take().is_some() || disk.exists(&engine.dir.join(FILE)).unwrap_or(false) {
                let _ = disk.remove_file(&engine.dir.join(FILE));
            }
            return;
        }
        let Some(uptime_ms) = uptime_ms(disk) else { return };
        if self.stored.is_some_and(|stored| now.saturating_sub(stored) < STORE_INTERVAL) {
            return;
        }
        let agreed = Agreed { wall: engine.wall(), uptime_ms, boot: boot_id(disk) };
        match replace_file(disk, &engine.dir, FILE, &agreed.encode()) {
            Ok(_) => self.stored = Some(now),
            Err(FlushError::StorageFull { .. }) => {}
            Err(FlushError::Poisoned(Poisoned { reason })) => engine.poison(reason),
        }
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Compares the clocks. What was agreed upon moves along while they agree, so that a slow drift is none.
    pub(crate) fn look(&mut self, monotonic: Duration, wall: Timestamp) -> Option<RetentionEvent> {
        let elapsed_ms = i64::try_from(monotonic.saturating_sub(self.monotonic).as_millis()).unwrap_or(i64::MAX);
        let jump_ms = wall.0.saturating_sub(self.wall.0.saturating_add(elapsed_ms));
        let agree = jump_ms.saturating_abs() <= JUMP_MS;
        if agree {
            (self.monotonic, self.wall) = (monotonic, wall);
        }
        match (std::mem::replace(&mut self.trusted, agree), agree) {
            (true, false) => Some(RetentionEvent::Suspended { jump_ms }),
            (false, true) => Some(RetentionEvent::Resumed),
            _ => None,
        }
    }
}

/// Both clocks in one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Agreed {
    wall: Timestamp,
    /// Since the machine was started.
    uptime_ms: i64,
    /// Which start that was.
    boot: String,
}

impl Agreed {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.wall.0.to_be_bytes());
        out.extend_from_slice(&self.uptime_ms.to_be_bytes());
        put_text(&mut out, &self.boot);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// None for anything that [`encode`](Self::encode) does not write.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let mut reader = Reader::new(body);
        let known = (reader.u32().ok()?, reader.u32().ok()?) == (MAGIC, VERSION);
        let (wall, uptime_ms) = (Timestamp(reader.i64().ok()?), reader.i64().ok()?);
        let boot = reader.text().ok()?.to_owned();
        let sound = known && !boot.is_empty() && crc32c::crc32c(body) == u32::from_be_bytes(*crc);
        sound.then_some(Self { wall, uptime_ms, boot })
    }
}

/// How long the machine has been running, asleep or not; none where the system does not tell.
fn uptime_ms(disk: &dyn Disk) -> Option<i64> {
    let mut bytes = [0; 64];
    let file = disk.open(Path::new("/proc/uptime"), OpenMode::Read).ok()?;
    let read = file.read_at(&mut bytes, 0).ok()?;
    let seconds: f64 = std::str::from_utf8(&bytes[..read]).ok()?.split_whitespace().next()?.parse().ok()?;
    Some((seconds * 1000.0) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_wall_clock_is_said_once_and_over_when_it_jumps_back() {
        let mut watch = ClockWatch::new(Duration::ZERO, Timestamp(1_000_000));
        let mut look = |seconds, wall_ms| watch.look(Duration::from_secs(seconds), Timestamp(wall_ms));
        assert_eq!(look(30, 1_030_000), None);
        // A drift of a second per second, in looks that are half a minute apart.
        assert_eq!((look(60, 1_090_000), look(90, 1_150_000)), (None, None));
        assert_eq!(look(120, 1_180_000 + JUMP_MS + 1), Some(RetentionEvent::Suspended { jump_ms: JUMP_MS + 1 }));
        assert_eq!(look(150, 1_210_000 + JUMP_MS + 1), None);
        assert_eq!(look(180, 1_240_000), Some(RetentionEvent::Resumed));
        assert_eq!(look(210, 0), Some(RetentionEvent::Suspended { jump_ms: -1_270_000 }));
        assert_eq!(look(240, i64::MIN), None);
    }
}
