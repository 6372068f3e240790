//! Signals: the first SIGTERM or SIGINT asks for an orderly end, a second one ends the process at once, SIGHUP reopens
//! the log and reads its level again.

use std::process;

use goulette_logging::{info, reopen, set_level, warn};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{cli::LevelSetting, exit::Failure};

/// The wish of somebody outside that this process end.
#[derive(Clone)]
pub(crate) struct Stop {
    wished: watch::Receiver<bool>,
}

impl Stop {
    /// Returns when the process should end; at once, if that was wished before.
    pub(crate) async fn wished(&mut self) {
        // The sender lives as long as the runtime does: an error means that it ends, too.
        let _ = self.wished.wait_for(|&wished| wished).await;
    }

    /// Whether the process should end.
    pub(crate) fn is_wished(&self) -> bool {
        *self.wished.borrow()
    }
}

/// Listens to SIGTERM and SIGINT from now on, in a task of its own: whatever the command is busy with, a second signal
/// ends it.
pub(crate) fn stop() -> Result<Stop, Failure> {
    let (wish, wished) = watch::channel(false);
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if wish.send_replace(true) {
                warn!("stopped at once by a second signal");
                process::exit(1);
            }
        }
    });
    Ok(Stop { wished })
}

/// Answers SIGHUP from now on: logrotate's signal, and a way back from a level that was changed while running.
pub(crate) fn answer_hangup(level: LevelSetting) -> Result<(), Failure> {
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reopen();
            match level.read() {
                Ok(level) => {
                    if let Some(previous) = set_level(level).filter(|&previous| previous != level) {
                        info!("log level {level} instead of {previous}");
                    }
                }
                Err(error) => warn!("the log level stays as it is: {error}"),
            }
        }
    });
    Ok(())
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::failed(format_args!("cannot listen to signals: {error}")))
}
