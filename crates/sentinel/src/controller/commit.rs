//! Writing: one guarded transaction at a time, and finding out what became of it.

use std::time::Duration;

use bytes::Bytes;
use goulette_logging::{Chain, error, warn};
use goulette_meta::{MetaError, MetaTxn, Outcome, keys};
use goulette_types::Revision;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Controller, Standing};
use crate::{RequestError, catalog::Catalog, feed::Feed, plan::Step, state::Role};

/// How long a commit may take to come back through the watch.
const ECHO_DEADLINE: Duration = Duration::from_secs(3);
/// How long the outcome of a transaction is looked for.
const FIND_OUT_DEADLINE: Duration = Duration::from_secs(12);
/// Between two looks.
const FIND_OUT_PAUSE: Duration = Duration::from_millis(200);

impl Controller {
    /// Writes a step; when it returns, the catalog has it.
    pub(super) async fn commit(&mut self, step: Step) -> Result<(), RequestError> {
        let Some(leading) = self.leading else { return Err(self.state.not_leader()) };
        let txn = step.txn(leading.key);
        let outcome = match self.store.txn(txn.clone()).await {
            Err(MetaError::OutcomeUnknown(cause)) if self.has_others() => {
                warn!("a change of the metadata has no answer, looks whether it happened: {cause}");
                self.find_out(txn, step.receipt()).await
            }
            outcome => outcome,
        };
        match outcome {
            Ok(Outcome::Committed(revision)) => {
                self.state.note_answer();
                self.echo(revision, &step).await
            }
            Ok(Outcome::Conflict) => {
                self.reload().await?;
                self.look_again();
                Err(if self.leading.is_some() { RequestError::Overtaken } else { self.state.not_leader() })
            }
            // A mistake of ours, and no failure of the store's.
            Err(error @ MetaError::TooLarge { .. }) => Err(RequestError::Invalid(error.to_string())),
            Err(error) if !self.has_others() => Err(self.fail(&error)),
            Err(MetaError::OutcomeUnknown(_)) => {
                self.behind = true;
                Err(RequestError::Late)
            }
            Err(error) => Err(self.silent(&error)),
        }
    }

    /// Finds out whether a transaction happened. It is sent again only with the same guards, of which the step's own
    /// counter lets one at most succeed.
    async fn find_out(&self, txn: MetaTxn, receipt: Option<(String, Bytes)>) -> Result<Outcome, MetaError> {
        let deadline = Instant::now() + FIND_OUT_DEADLINE;
        loop {
            let attempt = async {
                if let Some((key, value)) = &receipt
                    && let Some(found) = self.store.get(key).await?.filter(|found| found.value == *value)
                {
                    return Ok(Outcome::Committed(found.revision));
                }
                match (self.store.txn(txn.clone()).await?, &receipt) {
                    // The first one may have been the faster one.
                    (Outcome::Conflict, Some((key, value))) => match self.store.get(key).await? {
                        Some(found) if found.value == *value => Ok(Outcome::Committed(found.revision)),
                        _ => Ok(Outcome::Conflict),
                    },
                    (outcome, _) => Ok(outcome),
                }
            };
            match timeout_at(deadline, attempt).await {
                Ok(Err(MetaError::OutcomeUnknown(_) | MetaError::Unavailable(_))) => sleep(FIND_OUT_PAUSE).await,
                Ok(found) => return found,
                Err(_elapsed) => return Err(MetaError::OutcomeUnknown("no answer in time".into())),
            }
        }
    }

    /// Brings the commit of `revision` into the catalog.
    async fn echo(&mut self, revision: Revision, step: &Step) -> Result<(), RequestError> {
        if !self.has_others() {
            self.state.apply(revision, &step.changes);
            return Ok(());
        }
        let deadline = Instant::now() + ECHO_DEADLINE;
        while self.state.catalog().revision() < revision && !self.behind && self.failed.is_none() {
            let Some(feed) = &mut self.feed else { break };
            match timeout_at(deadline, feed.next()).await {
                Ok(news) => self.take(news),
                Err(_elapsed) => self.behind = true,
            }
        }
        self.look_again();
        if self.behind { self.reload().await } else { Ok(()) }
    }

    /// What was taken over meanwhile may have ended this leadership; the next look begins another one.
    fn look_again(&mut self) {
        let Standing::Elected(incarnation) = self.standing else { return };
        let key = self.own_key(incarnation);
        if self.leading.is_some_and(|leading| leading.key != key) {
            self.leading = None;
            self.state.set_role(Role::Follower);
            warn!("this sentinel does not lead any more: its leadership was taken");
        }
    }

    /// Reads everything again, as it is now.
    pub(super) async fn reload(&mut self) -> Result<(), RequestError> {
        let snapshot = match self.store.range(keys::PREFIX).await {
            Ok(snapshot) => snapshot,
            Err(error) if self.has_others() => {
                self.behind = true;
                return Err(self.silent(&error));
            }
            Err(error) => return Err(self.fail(&error)),
        };
        self.state.note_answer();
        match Catalog::load(&snapshot) {
            Ok(catalog) => {
                if self.has_others() {
                    self.feed = Some(Feed::start(&self.store, Revision(snapshot.revision.0 + 1)));
                }
                self.behind = false;
                self.state.replace(catalog);
                self.report_foreign();
                Ok(())
            }
            Err(error) => Err(self.fail(&error)),
        }
    }

    fn has_others(&self) -> bool {
        matches!(self.standing, Standing::Elected(_))
    }

    /// The store does not answer now, or takes nothing; it may later.
    fn silent(&self, error: &MetaError) -> RequestError {
        let problem = Chain(error).to_string();
        if self.state.note_silence(self.env.clock.now(), problem.clone()) {
            warn!("reads are answered from a copy, changes are refused: {problem}");
        }
        RequestError::StoreSilent(problem)
    }

    /// The store is not to be trusted any more: the sentinel stops, and a new start reads what is true.
    pub(super) fn fail(&mut self, cause: &dyn std::error::Error) -> RequestError {
        let message = Chain(cause).to_string();
        error!("the metadata store failed: {message}");
        self.failed = Some(message.clone());
        RequestError::Store(message)
    }

    /// Names keys that somebody else has written, once each.
    pub(super) fn report_foreign(&self) {
        for (key, problem) in self.state.new_foreign() {
            warn!("the value of {key} is none of Goulette's and does not count: {problem}");
        }
    }
}
