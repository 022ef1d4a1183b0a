"""The brokers that are compared: how each is found, configured and started.

Nothing keeps anything on disk, but Fulmar in its column with the default durability, and peers that are to save as often as
they can. All listen on 127.0.0.1 alone.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

KINDS = ("tcp", "ws", "tls", "wss")


def free_ports(count):
    """Ports that nobody listens on now, below those that the system gives to outgoing connections."""
    found, start = [], 12_000 + os.getpid() * 97 % 8_000
    for port in range(start, 32_000):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                found.clear()
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("there are no free ports")


class Certificate:
    """A server certificate for localhost, made by openssl."""

    def __init__(self, folder):
        self.path, self.key = folder / "server.crt", folder / "server.key"
        # P-256, as most servers of today have.
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", self.key, "-out", self.path], capture_output=True, text=True, check=False)
        if made.returncode:
            raise RuntimeError(f"openssl: {made.stderr.strip()}")
        self.key.chmod(0o644)


class Peer:
    """One broker: `command(ports, folder, certificate)` gives its command line, having written what it needs."""

    name = ""
    # Which ways in the comparison can open.
    kinds = ("tcp",)
    # Where it speaks MQTT 5.0: so many ports above the one for 3.1.1.
    v5_offset = 0
    # Retained messages that a new subscriber is to get.
    replays = 0

    def command(self, ports, folder, certificate):
        raise NotImplementedError

    def takes(self, row):
        """Whether it can take part."""
        return row.kind in self.kinds


class Fulmar(Peer):
    kinds = KINDS

    def __init__(self, binary, durability):
        self.binary, self.durability = binary, durability
        self.name = "Fulmar" if durability == "none" else f"Fulmar, {durability}"

    def command(self, ports, folder, certificate):
        parts = [f'[store]\ndurability = "{self.durability}"\ndirectory = "{folder}/data"\n[log]\nlevel = "warn"\n']
        for kind in KINDS:
            secure = f'certificate = "{certificate.path}"\nkey = "{certificate.key}"\n' if certificate else ""
            if kind in ("tcp", "ws") or certificate:
                parts.append(f'[[listeners]]\nname = "{kind}"\nkind = "{kind}"\naddress = "127.0.0.1:{ports[kind]}"\n'
                             + (secure if kind in ("tls", "wss") else ""))
        (folder / "fulmar.toml").write_text("".join(parts))
        return [self.binary, "run", "-c", folder / "fulmar.toml"]


class Mosquitto(Peer):
    kinds = KINDS

    def __init__(self, binary, saves):
        self.binary, self.saves = binary, saves
        self.name = "Mosquitto, saving each change" if saves else "Mosquitto"

    def command(self, ports, folder, certificate):
        lines = ["user root", "per_listener_settings false", "allow_anonymous true", "log_type none", "set_tcp_nodelay true",
                 "max_queued_messages 0", "max_inflight_messages 1000"]
        if self.saves:
            lines += ["persistence true", f"persistence_location {folder}/", "autosave_on_changes true", "autosave_interval 1"]
        else:
            lines += ["persistence false"]
        for kind in KINDS:
            if kind in ("tls", "wss") and not certificate:
                continue
            lines += [f"listener {ports[kind]} 127.0.0.1"]
            if kind in ("ws", "wss"):
                lines += ["protocol websockets", "socket_domain ipv4"]
            if kind in ("tls", "wss"):
                lines += [f"certfile {certificate.path}", f"keyfile {certificate.key}"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        return [self.binary, "-c", folder / "mosquitto.conf"]


class FlashMQ(Peer):
    kinds = KINDS

    def __init__(self, binary, saves):
        self.binary, self.saves = binary, saves
        self.name = "FlashMQ, saving every 300 s" if saves else "FlashMQ"

    def command(self, ports, folder, certificate):
        text = (f"log_file {folder}/flashmq.log\nlog_level error\nallow_anonymous true\nthread_count 0\n"
                "zero_byte_username_is_anonymous true\nrlimit_nofile 1000000\nmax_qos_msg_pending_per_client 65535\n"
                "max_qos_bytes_pending_per_client 1073741824\nclient_max_write_buffer_size 67108864\n")
        if self.saves:
            (folder / "state").mkdir(exist_ok=True)
            text += f"storage_dir {folder}/state\nsave_state_interval 300\n"
        for kind in KINDS:
            if kind in ("tls", "wss") and not certificate:
                continue
            protocol = "websockets" if kind in ("ws", "wss") else "mqtt"
            secure = (f"  fullchain {certificate.path}\n  privkey {certificate.key}\n"
                      if kind in ("tls", "wss") else "")
            text += (f"listen {{\n  protocol {protocol}\n  inet_protocol ip4\n  inet4_bind_address 127.0.0.1\n"
                     f"  port {ports[kind]}\n  tcp_nodelay true\n{secure}}}\n")
        hard = subprocess.run(["sh", "-c", "ulimit -Hn"], capture_output=True, text=True, check=True).stdout.strip()
        text = text.replace("rlimit_nofile 1000000", f"rlimit_nofile {hard}")
        (folder / "flashmq.conf").write_text(text)
        return [self.binary, "--config-file", folder / "flashmq.conf"]


class Rumqttd(Peer):
    name, kinds, v5_offset = "rumqttd", ("tcp", "ws"), 4

    def __init__(self, binary, saves):
        self.binary = binary

    def command(self, ports, folder, certificate):
        def server(kind, name, port):
            return (f'[{kind}.1]\nname = "{name}"\nlisten = "127.0.0.1:{port}"\nnext_connection_delay_ms = 0\n'
                    f"[{kind}.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 268435455\n"
                    "max_inflight_count = 1000\ndynamic_filters = true\n")
        # What of a replay is beyond its packets on the way it leaves out for good.
        outgoing = max(1_000, self.replays)
        text = (f"id = 0\n[router]\nid = 0\nmax_connections = 100010\nmax_outgoing_packet_count = {outgoing}\n"
                "max_segment_size = 104857600\nmax_segment_count = 10\n")
        text += server("v4", "v4-1", ports["tcp"]) + server("v5", "v5-1", ports["tcp"] + self.v5_offset)
        text += server("ws", "ws-1", ports["ws"])
        (folder / "rumqttd.toml").write_text(text)
        return [self.binary, "-q", "-c", folder / "rumqttd.toml"]


class Floor(Peer):
    """No broker: a relay that reads and writes and understands nothing, so that what is the kernel's can be told apart."""

    name = "floor"

    def __init__(self, root):
        built = subprocess.run(["cargo", "build", "--release", "--example", "floor", "--message-format=json"],
                               cwd=root, stdout=subprocess.PIPE, text=True, check=True).stdout
        artifacts = [json.loads(line) for line in built.splitlines() if line.startswith("{")]
        self.binary = next(found["executable"] for found in artifacts
                           if found.get("executable") and found["target"]["name"] == "floor")

    def command(self, ports, folder, certificate):
        return [self.binary, ports["tcp"]]

    def takes(self, row):
        return row.has_floor


class Other(Peer):
    """Any other broker, by its command line; {PORT}, {WS}, {TLS}, {WSS}, {DIR}, {CERT} and {KEY} are replaced."""

    def __init__(self, name, command):
        self.name, self.template = name, command
        self.kinds = tuple(kind for kind in KINDS if kind == "tcp" or "{" + kind.upper() + "}" in command)

    def command(self, ports, folder, certificate):
        values = {"PORT": ports["tcp"], "WS": ports["ws"], "TLS": ports["tls"], "WSS": ports["wss"], "DIR": folder}
        values |= {"CERT": certificate.path, "KEY": certificate.key} if certificate else {}
        words = shlex.split(self.template)
        for key, value in values.items():
            words = [word.replace("{" + key + "}", str(value)) for word in words]
        return words


def find(fulmar, others, durabilities, saves):
    """Fulmar, the peers on PATH (or in /usr/sbin, where Debian puts Mosquitto), and those named; with `saves`, only
    peers that can keep their state, and they do."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    peers = [Fulmar(fulmar, durability) for durability in durabilities]
    for kind, binary in ((FlashMQ, "flashmq"), (Mosquitto, "mosquitto"), (Rumqttd, "rumqttd"))[: 2 if saves else 3]:
        if found := shutil.which(binary, path=path):
            peers.append(kind(found, saves))
    return peers + [Other(*other.split("=", 1)) for other in others]


class Running:
    """A broker that was started; ended, by its process id, when the block is left."""

    def __init__(self, peer, folder, certificate):
        self.peer, self.folder, self.certificate = peer, folder, certificate
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self):
        first = free_ports(len(KINDS) + 1)
        self.ports = dict(zip(KINDS, first))
        command = [str(word) for word in self.peer.command(self.ports, self.folder, self.certificate)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            preexec_fn=allow_files, start_new_session=True)
        try:
            wanted = [kind for kind in self.peer.kinds if kind in ("tcp", "ws") or self.certificate]
            for kind in wanted if self.certificate else ["tcp"]:
                self.wait_for(self.ports[kind])
            # What starting up left to be done should not be counted as serving.
            time.sleep(0.3)
        except BaseException:
            self.stop()
            raise
        return self

    def wait_for(self, port):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        tail = (self.folder / "log").read_text(errors="replace")[-500:]
        raise RuntimeError(f"{self.peer.name} does not listen on port {port}: {tail}")

    def url(self, kind, version):
        scheme = {"tcp": "mqtt", "tls": "mqtts"}.get(kind, kind)
        port = self.ports[kind] + (self.peer.v5_offset if version.startswith("5") and kind == "tcp" else 0)
        return f"{scheme}://127.0.0.1:{port}"

    def stop(self):
        for sign, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            if self.process.poll() is None:
                self.process.send_signal(sign)
                try:
                    self.process.wait(patience)
                except subprocess.TimeoutExpired:
                    pass

    def __exit__(self, *_):
        self.stop()


def allow_files():
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
