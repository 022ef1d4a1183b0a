//! Whose socket is readable first is heard first, on the one worker that a machine of two cores has.

use crate::support::{Broker, Filter, SUBACK, V3_1_1, connect, publish, subscribe, unique};

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
