//! The walk of a scan: which node comes next, and where a cursor lies in a tree that has changed.
//!
//! Called by `RetainedTree::scan` alone, which borrows the tree as long, so that nothing changes during a walk.
//! The stack is the path from the root; how far the row of children at each depth has been walked is not kept
//! but follows from the child on the path.

use super::{Children, Cursor, RetainedTree};
use crate::routing::edges::NodeId;
use crate::routing::levels::LevelId;
use crate::topic::TopicFilter;
use std::collections::btree_set;

/// What a filter asks of one level.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Exact(LevelId),
    Any,
}

/// A walk over the nodes that match a filter, or begin what might.
pub(super) struct Walk<'a, M> {
    tree: &'a RetainedTree<M>,
    /// The levels before `#`.
    asks: Vec<Ask>,
    /// Whether `#` follows.
    multi_level: bool,
    /// The nodes from below the root to the current one.
    path: Vec<NodeId>,
    /// The rest of the siblings that were walked last, so that the next of a long row needs no search.
    siblings: Option<Siblings<'a>>,
}

impl<'a, M> Walk<'a, M> {
    /// `None` if the filter names a level that no topic has.
    pub(super) fn new(tree: &'a RetainedTree<M>, filter: &TopicFilter) -> Option<Self> {
        let mut asks = Vec::new();
        let mut multi_level = false;
        for level in filter.levels() {
            match level {
                "#" => multi_level = true,
                "+" => asks.push(Ask::Any),
                level => asks.push(Ask::Exact(tree.levels.find(level)?)),
            }
        }
        Some(Self { tree, asks, multi_level, path: Vec::new(), siblings: None })
    }

    /// Makes the node current; returns whether its topic matches.
    pub(super) fn enter(&mut self, node: NodeId) -> bool {
        self.path.push(node);
        let depth = self.path.len();
        depth == self.asks.len() || (self.multi_level && depth > self.asks.len())
    }

    /// The first child of the current node that the filter lets through.
    pub(super) fn first_child(&mut self) -> Option<NodeId> {
        let parent = self.current();
        match self.ask()? {
            Ask::Exact(level) => self.tree.child(parent, level),
            Ask::Any => self.any_child(parent, None),
        }
    }

    /// The next node after the current one and all below it. Leaves the current node for the parent of that.
    pub(super) fn leave(&mut self) -> Option<NodeId> {
        loop {
            let left = self.path.pop()?;
            if let Some(next) = self.sibling_after(left) {
                return Some(next);
            }
        }
    }

    /// Goes to where the cursor is, or was, and returns the node after it.
    pub(super) fn resume(&mut self, cursor: &Cursor) -> Option<NodeId> {
        for &node in &cursor.path {
            let parent = self.current();
            let stands = self.tree.nodes.get(node.0).is_some_and(|found| {
                found.parent == parent
                    && match self.ask() {
                        Some(Ask::Exact(level)) => found.level == level,
                        Some(Ask::Any) => true,
                        None => false,
                    }
            });
            if !stands {
                return self.sibling_after(node).or_else(|| self.leave());
            }
            self.path.push(node);
        }
        self.first_child().or_else(|| self.leave())
    }

    /// The next child of the current node after the one given, which may be gone.
    fn sibling_after(&mut self, child: NodeId) -> Option<NodeId> {
        match self.ask()? {
            Ask::Exact(_) => None,
            Ask::Any => self.any_child(self.current(), Some(child)),
        }
    }

    /// The current node is where to go on.
    pub(super) fn into_cursor(self) -> Cursor {
        Cursor { path: self.path.into() }
    }

    /// What the filter asks of the children of the current node; `None` if it wants none of them.
    fn ask(&self) -> Option<Ask> {
        self.asks.get(self.path.len()).copied().or(self.multi_level.then_some(Ask::Any))
    }

    fn any_child(&mut self, parent: NodeId, mut after: Option<NodeId>) -> Option<NodeId> {
        loop {
            let child = match self.tree.nodes[parent.0].children {
                Children::None => None,
                Children::One(child) => after.is_none_or(|after| child > after).then_some(child),
                Children::Many(_) => self.next_sibling(parent, after),
            }?;
            if !self.is_hidden(parent, child) {
                return Some(child);
            }
            after = Some(child);
        }
    }

    fn next_sibling(&mut self, parent: NodeId, after: Option<NodeId>) -> Option<NodeId> {
        // Rows are walked in one direction only, so the rest of a row left for its children is still right.
        match &mut self.siblings {
            Some(siblings) if siblings.parent == parent && after.is_some() => siblings.next(),
            siblings => siblings.insert(self.tree.children_after(parent, after)).next(),
        }
    }

    /// [MQTT-4.7.2-1]
    fn is_hidden(&self, parent: NodeId, child: NodeId) -> bool {
        parent == NodeId::ROOT && self.tree.levels.text(self.tree.nodes[child.0].level).starts_with(b"$")
    }

    fn current(&self) -> NodeId {
        self.path.last().copied().unwrap_or(NodeId::ROOT)
    }
}

/// The rest of a row of children.
pub(super) struct Siblings<'a> {
    parent: NodeId,
    range: btree_set::Range<'a, (NodeId, NodeId)>,
}

impl<'a> Siblings<'a> {
    pub(super) fn new(parent: NodeId, range: btree_set::Range<'a, (NodeId, NodeId)>) -> Self {
        Self { parent, range }
    }
}

impl Iterator for Siblings<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        self.range.next().map(|&(_, child)| child)
    }
}
