//! A store as lines of JSON: one thing a line, owners first.
//!
//! Bytes are in base64, times in milliseconds since 1970. A message stands once, with all its rows. [`super::import`] reads
//! what this writes.

use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::codec::SubscriptionOptions;
use crate::store::disk::{Examined, Live};
use crate::store::{MessageImage, Record, RecoveredRow, Row, RowSeq, RowState};

/// The version of the lines.
pub(super) const VERSION: u64 = 1;

/// Writes everything.
pub(super) fn export(examined: &Examined, output: &mut impl Write) -> io::Result<()> {
    let recovered = examined.recovered();
    let owners = recovered.sessions.iter().map(|session| session.owner);
    let highest = owners.chain(recovered.groups.iter().map(|group| group.owner)).max();
    let head = json!({
        "fulmar_store": VERSION,
        // Numbers are not used again; the highest one is told by whoever has it, or else here.
        "ended_owner": Some(recovered.next_owner - 1).filter(|last| highest.is_none_or(|highest| highest.0 < *last)),
        "secret": BASE64_STANDARD.encode(examined.secret()),
    });
    writeln!(output, "{head}")?;
    for session in &recovered.sessions {
        let line = json!({ "session": {
            "owner": session.owner.0,
            "client_id": session.client_id,
            "user": session.user,
            "user_groups": session.user_groups,
            "expiry": session.expiry,
            "expires_at": session.expires_at.map(|at| at.0),
            "finished_row": finished(session.next_row, &session.rows),
        }});
        writeln!(output, "{line}")?;
    }
    for group in &recovered.groups {
        let line = json!({ "group": {
            "owner": group.owner.0,
            "name": group.name,
            "filter": group.filter,
            "finished_row": finished(group.next_row, &group.rows),
        }});
        writeln!(output, "{line}")?;
    }
    examined.each(|live| match line(&live) {
        Some(line) => writeln!(output, "{line}"),
        None => Ok(()),
    })
}

/// The highest number of a row, if that row is gone: it must not be used again.
fn finished(next: RowSeq, rows: &[RecoveredRow]) -> Option<u64> {
    let last = next.0.checked_sub(1).filter(|last| *last > 0)?;
    rows.last().is_none_or(|row| row.seq.0 < last).then_some(last)
}

fn line(live: &Live<'_>) -> Option<Value> {
    match live {
        Live::Message(image, rows) => {
            let rows: Vec<Value> = rows.iter().map(row).collect();
            Some(json!({ "message": message(image), "rows": rows }))
        }
        Live::Record(record) => thing(record),
    }
}

/// Sessions and groups were written before.
fn thing(record: &Record<'_>) -> Option<Value> {
    Some(match record {
        Record::Kept { slot, message: image } => json!({ "retained": slot.0, "message": message(image) }),
        Record::Received { owner, packet_id } => {
            json!({ "received": { "owner": owner.0, "packet_id": packet_id.get() } })
        }
        Record::Subscribed { owner, filter, options, identifier } => {
            let SubscriptionOptions { qos, no_local, retain_as_published, retain_handling } = options;
            json!({ "subscription": {
                "owner": owner.0,
                "filter": filter,
                "qos": *qos as u8,
                "no_local": no_local,
                "retain_as_published": retain_as_published,
                "retain_handling": *retain_handling as u8,
                "identifier": identifier,
            }})
        }
        Record::Will(will) => json!({
            "will": {
                "owner": will.owner.0,
                "expiry": will.expiry,
                "delay": will.delay,
                "due": will.due.map(|at| at.0),
            },
            "message": message(&will.message),
        }),
        Record::Session(_)
        | Record::Group(_)
        | Record::Message(_)
        | Record::Row(_)
        | Record::Sent { .. }
        | Record::Released { .. }
        | Record::Done { .. }
        | Record::Forgotten { .. }
        | Record::Completed { .. }
        | Record::Ended { .. }
        | Record::Unsubscribed { .. }
        | Record::WillEnded { .. } => return None,
    })
}

fn message(image: &MessageImage<'_>) -> Value {
    json!({
        "topic": image.topic,
        "payload": BASE64_STANDARD.encode(image.payload),
        "properties": BASE64_STANDARD.encode(image.properties),
        "qos": image.qos as u8,
        "retain": image.retain,
        "expires_at": image.expires_at.map(|at| at.0),
        // A number that not every reader of JSON can hold.
        "publisher": image.publisher.0.to_string(),
    })
}

fn row(row: &Row<'_>) -> Value {
    let (state, packet_id) = match row.state {
        RowState::Waiting => ("waiting", None),
        RowState::Sent(packet_id) => ("sent", Some(packet_id.get())),
        RowState::Released(packet_id) => ("released", Some(packet_id.get())),
    };
    json!({
        "owner": row.owner.0,
        "row": row.seq.0,
        "state": state,
        "packet_id": packet_id,
        "qos": row.qos as u8,
        "retain": row.retain,
        "identifiers": row.identifiers.iter().collect::<Vec<u32>>(),
    })
}
