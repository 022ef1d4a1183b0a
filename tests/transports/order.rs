//! Whose socket is readable first is heard first, on the one worker that a machine of two cores has.

use crate::support::{
    Broker, Filter, PUBACK, SUBACK, V3_1_1, connect, disconnect, publish, subscribe, unique,
};

/// The standard promises no order between two connections, but everybody who begins with MQTT writes such programs: one
/// client subscribes, and without waiting another publishes.
#[test]
fn of_those_who_become_readable_together_the_first_is_heard_first() {
    let broker = Broker::with_config("[server]\nworkers = 1\n");
    for _ in 0..10 {
        let topic = unique("order");
        let mut publisher = connect(V3_1_1).client_id(unique("publisher")).open(&broker);
        let mut subscriber = connect(V3_1_1).client_id(unique("subscriber")).open(&broker);
        subscriber.ping();
        // While it stands still, everything comes together.
        broker.signal("STOP");
        subscriber.send(&subscribe(V3_1_1, 1, &[], &[Filter::new(&topic, 0)]));
        publisher.send(&publish(&topic, "m").bytes(V3_1_1));
        broker.signal("CONT");
        subscriber.read_kind(SUBACK);
        publisher.ping();
        assert_eq!(subscriber.read_publish().topic, topic);
    }
}

/// Nothing is sent to a client that has said DISCONNECT, even if it was under way: its session has it for the next time, as
/// what it is, a message that was never sent.
#[test]
fn what_comes_together_with_a_disconnect_is_not_sent_before_the_client_is_back() {
    let broker = Broker::with_config("[server]\nworkers = 1\n");
    for publisher_first in [true, false] {
        let id = unique("leaves");
        let leaving = connect(V3_1_1).client_id(&id).persistent();
        let mut subscriber = leaving.open(&broker);
        subscriber.subscribe(&id, 1);
        let mut publisher = connect(V3_1_1).client_id(unique("publisher")).open(&broker);
        publisher.ping();
        broker.signal("STOP");
        if publisher_first {
            publisher.send(&publish(&id, "m").qos(1, 1).bytes(V3_1_1));
        }
        subscriber.send(&disconnect());
        if !publisher_first {
            publisher.send(&publish(&id, "m").qos(1, 1).bytes(V3_1_1));
        }
        broker.signal("CONT");
        publisher.expect_ack(PUBACK, 1);
        subscriber.expect_closed();
        let mut subscriber = leaving.open(&broker);
        let message = subscriber.receive();
        assert_eq!((message.text().as_str(), message.dup), ("m", false));
    }
}
