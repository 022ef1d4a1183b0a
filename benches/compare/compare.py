#!/usr/bin/env python3
"""Compares Fulmar with other brokers on this machine, with `fulmar bench` as the load.

    cargo build --release
    python3 benches/compare/compare.py                      # the table; an hour, with five rounds
    python3 benches/compare/compare.py --floor              # and beside it what the kernel costs alone
    python3 benches/compare/compare.py --suite quick --rounds 3
    python3 benches/compare/compare.py --suite transports   # the price of TLS and WebSocket
    python3 benches/compare/compare.py --suite durable      # the price of the promise, none,os,sync, beside peers that save
    python3 benches/compare/compare.py --suite growth       # curves: fan-out, subscriptions, payload, connections

Mosquitto, FlashMQ and rumqttd are taken if they are on PATH, others by --broker NAME='COMMAND {PORT} {DIR}', which has to stay
in the foreground. Every run gets a fresh broker, and the brokers take turns, the other way round in every second round. The
broker's CPU time and memory are the system's counts for its process in /proc. Needs Linux and Python 3.9; nothing else.
"""

import argparse
import datetime
import json
import math
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peers as brokers
from plot import draw
from suites import CURVES, DURABLE, QUICK, TABLE, Row, transports

ROOT = Path(__file__).resolve().parents[2]
SUITES = {"table": TABLE, "quick": QUICK, "transports": transports(), "durable": DURABLE}


class Bench:
    """Runs scenarios and remembers what they found."""

    def __init__(self, args, folder):
        self.args, self.folder, self.runs, self.started = args, folder, 0, time.monotonic()
        self.results = {}

    def measure(self, peer, row, half=None):
        """One run against a fresh broker: a dict, with `error` if it failed."""
        self.runs += 1
        needs_certificate = row.kind in ("tls", "wss")
        folder = self.folder / f"{self.runs}"
        try:
            folder.mkdir()
            certificate = brokers.Certificate(folder) if needs_certificate else None
            peer.replays = row.replays
            with brokers.Running(peer, folder, certificate) as broker:
                command = row.command.replace("HALF", f"{half or 1000:.0f}")
                words = [self.args.fulmar, "bench", *shlex.split(command), "--json", "--insecure",
                         "--url", broker.url(row.kind, row.version), "--pid", str(broker.process.pid)]
                done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
                if done.returncode:
                    return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it failed"}
                found = json.loads(done.stdout)
                found["written_bytes"] = written_bytes(broker.process.pid)
                return found
        except (OSError, RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
            return {"error": str(error)}
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def rounds(self, rows, peers, half):
        for number in range(self.args.rounds):
            for row in rows:
                for peer in peers[:: -1 if number % 2 else 1]:
                    runs = self.results.setdefault((row.run, peer.name), [])
                    # Rows that show several figures of the same runs have them run once.
                    if not peer.takes(row) or len(runs) > number:
                        continue
                    found = self.measure(peer, row, half)
                    runs.append(found)
                    said = found.get("error") or f"{found.get(row.figure, 0):,.3f}"
                    seconds = time.monotonic() - self.started
                    print(f"[{seconds:5.0f} s] round {number + 1}, {row.name}: {peer.name}: {said}", file=sys.stderr, flush=True)

    def values(self, row, peer, pick):
        """What the good runs found."""
        runs = self.results.get((row.run, peer.name), [])
        values = [pick(run) for run in runs if "error" not in run]
        return [value for value in values if value is not None]


def written_bytes(process):
    """What a process has had written to disks."""
    try:
        text = Path(f"/proc/{process}/io").read_text()
    except OSError:
        return None
    return int(re.search(r"^write_bytes: (\d+)", text, re.M).group(1))


def quantile(name):
    """A quantile of the latency, where all brokers have the same load: at full speed it is the depth of their queues."""
    return lambda run: run["latency_us"].get(name) if run.get("rate") and "latency_us" in run else None


def number(value):
    if value is None:
        return "-"
    if value >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def median(values):
    return statistics.median(values) if values else None


def is_ours(peer):
    return isinstance(peer, brokers.Fulmar)


def is_rival(peer):
    return not isinstance(peer, (brokers.Fulmar, brokers.Floor))


def remark(bench, row, peers):
    """What of a row is not as it should be."""
    out = []
    for peer in peers:
        runs = bench.results.get((row.run, peer.name), [])
        good = [run for run in runs if "error" not in run]
        for key in ("lost", "duplicates", "out_of_order", "rejected", "stalls", "failed", "unsent", "foreign", "given_up",
                    "unacknowledged"):
            worst = max((run.get(key) or 0 for run in good), default=0, key=abs)
            if worst:
                out.append(f"{peer.name}: {key.replace('_', ' ')} {worst:,}")
        if any(run.get("granted_qos", 2) < run.get("subscriber_qos", 0) for run in good):
            out.append(f"{peer.name}: granted a lower QoS than was asked for")
        failed = [run["error"] for run in runs if "error" in run]
        if failed:
            out.append(f"{peer.name}: {len(failed)} of {len(runs)} failed ({failed[0]})")
    return "; ".join(out).replace("|", "/")


def cost_table(bench, rows, peers):
    """CPU (or memory) a peer, and our share of the best of them."""
    others = [peer for peer in peers if is_rival(peer)]
    lines = ["| row (3.1.1 and 64 B unless it says otherwise) | " + " | ".join(peer.name for peer in peers) + " | share | goal |",
             "|---|" + "---:|" * (len(peers) + 2)]
    shares, remarks = [], []
    for row in rows:
        cells, best, ours = [], None, None
        for peer in peers:
            values = bench.values(row, peer, lambda run: run.get(row.figure))
            value = median(values)
            text = number(value)
            if value is not None:
                text += f" ({number(min(values))}-{number(max(values))})"
            if peer is peers[0]:
                ours = value
            elif peer in others and value:
                best = min(best or value, value)
            cells.append(text)
        share = ours / best if ours and best else None
        if share and row.figure.startswith("broker_cpu_us"):
            shares.append(share)
        goal = number(row.goal) if row.goal else ""
        lines.append(f"| {row.name} | " + " | ".join(cells) + f" | {number(share)} | {goal} |")
        if text := remark(bench, row, peers):
            remarks.append(f"- {row.name}: {text}")
    if shares:
        mean = math.exp(statistics.fmean(map(math.log, shares)))
        lines += ["", f"Geometric mean of the shares of CPU time: {mean:.2f}, over {len(shares)} rows."]
    return lines + (["", "Not as it should be:", "", *remarks] if remarks else [])


def detail_table(bench, rows, peers):
    picks = [
        ("operations/s", lambda run: run.get("operations_per_s")),
        ("CPU us each", lambda run: run.get("broker_cpu_us_per_operation")),
        ("p50 us at the row's rate", quantile("p50")), ("p99", quantile("p99")), ("p99.9", quantile("p99.9")),
        ("peak memory MiB", lambda run: run["broker_memory_peak_bytes"] / 2**20 if "broker_memory_peak_bytes" in run else None),
        ("generator, cores", lambda run: run.get("generator_cpu_share")),
    ]
    lines = ["| row | broker | " + " | ".join(name for name, _ in picks) + " |", "|---|---|" + "---:|" * len(picks)]
    for row in rows:
        for peer in peers:
            if bench.results.get((row.run, peer.name)):
                cells = [number(median(bench.values(row, peer, pick))) for _, pick in picks]
                lines.append(f"| {row.name} | {peer.name} | " + " | ".join(cells) + " |")
    return lines


def price_table(bench, rows, peers):
    """What a way in costs, as a multiple of plain TCP in the same row."""
    lines = ["| load | broker | TCP | WebSocket | TLS | WebSocket in TLS |", "|---|---|---:|---:|---:|---:|"]
    loads = {}
    for row in rows:
        load = row.name.rsplit(": ", 1)[0]
        loads.setdefault(load, {})[row.kind] = row
    for load, by_kind in loads.items():
        for peer in peers:
            cells, base = [], None
            for kind in brokers.KINDS:
                row = by_kind.get(kind)
                value = median(bench.values(row, peer, lambda run: run.get(row.figure))) if row else None
                base = value if kind == "tcp" else base
                cells.append(number(value) + (f" ({value / base:.2f}x)" if value and base and kind != "tcp" else ""))
            if any(cell != "-" for cell in cells):
                lines.append(f"| {load} | {peer.name} | " + " | ".join(cells) + " |")
    return lines


def durable_table(bench, rows, peers):
    """What it costs to keep what is acknowledged."""
    def acknowledged(name):
        return lambda run: run["acknowledgement_us"].get(name) / 1_000 if "acknowledgement_us" in run else None
    picks = [
        ("messages/s", lambda run: run.get("operations_per_s")),
        ("CPU us a message", lambda run: run.get("broker_cpu_us_per_operation")),
        ("acknowledged after, ms: p50", acknowledged("p50")), ("p99", acknowledged("p99")),
        ("bytes written a message", lambda run: run["written_bytes"] / run["sent"] if run.get("written_bytes") is not None and run.get("sent") else None),
    ]
    lines = ["| row | broker | " + " | ".join(name for name, _ in picks) + " |", "|---|---|" + "---:|" * len(picks)]
    for row in rows:
        for peer in peers:
            cells = [number(median(bench.values(row, peer, pick))) for _, pick in picks]
            lines.append(f"| {row.name} | {peer.name} | " + " | ".join(cells) + " |")
    remarks = [f"- {row.name}: {text}" for row in rows if (text := remark(bench, row, peers))]
    return lines + (["", "Not as it should be:", "", *remarks] if remarks else [])


def version_of(peer):
    """What the broker says that it is."""
    if isinstance(peer, brokers.Floor):
        return "(the kernel's share alone: a relay that only reads and writes)"
    if is_ours(peer):
        flags, binary = ["--version"], peer.binary
    elif isinstance(peer, brokers.Other):
        return peer.template
    else:
        flags, binary = ["-h"] if isinstance(peer, brokers.Mosquitto) else ["--version"], peer.binary
    try:
        done = subprocess.run([binary, *flags], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found.group(0) if found else "unknown"


def machine(folder):
    """What it is measured on, and what `folder`, where the brokers keep their data, is on."""
    try:
        models = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        model = models[0] if models else platform.machine()
        memory = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text()).group(1)) / 2**20
        load = Path("/proc/loadavg").read_text().split()[0]
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        under = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1].encode().decode("unicode_escape"))]
        kind = max(under, key=lambda mount: len(mount[1]))[2]
        return (f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()} {platform.release()}, data on {kind}; "
                f"load before: {load}")
    except (OSError, AttributeError, ValueError, IndexError):
        return platform.platform()


def growth(bench, peers, out):
    """Draws a curve for each cost, from the medians of all rounds."""
    report = []
    for curve in CURVES:
        if not re.search(bench.args.only, curve.name):
            continue
        rows = [Row(f"{curve.name} {x:,}", command) for x, command in curve.points]
        bench.rounds(rows, peers, None)
        lines = {}
        table = [f"| {curve.x_label} | " + " | ".join(peer.name for peer in peers) + " |", "|---:|" + "---:|" * len(peers)]
        for row, (x, _) in zip(rows, curve.points):
            cells = []
            for peer in peers:
                value = median(bench.values(row, peer, lambda run: run.get("broker_cpu_us_per_operation")))
                if value:
                    lines.setdefault(peer.name, []).append((x, value))
                cells.append(number(value))
            table.append(f"| {x:,} | " + " | ".join(cells) + " |")
        picture = draw(curve.title, curve.x_label, "broker CPU, microseconds", lines)
        if picture:
            (out / f"{curve.name}.svg").write_text(picture)
            report += [f"## {curve.title}", "", f"![{curve.title}]({curve.name}.svg)", "", *table, ""]
        if remarks := [f"- {row.name}: {text}" for row in rows if (text := remark(bench, row, peers))]:
            report += ["Not as it should be:", "", *remarks, ""]
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=[*SUITES, "growth"], default="table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="REGEX", help="rows, or curves, whose name matches")
    parser.add_argument("--brokers", default="", metavar="REGEX", help="brokers whose name matches; Fulmar always takes part")
    parser.add_argument("--broker", action="append", default=[], metavar="NAME=COMMAND", help="another broker; may be repeated")
    parser.add_argument("--durability", metavar="LIST",
                        help="Fulmar's, one column each, such as none,sync; the peers keep nothing on disk but in the suite durable, "
                        "where it is none,os,sync if it is not given, and none elsewhere")
    parser.add_argument("--floor", action="store_true",
                        help="also measure a relay that only reads and writes, which cargo builds: what the kernel costs without a broker")
    parser.add_argument("--fulmar", default=str(ROOT / "target" / "release" / "fulmar"), metavar="FILE", help="the binary")
    parser.add_argument("--out", default="target/compare", metavar="DIR", help="where the report and the curves are written")
    args = parser.parse_args()
    if not os.access(args.fulmar, os.X_OK):
        parser.error(f"there is no {args.fulmar}: cargo build --release, or name it with --fulmar")
    for other in args.broker:
        if "=" not in other:
            parser.error(f"--broker {other}: expected NAME=COMMAND")
    saves = args.suite == "durable"
    durabilities = (args.durability or ("none,os,sync" if saves else "none")).split(",")
    peers = brokers.find(args.fulmar, args.broker, durabilities, saves)
    peers = [peer for peer in peers if is_ours(peer) or re.search(args.brokers, peer.name)]
    peers += [brokers.Floor(ROOT)] if args.floor else []
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    # Beside the report, as a folder for temporary files is often in memory, where to sync costs nothing.
    with tempfile.TemporaryDirectory(prefix="data-", dir=out.resolve()) as folder:
        Path(folder).chmod(0o755)
        described = machine(Path(folder))
        print(f"{', '.join(peer.name for peer in peers)}; {described}", file=sys.stderr)
        bench = Bench(args, Path(folder))
        if args.suite == "growth":
            body = growth(bench, peers, out)
        else:
            rows = [row for row in SUITES[args.suite] if re.search(args.only, row.name)]
            half = None
            if any("HALF" in row.command for row in rows):
                fastest = [bench.measure(peer, TABLE[0]).get("operations_per_s") for peer in peers if is_rival(peer)]
                half = min((rate for rate in fastest if rate), default=100_000) / 2
                print(f"half of the slowest peer's rate: {half:,.0f} messages/s", file=sys.stderr)
            bench.rounds(rows, peers, half)
            if args.suite == "transports":
                body = price_table(bench, rows, peers)
            elif args.suite == "durable":
                body = durable_table(bench, rows, peers)
            else:
                body = cost_table(bench, rows, peers)
            body += ["", "## In detail", "", *detail_table(bench, rows, peers)]
            if half:
                body += ["", f"Half the slowest's rate was {half:,.0f} messages a second."]
    versions = ", ".join(f"{peer.name} {version_of(peer)}" for peer in peers)
    rounds = "One round" if args.rounds == 1 else f"Medians of {args.rounds} rounds"
    columns = "" if args.suite == "growth" else (
        "; in brackets the lowest and highest. The last columns: Fulmar's share of the best of the others, and the "
        "share it is to stay below")
    head = [f"# Brokers compared: {args.suite}", "",
            "What an operation costs the broker: its CPU time in microseconds, unless the row says otherwise. "
            f"{rounds}, the brokers taking turns{columns}.", "",
            f"- {datetime.date.today()}; {versions}", f"- {described}", ""]
    report = out / f"{args.suite}.md"
    report.write_text("\n".join(head + body) + "\n")
    flat = [{"run": run, "broker": peer, "runs": runs} for (run, peer), runs in bench.results.items() if runs]
    (out / f"{args.suite}.json").write_text(json.dumps(flat, indent=1))
    print("\n".join(head + body))
    print(f"\nWritten to {report} and {args.suite}.json beside it.", file=sys.stderr)


if __name__ == "__main__":
    main()
