//! Makes a store of the lines that [`super::export`] writes.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::Thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::export::VERSION;
use crate::codec::{PacketId, QoS, RetainHandling, SubscriptionOptions};
use crate::config::Durability;
use crate::message::Publisher;
use crate::store::disk::{DiskStore, Examined, OpenError, Options};
use crate::store::{
    CommitSeq, Condition, GroupImage, Identifiers, MessageImage, Owner, Record, Records, RetainedSlot, Row,
    RowSeq, RowState, SessionImage, Store, Timebase, Timestamp, WillImage,
};

/// Lines between two looks at how the store is.
const STEP: u64 = 1_000;

/// Reads all lines into a store in `directory`, which must hold none; says how many there were.
pub(super) fn import(directory: &Path, lines: impl BufRead) -> Result<u64, String> {
    match Examined::open(directory) {
        Err(OpenError::NoStore { .. }) => {}
        Ok(_) => {
            return Err(format!(
                "there is a store in {} already; name another directory",
                directory.display()
            ));
        }
        Err(other) => return Err(other.to_string()),
    }
    let mut lines = lines.lines();
    let head = lines
        .next()
        .ok_or("there is nothing to be read; it begins with a line that says \"fulmar_store\"")?;
    let head = Line::parse(&head.map_err(|error| error.to_string())?, 1)?;
    let version = head.number("fulmar_store")?;
    if version != VERSION {
        return Err(format!(
            "these lines are of version {version}, and this is a broker for version {VERSION}"
        ));
    }
    let secret = <[u8; 16]>::try_from(head.bytes("secret")?).map_err(|_| head.wrong("secret"))?;
    let options = Options { secret: Some(secret), ..Options::default() };
    let opened = DiskStore::open(directory, Durability::Os, options, Timebase::now());
    let (store, _) = opened.map_err(|error| error.to_string())?;
    let mut records = Records::default();
    if let Some(owner) = head.option("ended_owner")?.filter(|owner| *owner > 0) {
        records.push(&Record::Ended { owner: Owner(owner) });
        store.append(&records);
    }
    let mut count = 1;
    for line in lines {
        count += 1;
        let line = line.map_err(|error| format!("line {count}: {error}"))?;
        records.clear();
        Line::parse(&line, count)?.push(&mut records)?;
        let sequence = store.append(&records);
        if count % STEP == 0 {
            wait(&store, sequence)?;
        }
    }
    wait(&store, store.appended())?;
    store.close();
    Ok(count)
}

/// Until this is committed, or the disk fails.
fn wait(store: &DiskStore, sequence: CommitSeq) -> Result<(), String> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    store.wake_when_committed(sequence, &waker);
    while store.committed() < sequence {
        if store.condition() == Condition::Failing {
            return Err("the new store cannot be written; what is there of it is not whole".to_owned());
        }
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
    Ok(())
}

/// One line, and where it stands.
struct Line<'a> {
    value: Value,
    number: u64,
    /// What has been entered, for messages.
    within: &'a str,
}

impl Line<'static> {
    fn parse(text: &str, number: u64) -> Result<Self, String> {
        let value = serde_json::from_str(text).map_err(|error| format!("line {number}: {error}"))?;
        Ok(Self { value, number, within: "" })
    }

    fn push(&self, records: &mut Records) -> Result<(), String> {
        if let Some(session) = self.enter("session") {
            session.push_session(records)
        } else if let Some(group) = self.enter("group") {
            let owner = group.owner()?;
            let image = GroupImage { owner, name: group.text("name")?, filter: group.text("filter")? };
            records.push(&Record::Group(image));
            group.push_finished(records)
        } else if let Some(subscription) = self.enter("subscription") {
            subscription.push_subscription(records)
        } else if let Some(received) = self.enter("received") {
            let (owner, packet_id) = (received.owner()?, received.packet_id()?);
            records.push(&Record::Received { owner, packet_id });
            Ok(())
        } else if let Some(message) = self.enter("message") {
            self.push_message(&message, records)
        } else {
            Err(self.wrong("kind"))
        }
    }

    /// A message is queued, retained or a Will.
    fn push_message(&self, message: &Line<'_>, records: &mut Records) -> Result<(), String> {
        let (payload, properties) = (message.bytes("payload")?, message.bytes("properties")?);
        let image = message.image(&payload, &properties)?;
        if let Some(will) = self.enter("will") {
            records.push(&Record::Will(WillImage {
                owner: will.owner()?,
                message: image,
                expiry: will.option("expiry")?,
                delay: will.narrow("delay")?,
                due: will.option("due")?.map(Timestamp),
            }));
        } else if self.value.get("retained").is_some() {
            let slot = RetainedSlot(self.narrow("retained")?);
            records.push(&Record::Kept { slot, message: image });
        } else {
            records.push(&Record::Message(image));
            let rows = self.value.get("rows").and_then(Value::as_array).ok_or_else(|| self.wrong("rows"))?;
            for value in rows {
                let row = Line { value: value.clone(), number: self.number, within: "rows" };
                row.push_row(records)?;
            }
        }
        Ok(())
    }
}

impl Line<'_> {
    fn push_session(&self, records: &mut Records) -> Result<(), String> {
        let groups = self
            .value
            .get("user_groups")
            .and_then(Value::as_array)
            .ok_or_else(|| self.wrong("user_groups"))?;
        let groups: Option<Vec<&str>> = groups.iter().map(Value::as_str).collect();
        records.push(&Record::Session(SessionImage {
            owner: self.owner()?,
            client_id: self.text("client_id")?,
            user: if self.is_null("user") { None } else { Some(self.text("user")?) },
            user_groups: groups.ok_or_else(|| self.wrong("user_groups"))?,
            expiry: self.option("expiry")?,
            expires_at: self.option("expires_at")?.map(Timestamp),
        }));
        self.push_finished(records)
    }

    fn push_finished(&self, records: &mut Records) -> Result<(), String> {
        if let Some(row) = self.option("finished_row")?.filter(|row| *row > 0) {
            records.push_done(self.owner()?, RowSeq(row));
        }
        Ok(())
    }

    fn push_subscription(&self, records: &mut Records) -> Result<(), String> {
        let retain_handling = match self.number("retain_handling")? {
            0 => RetainHandling::SendAlways,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(self.wrong("retain_handling")),
        };
        let options = SubscriptionOptions {
            qos: self.qos()?,
            no_local: self.flag("no_local")?,
            retain_as_published: self.flag("retain_as_published")?,
            retain_handling,
        };
        let (owner, filter) = (self.owner()?, self.text("filter")?);
        records.push(&Record::Subscribed { owner, filter, options, identifier: self.narrow("identifier")? });
        Ok(())
    }

    fn push_row(&self, records: &mut Records) -> Result<(), String> {
        let state = match self.text("state")? {
            "waiting" => RowState::Waiting,
            "sent" => RowState::Sent(self.packet_id()?),
            "released" => RowState::Released(self.packet_id()?),
            _ => return Err(self.wrong("state")),
        };
        let identifiers = self.value.get("identifiers").and_then(Value::as_array);
        let identifiers: Option<Vec<u32>> = identifiers
            .ok_or_else(|| self.wrong("identifiers"))?
            .iter()
            .map(|identifier| u32::try_from(identifier.as_u64()?).ok())
            .collect();
        records.push(&Record::Row(Row {
            owner: self.owner()?,
            seq: RowSeq(self.number("row")?),
            state,
            qos: self.qos()?,
            retain: self.flag("retain")?,
            identifiers: Identifiers::Numbers(&identifiers.ok_or_else(|| self.wrong("identifiers"))?),
        }));
        Ok(())
    }

    fn image<'a>(&'a self, payload: &'a [u8], properties: &'a [u8]) -> Result<MessageImage<'a>, String> {
        let publisher = self.text("publisher")?.parse().map_err(|_| self.wrong("publisher"))?;
        let topic = self.text("topic")?;
        if topic.is_empty() || topic.len() > usize::from(u16::MAX) || topic.contains(['\0', '+', '#']) {
            return Err(self.wrong("topic"));
        }
        Ok(MessageImage {
            topic,
            properties,
            payload,
            qos: self.qos()?,
            retain: self.flag("retain")?,
            expires_at: self.option("expires_at")?.map(Timestamp),
            publisher: Publisher(publisher),
        })
    }

    fn enter<'k>(&self, key: &'k str) -> Option<Line<'k>> {
        let value = self.value.get(key).filter(|value| value.is_object())?.clone();
        Some(Line { value, number: self.number, within: key })
    }

    fn wrong(&self, key: &str) -> String {
        let within = if self.within.is_empty() { String::new() } else { format!("{}.", self.within) };
        format!("line {}: {within}{key} is missing, or not what it should be", self.number)
    }

    fn is_null(&self, key: &str) -> bool {
        self.value.get(key).is_none_or(Value::is_null)
    }

    fn number(&self, key: &str) -> Result<u64, String> {
        self.value.get(key).and_then(Value::as_u64).ok_or_else(|| self.wrong(key))
    }

    fn narrow<T: TryFrom<u64>>(&self, key: &str) -> Result<T, String> {
        T::try_from(self.number(key)?).map_err(|_| self.wrong(key))
    }

    fn option<T: TryFrom<u64>>(&self, key: &str) -> Result<Option<T>, String> {
        if self.is_null(key) { Ok(None) } else { self.narrow(key).map(Some) }
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        self.value.get(key).and_then(Value::as_str).ok_or_else(|| self.wrong(key))
    }

    fn flag(&self, key: &str) -> Result<bool, String> {
        self.value.get(key).and_then(Value::as_bool).ok_or_else(|| self.wrong(key))
    }

    fn bytes(&self, key: &str) -> Result<Vec<u8>, String> {
        BASE64_STANDARD.decode(self.text(key)?).map_err(|_| self.wrong(key))
    }

    fn owner(&self) -> Result<Owner, String> {
        self.number("owner").map(Owner)
    }

    fn packet_id(&self) -> Result<PacketId, String> {
        PacketId::new(self.narrow("packet_id")?).ok_or_else(|| self.wrong("packet_id"))
    }

    fn qos(&self) -> Result<QoS, String> {
        match self.number("qos")? {
            0 => Ok(QoS::AtMostOnce),
            1 => Ok(QoS::AtLeastOnce),
            2 => Ok(QoS::ExactlyOnce),
            _ => Err(self.wrong("qos")),
        }
    }
}
