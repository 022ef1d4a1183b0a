//! CONNECT, 5.0 §3.1 and 3.1.1 §3.1.

use crate::support::{Version, broker_under_test, connect, publish, unique};

#[test]
fn smoke() {
    for version in Version::ALL {
        let broker = broker_under_test();
        let mut client = connect(version).client_id(unique("smoke")).open(broker);
        let topic = unique("smoke");
        client.subscribe(&topic, 2);
        client.send(&publish(&topic, "hello").qos(1, 7).bytes(version));
        let mut kinds: Vec<u8> = (0..2).map(|_| client.read().kind()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, [0x30, 0x40]);
    }
}
