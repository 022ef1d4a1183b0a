//! `fulmar acl explain`: which rule decides, and why.

use std::error::Error;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};

use super::refusal;
use crate::auth::Policy;
use crate::auth::acl::{Access, Subject};
use crate::config::{Sources, load};

#[derive(Debug, Subcommand)]
pub(super) enum AclCommand {
    /// Tell which rule decides what a client may do, and why those before it do not
    Explain(ExplainArguments),
}

#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// The configuration with the rules, or with the name of their file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The client's user name; without it, it is one that is not known
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Its client identifier
    #[arg(long, value_name = "IDENTIFIER", default_value = "")]
    client: String,
    /// A group that an authenticator would say the user is in; those of [[groups]] need not be named
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// Where it comes from
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// What it wants
    access: Wish,
    /// The topic; to subscribe, a topic filter
    topic: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wish {
    /// To publish to a topic
    Publish,
    /// To subscribe to a topic filter
    Subscribe,
    /// To be given the messages of a topic that it subscribes to by a wildcard
    Receive,
}

/// Tells it.
pub(super) fn acl(AclCommand::Explain(arguments): AclCommand) -> Result<(), Box<dyn Error>> {
    let ExplainArguments { config, user, client, group, address, access, topic } = arguments;
    let config = load(&Sources { file: Some(config), ..Sources::default() }).map_err(refusal)?;
    let policy = Policy::load(&config).map_err(refusal)?;
    let Some(acl) = policy.acl() else {
        writeln!(std::io::stdout(), "allowed: there are no rules, so everyone may do everything")?;
        return Ok(());
    };
    let groups: Vec<Arc<str>> = group.into_iter().map(Into::into).collect();
    let subject = Subject { user: user.as_deref(), groups: &groups, client_id: &client, address };
    let access = match access {
        Wish::Publish => Access::Publish,
        Wish::Subscribe => Access::Subscribe,
        Wish::Receive => Access::Receive,
    };
    match acl.explain(&subject, access, &topic) {
        Some(lines) => Ok(writeln!(std::io::stdout(), "{}", lines.join("\n"))?),
        None if access == Access::Subscribe => Err(format!("fulmar: {topic:?} is no topic filter").into()),
        None => Err(format!("fulmar: {topic:?} is no topic that can be published to").into()),
    }
}
