//! The binary: every role and tool of Goulette as one command line.
//!
//! It reads flags, sets up logging, listens to signals, wires the crates that do the work, and says in one line and an
//! exit code how it went. It decides nothing about records: that is the business of `goulette-broker`,
//! `goulette-sentinel` and `goulette-client`.
//!
//! Start with `cli` (what can be asked for; its texts are the manual), then `commands` (how it is done).

mod argv;
mod cli;
mod commands;
mod exit;
mod notify;
mod open_files;
mod output;
mod progress;
mod settings;
mod signals;

use std::{env, process::ExitCode, thread};

use clap::{CommandFactory, FromArgMatches};
use cli::Cli;
use exit::{Code, Failure};
use settings::Settings;
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let mut command = Cli::command();
    // Fills in what subcommands inherit, so that the normaliser knows every flag.
    command.build();
    let argv = argv::normalise(env::args_os(), &command);
    let command = match Settings::gather(&argv, &command, &|name| env::var_os(name)) {
        Ok(Some((role, settings))) => settings.as_defaults(Cli::command(), &role),
        Ok(None) => Cli::command(),
        Err(error) => return report(&Failure::usage(error)),
    };
    let parsed = command.try_get_matches_from(argv).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(told) => {
            // Help and version are answers, everything else is a mistake. A reader that has gone away is content.
            let _ = told.print();
            return if told.use_stderr() { ExitCode::from(Code::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(failure) => return report(&failure),
    };
    let result = runtime.block_on(commands::run(cli.command));
    // What still runs is a read of standard input or of the disk: the end of the process ends it.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    eprintln!("error: {failure}");
    failure.exit_code()
}

fn runtime() -> Result<Runtime, Failure> {
    // Never one thread alone: one that is busy with a batch must not hold up heartbeats.
    let threads = thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let built = Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    built.map_err(|error| Failure::failed(format_args!("cannot start the threads of the runtime: {error}")))
}
