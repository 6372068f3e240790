//! What must hold of a run, by the memory of its clients and of its watchers.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    checker::{Action, Operation, Value, is_linearizable},
    workload::{Change, Remembered},
};

/// All that is wrong; empty if nothing is.
pub(crate) fn judge(history: &[Remembered], watched: &[Vec<Change>]) -> Vec<String> {
    let mut wrong = Vec::new();
    check_keys(history, watched.first().map_or(&[], Vec::as_slice), &mut wrong);
    check_watchers(watched, &mut wrong);
    if let Some(changes) = watched.first() {
        check_revisions(history, changes, &mut wrong);
    }
    wrong
}

/// Every key's history is linearizable. Each value is written by one operation, so that watchers tell which writes of unknown
/// outcome took effect: the others never happened, and need not be tried. A reader who was shown one all the same cannot
/// be explained.
fn check_keys(history: &[Remembered], changes: &[Change], wrong: &mut Vec<String>) {
    let written: HashSet<u64> = changes.iter().filter_map(|change| change.value).collect();
    let mut keys: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for remembered in history {
        if let Action::Put { value } | Action::Swap { new: value, .. } = remembered.operation.action
            && remembered.operation.returned == u64::MAX
            && !written.contains(&value)
        {
            continue;
        }
        keys.entry(&remembered.key).or_default().push(remembered.operation.clone());
    }
    for (key, operations) in keys {
        if !is_linearizable(&operations) {
            wrong.push(format!("key {key} is not linearizable: {operations:#?}"));
        }
    }
}

/// Every member tells the same changes, in the order of their revisions, each once.
fn check_watchers(watched: &[Vec<Change>], wrong: &mut Vec<String>) {
    for (member, changes) in watched.iter().enumerate() {
        if let Some(pair) = changes.windows(2).find(|pair| pair[0].revision >= pair[1].revision) {
            wrong.push(format!("member {member}: {:?} is told behind {:?}", pair[1], pair[0]));
        }
        if *changes != watched[0] {
            let differs = changes.iter().zip(&watched[0]).find(|(own, first)| own != first);
            wrong.push(format!(
                "member {member} tells {} changes, member 0 {}; the first that differ: {differs:?}",
                changes.len(),
                watched[0].len()
            ));
        }
    }
}

/// Every answer fits the one order of revisions: its own change is there, what it read is what was there, and who began
/// later got no earlier revision.
fn check_revisions(history: &[Remembered], changes: &[Change], wrong: &mut Vec<String>) {
    let by_revision: HashMap<i64, &Change> = changes.iter().map(|change| (change.revision, change)).collect();
    let mut of_key: HashMap<&str, Vec<(i64, Value)>> = HashMap::new();
    for change in changes {
        of_key.entry(&change.key).or_default().push((change.revision, change.value));
    }
    // What a key held as of a revision.
    let held = |key: &str, revision: i64| {
        let versions = of_key.get(key).map_or(&[][..], Vec::as_slice);
        let behind = versions.partition_point(|(at, _)| *at <= revision);
        behind.checked_sub(1).and_then(|last| versions[last].1)
    };
    let mut invoked: HashMap<u64, &Remembered> = HashMap::new();
    for remembered in history {
        let (key, action) = (remembered.key.as_str(), remembered.operation.action);
        if let Action::Put { value } | Action::Swap { new: value, .. } = action {
            invoked.insert(value, remembered);
        }
        let Some(revision) = remembered.revision else { continue };
        let changed = match action {
            Action::Get { found } => {
                if held(key, revision) != found {
                    wrong.push(format!("{remembered:?} read what revision {revision} does not hold"));
                }
                None
            }
            Action::Put { value } => Some(Some(value)),
            Action::Delete { existed } => (existed == Some(true)).then_some(None),
            Action::Swap { new, swapped, .. } => (swapped == Some(true)).then_some(Some(new)),
        };
        if let Some(value) = changed {
            let told = by_revision.get(&revision).is_some_and(|told| told.key == key && told.value == value);
            if !told {
                wrong.push(format!("{remembered:?} was acknowledged and is not in the history of changes"));
            }
        }
    }
    for change in changes {
        if let Some(value) = change.value
            && invoked.get(&value).is_none_or(|by| by.key != change.key)
        {
            wrong.push(format!("{change:?} was asked for by nobody"));
        }
    }
    check_real_time(history, wrong);
}

fn check_real_time(history: &[Remembered], wrong: &mut Vec<String>) {
    let mut answered: Vec<(&Remembered, i64)> =
        history.iter().filter_map(|remembered| Some((remembered, remembered.revision?))).collect();
    let mut returns = answered.clone();
    returns.sort_by_key(|(remembered, _)| remembered.operation.returned);
    answered.sort_by_key(|(remembered, _)| remembered.operation.called);
    let mut returns = returns.into_iter().peekable();
    let mut highest: Option<(&Remembered, i64)> = None;
    for (remembered, revision) in answered {
        while let Some(earlier) =
            returns.next_if(|(earlier, _)| earlier.operation.returned < remembered.operation.called)
        {
            if highest.is_none_or(|(_, shown)| shown < earlier.1) {
                highest = Some(earlier);
            }
        }
        if let Some((shown, _)) = highest.filter(|(_, shown)| revision < *shown) {
            wrong.push(format!("{remembered:?} began when a later revision had been shown: {shown:?}"));
        }
    }
}
