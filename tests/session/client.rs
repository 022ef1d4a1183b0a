//! The client half: a model of a client as the standard asks for one. It keeps its session state over connections,
//! sends again what was not acknowledged, and delivers QoS 2 once.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use fulmar::codec::{
    AckKind, Packet, PacketId, ProtocolVersion, Publish, PublishHeader, PublishProperties, QoS, ReasonCode,
    decode, encode_acknowledgement, encode_publish, read_header,
};

/// A message that was to get to the other half.
#[derive(Debug, Clone)]
pub struct Sent {
    pub qos: QoS,
    pub number: u64,
    /// The other half takes packets of its size.
    pub fits: bool,
    pub expires_at: Option<Instant>,
    /// The other half refuses it.
    pub refused: bool,
}

impl Sent {
    fn must_come(&self) -> bool {
        self.fits && self.expires_at.is_none() && !self.refused && self.qos > QoS::AtMostOnce
    }
}

/// The number a payload begins with.
pub fn number_of(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload[..8].try_into().unwrap())
}

/// Some messages with QoS 2 are refused with an error in PUBREC, always the same ones.
pub fn is_refused(number: u64) -> bool {
    number % 11 == 7
}

/// A message on its way to the server.
#[derive(Debug, Clone)]
struct Sending {
    packet_id: PacketId,
    qos: QoS,
    number: u64,
    /// PUBREC has come, PUBREL is sent.
    released: bool,
}

/// What belongs to one connection.
#[derive(Debug, Default)]
struct Connection {
    input: Vec<u8>,
    output: Vec<u8>,
    /// Acknowledgements that are written when the client gets to it.
    owed: VecDeque<Vec<u8>>,
    aliases: HashMap<u16, Vec<u8>>,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    version: ProtocolVersion,
    connection: Option<Connection>,
    /// It answers nothing until then.
    pub silent_until: Option<Instant>,
    /// QoS 2 identifiers received and not released.
    received: BTreeSet<PacketId>,
    /// What it got, in the order it came.
    delivered: Vec<(QoS, u64)>,
    sending: Vec<Sending>,
    next_id: u16,
    sent: Vec<Sent>,
}

impl Client {
    pub fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            connection: None,
            silent_until: None,
            received: BTreeSet::new(),
            delivered: Vec::new(),
            sending: Vec::new(),
            next_id: 1,
            sent: Vec::new(),
        }
    }

    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub fn sent(&self) -> &[Sent] {
        &self.sent
    }

    pub fn delivered(&self) -> &[(QoS, u64)] {
        &self.delivered
    }

    /// A new connection: what is not acknowledged goes out again, in order.
    pub fn connect(&mut self) {
        let mut connection = Connection::default();
        for sending in &self.sending {
            write_sending(&mut connection.output, self.version, sending, true);
        }
        self.connection = Some(connection);
    }

    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Publishes, at once or as soon as it is connected.
    pub fn publish(&mut self, qos: QoS) {
        let number = self.sent.len() as u64;
        self.sent.push(Sent { qos, number, fits: true, expires_at: None, refused: false });
        let packet_id = loop {
            let id = PacketId::new(self.next_id);
            self.next_id = self.next_id % 30_000 + 1;
            match id {
                Some(id) if self.sending.iter().all(|sending| sending.packet_id != id) => break id,
                _ => {}
            }
        };
        let sending = Sending { packet_id, qos, number, released: false };
        if let Some(connection) = &mut self.connection {
            write_sending(&mut connection.output, self.version, &sending, false);
        }
        self.sending.push(sending);
    }

    /// What the server sent arrives.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        let Some(connection) = &mut self.connection else { return };
        connection.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut connection.input);
        let mut rest = &input[..];
        while let Some(header) = read_header(rest).unwrap() {
            let Some((frame, behind)) = rest.split_at_checked(header.frame_length()) else { break };
            let packet = decode(self.version, frame).unwrap();
            self.handle_packet(&packet);
            rest = behind;
        }
        if let Some(connection) = &mut self.connection {
            connection.input = rest.to_vec();
        }
    }

    fn handle_packet(&mut self, packet: &Packet<'_>) {
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish),
            Packet::PubAck(ack) => self.forget(ack.packet_id, QoS::AtLeastOnce),
            Packet::PubRec(ack) => {
                let sending = self.sending.iter_mut().find(|sending| sending.packet_id == ack.packet_id);
                let sending = sending.expect("a PUBREC for what was not sent");
                sending.released = true;
                let sending = sending.clone();
                if let Some(connection) = &mut self.connection {
                    write_sending(&mut connection.output, self.version, &sending, false);
                }
            }
            Packet::PubComp(ack) => self.forget(ack.packet_id, QoS::ExactlyOnce),
            Packet::PubRel(ack) => {
                assert_eq!(ack.reason, ReasonCode::Success, "the server has lost {:?}", ack.packet_id);
                self.received.remove(&ack.packet_id);
                self.owe(AckKind::PubComp, ack.packet_id, ReasonCode::Success);
            }
            other => panic!("the session sends no {other:?}"),
        }
    }

    fn handle_publish(&mut self, publish: &Publish<'_>) {
        self.check_topic(publish);
        let number = number_of(publish.payload);
        let deliver = match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => true,
            (QoS::AtLeastOnce, Some(id)) => {
                self.owe(AckKind::PubAck, id, ReasonCode::Success);
                true
            }
            (QoS::ExactlyOnce, Some(id)) if is_refused(number) && self.version == ProtocolVersion::V5 => {
                self.owe(AckKind::PubRec, id, ReasonCode::QuotaExceeded);
                false
            }
            (QoS::ExactlyOnce, Some(id)) => {
                let is_new = self.received.insert(id);
                assert!(is_new || publish.dup, "{id:?} is not released, and {number} is no repetition");
                self.owe(AckKind::PubRec, id, ReasonCode::Success);
                is_new
            }
            (QoS::AtLeastOnce | QoS::ExactlyOnce, None) => panic!("no identifier"),
        };
        if deliver {
            self.delivered.push((publish.qos, number));
        }
    }

    /// The topic follows from the number, whether it comes in full or as an alias.
    fn check_topic(&mut self, publish: &Publish<'_>) {
        let Some(connection) = &mut self.connection else { return };
        let topic = match publish.properties.topic_alias {
            Some(alias) if publish.topic.is_empty() => connection
                .aliases
                .get(&alias.get())
                .cloned()
                .expect("an alias is introduced before it is used"),
            Some(alias) => {
                connection.aliases.insert(alias.get(), publish.topic.to_vec());
                publish.topic.to_vec()
            }
            None => publish.topic.to_vec(),
        };
        assert!(topic.starts_with(b"topic/"), "{topic:?}");
    }

    fn owe(&mut self, kind: AckKind, packet_id: PacketId, reason: ReasonCode) {
        if let Some(connection) = &mut self.connection {
            let mut bytes = Vec::new();
            encode_acknowledgement(&mut bytes, self.version, kind, packet_id, reason);
            connection.owed.push_back(bytes);
        }
    }

    fn forget(&mut self, packet_id: PacketId, qos: QoS) {
        let before = self.sending.len();
        self.sending.retain(|sending| sending.packet_id != packet_id || sending.qos != qos);
        // The answer to what was sent again may come twice.
        assert!(before - self.sending.len() <= 1);
    }

    /// Writes what it has to say; the acknowledgements only if it is `willing`.
    pub fn write(&mut self, now: Instant, willing: bool, room: usize, out: &mut impl Extend<u8>) {
        let is_silent = self.silent_until.is_some_and(|until| until > now);
        let Some(connection) = &mut self.connection else { return };
        if willing && !is_silent {
            for bytes in connection.owed.drain(..) {
                connection.output.extend(bytes);
            }
        }
        let count = connection.output.len().min(room);
        out.extend(connection.output.drain(..count));
    }

    /// What it got must be what was sent to it.
    pub fn check_against(&self, sent: &[Sent], who: &str) {
        let is_v5 = self.version == ProtocolVersion::V5;
        let sent: Vec<Sent> = sent
            .iter()
            .map(|sent| Sent {
                refused: is_v5 && sent.qos == QoS::ExactlyOnce && is_refused(sent.number),
                ..sent.clone()
            })
            .collect();
        check(who, &self.delivered, &sent);
    }

    pub fn is_idle(&self) -> bool {
        self.sending.is_empty()
            && self.received.is_empty()
            && self.connection.as_ref().is_some_and(|connection| {
                connection.owed.is_empty() && connection.output.is_empty() && connection.input.is_empty()
            })
    }

    pub fn what_is_left(&self) -> String {
        format!("client: sending {:?}, not released {:?}", self.sending, self.received)
    }
}

/// Checks what one half got against what the other sent: QoS 0 at most once, QoS 1 at least once with the first
/// deliveries in order, QoS 2 exactly once in order.
pub fn check(who: &str, got: &[(QoS, u64)], sent: &[Sent]) {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let of_this = got.iter().filter(|(of, _)| *of == qos).map(|(_, number)| *number);
        let mut seen = BTreeSet::new();
        let first: Vec<u64> = of_this.clone().filter(|number| seen.insert(*number)).collect();
        assert!(first.is_sorted(), "{who} got {qos:?} out of order: {first:?}");
        if qos != QoS::AtLeastOnce {
            assert_eq!(first.len(), of_this.count(), "{who} got {qos:?} more than once");
        }
        for sent in sent.iter().filter(|sent| sent.qos == qos) {
            let came = seen.contains(&sent.number);
            assert!(came || !sent.must_come(), "{who} never got {sent:?}");
            assert!(!came || (sent.fits && !sent.refused), "{who} got {sent:?}");
        }
        assert!(seen.iter().all(|number| sent[*number as usize].qos == qos), "{who} got another QoS");
    }
}

fn write_sending(out: &mut Vec<u8>, version: ProtocolVersion, sending: &Sending, again: bool) {
    let Sending { packet_id, qos, number, released } = *sending;
    if released {
        return encode_acknowledgement(out, version, AckKind::PubRel, packet_id, ReasonCode::Success);
    }
    let header = PublishHeader { dup: again, qos, retain: false, packet_id: Some(packet_id) };
    let properties = PublishProperties::default();
    encode_publish(out, version, &header, b"from/client", properties, &number.to_be_bytes()).unwrap();
}
