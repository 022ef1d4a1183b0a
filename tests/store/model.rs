//! What a store should hold, kept in the plainest way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fulmar::codec::{PacketId, QoS};
use fulmar::store::{Record, Records, Recovered, RecoveredRow, RowState};

/// All that is kept.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub state: State,
    /// Progress of rows, by owner; the furthest counts, whenever it comes.
    progress: BTreeMap<(u64, u64), Progress>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    sent: Option<PacketId>,
    is_released: bool,
    is_done: bool,
}

/// What recovery can tell, and what reading back adds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub owners: BTreeMap<u64, OwnerState>,
    pub retained: BTreeMap<u32, Vec<u8>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnerState {
    /// Client Identifier, or name and filter.
    pub names: Vec<String>,
    pub expiry: Option<u32>,
    pub subscriptions: BTreeMap<String, u32>,
    pub received: BTreeSet<u16>,
    pub will: Option<(Vec<u8>, u32)>,
    pub rows: BTreeMap<u64, RowKept>,
}

/// A row. Its content, which recovery alone does not tell, does not count when it is compared.
#[derive(Debug, Clone)]
pub struct RowKept {
    pub state: RowState,
    pub qos: QoS,
    /// Length of the message as it costs.
    pub cost: u64,
    pub content: Option<Arc<Content>>,
}

/// What is read back.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    pub payload: Vec<u8>,
    pub identifiers: Vec<u32>,
    pub retain: bool,
}

impl PartialEq for RowKept {
    fn eq(&self, other: &Self) -> bool {
        (self.state, self.qos, self.cost) == (other.state, other.qos, other.cost)
    }
}

impl Eq for RowKept {}

impl Progress {
    fn of(self, state: RowState) -> RowState {
        let state = match (self.sent, state) {
            (Some(packet_id), RowState::Waiting | RowState::Sent(_)) => RowState::Sent(packet_id),
            (_, state) => state,
        };
        match state {
            RowState::Sent(packet_id) if self.is_released => RowState::Released(packet_id),
            state => state,
        }
    }
}

impl Model {
    /// Takes in what was appended at once.
    pub fn apply(&mut self, records: &Records) {
        let mut message = None;
        for record in records.iter() {
            let record = record.unwrap();
            if let Record::Message(image) = record {
                message = Some(image);
                continue;
            }
            let state = &mut self.state;
            match record {
                Record::Message(_) => {}
                Record::Row(row) => {
                    let image = message.unwrap();
                    let progress = self.progress.get(&(row.owner.0, row.seq.0)).copied().unwrap_or_default();
                    if let Some(owner) = state.owners.get_mut(&row.owner.0)
                        && !progress.is_done
                    {
                        let content = Content {
                            payload: image.payload.to_vec(),
                            identifiers: row.identifiers.iter().collect(),
                            retain: row.retain,
                        };
                        let kept = RowKept {
                            state: progress.of(row.state),
                            qos: row.qos,
                            cost: image.cost(),
                            content: Some(Arc::new(content)),
                        };
                        owner.rows.insert(row.seq.0, kept);
                    }
                }
                Record::Sent { owner, first, packet_id, count } => {
                    for ahead in 0..count {
                        let packet_id = PacketId::new(packet_id.get() + ahead);
                        self.progress(owner.0, first.0 + u64::from(ahead), |progress| {
                            progress.sent = packet_id;
                        });
                    }
                }
                Record::Released { owner, seq } => {
                    self.progress(owner.0, seq.0, |progress| progress.is_released = true);
                }
                Record::Done { owner, first, count } => {
                    for seq in first.0..first.0 + count {
                        self.progress(owner.0, seq, |progress| progress.is_done = true);
                    }
                }
                Record::Kept { slot, message } => {
                    state.retained.insert(slot.0, message.payload.to_vec());
                }
                Record::Forgotten { slot } => {
                    state.retained.remove(&slot.0);
                }
                Record::Session(image) => {
                    let owner = state.owners.entry(image.owner.0).or_default();
                    owner.names = vec![image.client_id.to_owned()];
                    owner.expiry = image.expiry;
                }
                Record::Group(image) => {
                    let owner = state.owners.entry(image.owner.0).or_default();
                    owner.names = vec![image.name.to_owned(), image.filter.to_owned()];
                }
                Record::Ended { owner } => {
                    state.owners.remove(&owner.0);
                }
                Record::Received { owner, packet_id } => {
                    state.owners.get_mut(&owner.0).map(|owner| owner.received.insert(packet_id.get()));
                }
                Record::Completed { owner, packet_id } => {
                    state.owners.get_mut(&owner.0).map(|owner| owner.received.remove(&packet_id.get()));
                }
                Record::Subscribed { owner, filter, identifier, .. } => {
                    let owner = state.owners.get_mut(&owner.0);
                    owner.map(|owner| owner.subscriptions.insert(filter.to_owned(), identifier));
                }
                Record::Unsubscribed { owner, filter } => {
                    state.owners.get_mut(&owner.0).map(|owner| owner.subscriptions.remove(filter));
                }
                Record::Will(will) => {
                    let kept = Some((will.message.payload.to_vec(), will.delay));
                    state
                        .owners
                        .get_mut(&will.owner.0)
                        .into_iter()
                        .for_each(|owner| owner.will = kept.clone());
                }
                Record::WillEnded { owner } => {
                    state.owners.get_mut(&owner.0).into_iter().for_each(|owner| owner.will = None);
                }
            }
        }
    }

    fn progress(&mut self, owner: u64, seq: u64, with: impl FnOnce(&mut Progress)) {
        let progress = self.progress.entry((owner, seq)).or_default();
        with(progress);
        if let Some(owner) = self.state.owners.get_mut(&owner) {
            if progress.is_done {
                owner.rows.remove(&seq);
            } else if let Some(row) = owner.rows.get_mut(&seq) {
                row.state = progress.of(row.state);
            }
        }
    }

    /// What belonged to a process that has ended is not remembered.
    pub fn restarted(state: State) -> Self {
        Self { state, progress: BTreeMap::new() }
    }
}

impl State {
    /// In what it is not the other.
    pub fn difference(&self, other: &Self) -> String {
        let mut told = String::new();
        if self.retained != other.retained {
            told += "retained messages differ; ";
        }
        let numbers: BTreeSet<_> = self.owners.keys().chain(other.owners.keys()).collect();
        for number in numbers {
            let (Some(this), Some(that)) = (self.owners.get(number), other.owners.get(number)) else {
                told += &format!("owner {number} is only in one; ");
                continue;
            };
            let without_rows = |owner: &OwnerState| OwnerState { rows: BTreeMap::new(), ..owner.clone() };
            if without_rows(this) != without_rows(that) {
                told += &format!("{:?} for {:?}; ", without_rows(this), without_rows(that));
            }
            let rows: BTreeSet<_> = this.rows.keys().chain(that.rows.keys()).collect();
            for row in rows {
                let state = |owner: &OwnerState| owner.rows.get(row).map(|row| row.state);
                if state(this) != state(that) {
                    told += &format!("row {row} of {number}: {:?} for {:?}; ", state(this), state(that));
                }
            }
        }
        told
    }

    pub fn of(recovered: &Recovered) -> Self {
        let mut state = Self::default();
        for session in &recovered.sessions {
            let will = session.will.as_ref().map(|will| (will.message.payload().to_vec(), will.delay));
            let owner = OwnerState {
                names: vec![session.client_id.to_string()],
                expiry: session.expiry,
                subscriptions: session
                    .subscriptions
                    .iter()
                    .map(|(filter, _, identifier)| (filter.to_string(), *identifier))
                    .collect(),
                received: session.received.iter().map(|packet_id| packet_id.get()).collect(),
                will,
                rows: rows(&session.rows),
            };
            assert!(session.owner.0 < recovered.next_owner);
            assert!(owner.rows.keys().all(|seq| *seq < session.next_row.0));
            state.owners.insert(session.owner.0, owner);
        }
        for group in &recovered.groups {
            let names = vec![group.name.to_string(), group.filter.to_string()];
            let owner = OwnerState { names, rows: rows(&group.rows), ..OwnerState::default() };
            assert!(group.owner.0 < recovered.next_owner);
            state.owners.insert(group.owner.0, owner);
        }
        let kept = recovered.retained.iter().map(|(slot, message)| (slot.0, message.payload().to_vec()));
        state.retained = kept.collect();
        state
    }
}

fn rows(rows: &[RecoveredRow]) -> BTreeMap<u64, RowKept> {
    assert!(rows.is_sorted_by_key(|row| row.seq));
    let kept =
        |row: &RecoveredRow| RowKept { state: row.state, qos: row.qos, cost: row.cost.into(), content: None };
    rows.iter().map(|row| (row.seq.0, kept(row))).collect()
}
