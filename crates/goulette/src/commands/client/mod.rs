//! `goulette client`: sends lines, or prints records.

mod consume;
mod lines;
pub(super) mod print;
mod produce;

use crate::{
    cli::{ClientFlags, Mode},
    exit::Failure,
};

pub(crate) async fn run(flags: ClientFlags) -> Result<(), Failure> {
    let result = match flags.mode {
        Mode::Producer => produce::run(&flags).await,
        Mode::Consumer => consume::run(&flags).await,
    };
    if let Err(failure) = &result {
        goulette_logging::error!("{failure}");
    }
    goulette_logging::close();
    result
}
