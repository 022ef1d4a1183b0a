"""What is measured: rows of a table, or points of a curve. Each is a command line of `fulmar bench`."""

BRIEF = "-d 1500ms --warm-up 400ms"


class Row:
    def __init__(self, name, command, kind="tcp", figure="broker_cpu_us_per_operation", goal=None):
        self.name, self.command, self.kind, self.figure, self.goal = name, command, kind, figure, goal

    @property
    def run(self):
        """What is run for it; rows may show different figures of the same runs."""
        return f"{self.command} ({self.kind})"

    @property
    def has_floor(self):
        """Whether bytes may go on as they come: QoS 0 in plain TCP, and each publisher has one topic."""
        words = self.command.split()
        scenario = words[0] in ("fan-out", "latency") or (words[0] == "pub-sub" and "filters" not in words and "shared" not in words)
        return scenario and self.kind == "tcp" and self.version == "3.1.1" and "--topics" not in words and (
            "-q" not in words or words[words.index("-q") + 1] == "0")

    @property
    def replays(self):
        return int(self.command.split("-n ")[1].split()[0]) if self.command.startswith("retained") else 0

    @property
    def version(self):
        return self.command.split("-V ")[1].split()[0] if "-V " in self.command else "3.1.1"


def pairs(count, qos, more=""):
    return f"pub-sub -c {count} -q {qos} {more} {BRIEF}"


# Fewer a session than any broker's limit, but Mosquitto's, which has none in this comparison.
MANY_QUEUED = "-n 1000000 -c 20 -q 1 -V 5.0"

MEMORY = "broker_memory_bytes_per_connection"

# The name, the command, and the share of the best peer that Fulmar is to stay below.
TABLE = [
    Row("10 pairs, QoS 0", pairs(10, 0), goal=0.15),
    Row("10 pairs, QoS 1", pairs(10, 1), goal=0.2),
    Row("10 pairs, QoS 2, 5.0", pairs(10, 2, "-V 5.0"), goal=0.2),
    Row("100 pairs, QoS 0", pairs(100, 0), goal=0.15),
    Row("100 pairs, QoS 1", pairs(100, 1), goal=0.2),
    Row("100 pairs, QoS 2, 5.0", pairs(100, 2, "-V 5.0"), goal=0.2),
    Row("10 pairs, ten topics in turn, QoS 0", pairs(10, 0, "--topics 10"), goal=0.25),
    Row("10 pairs, ten topics in turn, QoS 1", pairs(10, 1, "--topics 10"), goal=0.3),
    Row("10 pairs, ten topics in turn, QoS 2, 5.0", pairs(10, 2, "--topics 10 -V 5.0"), goal=0.3),
    Row("fan-out 1 to 100, QoS 0", f"fan-out -c 100 {BRIEF}", goal=0.1),
    Row("fan-out 1 to 100, QoS 1", f"fan-out -c 100 -q 1 {BRIEF}", goal=0.15),
    Row("fan-out 1 to 1,000, QoS 0", f"fan-out -c 1000 {BRIEF}", goal=0.3),
    Row("fan-in 50 to 1, QoS 0", f"pub-sub --pattern all -c 50 --subscribers 1 {BRIEF}", goal=0.3),
    Row("fan-in 50 to 1, QoS 1", f"pub-sub --pattern all -c 50 --subscribers 1 -q 1 {BRIEF}", goal=0.3),
    Row("shared, 4 to 8, QoS 1, 5.0", f"pub-sub --pattern shared -c 4 --subscribers 8 -q 1 -V 5.0 {BRIEF}", goal=0.4),
    Row("10 pairs, 16 KiB, QoS 0", pairs(10, 0, "-s 16KiB --window 100"), goal=0.6),
    Row("10 pairs, 16 KiB, QoS 1", pairs(10, 1, "-s 16KiB --window 100"), goal=0.6),
    Row("1,000 topics published, 1,000 filters", f"pub-sub --pattern filters -c 4 --subscribers 100 --filters 1000 --topics 1000 {BRIEF}"),
    Row("the same, 200,000 filters standing", f"pub-sub --pattern filters -c 4 --subscribers 100 --filters 200000 --topics 1000 {BRIEF}", goal=0.35),
    Row("memory per subscription, of 200,000", "pub-sub --pattern filters -c 4 --subscribers 100 --filters 200000 -n 1000",
        figure="broker_memory_bytes_per_subscription"),
    Row("1,000,000 retained, wildcard subscribe", "retained -n 1000000", goal=0.4),
    Row("20,000 queued messages drained, 5.0", "queue -n 20000 -q 1 -V 5.0", goal=0.5),
    Row("1,000,000 queued messages drained, 5.0", f"queue {MANY_QUEUED}"),
    Row("to queue each of them", f"queue {MANY_QUEUED}", figure="broker_cpu_us_per_queued"),
    Row("connect, 2,000 clients", "connect -c 2000 --hold 100ms", goal=0.75),
    Row("connect, subscribe, publish, disconnect", f"connect --cycle -c 50 {BRIEF}", goal=0.7),
    Row("10 pairs at 10,000 a second, QoS 0", f"latency -c 10 -r 10000 {BRIEF}", goal=0.9),
    Row("10 pairs at 10,000 a second, QoS 1", f"latency -c 10 -r 10000 -q 1 {BRIEF}", goal=0.8),
    Row("10 pairs at half the slowest's rate, QoS 0", f"latency -c 10 -r HALF {BRIEF}"),
    Row("memory per idle connection, of 19,000", "connect -c 19000 --hold 2s", figure=MEMORY),
]

QUICK = [row for row in TABLE if row.name in (
    "10 pairs, QoS 0", "10 pairs, ten topics in turn, QoS 0", "10 pairs, QoS 1", "10 pairs, QoS 2, 5.0",
    "fan-out 1 to 100, QoS 0", "fan-in 50 to 1, QoS 1", "shared, 4 to 8, QoS 1, 5.0", "connect, 2,000 clients",
    "20,000 queued messages drained, 5.0", "connect, subscribe, publish, disconnect",
    "10 pairs at 10,000 a second, QoS 0")] + [
    Row("50,000 filters standing, QoS 0", f"pub-sub --pattern filters -c 4 --subscribers 100 --filters 50000 --topics 1000 {BRIEF}"),
    Row("10,000 retained messages replayed", "retained -n 10000"),
]

KIND_NAMES = {"tcp": "TCP", "ws": "WebSocket", "tls": "TLS", "wss": "WebSocket in TLS"}


def transports():
    """The price of TLS and WebSocket: the same loads over each, handshakes, and memory."""
    rows = []
    for name, command in (
        ("10 pairs, 64 B, QoS 0", pairs(10, 0)),
        ("10 pairs, 64 B, QoS 1", pairs(10, 1)),
        ("10 pairs, 1 KiB, QoS 0", pairs(10, 0, "-s 1KiB")),
        ("10 pairs, 1 KiB, QoS 1", pairs(10, 1, "-s 1KiB")),
        ("10 pairs, 64 B, at 10,000 a second", f"latency -r 10000 -c 10 {BRIEF}"),
        ("fan-out 1 to 100, 64 B", f"fan-out -c 100 {BRIEF}"),
    ):
        rows += [Row(f"{name}: {KIND_NAMES[kind]}", command, kind) for kind in KIND_NAMES]
    # The client keeps eight tickets of a server; with more clients at a time some would find none.
    for kind in KIND_NAMES:
        rows.append(Row(f"connect and disconnect: {KIND_NAMES[kind]}", f"connect --cycle --only-connect -c 8 {BRIEF}", kind))
        if kind in ("tls", "wss"):
            rows.append(Row(f"the same, resumed: {KIND_NAMES[kind]}", f"connect --cycle --only-connect --resume -c 8 {BRIEF}", kind))
    for kind in KIND_NAMES:
        rows.append(Row(f"memory per idle connection, of 5,000: {KIND_NAMES[kind]}", "connect -c 5000 --hold 1s", kind, MEMORY))
    return rows


# Subscribers' sessions outlive their connections, so what is acknowledged has to be kept for them.
DURABLE = [
    Row("1 publisher", "pub-sub -c 1 -q 1 -V 5.0 --persistent -d 2s --warm-up 500ms"),
    Row("10 publishers", "pub-sub -c 10 -q 1 -V 5.0 --persistent -d 2s --warm-up 500ms"),
    Row("100 publishers", "pub-sub -c 100 -q 1 -V 5.0 --persistent -d 2s --warm-up 500ms"),
    Row("10 publishers, QoS 2", "pub-sub -c 10 -q 2 -V 5.0 --persistent -d 2s --warm-up 500ms"),
    Row("10 publishers, 1,000 messages a second", "latency -c 10 -r 1000 -q 1 -V 5.0 --persistent -d 3s --warm-up 500ms"),
    Row("20,000 queued messages drained", "queue -n 20000 -q 1 -V 5.0"),
]


class Curve:
    """How the cost of a message grows: `points` are pairs of x and a command line."""

    def __init__(self, name, title, x_label, points):
        self.name, self.title, self.x_label, self.points = name, title, x_label, points


CURVES = [
    Curve("fan-out", "CPU per delivery against fan-out (QoS 0, 64 B)", "subscribers of one topic",
          [(n, f"fan-out -c {n} {BRIEF}") for n in (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)]),
    Curve("subscriptions", "CPU per message against standing subscriptions (QoS 0, 64 B)", "subscriptions",
          [(n, f"pub-sub --pattern filters -c 4 --subscribers {min(n, 100)} --filters {n} --topics {min(n, 1_000)} {BRIEF}")
           for n in (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)]),
    Curve("payload", "CPU per message against payload (10 pairs, QoS 0)", "bytes of payload",
          [(n, f"pub-sub -c 10 -s {n} --window {max(10, min(1_000, 4_194_304 // n))} {BRIEF}")
           for n in (16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576)]),
    Curve("connections", "CPU per message against connections (pairs, QoS 0, 64 B)", "connections",
          [(n, f"pub-sub -c {n // 2} {BRIEF}") for n in (10, 30, 100, 300, 1_000, 3_000, 10_000, 19_000)]),
]
