//! Fulmar, an MQTT broker as a library.
//!
//! The tree under `src/` is the architecture, and an import only ever points down this list:
//! `cli` (7), `server` (6), `net` (5), `broker` (4), `routing`, `session`, `auth` (3), `store` (2), and at the
//! bottom (1) `codec` and the shared nouns `message`, `topic`, `config`, `limits`.
//! ARCHITECTURE.md has the map, the way of a PUBLISH, and the decisions.

pub mod auth;
pub mod broker;
pub mod cli;
pub mod codec;
pub mod config;
pub mod message;
pub mod net;
pub mod routing;
pub mod server;
pub mod session;
pub mod store;
pub mod topic;
