//! Ranges of keys in a red-black tree by their first key, where each node knows the highest end below it.
//!
//! It answers as etcd's does, to nonsense too: whether a range that ends before it begins is covered depends on where the
//! search for it turns, and so on the tree's shape (docs/adr/0050). The shape follows from the order of the insertions,
//! as in any textbook's red-black tree: equal keys go to the right.

/// The end of a range; `Top` is above all keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Key(Vec<u8>),
    Top,
}

impl End {
    fn is_above(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(end) => end.as_slice() > key,
            Self::Top => true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

#[derive(Clone, Debug)]
struct Node {
    start: Vec<u8>,
    end: End,
    /// The highest end of this node and all below it.
    highest: End,
    red: bool,
    parent: Option<usize>,
    left: Option<usize>,
    right: Option<usize>,
}

impl Node {
    fn child(&self, side: Side) -> Option<usize> {
        match side {
            Side::Left => self.left,
            Side::Right => self.right,
        }
    }

    fn child_mut(&mut self, side: Side) -> &mut Option<usize> {
        match side {
            Side::Left => &mut self.left,
            Side::Right => &mut self.right,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intervals {
    nodes: Vec<Node>,
    root: Option<usize>,
}

impl Intervals {
    /// Adds `key..range_end`; an empty end means `key` alone, one zero byte all from `key` on.
    pub(crate) fn insert(&mut self, key: &[u8], range_end: &[u8]) {
        let end = end_of(key, range_end);
        let (mut parent, mut side, mut at) = (None, Side::Left, self.root);
        while let Some(node) = at {
            side = if key < self.nodes[node].start.as_slice() { Side::Left } else { Side::Right };
            (parent, at) = (Some(node), self.nodes[node].child(side));
        }
        let new = self.nodes.len();
        let (start, highest) = (key.to_vec(), end.clone());
        self.nodes.push(Node { start, end, highest, red: true, parent, left: None, right: None });
        match parent {
            Some(parent) => *self.nodes[parent].child_mut(side) = Some(new),
            None => self.root = Some(new),
        }
        let mut above = parent;
        while let Some(node) = above {
            self.measure(node);
            above = self.nodes[node].parent;
        }
        self.balance(new);
    }

    /// Whether the ranges together cover `key..range_end`; an empty `range_end` asks for `key` alone, one zero byte for
    /// all from `key` on.
    pub(crate) fn covers(&self, key: &[u8], range_end: &[u8]) -> bool {
        let mut cover = Cover { start: key, end: end_of(key, range_end), reached: None, torn: false };
        if let Some(root) = self.root {
            self.visit(root, &mut cover);
        }
        !cover.torn && cover.reached.is_some_and(|(first, reached)| first <= key && *reached >= cover.end)
    }

    /// Shows `cover` the ranges that meet it, in the order of their first keys, as far as the search finds them.
    fn visit<'a>(&'a self, at: usize, cover: &mut Cover<'a>) {
        let node = &self.nodes[at];
        if cover.start < node.start.as_slice() && !cover.end.is_above(&node.start) {
            return self.visit_child(node.left, cover);
        }
        if !node.end.is_above(cover.start) {
            // For a range in its right order the second condition follows from the first.
            if node.highest.is_above(cover.start) && cover.end.is_above(&node.start) {
                self.visit_child(node.left, cover);
                self.visit_child(node.right, cover);
            }
            return;
        }
        self.visit_child(node.left, cover);
        cover.meet(node);
        self.visit_child(node.right, cover);
    }

    fn visit_child<'a>(&'a self, child: Option<usize>, cover: &mut Cover<'a>) {
        if let Some(child) = child
            && !cover.torn
        {
            self.visit(child, cover);
        }
    }

    /// Restores the colours after `node` came in red.
    fn balance(&mut self, mut node: usize) {
        while let Some(parent) = self.red_parent(node) {
            let Some(grandparent) = self.nodes[parent].parent else { break };
            let side = if self.nodes[grandparent].left == Some(parent) { Side::Left } else { Side::Right };
            let uncle = self.nodes[grandparent].child(side.other()).filter(|&uncle| self.nodes[uncle].red);
            if let Some(uncle) = uncle {
                self.nodes[parent].red = false;
                self.nodes[uncle].red = false;
                self.nodes[grandparent].red = true;
                node = grandparent;
                continue;
            }
            let mut middle = parent;
            if self.nodes[parent].child(side.other()) == Some(node) {
                self.rotate(parent, side);
                middle = node;
                node = parent;
            }
            self.nodes[middle].red = false;
            self.nodes[grandparent].red = true;
            self.rotate(grandparent, side.other());
        }
        if let Some(root) = self.root {
            self.nodes[root].red = false;
        }
    }

    fn red_parent(&self, node: usize) -> Option<usize> {
        self.nodes[node].parent.filter(|&parent| self.nodes[parent].red)
    }

    /// Moves a node down to `side`; its child of the other side takes its place.
    fn rotate(&mut self, down: usize, side: Side) {
        let Some(up) = self.nodes[down].child(side.other()) else { return };
        let (between, parent) = (self.nodes[up].child(side), self.nodes[down].parent);
        *self.nodes[down].child_mut(side.other()) = between;
        if let Some(between) = between {
            self.nodes[between].parent = Some(down);
        }
        self.nodes[up].parent = parent;
        match parent {
            None => self.root = Some(up),
            Some(parent) if self.nodes[parent].left == Some(down) => self.nodes[parent].left = Some(up),
            Some(parent) => self.nodes[parent].right = Some(up),
        }
        *self.nodes[up].child_mut(side) = Some(down);
        self.nodes[down].parent = Some(up);
        self.measure(down);
        self.measure(up);
    }

    /// Finds a node's highest end anew from its children's.
    fn measure(&mut self, at: usize) {
        let node = &self.nodes[at];
        let below = [node.left, node.right].into_iter().flatten().map(|child| &self.nodes[child].highest);
        let highest = below.fold(&node.end, |highest, end| highest.max(end)).clone();
        self.nodes[at].highest = highest;
    }
}

/// How far the ranges met so far cover what is asked for.
struct Cover<'a> {
    start: &'a [u8],
    end: End,
    /// The first key of the first range, and the highest end up to here.
    reached: Option<(&'a [u8], &'a End)>,
    /// A hole was found.
    torn: bool,
}

impl<'a> Cover<'a> {
    fn meet(&mut self, node: &'a Node) {
        if self.torn {
            return;
        }
        self.reached = match self.reached {
            None => Some((&node.start, &node.end)),
            Some((first, reached)) => {
                self.torn = matches!(reached, End::Key(end) if *end < node.start);
                Some((first, reached.max(&node.end)))
            }
        };
    }
}

fn end_of(key: &[u8], range_end: &[u8]) -> End {
    match range_end {
        [] => End::Key([key, &[0]].concat()),
        [0] => End::Top,
        end => End::Key(end.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn intervals(ranges: &[(&str, &str)]) -> Intervals {
        let mut intervals = Intervals::default();
        for (key, end) in ranges {
            intervals.insert(key.as_bytes(), end.as_bytes());
        }
        intervals
    }

    #[test]
    fn ranges_that_touch_cover_together() {
        let intervals = intervals(&[("a", "m"), ("m", "z")]);
        assert!(intervals.covers(b"a", b"z"));
        assert!(intervals.covers(b"l", b"n"));
        assert!(!intervals.covers(b"a", b"zz"));
        assert!(!intervals.covers(b"z", b""));
    }

    #[test]
    fn a_hole_of_one_key_is_a_hole() {
        let intervals = intervals(&[("a", "m"), ("m\0", "z")]);
        assert!(!intervals.covers(b"a", b"z"));
        assert!(!intervals.covers(b"m", b""));
    }

    #[test]
    fn a_single_key_is_not_its_prefix() {
        let intervals = intervals(&[("a", "")]);
        assert!(intervals.covers(b"a", b""));
        assert!(!intervals.covers(b"ab", b""));
        assert!(!intervals.covers(b"a", b"b"));
    }

    #[test]
    fn an_open_end_covers_all_above() {
        let intervals = intervals(&[("m", "\0"), ("a", "c")]);
        assert!(intervals.covers(b"m", b"\0"));
        assert!(intervals.covers(b"zzz", b""));
        assert!(!intervals.covers(b"b", b"\0"));
    }

    #[test]
    fn a_reversed_range_is_covered_where_the_search_meets_its_first_key() {
        // Both grant `d`; the search from the left one's node does not go on to the right.
        assert!(!intervals(&[("a", "b"), ("c", "z")]).covers(b"d", b"a"));
        assert!(intervals(&[("c", "z"), ("a", "b")]).covers(b"d", b"a"));
        assert!(!intervals(&[("c", "z")]).covers(b"b", b"a"));
    }

    /// What a red-black tree promises: no red node under a red one, as many black ones on each way down.
    fn blacks(intervals: &Intervals, at: Option<usize>, parent: Option<usize>) -> usize {
        let Some(at) = at else { return 1 };
        let node = &intervals.nodes[at];
        assert_eq!(node.parent, parent);
        assert!(!node.red || parent.is_some_and(|parent| !intervals.nodes[parent].red));
        let children = [node.left, node.right].into_iter().flatten().map(|child| &intervals.nodes[child].highest);
        assert_eq!(node.highest, children.fold(node.end.clone(), |highest, end| highest.max(end.clone())));
        let (left, right) = (blacks(intervals, node.left, Some(at)), blacks(intervals, node.right, Some(at)));
        assert_eq!(left, right);
        left + usize::from(!node.red)
    }

    proptest! {
        #[test]
        fn covering_is_having_every_key(
            grants in proptest::collection::vec(("[a-e]{1,2}", "[a-e]{1,2}"), 0..12),
            asked in ("[a-e]{1,2}", "[a-e]{1,2}"),
        ) {
            let grants: Vec<_> = grants.into_iter().filter(|(start, end)| start < end).collect();
            prop_assume!(asked.0 < asked.1);
            let ranges = grants.iter().map(|(start, end)| (start.as_str(), end.as_str())).collect::<Vec<_>>();
            let intervals = intervals(&ranges);
            blacks(&intervals, intervals.root, None);
            // Borders are strings of at most two letters, so the keys `x` and `x\0` for each stand for all that lie between.
            let mut keys: Vec<String> = Vec::new();
            for first in 'a'..='e' {
                keys.extend([format!("{first}"), format!("{first}\0")]);
                for second in 'a'..='e' {
                    keys.extend([format!("{first}{second}"), format!("{first}{second}\0")]);
                }
            }
            let granted = |key: &String| grants.iter().any(|(start, end)| start <= key && key < end);
            for key in &keys {
                prop_assert_eq!(intervals.covers(key.as_bytes(), b""), granted(key));
            }
            let all = keys.iter().filter(|key| asked.0 <= **key && **key < asked.1).all(granted);
            prop_assert_eq!(intervals.covers(asked.0.as_bytes(), asked.1.as_bytes()), all);
        }
    }
}
