//! Three members of an embedded etcd under faults, while clients write and read: is every history linearizable?
//!
//! The members are processes, each in a network namespace. Scenario after scenario kills, stops or cuts off some of them
//! (the list follows that of etcd's own robustness tests). Clients of all members remember what they asked and were
//! answered; watchers of all members what they were told. At the end of each scenario every key's history must be
//! linearizable (`checker`), and all answers and watchers must fit one order of revisions (`judge`).
//!
//! `make test-etcd-robustness MINUTES=30`; needs root and `ip`, and exits with 77 where it cannot run. `SEED` repeats the
//! clients' choices. `ETCD_SERVER` is the server to be judged, `bin/goulette etcd` by default: a real etcd passes too.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test of the outside uses the outside")]

mod checker;
mod cluster;
mod judge;
mod network;
mod workload;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use cluster::{Cluster, LOOK, MEMBERS, PATIENCE};
use tokio::time::sleep;
use workload::{Admin, Workload};

/// Fewer operations a second prove nothing.
const OPERATIONS_PER_SECOND_MIN: f64 = 50.0;
/// How long a fault lasts, and how long the clients work before and after it.
const FAULT: Duration = Duration::from_secs(4);
const CALM: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    KillLeader,
    KillFollower,
    KillAll,
    KillLeaderAgainAndAgain,
    PauseLeader,
    PauseFollower,
    CutOffLeader,
    CutOffFollower,
    /// The leader hears the others, and is not heard.
    MuteLeader,
    /// The leader is heard, and does not hear.
    DeafLeader,
    /// Two do not see each other, the third sees both.
    Bridge,
    /// Nobody sees anybody.
    CutOffAll,
    KillLeaderWhileAFollowerIsCutOff,
    MoveLeader,
    CompactAndDefragment,
}

use Scenario::*;
const SCENARIOS: [Scenario; 15] = [
    KillLeader,
    KillFollower,
    KillAll,
    KillLeaderAgainAndAgain,
    PauseLeader,
    PauseFollower,
    CutOffLeader,
    CutOffFollower,
    MuteLeader,
    DeafLeader,
    Bridge,
    CutOffAll,
    KillLeaderWhileAFollowerIsCutOff,
    MoveLeader,
    CompactAndDefragment,
];

fn main() -> ExitCode {
    checker::check_the_checker();
    let server = std::env::var("ETCD_SERVER").expect("ETCD_SERVER says which server to judge");
    let server: Vec<String> = server.split_whitespace().map(str::to_owned).collect();
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (minutes, seed) = (number("MINUTES", 5), number("SEED", 42));
    let only = std::env::var("SCENARIO").ok();
    let mut cluster = match Cluster::prepare(server) {
        Ok(cluster) => cluster,
        Err(missing) => {
            eprintln!("skipped: {missing}");
            return ExitCode::from(77);
        }
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wrong = runtime.block_on(run(&mut cluster, Duration::from_secs(60 * minutes), seed, only.as_deref()));
    if wrong.is_empty() {
        return ExitCode::SUCCESS;
    }
    wrong.iter().take(10).for_each(|wrong| eprintln!("WRONG: {wrong}"));
    eprintln!("{} violations, seed {seed}; folders and logs are in {}", wrong.len(), cluster.keep().display());
    ExitCode::FAILURE
}

async fn run(cluster: &mut Cluster, duration: Duration, seed: u64, only: Option<&str>) -> Vec<String> {
    let begin = Instant::now();
    (0..MEMBERS).for_each(|member| cluster.start(member));
    let urls: Vec<String> = (0..MEMBERS).map(|member| cluster.client_url(member)).collect();
    let workload = Workload::new(urls.clone(), seed);
    let faults = Faults { admins: urls.iter().map(|url| Admin::of(url)).collect(), workload: workload.clone() };
    if let Err(late) = faults.wait_healthy(cluster).await {
        return vec![late];
    }
    let leaders = Arc::new(Mutex::new(BTreeSet::new()));
    let observer = tokio::spawn(observe_leaders(urls, leaders.clone()));
    let (mut clients, watchers) = workload.run();

    let chosen: Vec<Scenario> =
        SCENARIOS.into_iter().filter(|each| only.is_none_or(|only| format!("{each:?}") == only)).collect();
    let (mut wrong, mut slow) = (Vec::new(), Vec::new());
    for scenario in chosen.iter().cycle() {
        if begin.elapsed() > duration || !wrong.is_empty() {
            break;
        }
        let (start, before, terms) =
            (Instant::now(), workload.history.lock().unwrap().len(), leaders.lock().unwrap().len());
        sleep(CALM).await;
        faults.inject(cluster, *scenario).await;
        if let Err(late) = faults.wait_healthy(cluster).await {
            wrong.push(format!("{scenario:?}: {late}"));
            break;
        }
        sleep(CALM).await;
        let history: Vec<_> = workload.history.lock().unwrap().clone();
        let done = history[before..].iter().filter(|remembered| remembered.revision.is_some()).count();
        let rate = done as f64 / start.elapsed().as_secs_f64();
        let unknown = history.len() - before - done;
        let changes = leaders.lock().unwrap().len() - terms;
        println!(
            "{scenario:?}: {done} operations ({rate:.0}/s), {unknown} of unknown outcome, {changes} leader changes"
        );
        if rate < OPERATIONS_PER_SECOND_MIN {
            // What came of the others is still worth knowing.
            slow.push(format!("{scenario:?}: only {rate:.0} operations a second prove nothing"));
        }
        if let Some(member) = cluster.died() {
            wrong.push(format!(
                "{scenario:?}: member {member} ended by itself: see {}",
                cluster.log_path(member).display()
            ));
        }
    }
    workload.stop();
    while clients.join_next().await.is_some() {}
    observer.abort();
    if wrong.is_empty() {
        wrong.extend(faults.same_hash_everywhere().await);
        let watched = faults.wait_for_watchers().await;
        drop(watchers);
        let history = workload.history.lock().unwrap().clone();
        let judging = Instant::now();
        wrong.extend(judge::judge(&history, &watched));
        println!(
            "{} operations and {} changes judged in {:?}: {} violations; {} leaderships in {:?}",
            history.len(),
            watched[0].len(),
            judging.elapsed(),
            wrong.len(),
            leaders.lock().unwrap().len(),
            begin.elapsed()
        );
    }
    wrong.extend(slow);
    wrong
}

/// Collects every (term, leader) that shows.
async fn observe_leaders(urls: Vec<String>, leaders: Arc<Mutex<BTreeSet<(u64, u64)>>>) {
    let admins: Vec<Admin> = urls.iter().map(|url| Admin::of(url)).collect();
    loop {
        for admin in &admins {
            if let Some(status) = admin.status().await
                && status.leader != 0
            {
                leaders.lock().unwrap().insert((status.raft_term, status.leader));
            }
        }
        sleep(LOOK).await;
    }
}

struct Faults {
    admins: Vec<Admin>,
    workload: Arc<Workload>,
}

impl Faults {
    /// Carries out a scenario; when it returns, nothing is broken any more.
    async fn inject(&self, cluster: &mut Cluster, scenario: Scenario) {
        let leader = self.leader().await;
        let (a, b) = ((leader + 1) % MEMBERS, (leader + 2) % MEMBERS);
        match scenario {
            KillLeader => self.restart(cluster, &[leader]).await,
            KillFollower => self.restart(cluster, &[a]).await,
            KillAll => self.restart(cluster, &[leader, a, b]).await,
            KillLeaderAgainAndAgain => {
                for _ in 0..3 {
                    let leader = self.leader().await;
                    cluster.kill(leader);
                    cluster.start(leader);
                    sleep(CALM).await;
                }
            }
            PauseLeader | PauseFollower => {
                let paused = if scenario == PauseLeader { leader } else { a };
                cluster.pause(paused);
                sleep(FAULT).await;
                cluster.resume(paused);
            }
            CutOffLeader => {
                cluster.cut_both(leader, a);
                cluster.cut_both(leader, b);
                sleep(FAULT).await;
            }
            CutOffFollower => {
                cluster.cut_both(a, leader);
                cluster.cut_both(a, b);
                sleep(FAULT).await;
            }
            MuteLeader => {
                cluster.cut(leader, a);
                cluster.cut(leader, b);
                sleep(FAULT).await;
            }
            DeafLeader => {
                cluster.cut(a, leader);
                cluster.cut(b, leader);
                sleep(FAULT).await;
            }
            Bridge => {
                cluster.cut_both(leader, a);
                sleep(FAULT).await;
            }
            CutOffAll => {
                cluster.cut_both(leader, a);
                cluster.cut_both(leader, b);
                cluster.cut_both(a, b);
                sleep(FAULT / 2).await;
            }
            KillLeaderWhileAFollowerIsCutOff => {
                cluster.cut_both(a, leader);
                cluster.cut_both(a, b);
                sleep(FAULT / 4).await;
                cluster.kill(leader);
                sleep(FAULT / 4).await;
                cluster.heal();
                cluster.start(leader);
            }
            MoveLeader => {
                for _ in 0..4 {
                    let leader = self.leader().await;
                    let next = (leader + 1) % MEMBERS;
                    if let Some(status) = self.admins[next].status().await {
                        let id = status.header.unwrap_or_default().member_id;
                        self.admins[leader].move_leader(id).await;
                    }
                    sleep(FAULT / 4).await;
                }
            }
            CompactAndDefragment => {
                for admin in &self.admins {
                    // Watchers that have to connect again go on from what they saw.
                    let revision = self.workload.seen_by_all() - 500;
                    if revision > 0 {
                        admin.compact(revision).await;
                    }
                    admin.defragment().await;
                    sleep(FAULT / 4).await;
                }
            }
        }
        cluster.heal();
    }

    async fn restart(&self, cluster: &mut Cluster, members: &[usize]) {
        members.iter().for_each(|member| cluster.kill(*member));
        sleep(FAULT / 4).await;
        members.iter().for_each(|member| cluster.start(*member));
    }

    /// The member that leads, as far as any of them knows.
    async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (member, admin) in self.admins.iter().enumerate() {
                if let Some(status) = admin.status().await
                    && status.leader != 0
                    && status.header.is_some_and(|header| header.member_id == status.leader)
                {
                    return member;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
            sleep(LOOK).await;
        }
    }

    /// Waits until every member answers a linearizable read.
    async fn wait_healthy(&self, cluster: &mut Cluster) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        for (member, admin) in self.admins.iter().enumerate() {
            while admin.revision().await.is_none() {
                if let Some(died) = cluster.died() {
                    return Err(format!("member {died} ended by itself: see {}", cluster.log_path(died).display()));
                }
                if Instant::now() > deadline {
                    return Err(format!("member {member} does not answer after {PATIENCE:?}"));
                }
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Waits until the watchers have seen the last revision.
    async fn wait_for_watchers(&self) -> Vec<Vec<workload::Change>> {
        let deadline = Instant::now() + PATIENCE;
        let last = loop {
            if let Some(last) = self.admins[0].revision().await {
                break last;
            }
        };
        while self.workload.seen_by_all() < last && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        self.workload.watched.iter().map(|watched| watched.lock().unwrap().clone()).collect()
    }

    async fn same_hash_everywhere(&self) -> Vec<String> {
        let Some(revision) = self.admins[0].revision().await else { return vec!["no revision at the end".into()] };
        let mut hashes = Vec::new();
        for admin in &self.admins {
            // So that the member has applied as much.
            admin.revision().await;
            match admin.hash(revision).await {
                Ok(hash) => hashes.push(hash),
                Err(status) => return vec![format!("no hash at revision {revision}: {status}")],
            }
        }
        let same = hashes.iter().all(|hash| *hash == hashes[0]);
        if same { Vec::new() } else { vec![format!("the stores differ at revision {revision}: {hashes:?}")] }
    }
}
