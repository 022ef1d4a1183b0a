//! Shared subscriptions: a group of sessions that share the messages of one filter, §4.8.2.
//!
//! The queue belongs to the group, not to its members: a message with QoS 1 or 2 waits there until a connected
//! member has room in its window, so a slow or offline member never hoards, and a group with nobody connected
//! loses nothing. Owner: [`super::Broker`], which finds groups by name and filter; they also stand in the trie.
//! What always holds: a group's lock is taken before a member's; a message is in the queue or in one member's
//! hands, never in both. Clauses: [MQTT-4.8.2-3] to [MQTT-4.8.2-6].

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;

use super::handle::{Granted, SessionHandle, SessionState};
use super::publish::note_filling;
use crate::auth::acl::Decision;
use crate::codec::QoS;
use crate::config::SharedStrategy;
use crate::message::{Expiry, Message, Publisher, Run, SessionNumber};
use crate::session::{
    Context, DropReason, GroupNumber, NewRow, Pushed, Queue, QueueBudget, Queued, Report, Session, Terms,
};
use crate::store::{RecoveredRow, RowSeq, RowState, Store};
use crate::topic::{TopicFilter, TopicName};

/// See the module.
#[derive(Debug)]
pub struct Group {
    /// Its number, unique while the broker lives.
    pub number: GroupNumber,
    /// The ShareName.
    pub name: Box<str>,
    /// The Topic Filter.
    pub filter: TopicFilter,
    strategy: SharedStrategy,
    /// Length of the queue, readable without the lock.
    waiting: AtomicUsize,
    /// Whether the first of them is in memory.
    ready: AtomicBool,
    /// The store keeps what waits: a member's session outlives its connection, or one's did.
    kept: AtomicBool,
    state: Mutex<GroupState>,
}

#[derive(Debug)]
struct GroupState {
    members: Vec<Member>,
    queue: Queue,
    /// The row that the next message gets.
    next_row: RowSeq,
    /// Whose turn it is.
    next: usize,
    hasher: DefaultHashBuilder,
    /// Choices made, for the random ones.
    choices: u64,
}

#[derive(Debug)]
struct Member {
    handle: Arc<SessionHandle>,
    granted: Granted,
}

/// A group's row of a message that is offered to the members.
#[derive(Clone, Copy)]
enum GroupRow<'a> {
    /// It has none.
    None,
    /// The store has it already.
    Known(RowSeq),
    /// The store gets it, with this message, if it has to keep it for the group.
    New(RowSeq, &'a dyn Fn() -> Arc<Message>),
}

/// What of a message decides to whom it goes.
#[derive(Clone, Copy)]
struct Ticket<'a> {
    qos: QoS,
    publisher: Publisher,
    topic: &'a str,
}

impl Group {
    /// A group without members.
    pub fn new(
        number: GroupNumber,
        name: Box<str>,
        filter: TopicFilter,
        strategy: SharedStrategy,
        budget: Arc<QueueBudget>,
    ) -> Self {
        let state = GroupState {
            members: Vec::new(),
            queue: Queue::new(budget),
            next_row: RowSeq(1),
            next: 0,
            hasher: DefaultHashBuilder::default(),
            choices: 0,
        };
        Self {
            number,
            name,
            filter,
            strategy,
            waiting: AtomicUsize::new(0),
            ready: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// Adds a member or renews what it is granted; whether it is new.
    pub fn join(&self, handle: &Arc<SessionHandle>, granted: Granted) -> bool {
        let mut state = self.state.lock();
        match state.members.iter_mut().find(|member| member.handle.number == handle.number) {
            Some(member) => {
                member.granted = granted;
                false
            }
            None => {
                state.members.push(Member { handle: handle.clone(), granted });
                true
            }
        }
    }

    /// Removes a member; whether none is left.
    pub fn leave(&self, number: SessionNumber) -> bool {
        let mut state = self.state.lock();
        state.members.retain(|member| member.handle.number != number);
        state.members.is_empty()
    }

    /// How many members it has.
    pub fn members(&self) -> usize {
        self.state.lock().members.len()
    }

    /// Whether messages wait for a member with room.
    pub fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Whether the store keeps what waits.
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    /// From now on the store keeps what waits; whether it did not before. What waits already stays in memory: its
    /// members' sessions all end with their connections.
    pub fn keep(&self) -> bool {
        !self.kept.swap(true, Ordering::AcqRel)
    }

    /// Takes over what the store had of it when it was opened.
    pub fn restore(&self, rows: Vec<RecoveredRow>, next_row: RowSeq) {
        let mut state = self.state.lock();
        state.next_row = next_row;
        state.queue.restore(rows.into_iter());
        self.kept.store(true, Ordering::Release);
        self.note_waiting(&state);
    }

    /// Has the store read what comes next, and takes in what it has read; `waker` is woken then.
    pub fn fetch(&self, store: &dyn Store, waker: &Waker, context: Context<'_>) {
        let mut state = self.state.lock();
        let fetch = state.queue.next_fetch(self.number.owner(), &context.limits.queue, waker);
        drop(state);
        if let Some(fetch) = fetch {
            store.fetch(fetch);
        }
    }

    /// Whether the first message that waits is in memory.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Gives each message of a run to one member, or to the queue.
    pub fn deliver(&self, run: &Run<'_>, context: Context<'_>, report: &mut Report) {
        let mut state = self.state.lock();
        for incoming in run.messages.iter().filter(|incoming| !incoming.is_refused()) {
            let qos = incoming.publish.qos;
            let ticket = Ticket { qos, publisher: run.publisher, topic: run.topic(incoming).as_str() };
            let single = Run {
                messages: std::slice::from_ref(incoming),
                plain: None,
                payload_bytes: incoming.publish.payload.len(),
                ..*run
            };
            let keep = || run.keep(incoming).clone();
            let row = self.new_row(&mut state, qos, &keep);
            let given = (qos == QoS::AtMostOnce || state.queue.is_empty())
                && state.offer(self, ticket, row, context, report, &mut |session, terms, report| {
                    session.deliver(&single, terms, context, report);
                });
            if !given
                && state.is_readable(ticket.topic)
                && !state.enqueue(self, qos, row, keep, context, report)
            {
                incoming.reject();
            }
        }
        self.settle_waiting(&mut state, context, report);
    }

    /// The same for a message that is kept.
    pub fn deliver_kept(&self, message: &Arc<Message>, context: Context<'_>, report: &mut Report) {
        let mut state = self.state.lock();
        let qos = message.qos;
        let keep = || message.clone();
        let row = self.new_row(&mut state, qos, &keep);
        let given = (qos == QoS::AtMostOnce || state.queue.is_empty())
            && state.offer_kept(self, message, row, context, report);
        if !given && state.is_readable(message.topic().as_str()) {
            state.enqueue(self, qos, row, keep, context, report);
        }
        self.settle_waiting(&mut state, context, report);
    }

    /// Gives a member that has room what waits.
    pub fn pump(&self, handle: &SessionHandle, context: Context<'_>, report: &mut Report) {
        let mut state = self.state.lock();
        let Some(granted) = state
            .members
            .iter()
            .find(|member| member.handle.number == handle.number)
            .map(|member| member.granted.clone())
        else {
            return;
        };
        let mut member = handle.lock();
        if let Some(link) = &member.session.link {
            state.queue.take_fetched(&link.waker, |_| true, &mut |_| {});
        }
        while can_take(&member.session, QoS::AtLeastOnce, context) {
            let Some(queued) = state.queue.pop() else { break };
            let decision = may_read(&member, queued.message.topic().as_str());
            if !decision.allowed {
                // It waits for a member that may.
                state.queue.put_back(vec![queued]);
                break;
            }
            let terms = granted.terms(false);
            let terms = Terms {
                group: Some(self.number),
                group_row: queued.row,
                qos: terms.qos.min(decision.maximum_qos),
                ..terms
            };
            let retain = queued.message.retain && granted.retain_as_published;
            member.session.deliver_kept(&queued.message, retain, &terms, context, report);
        }
        handle.note_load(&member);
        drop(member);
        self.note_waiting(&state);
    }

    /// Takes messages back from a member whose connection broke, and gives them to others at once if they have
    /// room [MQTT-4.8.2-5].
    pub fn take_back(&self, returned: Vec<Queued>, context: Context<'_>, report: &mut Report) {
        let mut state = self.state.lock();
        if state.members.is_empty() {
            return;
        }
        state.queue.put_back(returned);
        self.note_waiting(&state);
        self.offer_waiting(&mut state, context, report);
    }

    /// The row that a message gets, if the store keeps it.
    fn new_row<'k>(
        &self,
        state: &mut GroupState,
        qos: QoS,
        message: &'k dyn Fn() -> Arc<Message>,
    ) -> GroupRow<'k> {
        if qos == QoS::AtMostOnce || !self.is_kept() {
            return GroupRow::None;
        }
        let row = state.next_row;
        state.next_row = RowSeq(row.0 + 1);
        GroupRow::New(row, message)
    }

    /// Forgets what waits: the group has no member any more.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.queue.clear();
        self.note_waiting(&state);
    }

    /// Messages that wait.
    pub fn queued(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Says that messages wait now, and only then asks the members once more: one that got room just before did
    /// not know of them, and will not look again by itself; one that gets room from now on will.
    fn settle_waiting(&self, state: &mut GroupState, context: Context<'_>, report: &mut Report) {
        let is_known = self.has_waiting();
        self.note_waiting(state);
        if !is_known && !state.queue.is_empty() {
            self.offer_waiting(state, context, report);
        }
    }

    /// Gives what waits to members that have room.
    fn offer_waiting(&self, state: &mut GroupState, context: Context<'_>, report: &mut Report) {
        while let Some(queued) = state.queue.pop() {
            if queued.message.expiry(context.now) == Expiry::Expired {
                report.dropped[DropReason::Expired as usize] += 1;
                report.done(Some(self.number.owner()), queued.row);
            } else if !state.offer_kept(self, &queued.message, GroupRow::Known(queued.row), context, report) {
                state.queue.put_back(vec![queued]);
                break;
            }
        }
        self.note_waiting(state);
    }

    /// The row as the store gets it: each member gets the message on terms of its own.
    fn row_of(&self, seq: RowSeq, message: Arc<Message>) -> NewRow {
        NewRow {
            owner: self.number.owner(),
            seq,
            state: RowState::Waiting,
            qos: message.qos,
            retain: false,
            identifiers: None,
            message,
        }
    }

    fn note_waiting(&self, state: &GroupState) {
        self.waiting.store(state.queue.len(), Ordering::Release);
        self.ready.store(state.queue.is_ready(), Ordering::Release);
    }
}

impl GroupState {
    /// Whether any member may read a topic: otherwise there is nobody to wait for.
    fn is_readable(&self, topic: &str) -> bool {
        self.members.iter().any(|member| may_read(&member.handle.lock(), topic).allowed)
    }

    fn offer_kept(
        &mut self,
        group: &Group,
        message: &Arc<Message>,
        row: GroupRow<'_>,
        context: Context<'_>,
        report: &mut Report,
    ) -> bool {
        let ticket =
            Ticket { qos: message.qos, publisher: message.publisher, topic: message.topic().as_str() };
        self.offer(group, ticket, row, context, report, &mut |session, terms, report| {
            let retain = message.retain && terms.retain_as_published;
            session.deliver_kept(message, retain, terms, context, report);
        })
    }

    /// Offers a message to the members, the preferred one first; whether one took it.
    fn offer(
        &mut self,
        group: &Group,
        ticket: Ticket<'_>,
        row: GroupRow<'_>,
        context: Context<'_>,
        report: &mut Report,
        deliver: &mut dyn FnMut(&mut Session, &Terms<'_>, &mut Report),
    ) -> bool {
        let count = self.members.len();
        let first = self.preferred(group.strategy, ticket);
        for step in 0..count {
            let index = (first + step) % count;
            let Some(member) = self.members.get(index) else { continue };
            let mut state = member.handle.lock();
            let qos = ticket.qos.min(member.granted.qos);
            let decision = may_read(&state, ticket.topic);
            if !decision.allowed {
                continue;
            }
            let qos = qos.min(decision.maximum_qos);
            if state.ended || !can_take(&state.session, qos, context) {
                continue;
            }
            let granted = member.granted.terms(false);
            let group_row = match row {
                GroupRow::None => RowSeq::default(),
                GroupRow::Known(row) => row,
                // Only with QoS 1 does the group keep what a member has in its hands.
                GroupRow::New(row, message) if qos == QoS::AtLeastOnce => {
                    report.rows.push(group.row_of(row, message()));
                    row
                }
                GroupRow::New(..) => RowSeq::default(),
            };
            let terms = Terms {
                group: Some(group.number),
                group_row,
                qos: granted.qos.min(decision.maximum_qos),
                ..granted
            };
            deliver(&mut state.session, &terms, report);
            member.handle.note_load(&state);
            drop(state);
            self.next = if group.strategy == SharedStrategy::Sticky { index } else { index + 1 };
            return true;
        }
        false
    }

    fn preferred(&mut self, strategy: SharedStrategy, ticket: Ticket<'_>) -> usize {
        let count = self.members.len().max(1);
        match strategy {
            SharedStrategy::RoundRobin | SharedStrategy::Sticky => self.next % count,
            SharedStrategy::LeastInFlight => {
                let turn = self.next % count;
                (0..count)
                    .map(|step| (turn + step) % count)
                    .min_by_key(|index| self.members.get(*index).map_or(u32::MAX, |m| m.handle.load()))
                    .unwrap_or(turn)
            }
            SharedStrategy::Random => {
                self.choices += 1;
                self.hasher.hash_one(self.choices) as usize % count
            }
            SharedStrategy::HashClient => self.hasher.hash_one(ticket.publisher.0) as usize % count,
            SharedStrategy::HashTopic => {
                let mut hasher = self.hasher.build_hasher();
                hasher.write(ticket.topic.as_bytes());
                hasher.finish() as usize % count
            }
        }
    }

    /// Queues a message that no member can take now; QoS 0 does not wait, as for a session that is not connected.
    /// `false` if the publisher is to be told that there is no room.
    fn enqueue(
        &mut self,
        group: &Group,
        qos: QoS,
        row: GroupRow<'_>,
        message: impl Fn() -> Arc<Message>,
        context: Context<'_>,
        report: &mut Report,
    ) -> bool {
        let is_connected = self.members.iter().any(|member| member.handle.lock().session.link.is_some());
        if qos == QoS::AtMostOnce {
            if is_connected {
                report.dropped[DropReason::OutboxFull as usize] += 1;
            }
            return true;
        }
        let row = match row {
            GroupRow::New(row, _) | GroupRow::Known(row) => row,
            GroupRow::None => RowSeq::default(),
        };
        let queued = Queued { message: message(), identifiers: None, row, qos, retain: false };
        let (limits, time) = (&context.limits.queue, (context.now, context.timebase));
        let owner = Some(group.number.owner());
        let pushed = self.queue.push(queued, limits, is_connected, time, &mut |row| report.done(owner, row));
        let (waits, dropped, accepted) = match pushed {
            Pushed::Queued => (true, 0, true),
            Pushed::Displaced(count) => (true, count, true),
            Pushed::Dropped => (false, 1, true),
            Pushed::Rejected => (false, 1, false),
        };
        report.queued += u64::from(waits);
        if waits && self.queue.is_newly_filling(limits) {
            note_filling("shared group", &group.name, self.queue.len());
        }
        if waits && row != RowSeq::default() {
            report.rows.push(group.row_of(row, message()));
        }
        report.dropped[DropReason::QueueFull as usize] += u64::from(dropped);
        accepted
    }
}

/// Whether a member may be given a topic at all.
fn may_read(state: &SessionState, topic: &str) -> Decision {
    // The topic came out of a message, so it is one.
    let topic = TopicName::assume_checked(topic);
    state.permissions.as_ref().map_or(Decision::FREE, |permissions| permissions.receive(topic))
}

/// Whether a session can be given a message of this QoS now.
pub fn can_take(session: &Session, qos: QoS, context: Context<'_>) -> bool {
    let reads = session.link.as_ref().is_some_and(|link| link.pending() < context.limits.outbox_hard);
    reads && (qos == QoS::AtMostOnce || session.has_room())
}

/// All groups, by ShareName and filter.
#[derive(Debug, Default)]
pub struct GroupTable {
    by_name: HashMap<(Box<str>, Box<str>), Arc<Group>>,
    by_number: HashMap<GroupNumber, Arc<Group>>,
}

impl GroupTable {
    /// The group of a name and filter.
    pub fn find(&self, name: &str, filter: &TopicFilter) -> Option<&Arc<Group>> {
        self.by_name.get(&(Box::from(name), Box::from(filter.as_str())))
    }

    /// The group of a number.
    pub fn get(&self, number: GroupNumber) -> Option<&Arc<Group>> {
        self.by_number.get(&number)
    }

    /// Adds a group.
    pub fn insert(&mut self, group: Group) -> Arc<Group> {
        let group = Arc::new(group);
        self.by_name.insert((group.name.clone(), group.filter.as_str().into()), group.clone());
        self.by_number.insert(group.number, group.clone());
        group
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// How many members they have together.
    pub fn members(&self) -> usize {
        self.by_number.values().map(|group| group.members()).sum()
    }

    /// Removes a group.
    pub fn remove(&mut self, group: &Group) {
        self.by_name.remove(&(group.name.clone(), Box::from(group.filter.as_str())));
        self.by_number.remove(&group.number);
    }
}
