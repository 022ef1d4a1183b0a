"""What paho-mqtt can do with the broker: `python paho_cases.py PORT 3.1|3.1.1|5.0`.

Every case asserts for itself and prints `ok NAME` when it has passed; the Rust test beside this file compares
the names with those it expects. A connection moves only while its `loop` runs, so nothing happens unseen:
every verb runs the loop until what it started has happened.
"""

import itertools
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PORT = int(sys.argv[1])
VERSION = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5.0": mqtt.MQTTv5}[sys.argv[2]]
PATIENCE = 15.0
NUMBERS = itertools.count()
CASES = []


def case(*versions):
    """Registers a case for these versions, for all if none is named."""

    def register(function):
        if not versions or sys.argv[2] in versions:
            CASES.append(function)
        return function

    return register


def unique(name):
    # MQTT 3.1 lets a client identifier have 23 characters at most.
    return f"{name}{VERSION}-{next(NUMBERS)}"


class Peer:
    """A paho client that is looped by hand."""

    def __init__(self, name="peer", client_id=None, persistent=False, will=None, will_properties=None):
        self.messages = []
        self.acknowledged = {}
        self.subscribed = {}
        self.session_present = None
        self.refused = None
        self.disconnected = None
        self.persistent = persistent
        self.client_id = client_id or unique(name)
        clean = {} if VERSION == mqtt.MQTTv5 else {"clean_session": not persistent}
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, self.client_id, protocol=VERSION, **clean)
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_message = lambda client, userdata, message: self.messages.append(message)
        self.client.on_publish = self.on_publish
        self.client.on_subscribe = self.on_subscribe
        if will:
            self.client.will_set(*will, properties=will_properties)
        self.connect()

    def on_connect(self, client, userdata, flags, reason, properties):
        self.session_present = flags.session_present
        self.refused = reason.is_failure

    def on_disconnect(self, client, userdata, flags, reason, properties):
        self.disconnected = reason

    def on_publish(self, client, userdata, mid, reason, properties):
        self.acknowledged[mid] = reason

    def on_subscribe(self, client, userdata, mid, reasons, properties):
        self.subscribed[mid] = reasons

    def connect(self):
        self.refused = None
        if VERSION == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600 if self.persistent else 0
            self.client.connect("127.0.0.1", PORT, clean_start=not self.persistent, properties=properties)
        else:
            self.client.connect("127.0.0.1", PORT)
        self.until(lambda: self.refused is not None, "CONNACK")
        assert not self.refused, "the connection was refused"

    def until(self, condition, what):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"no {what}; messages so far: {[seen(m) for m in self.messages]}"
            self.client.loop(min(left, 0.1))

    def subscribe(self, topic, qos=0, **more):
        result, mid = self.client.subscribe(topic, qos, **more)
        assert result == mqtt.MQTT_ERR_SUCCESS, result
        self.until(lambda: mid in self.subscribed, "SUBACK")
        assert not any(reason.is_failure for reason in self.subscribed[mid]), self.subscribed[mid]

    def publish(self, topic, payload, qos=0, retain=False, properties=None):
        """Returns when the exchange of a message of QoS 1 or 2 is over."""
        info = self.client.publish(topic, payload, qos, retain, properties)
        self.until(info.is_published, f"end of the exchange at QoS {qos}")
        if qos:
            assert not self.acknowledged[info.mid].is_failure, self.acknowledged[info.mid]

    def message(self):
        self.until(lambda: self.messages, "message")
        return self.messages.pop(0)

    def expect(self, *expected):
        """The next messages, in this order: (topic, QoS, RETAIN, payload)."""
        for one in expected:
            found = seen(self.message())
            assert found == one, f"{found} instead of {one}"

    def leave(self):
        """DISCONNECT, and the broker closes the connection."""
        self.client.disconnect()
        self.until(lambda: self.disconnected is not None, "end of the connection")
        self.client.loop(0)

    def kill(self):
        """The socket closes without DISCONNECT."""
        self.client.socket().close()


def seen(message):
    return (message.topic, message.qos, bool(message.retain), message.payload.decode())


@case()
def every_quality_of_service_arrives():
    for qos in (0, 1, 2):
        topic = unique("qos")
        subscriber, publisher = Peer(), Peer()
        subscriber.subscribe(topic, qos)
        publisher.publish(topic, "hello", qos)
        subscriber.expect((topic, qos, False, "hello"))


@case()
def the_lower_quality_of_service_counts():
    for published, subscribed in ((0, 2), (2, 0), (2, 1), (1, 2)):
        topic = unique("lower")
        subscriber, publisher = Peer(), Peer()
        subscriber.subscribe(topic, subscribed)
        publisher.publish(topic, "hello", published)
        subscriber.expect((topic, min(published, subscribed), False, "hello"))


@case()
def a_retained_message_waits_until_it_is_cleared():
    topic, marker = unique("retained"), unique("marker")
    publisher, subscriber = Peer(), Peer()
    publisher.publish(topic, "kept", 1, retain=True)
    subscriber.subscribe(topic, 1)
    subscriber.expect((topic, 1, True, "kept"))
    publisher.publish(topic, "", 1, retain=True)
    subscriber.expect((topic, 1, False, ""))
    late = Peer()
    late.subscribe(topic, 1)
    late.subscribe(marker, 1)
    publisher.publish(marker, "now", 1)
    late.expect((marker, 1, False, "now"))


@case()
def the_will_of_a_killed_client_is_published():
    topic = unique("will")
    watcher = Peer()
    watcher.subscribe(topic, 2)
    Peer(will=(topic, "left", 2)).leave()
    Peer(will=(topic, "killed", 2)).kill()
    watcher.expect((topic, 2, False, "killed"))


@case()
def a_persistent_session_gets_what_came_while_it_was_away():
    for leave in (Peer.leave, Peer.kill):
        topic = unique("offline")
        sleeper = Peer("sleeper", persistent=True)
        # MQTT 3.1 has no such flag.
        assert not sleeper.session_present
        sleeper.subscribe(topic, 2)
        leave(sleeper)
        publisher = Peer()
        for qos in (1, 2):
            for number in range(5):
                publisher.publish(topic, str(number), qos)
        again = Peer(client_id=sleeper.client_id, persistent=True)
        assert again.session_present or VERSION == mqtt.MQTTv31
        messages = [seen(again.message()) for _ in range(10)]
        for qos in (1, 2):
            found = [payload for _, q, _, payload in messages if q == qos]
            assert found == ["0", "1", "2", "3", "4"], (qos, found)
        again.leave()


@case()
def a_clean_start_ends_the_session():
    topic, marker = unique("clean"), unique("marker")
    first = Peer("cleaned", persistent=True)
    first.subscribe(topic, 1)
    first.leave()
    Peer(client_id=first.client_id).leave()
    publisher = Peer()
    publisher.publish(topic, "lost", 1)
    again = Peer(client_id=first.client_id, persistent=True)
    assert not again.session_present
    again.subscribe(marker, 1)
    publisher.publish(marker, "now", 1)
    again.expect((marker, 1, False, "now"))


@case()
def what_was_in_flight_at_a_cut_arrives_once():
    topic, marker = unique("cut"), unique("marker")
    subscriber = Peer()
    subscriber.subscribe(topic, 2)
    subscriber.subscribe(marker, 2)
    publisher = Peer("cut", persistent=True)
    for number in range(10):
        publisher.client.publish(topic, str(number), 2)
    # All are written, no answer is read.
    publisher.kill()
    publisher.connect()
    publisher.until(lambda: len(publisher.acknowledged) == 10, "end of the ten exchanges")
    publisher.publish(marker, "end", 2)
    subscriber.expect(*[(topic, 2, False, str(number)) for number in range(10)], (marker, 2, False, "end"))


@case()
def a_shared_subscription_gives_each_message_to_one_member():
    topic, marker = unique("shared"), unique("marker")
    members = [Peer(), Peer()]
    for member in members:
        member.subscribe(f"$share/group/{topic}", 1)
        member.subscribe(marker, 1)
    publisher = Peer()
    for number in range(40):
        publisher.publish(topic, str(number), 1)
    publisher.publish(marker, "end", 1)
    found = []
    for member in members:
        while (message := member.message()).topic != marker:
            found.append(int(message.payload))
    assert sorted(found) == list(range(40)), found


@case()
def wildcards_match():
    root = unique("wild")
    subscriber, publisher = Peer(), Peer()
    for topic in (f"{root}/+/x", f"{root}/deep/#", f"{root}/end"):
        subscriber.subscribe(topic)
    for topic in ("a/y", "a/x", "a/b/x", "deep", "deep/1/2", "end"):
        publisher.publish(f"{root}/{topic}", "m")
    subscriber.expect(*[(f"{root}/{t}", 0, False, "m") for t in ("a/x", "deep", "deep/1/2", "end")])


@case()
def an_unsubscribed_filter_brings_nothing_more():
    topic, marker = unique("unsub"), unique("marker")
    subscriber, publisher = Peer(), Peer()
    subscriber.subscribe(topic)
    subscriber.subscribe(marker)
    done = []
    subscriber.client.on_unsubscribe = lambda *arguments: done.append(arguments)
    subscriber.client.unsubscribe(topic)
    subscriber.until(lambda: done, "UNSUBACK")
    publisher.publish(topic, "unseen")
    publisher.publish(marker, "end")
    subscriber.expect((marker, 0, False, "end"))


@case("5.0")
def properties_travel_unchanged():
    topic = unique("properties")
    subscriber, publisher = Peer(), Peer()
    subscriber.subscribe(topic, 1)
    sent = Properties(PacketTypes.PUBLISH)
    sent.UserProperty = [("colour", "red"), ("colour", "green")]
    sent.ContentType = "text/plain"
    sent.PayloadFormatIndicator = 1
    sent.ResponseTopic = "the/answer"
    sent.CorrelationData = b"\x00\xff"
    publisher.publish(topic, "hello", 1, properties=sent)
    found = subscriber.message().properties
    assert found.UserProperty == [("colour", "red"), ("colour", "green")], found
    assert found.ContentType == "text/plain", found
    assert found.PayloadFormatIndicator == 1, found
    assert found.ResponseTopic == "the/answer", found
    assert found.CorrelationData == b"\x00\xff", found


@case("5.0")
def the_subscription_identifier_comes_with_the_message():
    topic = unique("identifier")
    subscriber, publisher = Peer(), Peer()
    properties = Properties(PacketTypes.SUBSCRIBE)
    properties.SubscriptionIdentifier = 128
    subscriber.subscribe(topic, options=SubscribeOptions(qos=1), properties=properties)
    publisher.publish(topic, "hello", 1)
    found = subscriber.message().properties.SubscriptionIdentifier
    assert found == [128], found


@case("5.0")
def a_topic_alias_stands_for_its_topic():
    topic = unique("alias")
    subscriber, publisher = Peer(), Peer()
    subscriber.subscribe(topic, 1)
    properties = Properties(PacketTypes.PUBLISH)
    properties.TopicAlias = 1
    for name, payload in ((topic, "one"), ("", "two")):
        publisher.publish(name, payload, 1, properties=properties)
    subscriber.expect((topic, 1, False, "one"), (topic, 1, False, "two"))


@case("5.0")
def the_message_expiry_interval_counts_down():
    topic = unique("expiry")
    sleeper = Peer("sleeper", persistent=True)
    sleeper.subscribe(topic, 1)
    sleeper.leave()
    publisher = Peer()
    for payload, seconds in (("short", 1), ("long", 100)):
        properties = Properties(PacketTypes.PUBLISH)
        properties.MessageExpiryInterval = seconds
        publisher.publish(topic, payload, 1, properties=properties)
    # The interval itself must pass; nothing announces its end.
    time.sleep(2.2)
    message = Peer(client_id=sleeper.client_id, persistent=True).message()
    assert message.payload == b"long", message.payload
    assert 80 <= message.properties.MessageExpiryInterval <= 98, message.properties


@case("5.0")
def own_messages_stay_away_with_no_local():
    topic, marker = unique("local"), unique("marker")
    peer, other = Peer(), Peer()
    peer.subscribe(topic, options=SubscribeOptions(qos=1, noLocal=True))
    peer.subscribe(marker, 1)
    peer.publish(topic, "mine", 1)
    other.publish(topic, "theirs", 1)
    peer.publish(marker, "end", 1)
    peer.expect((topic, 1, False, "theirs"), (marker, 1, False, "end"))


@case("5.0")
def retain_options_are_obeyed():
    topic, marker = unique("options"), unique("marker")
    publisher, subscriber = Peer(), Peer()
    publisher.publish(topic, "kept", 1, retain=True)
    never = SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=2)
    subscriber.subscribe(topic, options=never)
    publisher.publish(topic, "live", 1, retain=True)
    subscriber.expect((topic, 1, True, "live"))
    if_new = SubscribeOptions(qos=1, retainHandling=1)
    subscriber.subscribe(topic, options=if_new)
    subscriber.subscribe(marker, 1)
    publisher.publish(marker, "end", 1)
    subscriber.expect((marker, 1, False, "end"))


@case("5.0")
def the_will_delay_interval_is_kept():
    topic = unique("delay")
    watcher = Peer()
    watcher.subscribe(topic, 1)
    delay = Properties(PacketTypes.WILLMESSAGE)
    delay.WillDelayInterval = 1
    start = time.monotonic()
    Peer(persistent=True, will=(topic, "gone", 1), will_properties=delay).kill()
    watcher.expect((topic, 1, False, "gone"))
    waited = time.monotonic() - start
    assert 0.9 <= waited <= 5, f"the will came after {waited:.1f} s instead of 1"


@case()
def a_newer_connection_takes_the_client_identifier_over():
    topic = unique("takeover")
    first = Peer("twin")
    first.subscribe(topic, 1)
    second = Peer(client_id=first.client_id)
    # Why it was thrown out cannot be asked: paho reads the reason of a DISCONNECT only if properties follow.
    first.until(lambda: first.disconnected is not None, "end of the older connection")
    second.subscribe(topic, 1)
    second.publish(topic, "still here", 1)
    second.expect((topic, 1, False, "still here"))


if __name__ == "__main__":
    for function in CASES:
        function()
        print("ok", function.__name__, flush=True)
