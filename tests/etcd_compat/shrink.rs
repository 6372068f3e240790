//! Makes a failing sequence short: leaves out ever smaller parts as long as what remains still fails.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    op::Op,
    pair::{Divergence, Pair},
    server::Launch,
};

/// Returns the steps that are left and how they end. The last step is where the sides differ.
pub(crate) async fn shrink(
    mut ops: Vec<Op>,
    mut found: Divergence,
    launches: (&Launch, &Launch),
    dir: &Path,
    patience: Duration,
) -> Result<(Vec<Op>, Divergence)> {
    let deadline = Instant::now() + patience;
    let mut chunk = ops.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < ops.len() {
            if Instant::now() > deadline {
                return Ok((ops, found));
            }
            let mut fewer = ops.clone();
            fewer.drain(at..(at + chunk).min(ops.len()));
            match replay(&fewer, launches, dir).await? {
                Some((length, divergence)) => {
                    fewer.truncate(length);
                    (ops, found) = (fewer, divergence);
                }
                None => at += chunk,
            }
        }
        chunk /= 2;
    }
    Ok((ops, found))
}

/// The number of steps up to the divergence, which is returned with it.
async fn replay(ops: &[Op], launches: (&Launch, &Launch), dir: &Path) -> Result<Option<(usize, Divergence)>> {
    let mut pair = Pair::start(launches.0, launches.1, dir).await?;
    for (index, op) in ops.iter().enumerate() {
        if let Some(divergence) = pair.step(op).await {
            return Ok(Some((index + 1, divergence)));
        }
    }
    Ok(pair.check_watchers().await.map(|divergence| (ops.len(), divergence)))
}
