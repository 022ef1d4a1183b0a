//! One seam over rumqttc's two APIs, which have the same shape and no type in common.
//!
//! A connection only moves while it is polled, so every verb polls until what it started has happened;
//! messages that come meanwhile wait in `early`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ::rumqttc::v5::mqttbytes::v5::{PublishProperties, SubscribeProperties};

use crate::support::{broker_under_test, unique};

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(15);

/// How a client connects.
#[derive(Debug, Clone)]
pub struct Options {
    pub id: String,
    pub persistent: bool,
    /// Topic and payload; QoS 1.
    pub will: Option<(String, String)>,
}

impl Options {
    pub fn new(name: &str) -> Self {
        Self { id: unique(name), persistent: false, will: None }
    }
}

/// What arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    pub payload: String,
}

impl Message {
    pub fn new(topic: &str, qos: u8, retain: bool, payload: &str) -> Self {
        Self { topic: topic.to_owned(), qos, retain, payload: payload.to_owned() }
    }
}

/// What both APIs can do. Dropping a client closes its socket without DISCONNECT.
pub trait Client: Sized {
    /// Waits for the CONNACK.
    fn connect(options: &Options) -> Self;
    fn session_present(&self) -> bool;
    /// Waits for the SUBACK.
    fn subscribe(&mut self, filter: &str, qos: u8);
    /// Waits for the end of the exchange: sent, PUBACK or PUBCOMP.
    fn publish(&mut self, topic: &str, qos: u8, retain: bool, payload: &str);
    /// The next message.
    fn message(&mut self) -> Message;
    /// Sends DISCONNECT and waits until the broker has closed the connection.
    fn leave(self);
}

/// The shape both APIs share; the names of their types are imported around it.
macro_rules! client {
    ($name:ident, $options:expr) => {
        pub struct $name {
            pub(super) handle: Handle,
            connection: Connection,
            session_present: bool,
            early: VecDeque<Publish>,
        }

        impl $name {
            pub(super) fn qos(qos: u8) -> QoS {
                [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)]
            }

            /// Polls until an event is the one; panics at an error of the connection.
            #[track_caller]
            pub(super) fn until<T>(&mut self, what: &str, mut seen: impl FnMut(&Event) -> Option<T>) -> T {
                let deadline = Instant::now() + PATIENCE;
                loop {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let event = match self.connection.recv_timeout(left) {
                        Ok(Ok(event)) => event,
                        Ok(Err(error)) => panic!("while waiting for {what}: {error}"),
                        Err(error) => panic!("no {what}: {error:?}"),
                    };
                    if let Event::Incoming(Packet::Publish(publish)) = &event {
                        self.early.push_back(publish.clone());
                    }
                    if let Some(value) = seen(&event) {
                        return value;
                    }
                }
            }

            pub(super) fn until_published(&mut self, qos: u8) {
                self.until("the end of a PUBLISH's exchange", |event| {
                    let over = match qos {
                        0 => matches!(event, Event::Outgoing(::rumqttc::Outgoing::Publish(_))),
                        1 => matches!(event, Event::Incoming(Packet::PubAck(_))),
                        _ => matches!(event, Event::Incoming(Packet::PubComp(_))),
                    };
                    over.then_some(())
                });
            }

            pub(super) fn until_subscribed(&mut self) {
                self.until("SUBACK", |event| match event {
                    Event::Incoming(Packet::SubAck(ack)) => {
                        let granted = ack
                            .return_codes
                            .iter()
                            .all(|code| matches!(code, SubscribeReasonCode::Success(_)));
                        assert!(granted, "refused: {ack:?}");
                        Some(())
                    }
                    _ => None,
                });
            }

            #[track_caller]
            pub(super) fn next(&mut self) -> Publish {
                while self.early.is_empty() {
                    self.until("message", |event| {
                        matches!(event, Event::Incoming(Packet::Publish(_))).then_some(())
                    });
                }
                self.early.pop_front().unwrap()
            }

            pub(super) fn plain(publish: Publish) -> Message {
                Message {
                    topic: String::from_utf8(Vec::from(publish.topic)).unwrap(),
                    qos: publish.qos as u8,
                    retain: publish.retain,
                    payload: String::from_utf8(publish.payload.to_vec()).unwrap(),
                }
            }
        }

        impl Client for $name {
            fn connect(options: &Options) -> Self {
                let port = broker_under_test().port();
                let mut mqtt_options = MqttOptions::new(options.id.as_str(), "127.0.0.1", port);
                let configure: fn(&mut MqttOptions, &Options) = $options;
                configure(&mut mqtt_options, options);
                let (handle, connection) = Handle::new(mqtt_options, 10);
                let mut client = Self { handle, connection, session_present: false, early: VecDeque::new() };
                client.session_present = client.until("CONNACK", |event| match event {
                    Event::Incoming(Packet::ConnAck(ack)) => Some(ack.session_present),
                    _ => None,
                });
                client
            }

            fn session_present(&self) -> bool {
                self.session_present
            }

            #[track_caller]
            fn subscribe(&mut self, filter: &str, qos: u8) {
                self.handle.subscribe(filter, Self::qos(qos)).unwrap();
                self.until_subscribed();
            }

            #[track_caller]
            fn publish(&mut self, topic: &str, qos: u8, retain: bool, payload: &str) {
                self.handle.publish(topic, Self::qos(qos), retain, payload.to_owned()).unwrap();
                self.until_published(qos);
            }

            #[track_caller]
            fn message(&mut self) -> Message {
                Self::plain(self.next())
            }

            fn leave(mut self) {
                self.handle.disconnect().unwrap();
                self.until("DISCONNECT", |event| {
                    matches!(event, Event::Outgoing(::rumqttc::Outgoing::Disconnect)).then_some(())
                });
                // The broker closes; polling on would connect again, so this is the last poll.
                while let Ok(Ok(_)) = self.connection.recv_timeout(PATIENCE) {}
            }
        }
    };
}

mod v3_1_1 {
    use ::rumqttc::{
        Client as Handle, Connection, Event, LastWill, MqttOptions, Packet, Publish, QoS, SubscribeReasonCode,
    };

    use super::{Client, Instant, Message, Options, PATIENCE, VecDeque, broker_under_test};

    client!(V3_1_1, |mqtt_options, options| {
        mqtt_options.set_clean_session(!options.persistent).set_max_packet_size(1 << 20, 1 << 20);
        if let Some((topic, payload)) = &options.will {
            mqtt_options.set_last_will(LastWill::new(topic, payload.as_str(), QoS::AtLeastOnce, false));
        }
    });
}

mod v5 {
    use ::rumqttc::v5::mqttbytes::QoS;
    use ::rumqttc::v5::mqttbytes::v5::{LastWill, Packet, Publish, SubscribeReasonCode};
    use ::rumqttc::v5::{Client as Handle, Connection, Event, MqttOptions};

    use super::{Client, Instant, Message, Options, PATIENCE, VecDeque, broker_under_test};
    use super::{PublishProperties, SubscribeProperties};

    client!(V5, |mqtt_options, options| {
        mqtt_options.set_clean_start(!options.persistent);
        mqtt_options.set_session_expiry_interval(options.persistent.then_some(3_600));
        mqtt_options.set_max_packet_size(Some(1 << 20));
        if let Some((topic, payload)) = &options.will {
            mqtt_options.set_last_will(LastWill::new(topic, payload.as_str(), QoS::AtLeastOnce, false, None));
        }
    });

    impl V5 {
        /// As `publish`, with properties.
        #[track_caller]
        pub fn publish_with(&mut self, topic: &str, qos: u8, payload: &str, properties: PublishProperties) {
            let payload = payload.to_owned();
            self.handle.publish_with_properties(topic, Self::qos(qos), false, payload, properties).unwrap();
            self.until_published(qos);
        }

        /// As `subscribe`, with properties.
        #[track_caller]
        pub fn subscribe_with(&mut self, filter: &str, qos: u8, properties: SubscribeProperties) {
            self.handle.subscribe_with_properties(filter, Self::qos(qos), properties).unwrap();
            self.until_subscribed();
        }

        /// As `message`, with its properties.
        #[track_caller]
        pub fn message_with_properties(&mut self) -> (Message, Option<PublishProperties>) {
            let mut publish = self.next();
            let properties = publish.properties.take();
            (Self::plain(publish), properties)
        }
    }
}

pub use v3_1_1::V3_1_1;
pub use v5::V5;
