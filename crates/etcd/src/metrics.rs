//! Metrics by the names that etcd's dashboards and alerts know. Each is looked up when it is asked for.

use std::fmt::Write;

use crate::{
    config::VERSION,
    node::{Node, QUOTA_DEFAULT},
    raft::RaftNode,
};

/// The text that Prometheus reads (exposition format 0.0.4).
pub(crate) fn text(node: &Node, raft: &RaftNode) -> String {
    let status = node.consensus.status();
    let size = node.state.store.size();
    let wal = raft.log_stats();
    let quota = match node.config.quota_backend_bytes {
        0 => QUOTA_DEFAULT,
        quota => quota,
    };
    let cluster = node.state.members.version().unwrap_or_default();
    let mut page = Page::default();
    page.gauge("etcd_server_has_leader", "Whether a leader is known.", u8::from(status.leadership.leader.is_some()));
    page.gauge("etcd_server_is_leader", "Whether this member leads.", u8::from(node.leads()));
    page.gauge("etcd_server_is_learner", "Whether this member has no vote.", u8::from(status.is_learner));
    page.counter(
        "etcd_server_leader_changes_seen_total",
        "Leaders seen since the start.",
        node.leader_changes.load(std::sync::atomic::Ordering::Relaxed),
    );
    page.gauge("etcd_server_proposals_committed_total", "The last agreed index.", status.committed);
    page.gauge("etcd_server_proposals_applied_total", "The last applied index.", node.state.applied_index());
    page.gauge("etcd_server_proposals_pending", "Requests that wait for their result.", node.state.waiters.len());
    page.gauge("etcd_server_quota_backend_bytes", "Bytes of the store beyond which writes are refused.", quota);
    page.labelled("etcd_server_version", "This member's version.", "server_version", VERSION);
    page.labelled("etcd_cluster_version", "The cluster's version.", "cluster_version", &cluster);
    page.labelled("etcd_server_id", "This member's id.", "server_id", &format!("{:x}", node.member_id));
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the store, free ones included.", size.total);
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the store that are in use.", size.in_use);
    page.gauge("etcd_debugging_mvcc_current_revision", "The current revision.", node.state.store.revision());
    page.gauge("etcd_debugging_mvcc_compact_revision", "The compacted revision.", node.state.store.compacted());
    page.gauge("etcd_debugging_auth_revision", "The revision of users and roles.", node.state.auth.state().revision());
    page.wal(&wal);
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.sample(name, help, "gauge", &format!("{name} {value}"));
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.sample(name, help, "counter", &format!("{name} {value}"));
    }

    /// A fact that is a text: a label of the value 1.
    fn labelled(&mut self, name: &str, help: &str, label: &str, value: &str) {
        self.sample(name, help, "gauge", &format!("{name}{{{label}=\"{value}\"}} 1"));
    }

    /// Syncs of the log: their number and their time; in one bucket, because the log keeps sums.
    fn wal(&mut self, wal: &goulette_wal::WalStats) {
        let name = "etcd_disk_wal_fsync_duration_seconds";
        let (syncs, seconds) = (wal.syncs, wal.sync_time_total.as_secs_f64());
        let lines = format!("{name}_bucket{{le=\"+Inf\"}} {syncs}\n{name}_sum {seconds}\n{name}_count {syncs}");
        self.sample(name, "Time that syncs of the raft log take.", "histogram", &lines);
    }

    fn sample(&mut self, name: &str, help: &str, kind: &str, line: &str) {
        // Writing into a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{line}");
    }
}
