//! Which lines are logged: the `tracing` layer and the level that it follows.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicU8, Ordering},
    },
};

use tracing::{Event, Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    registry,
};

use crate::{InitError, Level, line, sink};

/// The wanted level as an index into [`Level::ALL`]; one past it: nothing is wanted.
static WANTED: AtomicU8 = AtomicU8::new(OFF);
const OFF: u8 = Level::ALL.len() as u8;

/// Libraries below us that narrate every frame or step: of them, only warnings and errors are news.
const NARRATORS: [&str; 6] = ["h2", "hyper", "hyper_util", "mio", "tonic", "tower"];
/// Those that warn at each of dozens of attempts a second, of what our own lines tell once: their warnings are for whoever
/// wants everything.
const ALARMISTS: [&str; 1] = ["openraft"];

/// Makes the layer the process's subscriber, at the first call.
pub(crate) fn install() -> Result<(), InitError> {
    static OURS: OnceLock<bool> = OnceLock::new();
    let ours = *OURS.get_or_init(|| tracing::subscriber::set_global_default(registry().with(LogLayer)).is_ok());
    if ours { Ok(()) } else { Err(InitError::Taken) }
}

/// Puts a level in force everywhere; none logs nothing.
pub(crate) fn set_level(level: Option<Level>) {
    WANTED.store(level.map_or(OFF, |level| level as u8), Ordering::SeqCst);
    // tracing keeps an answer per call site, which is what makes a silent line cheap.
    tracing::callsite::rebuild_interest_cache();
}

/// The level in force.
pub(crate) fn level() -> Option<Level> {
    Level::ALL.get(usize::from(WANTED.load(Ordering::SeqCst))).copied()
}

/// Formats lines and gives them to the sink; keeps no spans.
struct LogLayer;

impl<S: Subscriber> Layer<S> for LogLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_wanted(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        is_wanted(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match level() {
            Some(Level::Debug) => LevelFilter::DEBUG,
            Some(Level::Info) => LevelFilter::INFO,
            Some(Level::Warn) => LevelFilter::WARN,
            Some(Level::Error | Level::Fatal) => LevelFilter::ERROR,
            None => LevelFilter::OFF,
        })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        thread_local! { static LINE: Cell<String> = const { Cell::new(String::new()) }; }
        // Taken out, not borrowed: a value that logs while it is being printed finds an empty buffer, not a panic. At
        // a thread's very end the buffer is gone, and its last lines are formatted in a new one.
        let mut text = LINE.try_with(Cell::take).unwrap_or_default();
        text.clear();
        line::write(&mut text, sink::format(), severity(event.metadata()), event);
        sink::with(|sink| sink.write_line(text.as_bytes()));
        let _ = LINE.try_with(|line| line.set(text));
    }
}

fn is_wanted(metadata: &Metadata<'_>) -> bool {
    if !metadata.is_event() || *metadata.level() == tracing::Level::TRACE {
        return false;
    }
    let severity = severity(metadata);
    let library = metadata.target().split("::").next().unwrap_or_default();
    level().is_some_and(|wanted| severity >= least(wanted, library))
}

/// What a library's line must be to be logged at a wanted level.
fn least(wanted: Level, library: &str) -> Level {
    match wanted {
        Level::Debug | Level::Info if NARRATORS.contains(&library) => Level::Warn,
        Level::Debug if ALARMISTS.contains(&library) => Level::Warn,
        Level::Info | Level::Warn if ALARMISTS.contains(&library) => Level::Error,
        _ => wanted,
    }
}

/// tracing ends at ERROR; [`fatal!`](crate::fatal) marks its lines with a field.
fn severity(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR if metadata.fields().field(line::FATAL_MARK).is_some() => Level::Fatal,
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG | tracing::Level::TRACE => Level::Debug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_heard_less_than_we_are() {
        for (wanted, library, expected) in [
            (Level::Debug, "goulette_etcd", Level::Debug),
            (Level::Debug, "h2", Level::Warn),
            (Level::Error, "h2", Level::Error),
            (Level::Debug, "openraft", Level::Warn),
            (Level::Info, "openraft", Level::Error),
            (Level::Warn, "openraft", Level::Error),
            (Level::Fatal, "openraft", Level::Fatal),
        ] {
            assert_eq!(least(wanted, library), expected, "{wanted:?} {library}");
        }
    }
}
