//! How a message is written for one client: the bytes as they came where nothing has to change, else a frame of its
//! own, with its properties, its alias and its size within what the client takes.
//!
//! Used by [`super::deliver`] alone, for what has just come in and for what was kept. Clauses: [MQTT-3.1.2-24],
//! [MQTT-3.3.1-2], [MQTT-3.3.2-6], [MQTT-3.3.4-3].

use std::sync::Arc;

use super::aliases::Written;
use super::link::Link;
use super::{Context, QoS};
use crate::codec::{
    MAXIMUM_REMAINING_LENGTH, PacketId, ProtocolVersion, PublishHeader, PublishProperties,
    encode_publish_head, publish_length,
};
use crate::message::{Expiry, HOLD_PAYLOADS_FROM, Incoming, Message, REFERENCE_FROM, Run};
use crate::topic::TopicName;

/// A message to be sent: as it just came in, or as it was kept.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Live(&'a Run<'a>, &'a Incoming<'a>),
    Kept(&'a Arc<Message>),
}

impl Source<'_> {
    fn topic(&self) -> &TopicName {
        match self {
            Self::Live(run, incoming) => run.topic(incoming),
            Self::Kept(message) => message.topic(),
        }
    }

    /// The topic as it is written, which does not look at it.
    fn topic_bytes(&self) -> &[u8] {
        match self {
            Self::Live(run, incoming) => run.topic(incoming).as_str().as_bytes(),
            Self::Kept(message) => message.topic_bytes(),
        }
    }

    pub(super) fn payload(&self) -> &[u8] {
        match self {
            Self::Live(_, incoming) => incoming.publish.payload,
            Self::Kept(message) => message.payload(),
        }
    }

    /// Has the publisher told that there was no room, if there is one to tell.
    pub(super) fn reject(&self) {
        match self {
            Self::Live(_, incoming) => incoming.reject(),
            Self::Kept(_) => {}
        }
    }

    pub(super) fn kept(&self) -> &Arc<Message> {
        match self {
            Self::Live(run, incoming) => run.keep(incoming),
            Self::Kept(message) => message,
        }
    }
}

/// The properties one client gets with a message.
pub(super) struct Properties<'a> {
    forwarded: &'a [u8],
    expiry: Option<u32>,
    identifiers: &'a [u32],
}

impl<'a> Properties<'a> {
    pub(super) fn of(source: Source<'a>, identifiers: Option<&'a Arc<[u32]>>, context: Context<'_>) -> Self {
        let (forwarded, expiry) = match source {
            Source::Live(_, incoming) if !incoming.publish.properties.needs_filtering => {
                (incoming.publish.properties.raw, None)
            }
            // What has to be filtered is filtered once, into the kept form.
            Source::Live(run, incoming) => {
                (run.keep(incoming).properties(), incoming.publish.properties.message_expiry_interval)
            }
            Source::Kept(message) => match message.expiry(context.now) {
                Expiry::Never => (message.properties(), None),
                Expiry::Left(seconds) => (message.properties(), Some(seconds)),
                // Only what was sent once already is sent again after its time.
                Expiry::Expired => (message.properties(), Some(0)),
            },
        };
        Self { forwarded, expiry, identifiers: identifiers.map_or(&[], |identifiers| identifiers) }
    }

    fn encodable(&self, topic_alias: Option<u16>) -> PublishProperties<'_> {
        PublishProperties {
            forwarded: self.forwarded,
            message_expiry_interval: self.expiry,
            topic_alias,
            subscription_identifiers: self.identifiers,
        }
    }

    /// Whether the client accepts a packet of this size.
    pub(super) fn fit(&self, link: &Link, source: Source<'_>, has_packet_id: bool) -> bool {
        let most = largest_packet(link);
        // Everything but the few bytes of headers, each text and identifier with its longest length.
        let parts = source.topic_bytes().len()
            + self.forwarded.len()
            + 5 * self.identifiers.len()
            + source.payload().len();
        parts + 32 <= most || self.length(link, source, has_packet_id, None) <= most
    }

    fn length(&self, link: &Link, source: Source<'_>, has_packet_id: bool, alias: Option<u16>) -> usize {
        let qos = if has_packet_id { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        publish_length(
            link.version,
            qos,
            source.topic_bytes().len(),
            &self.encodable(alias),
            source.payload().len(),
        )
    }
}

/// Writes a PUBLISH into the link's outbox.
pub(super) fn write(
    link: &mut Link,
    source: Source<'_>,
    header: PublishHeader,
    properties: &Properties<'_>,
    several: bool,
) {
    let held = match source {
        // Whoever does not take all of a run would pin far more than it is counted for.
        Source::Live(run, incoming)
            if incoming.publish.payload.len() >= HOLD_PAYLOADS_FROM
                && run.longest_frame <= link.maximum_packet_size as usize =>
        {
            run.held_payloads()
        }
        Source::Live(..) | Source::Kept(_) => None,
    };
    if let Source::Live(run, incoming) = source {
        let publish = &incoming.publish;
        let same_bytes = is_v5(run.version) == is_v5(link.version)
            && publish.qos == header.qos
            && link.aliases.is_none()
            && properties.identifiers.is_empty()
            && publish.properties.topic_alias.is_none()
            && !(several && publish.payload.len() >= REFERENCE_FROM)
            && held.is_none();
        if same_bytes {
            return copy_frame(&mut link.outbox.bytes, incoming, header);
        }
    }
    let mut alias = None;
    let mut topic_bytes = source.topic_bytes();
    // Introducing an alias takes three bytes more than the bare topic, which fits.
    let introduced_fits = link.aliases.is_some()
        && properties.length(link, source, header.packet_id.is_some(), Some(1)) <= largest_packet(link);
    if let Some(aliases) = link.aliases.as_mut().filter(|_| introduced_fits) {
        match aliases.write(source.topic().as_str()) {
            Written::Plain => {}
            Written::Introduced(number) => alias = Some(number),
            Written::Alias(number) => {
                alias = Some(number);
                topic_bytes = b"";
            }
        }
    }
    let payload = source.payload();
    let bytes = &mut link.outbox.bytes;
    let head = properties.encodable(alias);
    let written = encode_publish_head(bytes, link.version, &header, topic_bytes, head, payload.len());
    debug_assert!(written.is_ok(), "a packet that fits is encoded: {written:?}");
    match (source, held) {
        _ if payload.len() < REFERENCE_FROM => link.outbox.bytes.extend_from_slice(payload),
        (Source::Live(..), Some(buffer)) => link.outbox.push_received(buffer, payload),
        (Source::Live(..), None) if !several => link.outbox.bytes.extend_from_slice(payload),
        (Source::Live(..) | Source::Kept(_), _) => link.outbox.push_payload(source.kept()),
    }
}

/// Copies a frame of the same layout, with the flags and the identifier that this client is to see.
pub(super) fn copy_frame(bytes: &mut Vec<u8>, incoming: &Incoming<'_>, header: PublishHeader) {
    let start = bytes.len();
    bytes.extend_from_slice(incoming.frame);
    if let Some(first) = bytes.get_mut(start) {
        *first = 0x30 | (u8::from(header.dup) << 3) | ((header.qos as u8) << 1) | u8::from(header.retain);
    }
    if let (Some(packet_id), Some(frame)) = (header.packet_id, bytes.get_mut(start..)) {
        put_packet_id(frame, incoming.behind_topic(), packet_id.get());
    }
}

/// Gives copied frames of QoS 1 or 2, one behind the other, these identifiers: the first and those that follow it.
pub(super) fn renumber(frames: &mut [u8], messages: &[Incoming<'_>], first: PacketId) {
    let mut position = 0;
    // The numbers do not pass the last identifier: `Window::send_in_turn` sees to it.
    for (incoming, number) in messages.iter().zip(u32::from(first.get())..) {
        put_packet_id(frames, position + incoming.behind_topic(), number as u16);
        position += incoming.frame.len();
    }
}

/// Writes an identifier over the one at this position.
#[inline]
fn put_packet_id(copy: &mut [u8], position: usize, packet_id: u16) {
    if let Some(slot) = copy.get_mut(position..).and_then(<[u8]>::first_chunk_mut::<2>) {
        *slot = packet_id.to_be_bytes();
    }
}

/// The largest packet the client takes and the format can hold, in bytes.
fn largest_packet(link: &Link) -> usize {
    (link.maximum_packet_size as usize).min(MAXIMUM_REMAINING_LENGTH + 5)
}

pub(super) fn is_v5(version: ProtocolVersion) -> bool {
    version == ProtocolVersion::V5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode_publish, read_header};

    #[test]
    fn copied_frames_are_renumbered_up_to_the_last_identifier() {
        // With Remaining Lengths of one, two and three bytes.
        let frames: Vec<Vec<u8>> = [0, 200, 20_000]
            .into_iter()
            .map(|length| {
                let mut frame = Vec::new();
                let packet_id = PacketId::new(7);
                let header = PublishHeader { qos: QoS::AtLeastOnce, packet_id, ..PublishHeader::default() };
                let properties = PublishProperties::default();
                encode_publish_head(&mut frame, ProtocolVersion::V5, &header, b"a/b", properties, length)
                    .unwrap();
                frame.resize(frame.len() + length, b'x');
                frame
            })
            .collect();
        let decoded = |frame: &'_ [u8]| {
            let header = read_header(frame).unwrap().unwrap();
            let body = frame.get(header.header_length..header.frame_length()).unwrap();
            decode_publish(ProtocolVersion::V5, header.first_byte, body).unwrap().packet_id.unwrap().get()
        };
        let messages: Vec<Incoming<'_>> = frames
            .iter()
            .map(|frame| {
                let header = read_header(frame).unwrap().unwrap();
                let body = &frame[header.header_length..];
                Incoming::new(decode_publish(ProtocolVersion::V5, header.first_byte, body).unwrap(), frame)
            })
            .collect();
        let mut copy = frames.concat();
        renumber(&mut copy, &messages, PacketId::new(65_533).unwrap());
        let mut rest = &copy[..];
        for (frame, expected) in frames.iter().zip([65_533, 65_534, 65_535]) {
            let (copied, behind) = rest.split_at(frame.len());
            assert_eq!(decoded(copied), expected);
            let changed = copied.iter().zip(frame).filter(|(new, old)| new != old).count();
            assert_eq!(changed, 2, "nothing but the identifier");
            rest = behind;
        }
    }
}
