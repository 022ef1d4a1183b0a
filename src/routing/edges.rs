//! Which child of a node bears which level: one hash table for a whole tree.
//!
//! A table in each node would cost more than the node. This one stores the children's numbers alone, about
//! 6 to 11 bytes a child; parent and level, which make the key, are read from the child itself.

use super::levels::LevelId;
use super::slab::{Slab, give_back};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// Names a node of a tree while it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(pub(super) u32);

impl NodeId {
    /// No node.
    pub(super) const NONE: Self = Self(u32::MAX);
    /// Every tree begins with its root.
    pub(super) const ROOT: Self = Self(0);

    /// `None` for no node.
    pub(super) fn some(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

/// What the table reads from a node to find it: parent and level do not change while it stands.
pub(super) trait Child: Default {
    fn parent(&self) -> NodeId;
    fn level(&self) -> LevelId;
}

/// The table of one tree.
#[derive(Debug)]
pub(super) struct Edges {
    children: HashTable<NodeId>,
    /// Randomly seeded: clients choose what is a child of what.
    hasher: DefaultHashBuilder,
}

impl Edges {
    pub(super) fn new() -> Self {
        Self { children: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }

    /// The child of `parent` that bears `level`.
    pub(super) fn find<N: Child>(&self, nodes: &Slab<N>, parent: NodeId, level: LevelId) -> Option<NodeId> {
        let is_it = |child: &NodeId| {
            let child = &nodes[child.0];
            child.parent() == parent && child.level() == level
        };
        self.children.find(hash(&self.hasher, parent, level), is_it).copied()
    }

    /// Adds a child that is not in the table.
    pub(super) fn insert<N: Child>(&mut self, nodes: &Slab<N>, child: NodeId) {
        let Self { children, hasher } = self;
        let hash = hash_child(hasher, nodes, child);
        children.insert_unique(hash, child, |child| hash_child(hasher, nodes, *child));
    }

    /// Takes a child out, while its node still stands.
    pub(super) fn remove<N: Child>(&mut self, nodes: &Slab<N>, child: NodeId) {
        let hash = hash_child(&self.hasher, nodes, child);
        if let Ok(entry) = self.children.find_entry(hash, |&other| other == child) {
            entry.remove();
        }
        let Self { children, hasher } = self;
        give_back(children, |child| hash_child(hasher, nodes, *child));
    }

    /// How many children are in the table.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.children.len()
    }
}

fn hash_child<N: Child>(hasher: &DefaultHashBuilder, nodes: &Slab<N>, child: NodeId) -> u64 {
    let child = &nodes[child.0];
    hash(hasher, child.parent(), child.level())
}

fn hash(hasher: &DefaultHashBuilder, parent: NodeId, level: LevelId) -> u64 {
    hasher.hash_one((u64::from(parent.0) << 32) | u64::from(level.number()))
}
