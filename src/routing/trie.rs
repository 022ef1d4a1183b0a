//! The subscriptions of all sessions, and which of them match a Topic Name (§4.7).
//!
//! Owned by `broker` behind a readers-writer lock: many publishers match at once while a subscriber waits its
//! turn, and a subscribe touches only the nodes of its own filter.
//!
//! A node stands for a run of levels from the first, `+` being a level like any other. `#` is no node but a
//! second place for a filter in the node above it. Nodes are numbered and know their parent, so the text of a
//! filter is stored nowhere: it is read from the leaf up. What always holds: a node but the root has a child
//! or a filter; a filter has an entry; a level text is borne by a node.
//!
//! What a subscription costs beyond its text (64-bit, the broker's entry of 16 bytes): 24 bytes for the filter with its
//! first entry; 24 and 6 to 11 in the edge table for each node that no other filter shares; 24 and 6 to 11 for
//! each level text that occurs nowhere else, up to 18 bytes of the text included. With the 6 to 11 in the session's
//! set that is 50 bytes where subscribers use the same last levels, and 105 where each filter has a level of its own
//! and levels below it (`tests/subscription_memory.rs`).

use super::edges::{Child, Edges, NodeId};
use super::entries::{Entries, Entry};
use super::levels::{LevelId, Levels};
use super::slab::Slab;
use crate::topic::{TopicFilter, TopicName};
use hashbrown::DefaultHashBuilder;

/// Names one filter that stands in a [`Trie`]; used again after the filter has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(u32);

impl FilterId {
    const NONE: Self = Self(u32::MAX);
}

/// Topic Filters, each with one entry at least.
#[derive(Debug)]
pub struct Trie<E: Entry> {
    nodes: Slab<Node>,
    edges: Edges,
    levels: Levels,
    filters: Slab<Filter<E>>,
    entries: usize,
    hasher: DefaultHashBuilder,
}

impl<E: Entry> Trie<E> {
    /// An empty trie.
    pub fn new() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::default());
        Self {
            nodes,
            edges: Edges::new(),
            levels: Levels::new(),
            filters: Slab::new(),
            entries: 0,
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Adds an entry; returns the filter's id, and the entry of the same key that it replaced.
    pub fn insert(&mut self, filter: &TopicFilter, entry: E) -> (FilterId, Option<E>) {
        let mut node = NodeId::ROOT;
        let mut multi_level = false;
        for level in filter.levels() {
            match level {
                "#" => multi_level = true,
                "+" => node = self.single_level_child(node),
                level => node = self.exact_child(node, level),
            }
        }
        let Self { nodes, filters, hasher, .. } = self;
        let place = nodes[node.0].place(multi_level);
        if *place == FilterId::NONE {
            *place = FilterId(filters.insert(Filter { node, multi_level, entries: Entries::None }));
        }
        let id = *place;
        let replaced = filters[id.0].entries.insert(entry, hasher);
        self.entries += usize::from(replaced.is_none());
        (id, replaced)
    }

    /// The id of a filter that stands.
    pub fn find(&self, filter: &TopicFilter) -> Option<FilterId> {
        let mut node = NodeId::ROOT;
        for level in filter.levels() {
            node = match level {
                "#" => return self.nodes[node.0].multi_level_filter(),
                "+" => self.nodes[node.0].single_level.some()?,
                level => self.edges.find(&self.nodes, node, self.levels.find(level)?)?,
            };
        }
        self.nodes[node.0].filter()
    }

    /// The entry with this key; `None` also if no such filter stands.
    pub fn get(&self, id: FilterId, key: E::Key) -> Option<&E> {
        self.filters.get(id.0)?.entries.get(key, &self.hasher)
    }

    /// Takes out the entry with this key, and with the last entry the filter.
    pub fn remove(&mut self, id: FilterId, key: E::Key) -> Option<E> {
        let filter = self.filters.get_mut(id.0)?;
        let removed = filter.entries.remove(key, &self.hasher)?;
        self.entries -= 1;
        if filter.entries.as_slice().is_empty() {
            let Filter { node, multi_level, .. } = self.filters.remove(id.0);
            *self.nodes[node.0].place(multi_level) = FilterId::NONE;
            self.prune(node);
        }
        if self.entries == 0 {
            // Nothing refers to anything any more: give all memory back.
            *self = Self::new();
        }
        Some(removed)
    }

    /// The text of a filter that stands, read from its levels.
    pub fn filter_text(&self, id: FilterId) -> Option<String> {
        let filter = self.filters.get(id.0).filter(|filter| filter.node != NodeId::NONE)?;
        let mut levels: Vec<&[u8]> = Vec::new();
        if filter.multi_level {
            levels.push(b"#");
        }
        let mut node = filter.node;
        while node != NodeId::ROOT {
            let Node { parent, level, .. } = self.nodes[node.0];
            levels.push(if level == LevelId::NONE { b"+" } else { self.levels.text(level) });
            node = parent;
        }
        levels.reverse();
        String::from_utf8(levels.join(&b'/')).ok()
    }

    /// The first level of a filter that stands.
    pub fn first_level(&self, id: FilterId) -> Option<&[u8]> {
        let filter = self.filters.get(id.0).filter(|filter| filter.node != NodeId::NONE)?;
        let mut first: &[u8] = if filter.multi_level { b"#" } else { b"" };
        let mut node = filter.node;
        while node != NodeId::ROOT {
            let Node { parent, level, .. } = self.nodes[node.0];
            first = if level == LevelId::NONE { b"+" } else { self.levels.text(level) };
            node = parent;
        }
        Some(first)
    }

    /// The entries of a filter, in no particular order; none if no such filter stands.
    pub fn entries(&self, id: FilterId) -> impl Iterator<Item = &E> {
        self.filters.get(id.0).map_or(&[][..], |filter| filter.entries.as_slice()).iter()
    }

    /// Calls `visit` for each entry of each filter that matches; a topic that begins with `$` is hidden from
    /// filters that begin with a wildcard [MQTT-4.7.2-1]. An entry under two such filters is visited twice.
    pub fn for_each_match<'a>(&'a self, topic: &TopicName, mut visit: impl FnMut(&'a E)) {
        let mut visit_filter = |id: Option<FilterId>| {
            if let Some(id) = id {
                self.filters[id.0].entries.as_slice().iter().for_each(&mut visit);
            }
        };
        // All nodes that match the levels so far: a level takes each of them to two others at most.
        let mut here = Frontier::default();
        let mut next = Frontier::default();
        here.push(NodeId::ROOT);
        let mut wildcards_see_it = !topic.is_system();
        // Bytes, as a split of text decodes what it looks for each time.
        for level in topic.as_str().as_bytes().split(|byte| *byte == b'/') {
            let level = self.levels.find(level);
            for node in here.drain() {
                let parent = &self.nodes[node.0];
                if wildcards_see_it {
                    visit_filter(parent.multi_level_filter());
                    parent.single_level.some().inspect(|&child| next.push(child));
                }
                if parent.exact_children > 0
                    && let Some(level) = level
                    && let Some(child) = self.edges.find(&self.nodes, node, level)
                {
                    next.push(child);
                }
            }
            if next.is_empty() {
                return;
            }
            std::mem::swap(&mut here, &mut next);
            wildcards_see_it = true;
        }
        for node in here.drain() {
            let node = &self.nodes[node.0];
            visit_filter(node.filter());
            // `a/#` matches `a` itself.
            visit_filter(node.multi_level_filter());
        }
    }

    /// How many entries stand, over all filters.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether no entry stands.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// How many filters stand.
    pub fn filters(&self) -> usize {
        self.filters.len()
    }

    fn single_level_child(&mut self, parent: NodeId) -> NodeId {
        if let Some(child) = self.nodes[parent.0].single_level.some() {
            return child;
        }
        let child = NodeId(self.nodes.insert(Node { parent, ..Node::default() }));
        self.nodes[parent.0].single_level = child;
        child
    }

    fn exact_child(&mut self, parent: NodeId, level: &str) -> NodeId {
        if let Some(level) = self.levels.find(level)
            && let Some(child) = self.edges.find(&self.nodes, parent, level)
        {
            return child;
        }
        let level = self.levels.acquire(level);
        let child = NodeId(self.nodes.insert(Node { parent, level, ..Node::default() }));
        self.edges.insert(&self.nodes, child);
        self.nodes[parent.0].exact_children += 1;
        child
    }

    /// Removes the node if nothing needs it, then its parent if nothing else does, and so on.
    fn prune(&mut self, mut node: NodeId) {
        while node != NodeId::ROOT && self.nodes[node.0].is_bare() {
            let Node { parent, level, .. } = self.nodes[node.0];
            if level == LevelId::NONE {
                self.nodes[parent.0].single_level = NodeId::NONE;
            } else {
                self.edges.remove(&self.nodes, node);
                self.levels.release(level);
                self.nodes[parent.0].exact_children -= 1;
            }
            self.nodes.remove(node.0);
            node = parent;
        }
    }
}

impl<E: Entry> Default for Trie<E> {
    fn default() -> Self {
        Self::new()
    }
}

/// A run of levels that some filter begins with.
#[derive(Debug)]
struct Node {
    parent: NodeId,
    /// `NONE` in the root and where the level is `+`.
    level: LevelId,
    /// How many children are in the edge table: most nodes have none, and need no look-up.
    exact_children: u32,
    /// The child whose level is `+`.
    single_level: NodeId,
    /// The filter that ends here.
    filter: FilterId,
    /// The filter that goes on with `#`.
    multi_level_filter: FilterId,
}

impl Node {
    fn filter(&self) -> Option<FilterId> {
        (self.filter != FilterId::NONE).then_some(self.filter)
    }

    fn multi_level_filter(&self) -> Option<FilterId> {
        (self.multi_level_filter != FilterId::NONE).then_some(self.multi_level_filter)
    }

    fn place(&mut self, multi_level: bool) -> &mut FilterId {
        if multi_level { &mut self.multi_level_filter } else { &mut self.filter }
    }

    fn is_bare(&self) -> bool {
        self.exact_children == 0
            && self.single_level == NodeId::NONE
            && self.filter == FilterId::NONE
            && self.multi_level_filter == FilterId::NONE
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            parent: NodeId::NONE,
            level: LevelId::NONE,
            exact_children: 0,
            single_level: NodeId::NONE,
            filter: FilterId::NONE,
            multi_level_filter: FilterId::NONE,
        }
    }
}

impl Child for Node {
    fn parent(&self) -> NodeId {
        self.parent
    }

    fn level(&self) -> LevelId {
        self.level
    }
}

/// A filter that stands, and where.
#[derive(Debug)]
struct Filter<E> {
    /// `NONE` where no filter stands.
    node: NodeId,
    /// Whether it goes on with `#` after the node's levels.
    multi_level: bool,
    entries: Entries<E>,
}

impl<E> Default for Filter<E> {
    fn default() -> Self {
        Self { node: NodeId::NONE, multi_level: false, entries: Entries::None }
    }
}

/// So many nodes match a topic's levels without an allocation: all the choices between `+` and an exact level
/// over five levels, far more than usual filters need.
const INLINE: usize = 32;

/// Nodes yet to be visited, on the stack unless they are unusually many.
struct Frontier {
    inline: [NodeId; INLINE],
    length: usize,
    spilled: Vec<NodeId>,
}

impl Frontier {
    fn push(&mut self, node: NodeId) {
        match self.inline.get_mut(self.length) {
            Some(slot) => {
                *slot = node;
                self.length += 1;
            }
            None => self.spilled.push(node),
        }
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn drain(&mut self) -> impl Iterator<Item = NodeId> {
        let length = std::mem::take(&mut self.length);
        self.inline[..length].iter().copied().chain(self.spilled.drain(..))
    }
}

impl Default for Frontier {
    fn default() -> Self {
        Self { inline: [NodeId::NONE; INLINE], length: 0, spilled: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use std::collections::BTreeMap;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    /// The keys of all entries that match, sorted.
    fn matches(trie: &Trie<(u32, u32)>, topic: &str) -> Vec<u32> {
        let mut found = Vec::new();
        trie.for_each_match(TopicName::parse(topic.as_bytes()).unwrap(), |entry| found.push(entry.0));
        found.sort_unstable();
        found
    }

    #[test]
    fn a_topic_finds_its_filters() {
        let filters = ["#", "+", "+/+", "/+", "a", "a/#", "a/+", "a/b", "a/b/#", "$SYS/#", "$SYS/+", "a//c"];
        let mut trie = Trie::new();
        for (key, text) in (0..).zip(filters) {
            trie.insert(&filter(text), (key, 0));
        }
        for (topic, expected) in [
            ("a", vec!["#", "+", "a", "a/#"]),
            ("b", vec!["#", "+"]),
            ("a/b", vec!["#", "+/+", "a/#", "a/+", "a/b", "a/b/#"]),
            ("a/c", vec!["#", "+/+", "a/#", "a/+"]),
            ("a/", vec!["#", "+/+", "a/#", "a/+"]),
            ("/finance", vec!["#", "+/+", "/+"]),
            ("/", vec!["#", "+/+", "/+"]),
            ("a/b/c", vec!["#", "a/#", "a/b/#"]),
            ("a//c", vec!["#", "a/#", "a//c"]),
            ("$SYS", vec!["$SYS/#"]), // [MQTT-4.7.2-1]
            ("$SYS/x", vec!["$SYS/#", "$SYS/+"]),
            ("$SYS/x/y", vec!["$SYS/#"]),
            ("A", vec!["#", "+"]), // §4.7.3: case matters
        ] {
            let found: Vec<_> = matches(&trie, topic).iter().map(|&key| filters[key as usize]).collect();
            assert_eq!(found, expected, "{topic:?}");
        }
    }

    #[test]
    fn an_entry_is_replaced_by_its_key_and_removed_by_it() {
        let mut trie = Trie::new();
        let (id, replaced) = trie.insert(&filter("a/+/#"), (1, 10));
        assert_eq!(replaced, None);
        assert_eq!(trie.insert(&filter("a/+/#"), (1, 11)), (id, Some((1, 10))));
        assert_eq!(trie.insert(&filter("a/+/#"), (2, 20)), (id, None));
        assert_eq!(trie.find(&filter("a/+/#")), Some(id));
        for text in ["a", "a/+", "a/#", "a/+/+", "#", "+", "b/+/#"] {
            assert_eq!(trie.find(&filter(text)), None, "{text:?}");
        }
        assert_eq!(trie.filter_text(id).as_deref(), Some("a/+/#"));
        assert_eq!(trie.first_level(id), Some(&b"a"[..]));
        assert_eq!((trie.len(), trie.filters(), trie.entries(id).count()), (2, 1, 2));
        assert_eq!((trie.get(id, 1), trie.get(id, 3)), (Some(&(1, 11)), None));
        assert_eq!((trie.remove(id, 3), trie.remove(id, 1)), (None, Some((1, 11))));
        assert_eq!((trie.remove(id, 1), trie.remove(id, 2)), (None, Some((2, 20))));
        assert!(trie.is_empty());
        assert_eq!((trie.get(id, 2), trie.filter_text(id), trie.entries(id).count()), (None, None, 0));
        assert_eq!(trie.first_level(id), None);
        assert_eq!((trie.remove(id, 2), trie.find(&filter("a/+/#"))), (None, None));
    }

    #[test]
    fn a_hundred_thousand_subscribers_of_one_filter() {
        let mut trie = Trie::new();
        let shared = filter("news/#");
        for key in 0..100_000 {
            trie.insert(&shared, (key, 0));
        }
        assert_eq!(matches(&trie, "news"), (0..100_000).collect::<Vec<_>>());
        let id = trie.find(&shared).unwrap();
        // From the front, which is where a list without an index is slowest.
        for key in 0..99_999 {
            assert_eq!(trie.remove(id, key), Some((key, 0)));
        }
        assert_eq!(matches(&trie, "news/today"), [99_999]);
    }

    #[test]
    fn as_many_levels_as_the_text_has_room_for() {
        let mut trie = Trie::new();
        let (exact, single) = ("/".repeat(65_535), vec!["+"; 32_768].join("/"));
        let multi = format!("{}#", "/".repeat(65_534));
        let ids: Vec<_> = (0..)
            .zip([&exact, &single, &multi])
            .map(|(key, text)| trie.insert(&filter(text), (key, 0)).0)
            .collect();
        assert_eq!(matches(&trie, &exact), [0, 2]);
        assert_eq!(matches(&trie, &vec!["x"; 32_768].join("/")), [1]);
        for (id, text) in ids.iter().zip([&exact, &single, &multi]) {
            assert_eq!(trie.filter_text(*id).as_ref(), Some(text));
            assert_eq!(trie.first_level(*id), text.as_bytes().split(|byte| *byte == b'/').next());
        }
        trie.insert(&filter("stays"), (9, 0));
        trie.remove(ids[0], 0);
        trie.remove(ids[2], 2);
        assert_eq!(trie.nodes.len(), 1 + 32_768 + 1);
        drop(trie);
    }

    #[test]
    fn more_nodes_at_once_than_lie_on_the_stack() {
        let mut trie = Trie::new();
        for choice in 0..1024 {
            let levels: Vec<_> =
                (0..10).map(|bit| if choice & (1 << bit) == 0 { "+" } else { "x" }).collect();
            trie.insert(&filter(&levels.join("/")), (choice, 0));
        }
        assert_eq!(matches(&trie, &["x"; 10].join("/")), (0..1024).collect::<Vec<_>>());
        assert_eq!(matches(&trie, &["y"; 10].join("/")), [0]);
    }

    fn any_filter() -> impl Strategy<Value = TopicFilter> {
        let level = prop::sample::select(vec!["", "a", "b", "$x", "+", "+"]);
        (vec(level, 0..5), any::<bool>()).prop_filter_map("no filter", |(mut levels, multi)| {
            levels.extend(multi.then_some("#"));
            TopicFilter::parse(&levels.join("/")).ok()
        })
    }

    fn any_topic() -> impl Strategy<Value = String> {
        vec(prop::sample::select(vec!["", "a", "b", "c", "$x"]), 1..6)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("empty", |topic| !topic.is_empty())
    }

    proptest! {
        #[test]
        fn the_trie_finds_what_a_walk_over_all_filters_finds(
            steps in vec((any_filter(), 0_u32..20, any::<bool>(), any_topic()), 1..200),
        ) {
            let mut trie = Trie::new();
            // Never removed, so that the trie is not simply made anew when the rest has gone.
            let (stays, _) = trie.insert(&filter("stays"), (99, 0));
            let mut model = BTreeMap::new();
            for (turn, (filter, key, insert, topic)) in (0..).zip(steps) {
                if insert {
                    let (id, replaced) = trie.insert(&filter, (key, turn));
                    prop_assert_eq!(replaced.map(|old| old.1), model.insert((filter.clone(), key), turn));
                    let text = trie.filter_text(id);
                    prop_assert_eq!(text.as_deref(), Some(filter.as_str()));
                } else {
                    let removed = trie.find(&filter).and_then(|id| trie.remove(id, key));
                    prop_assert_eq!(removed.map(|old| old.1), model.remove(&(filter, key)));
                }
                let name = TopicName::parse(topic.as_bytes()).unwrap();
                let mut expected: Vec<_> =
                    model.keys().filter(|(filter, _)| filter.matches(name)).map(|(_, key)| *key).collect();
                expected.sort_unstable();
                prop_assert_eq!(matches(&trie, &topic), expected);
                prop_assert_eq!(trie.len(), model.len() + 1);
            }
            for (filter, key) in model.into_keys() {
                let id = trie.find(&filter).unwrap();
                prop_assert!(trie.get(id, key).is_some());
                trie.remove(id, key);
            }
            prop_assert_eq!((trie.nodes.len(), trie.edges.len(), trie.levels.len()), (2, 1, 1));
            prop_assert_eq!((trie.filters(), trie.len()), (1, 1));
            trie.remove(stays, 99);
            prop_assert_eq!((trie.nodes.len(), trie.edges.len(), trie.levels.len()), (1, 0, 0));
        }
    }
}
