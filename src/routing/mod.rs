//! Who is to have a message: the trie of subscriptions and the tree of retained messages.
//!
//! Owned and called by `broker`, which puts the locks around them; nothing in here locks, waits, does IO or
//! knows what a session is. What stands in the trie is the caller's own type, an [`Entry`].
//!
//! What always holds: a topic may have 65,535 levels (§4.7.3), so nothing recurses over levels, not even when
//! it is dropped; and what a client adds is gone to the last byte of text when it has been removed.
//!
//! | file | what it owns |
//! |---|---|
//! | `trie` | Topic Filters and who subscribed to them; which of them match a Topic Name |
//! | `entries` | the entries of one filter: one, a few, or a hundred thousand |
//! | `generations` | whether a match found earlier still holds |
//! | `retained` | Topic Names and their retained messages; which of them match a Topic Filter, slice by slice |
//! | `levels`, `edges`, `slab` | what both trees are made of: interned level texts, child look-up, nodes by number |

mod edges;
mod entries;
mod generations;
mod levels;
mod retained;
mod slab;
mod trie;

pub use entries::Entry;
pub use generations::{Generations, Stamp};
pub use retained::{Cursor, RetainedTree};
pub use trie::{FilterId, Trie};
