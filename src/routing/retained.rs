//! Retained messages by their topics, and which of them match a filter, handed out in slices.
//!
//! Owned by `broker` behind a lock. A new subscriber may be owed a million messages; they are replayed in
//! slices of some hundred, and between two slices the lock is free and others add and remove topics.
//!
//! # The order, and why a scan can be resumed
//!
//! A node stands for a run of levels and has a number that does not change while it stands. The tree's order
//! is: a node before its children, children by their numbers. A [`Cursor`] is the numbers from the root to the
//! node visited last. Whatever stood from the beginning of the scan to its end kept all numbers on its way, so
//! it lies before the cursor or after it and never changes sides: it is visited exactly once. A number that
//! was freed and given to another node belongs to something newer than the scan, which may be visited or not,
//! but never twice. The order needs no text comparisons, and a step of the cursor that has gone is simply
//! passed: resuming costs the depth and, where a node has many children, one search among them.
//!
//! Lookup goes through the edge table as in the trie; the order of children is a second structure, one
//! B-tree of (parent, child) for the whole tree. A node with a single child, the usual case inside a topic such
//! as `device/17/state`, holds it directly and needs neither. Dearer alternatives that were weighed: a sorted
//! map of texts (each look-up follows some twenty texts), a map in each node (more bytes than the node),
//! sibling lists (a removed cursor is lost).
//!
//! What a topic costs beyond message and text (64-bit, a message of one pointer): 60 to 95 bytes in all,
//! measured for `topic/{n}`, `topic/{n}/leaf` and `site/{n / 100}/device/{n}`. A node is 24 bytes, 8 of them the
//! message; a level text that is new 24, up to 18 of them the text, and 6 to 11 in the table; the place among
//! siblings about 18, and 6 to 11 in the edge table.

mod walk;

use super::edges::{Child, Edges, NodeId};
use super::levels::{LevelId, Levels};
use super::slab::Slab;
use crate::topic::{TopicFilter, TopicName};
use std::collections::BTreeSet;
use std::ops::Bound;
use walk::{Siblings, Walk};

/// Topic Names, each with its retained message.
#[derive(Debug)]
pub struct RetainedTree<M> {
    nodes: Slab<Node<M>>,
    edges: Edges,
    /// Parent and child, for each child that has siblings: its order is that of a scan.
    order: BTreeSet<(NodeId, NodeId)>,
    levels: Levels,
    messages: usize,
}

/// How far a scan has come. Holds no lock and no message; may be dropped at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The nodes from below the root to the one visited last.
    path: Box<[NodeId]>,
}

impl<M> RetainedTree<M> {
    /// An empty tree.
    pub fn new() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::default());
        Self { nodes, edges: Edges::new(), order: BTreeSet::new(), levels: Levels::new(), messages: 0 }
    }

    /// Sets the topic's message; returns the one it replaced.
    pub fn insert(&mut self, topic: &TopicName, message: M) -> Option<M> {
        let mut node = NodeId::ROOT;
        for level in topic.levels() {
            let child = self.levels.find(level).and_then(|level| self.child(node, level));
            node = match child {
                Some(child) => child,
                None => self.add_child(node, level),
            };
        }
        let replaced = self.nodes[node.0].message.replace(message);
        self.messages += usize::from(replaced.is_none());
        replaced
    }

    /// Takes the topic's message out.
    pub fn remove(&mut self, topic: &TopicName) -> Option<M> {
        let node = self.find(topic)?;
        let removed = self.nodes[node.0].message.take()?;
        self.messages -= 1;
        self.prune(node);
        if self.messages == 0 {
            // A cursor into the old tree finds none of its numbers in the new one, or newer nodes.
            *self = Self::new();
        }
        Some(removed)
    }

    /// The topic's message.
    pub fn get(&self, topic: &TopicName) -> Option<&M> {
        self.nodes[self.find(topic)?.0].message.as_ref()
    }

    /// Visits, in the tree's order, the messages whose topics match the filter and come after `from`, until
    /// `limit` messages or `steps` nodes were visited (one at least of each). Returns where to go on, or `None`
    /// when all was seen; behind a cursor there may turn out to be nothing more.
    ///
    /// A scan is one call without a cursor and then one with each cursor returned, with the same filter. A
    /// message that stands all the while is visited exactly once, and none is visited twice. One that is
    /// added or replaced during the scan may be visited or not: a caller to whom that matters must see it
    /// from the message.
    pub fn scan<'t>(
        &'t self,
        filter: &TopicFilter,
        from: Option<&Cursor>,
        limit: usize,
        steps: usize,
        visit: &mut dyn FnMut(&'t M),
    ) -> Option<Cursor> {
        let mut walk = Walk::new(self, filter)?;
        let mut next = match from {
            None => walk.first_child(),
            Some(cursor) => walk.resume(cursor),
        };
        let (mut messages_left, mut steps_left) = (limit.max(1), steps.max(1));
        while let Some(node) = next {
            if walk.enter(node)
                && let Some(message) = &self.nodes[node.0].message
            {
                visit(message);
                messages_left -= 1;
            }
            steps_left -= 1;
            if messages_left == 0 || steps_left == 0 {
                return Some(walk.into_cursor());
            }
            next = walk.first_child().or_else(|| walk.leave());
        }
        None
    }

    /// How many messages are retained.
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Whether no message is retained.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// How many nodes the topics take, the root aside.
    pub fn nodes(&self) -> usize {
        self.nodes.len() - 1
    }

    fn find(&self, topic: &TopicName) -> Option<NodeId> {
        topic.levels().try_fold(NodeId::ROOT, |node, level| self.child(node, self.levels.find(level)?))
    }

    fn child(&self, parent: NodeId, level: LevelId) -> Option<NodeId> {
        match self.nodes[parent.0].children {
            Children::None => None,
            Children::One(child) => (self.nodes[child.0].level == level).then_some(child),
            Children::Many(_) => self.edges.find(&self.nodes, parent, level),
        }
    }

    fn add_child(&mut self, parent: NodeId, level: &str) -> NodeId {
        let level = self.levels.acquire(level);
        let child =
            NodeId(self.nodes.insert(Node { parent, level, children: Children::None, message: None }));
        self.nodes[parent.0].children = match self.nodes[parent.0].children {
            Children::None => Children::One(child),
            Children::One(first) => {
                self.link(parent, first);
                self.link(parent, child);
                Children::Many(2)
            }
            Children::Many(count) => {
                self.link(parent, child);
                Children::Many(count + 1)
            }
        };
        child
    }

    /// Removes the node if nothing needs it, then its parent if nothing else does, and so on.
    fn prune(&mut self, mut node: NodeId) {
        while node != NodeId::ROOT && self.nodes[node.0].is_bare() {
            let Node { parent, level, .. } = self.nodes[node.0];
            self.nodes[parent.0].children = match self.nodes[parent.0].children {
                Children::None | Children::One(_) => Children::None,
                Children::Many(count) => {
                    self.unlink(parent, node);
                    match self.children_after(parent, None).next() {
                        Some(last) if count == 2 => {
                            self.unlink(parent, last);
                            Children::One(last)
                        }
                        Some(_) => Children::Many(count - 1),
                        None => Children::None,
                    }
                }
            };
            self.levels.release(level);
            self.nodes.remove(node.0);
            node = parent;
        }
    }

    fn link(&mut self, parent: NodeId, child: NodeId) {
        self.edges.insert(&self.nodes, child);
        self.order.insert((parent, child));
    }

    fn unlink(&mut self, parent: NodeId, child: NodeId) {
        self.edges.remove(&self.nodes, child);
        self.order.remove(&(parent, child));
    }

    /// The children of a node with several, in order.
    fn children_after(&self, parent: NodeId, after: Option<NodeId>) -> Siblings<'_> {
        let start = match after {
            None => Bound::Included((parent, NodeId(0))),
            Some(child) => Bound::Excluded((parent, child)),
        };
        // `NONE` is greater than every node.
        Siblings::new(parent, self.order.range((start, Bound::Included((parent, NodeId::NONE)))))
    }
}

impl<M> Default for RetainedTree<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// A run of levels that some topic begins with. But the root, each has a child or a message.
#[derive(Debug)]
struct Node<M> {
    parent: NodeId,
    level: LevelId,
    children: Children,
    message: Option<M>,
}

/// The children of a node.
#[derive(Debug, Clone, Copy)]
enum Children {
    None,
    /// Neither in the edge table nor in the order.
    One(NodeId),
    /// So many, two at least, all in both.
    Many(u32),
}

impl<M> Node<M> {
    fn is_bare(&self) -> bool {
        self.message.is_none() && matches!(self.children, Children::None)
    }
}

impl<M> Default for Node<M> {
    fn default() -> Self {
        Self { parent: NodeId::NONE, level: LevelId::NONE, children: Children::None, message: None }
    }
}

impl<M> Child for Node<M> {
    fn parent(&self) -> NodeId {
        self.parent
    }

    fn level(&self) -> LevelId {
        self.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use std::collections::{BTreeMap, BTreeSet};

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    fn name(text: &str) -> &TopicName {
        TopicName::parse(text.as_bytes()).unwrap()
    }

    /// Everything a filter matches, in slices of a size.
    fn scan_all<M: Clone>(tree: &RetainedTree<M>, text: &str, limit: usize, steps: usize) -> Vec<M> {
        let (filter, mut found, mut cursor) = (filter(text), Vec::new(), None);
        loop {
            let before = found.len();
            cursor = tree.scan(&filter, cursor.as_ref(), limit, steps, &mut |message: &M| {
                found.push(message.clone());
            });
            assert!(found.len() - before <= limit);
            if cursor.is_none() {
                return found;
            }
        }
    }

    #[test]
    fn a_filter_finds_its_topics() {
        let topics = ["a", "a/b", "a/b/c", "a//c", "a/", "/a", "/", "b", "b/b", "$SYS", "$SYS/a", "$SYS/a/c"];
        let mut tree = RetainedTree::new();
        for topic in topics {
            assert_eq!(tree.insert(name(topic), topic), None);
        }
        for (text, expected) in [
            ("a", vec!["a"]),
            ("a/#", vec!["a", "a/", "a//c", "a/b", "a/b/c"]),
            ("a/b/#", vec!["a/b", "a/b/c"]),
            ("a/+", vec!["a/", "a/b"]),
            ("+", vec!["a", "b"]), // [MQTT-4.7.2-1]
            ("#", vec!["/", "/a", "a", "a/", "a//c", "a/b", "a/b/c", "b", "b/b"]),
            ("+/+", vec!["/", "/a", "a/", "a/b", "b/b"]),
            ("+/#", vec!["/", "/a", "a", "a/", "a//c", "a/b", "a/b/c", "b", "b/b"]),
            ("+/+/c", vec!["a//c", "a/b/c"]),
            ("$SYS/#", vec!["$SYS", "$SYS/a", "$SYS/a/c"]),
            ("$SYS/+/c", vec!["$SYS/a/c"]),
            ("c/#", vec![]),
            ("a/b/c/d", vec![]),
        ] {
            for (limit, steps) in [(1, 100), (2, 2), (100, 1), (100, 100), (0, 0)] {
                let mut found = scan_all(&tree, text, limit.max(1), steps);
                found.sort_unstable();
                assert_eq!(found, expected, "{text:?} by {limit}, {steps}");
            }
        }
    }

    #[test]
    fn a_message_is_set_replaced_and_taken_out() {
        let mut tree = RetainedTree::new();
        assert_eq!((tree.insert(name("a/b"), 1), tree.insert(name("a/b"), 2)), (None, Some(1)));
        assert_eq!((tree.insert(name("a/b/c"), 3), tree.len(), tree.nodes()), (None, 2, 3));
        for topic in ["a", "b", "a/c", "a/b/c/d", "x"] {
            assert_eq!(tree.get(name(topic)), None, "{topic:?}");
            assert_eq!(tree.remove(name(topic)), None, "{topic:?}");
        }
        assert_eq!((tree.remove(name("a/b")), tree.get(name("a/b/c")), tree.nodes()), (Some(2), Some(&3), 3));
        assert_eq!((tree.remove(name("a/b/c")), tree.len(), tree.nodes()), (Some(3), 0, 0));
        assert!(tree.is_empty());
    }

    #[test]
    fn a_slice_walks_no_further_than_its_steps() {
        let mut tree = RetainedTree::new();
        for n in 0..1_000 {
            tree.insert(name(&format!("a/{n}/y")), n);
        }
        tree.insert(name("a/1000/x"), 1_000);
        let filter = filter("+/+/x");
        let (mut slices, mut found, mut cursor) = (0, Vec::new(), None);
        loop {
            cursor = tree.scan(&filter, cursor.as_ref(), 64, 100, &mut |n| found.push(*n));
            slices += 1;
            if cursor.is_none() {
                break;
            }
        }
        // 1 + 1,001 nodes of the first two levels, and the one that matches; none of the 1,000 that do not.
        assert_eq!((slices, found), (11, vec![1_000]));
    }

    /// What happens to a tree between the first slice of a scan and the rest.
    struct Story {
        filter: &'static str,
        standing: &'static [&'static str],
        first_slice: &'static [&'static str],
        removed: &'static [&'static str],
        added: &'static [&'static str],
        rest: &'static [&'static str],
    }

    #[test]
    fn a_scan_goes_on_when_where_it_was_has_gone() {
        for Story { filter: text, standing, first_slice, removed, added, rest } in [
            Story {
                filter: "+/+", // the whole branch has gone
                standing: &["a/1", "b/1", "b/2", "b/3", "c/1"],
                first_slice: &["a/1", "b/1"],
                removed: &["b/1", "b/2", "b/3"],
                added: &[],
                rest: &["c/1"],
            },
            Story {
                filter: "+/+", // an only child has no row to search: the one left is behind the cursor
                standing: &["a/1", "a/2", "a/3", "b/1"],
                first_slice: &["a/1", "a/2"],
                removed: &["a/2", "a/3"],
                added: &[],
                rest: &["b/1"],
            },
            Story {
                filter: "#", // the number of a/1 now belongs to b/x: its children must not be taken for a's
                standing: &["a/1", "a/2", "a/3", "b"],
                first_slice: &["a/1"],
                removed: &["a/1"],
                added: &["b/x/y"],
                rest: &["a/2", "a/3", "b", "b/x/y"],
            },
            Story {
                filter: "s/#", // the number of s now belongs to t, which does not match; s is still a level
                standing: &["x/s", "s/1", "s/2"],
                first_slice: &["s/1"],
                removed: &["s/1", "s/2"],
                added: &["t", "t/1", "t/2"],
                rest: &[],
            },
            Story {
                filter: "s/+", // s is no level of any topic any more
                standing: &["x", "s/1", "s/2"],
                first_slice: &["s/1"],
                removed: &["s/1", "s/2"],
                added: &["t/1"],
                rest: &[],
            },
        ] {
            let mut tree = RetainedTree::new();
            for &topic in standing {
                tree.insert(name(topic), topic);
            }
            let (filter, mut found) = (filter(text), Vec::new());
            let cursor = tree.scan(&filter, None, first_slice.len(), 100, &mut |topic| found.push(*topic));
            assert_eq!(found, first_slice, "{text:?} {standing:?}");
            for topic in removed {
                assert!(tree.remove(name(topic)).is_some());
            }
            for &topic in added {
                tree.insert(name(topic), topic);
            }
            found.clear();
            assert_eq!(tree.scan(&filter, cursor.as_ref(), 100, 100, &mut |topic| found.push(*topic)), None);
            assert_eq!(found, rest, "{text:?} {standing:?}");
        }
    }

    #[test]
    fn as_many_levels_as_the_text_has_room_for() {
        let mut tree = RetainedTree::new();
        let (deep, deeper) = ("/".repeat(65_534), "/".repeat(65_535));
        tree.insert(name(&deep), 1);
        tree.insert(name(&deeper), 2);
        tree.insert(name("stays"), 3);
        assert_eq!(tree.nodes(), 65_536 + 1);
        for text in ["#".to_owned(), format!("{}#", "/".repeat(65_534)), format!("{}#", "+/".repeat(32_767))]
        {
            assert!(scan_all(&tree, &text, 1, 30_000).starts_with(&[1, 2]), "{}", text.len());
        }
        assert_eq!(scan_all(&tree, &deeper, 1, 70_000), [2]);
        assert_eq!(tree.remove(name(&deeper)), Some(2));
        assert_eq!(tree.nodes(), 65_535 + 1);
        drop(tree);
    }

    fn any_topic() -> impl Strategy<Value = String> {
        vec(prop::sample::select(vec!["", "a", "b", "c", "$x"]), 1..5)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("empty", |topic| !topic.is_empty())
    }

    fn any_filter() -> impl Strategy<Value = TopicFilter> {
        let level = prop::sample::select(vec!["", "a", "b", "$x", "+", "+"]);
        (vec(level, 0..4), any::<bool>()).prop_filter_map("no filter", |(mut levels, multi)| {
            levels.extend(multi.then_some("#"));
            TopicFilter::parse(&levels.join("/")).ok()
        })
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(String),
        Remove(String),
        Slice { limit: usize, steps: usize },
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any_topic().prop_map(Step::Insert),
            any_topic().prop_map(Step::Remove),
            (1_usize..4, 1_usize..8).prop_map(|(limit, steps)| Step::Slice { limit, steps }),
        ]
    }

    proptest! {
        #[test]
        fn what_stands_all_the_while_is_visited_exactly_once(
            filter in any_filter(),
            before in vec(any_topic(), 0..60),
            during in vec(any_step(), 0..120),
        ) {
            let mut tree = RetainedTree::new();
            // Never removed, so that the tree is not simply made anew when the rest has gone.
            tree.insert(name("stays"), usize::MAX);
            // Each message is a number of its own, which finds its topic.
            let mut topics = Vec::new();
            let mut model = BTreeMap::new();
            for topic in before {
                let replaced = tree.insert(name(&topic), topics.len());
                prop_assert_eq!(replaced, model.insert(topic.clone(), topics.len()));
                topics.push(topic);
            }
            let standing_since_the_start: BTreeSet<_> = model.values().copied().collect();
            let mut visited = Vec::new();
            let mut cursor = None;
            let mut ended = false;
            for step in during.into_iter().chain((0..200).map(|_| Step::Slice { limit: 3, steps: 5 })) {
                match step {
                    Step::Insert(topic) if !ended => {
                        let replaced = tree.insert(name(&topic), topics.len());
                        prop_assert_eq!(replaced, model.insert(topic.clone(), topics.len()));
                        topics.push(topic);
                    }
                    Step::Remove(topic) if !ended => {
                        prop_assert_eq!(tree.remove(name(&topic)), model.remove(&topic));
                    }
                    Step::Slice { limit, steps } if !ended => {
                        cursor = tree.scan(&filter, cursor.as_ref(), limit, steps, &mut |m| visited.push(*m));
                        ended = cursor.is_none();
                    }
                    Step::Insert(_) | Step::Remove(_) | Step::Slice { .. } => {}
                }
                prop_assert_eq!(tree.len(), model.len() + 1);
            }
            prop_assert!(ended);
            visited.retain(|&message| message != usize::MAX);
            let once: BTreeSet<_> = visited.iter().copied().collect();
            prop_assert_eq!(once.len(), visited.len(), "visited twice: {:?}", visited);
            for &message in &visited {
                prop_assert!(filter.matches(name(&topics[message])), "{:?}", topics[message]);
            }
            for (topic, message) in &model {
                prop_assert_eq!(tree.get(name(topic)), Some(message));
                if standing_since_the_start.contains(message) && filter.matches(name(topic)) {
                    prop_assert!(once.contains(message), "missed {:?}", topic);
                }
            }
            for topic in model.into_keys() {
                prop_assert!(tree.remove(name(&topic)).is_some());
            }
            prop_assert_eq!((tree.nodes(), tree.levels.len()), (1, 1));
            prop_assert_eq!((tree.edges.len(), tree.order.len()), (0, 0));
            tree.remove(name("stays"));
            prop_assert_eq!((tree.nodes(), tree.levels.len()), (0, 0));
        }
    }
}
