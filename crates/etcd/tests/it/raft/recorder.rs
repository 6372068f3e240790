//! A state machine that remembers what it was given, and forgets on a crash what it never synced.

use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use goulette_etcd::consensus::{Committed, LogPosition, Payload, StateMachine, StateSnapshot};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) applied: LogPosition,
    pub(crate) configuration: Option<(LogPosition, Bytes)>,
    pub(crate) requests: Vec<Bytes>,
}

/// The state in memory, and what a crash leaves of it.
#[derive(Default)]
pub(crate) struct Recorder {
    now: Mutex<State>,
    durable: Arc<Mutex<State>>,
    pub(crate) installed: Mutex<u64>,
}

impl Recorder {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.now.lock().unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<Bytes> {
        self.state().requests.clone()
    }

    pub(crate) fn holding(state: State) -> Self {
        Self { now: Mutex::new(state.clone()), durable: Arc::new(Mutex::new(state)), installed: Mutex::default() }
    }

    /// The recorder of the next life.
    pub(crate) fn crashed(&self) -> Self {
        Self::holding(self.durable.lock().unwrap().clone())
    }
}

impl StateMachine for Recorder {
    fn applied(&self) -> LogPosition {
        self.state().applied
    }

    fn durable(&self) -> LogPosition {
        self.durable.lock().unwrap().applied
    }

    fn configuration(&self) -> Option<(LogPosition, Bytes)> {
        self.state().configuration.clone()
    }

    fn apply(&self, entries: Vec<Committed>) -> io::Result<()> {
        let mut state = self.state();
        for entry in entries {
            assert_eq!(entry.position.index, state.applied.index + 1, "entries come in order, once");
            state.applied = entry.position;
            match entry.payload {
                Payload::Blank => {}
                Payload::Request(request) => state.requests.push(request),
                Payload::Members { configuration, .. } => state.configuration = Some((entry.position, configuration)),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<LogPosition> {
        let state = self.state().clone();
        let position = state.applied;
        *self.durable.lock().unwrap() = state;
        Ok(position)
    }

    fn snapshot(&self) -> io::Result<Box<dyn StateSnapshot>> {
        Ok(Box::new(View(self.state().clone())))
    }

    fn install(&self, from: &mut dyn Read) -> io::Result<LogPosition> {
        let state = State::read(from)?;
        *self.state() = state;
        *self.installed.lock().unwrap() += 1;
        self.sync()
    }
}

struct View(State);

impl StateSnapshot for View {
    fn position(&self) -> LogPosition {
        self.0.applied
    }

    fn configuration(&self) -> Option<(LogPosition, Bytes)> {
        self.0.configuration.clone()
    }

    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let (at, configuration) = self.0.configuration.clone().unwrap();
        for number in [self.0.applied.term, self.0.applied.index, at.term, at.index] {
            to.write_all(&number.to_le_bytes())?;
        }
        for bytes in std::iter::once(&configuration).chain(&self.0.requests) {
            to.write_all(&(bytes.len() as u64).to_le_bytes())?;
            to.write_all(bytes)?;
        }
        Ok(())
    }
}

impl State {
    fn read(from: &mut dyn Read) -> io::Result<Self> {
        let mut all = Vec::new();
        from.read_to_end(&mut all)?;
        let mut all = Bytes::from(all);
        let number = |all: &mut Bytes| u64::from_le_bytes(all.split_to(8)[..].try_into().unwrap());
        let applied = LogPosition { term: number(&mut all), index: number(&mut all) };
        let at = LogPosition { term: number(&mut all), index: number(&mut all) };
        let mut parts = Vec::new();
        while !all.is_empty() {
            let length = number(&mut all) as usize;
            parts.push(all.split_to(length));
        }
        let configuration = Some((at, parts.remove(0)));
        Ok(Self { applied, configuration, requests: parts })
    }
}
