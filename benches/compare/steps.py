#!/usr/bin/env python3
"""What each step of a PUBLISH costs Fulmar: samples a broker under load with perf, and sorts them by what it was doing.

    cargo build --release
    python3 benches/compare/steps.py                        # the table in ARCHITECTURE.md
    python3 benches/compare/steps.py --load "pub-sub -c 100 -q 1"

A step's nanoseconds are its share of the samples times the broker's CPU time per message. Needs Linux, perf and Python 3.9.
"""

import argparse
import collections
import json
import re
import shlex
import statistics
import subprocess
import tempfile
from pathlib import Path

import peers

ROOT = Path(__file__).resolve().parents[2]
LOADS = ["pub-sub -c 10", "pub-sub -c 10 --topics 10", "pub-sub -c 10 -q 1", "pub-sub -c 10 -q 2 -V 5.0", "fan-out -c 100"]

# The kernel's part, by the system call in the stack; what it does beside those is switching and interrupts.
CALLS = [
    ("kernel: read", r"sys_(recv|read)"),
    ("kernel: write, with the loopback's delivery", r"sys_(send|write)"),
    ("kernel: wait and wake", r"sys_(epoll|futex)"),
]
# Ours, by the function; the first that matches counts. Inlined functions count as those they are part of.
FUNCTIONS = [
    ("read packets and gather runs", r"net::gathering::|net::inbound::Inbound>?::(handle_bytes|handle_input|handle_own|gather|handle_packets|receive)|session::received|codec::|topic::|from_utf8|utf8"),
    ("acknowledgements from subscribers", r"handle_acknowledgement|acknowledge_in_turn|window::Window::(finish|release)|Session>::finish"),
    ("acknowledgements to publishers", r"net::acks|encode_acknowledgement|Inbound>?::(flush|acknowledge|answer|send)"),
    ("find who gets it", r"broker::publish|matches|routing::|generations|MatchCache"),
    ("deliver: identifier, window, frame", r"session::|Window|deliver"),
    ("copy bytes", r"memmove|memcpy|mem(cmp|set)"),
    ("take and write the outbox", r"net::|broker::poll|broker::|counters"),
    ("allocate", r"malloc|free|realloc|alloc::"),
    ("runtime", r"tokio|mio|std::|core::|parking_lot|clock_gettime|vdso|epoll|send|recv|write"),
]


def sort_samples(script):
    """Samples by step, from the output of `perf script -F ip,sym,dso`."""
    steps = collections.Counter()
    for sample in script.split("\n\n"):
        frames = [line.strip() for line in sample.splitlines() if line.strip()]
        if not frames:
            continue
        if "[kernel" in frames[0] or "[guest.kernel" in frames[0]:
            stack = "\n".join(frame for frame in frames if "[kernel" in frame)
            found = next((name for name, pattern in CALLS if re.search(pattern, stack)), "kernel: switching and interrupts")
        else:
            found = next((name for name, pattern in FUNCTIONS if re.search(pattern, frames[0])), "other")
        steps[found] += 1
    return steps


def measure(binary, load, rounds):
    """The broker's nanoseconds per message, and the shares of its steps."""
    costs, steps = [], collections.Counter()
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="fulmar-steps-") as folder:
            folder = Path(folder)
            with peers.Running(peers.Fulmar(binary, "none"), folder, None) as broker:
                version = "5.0" if "5.0" in load else "3.1.1"
                bench = subprocess.Popen(
                    [binary, "bench", *shlex.split(load), "-d", "4s", "--warm-up", "500ms", "--json", "--url", broker.url("tcp", version),
                     "--pid", str(broker.process.pid)], stdout=subprocess.PIPE, text=True)
                data = folder / "perf.data"
                subprocess.run(["perf", "record", "-q", "-F", "2999", "-g", "-o", data, "-p", str(broker.process.pid), "--", "sleep", "3"],
                               check=True, stderr=subprocess.DEVNULL)
                found = json.loads(bench.communicate()[0])
                if bench.returncode:
                    raise RuntimeError(f"fulmar bench {load}: {found.get('error')}")
                script = subprocess.run(["perf", "script", "-i", data, "-F", "ip,sym,dso"], capture_output=True, text=True, check=True)
                costs.append(found["broker_cpu_us_per_operation"] * 1_000)
                steps += sort_samples(script.stdout)
    total = sum(steps.values())
    return statistics.median(costs), {name: count / total for name, count in steps.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", action="append", help="arguments of `fulmar bench`; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fulmar", default=str(ROOT / "target" / "release" / "fulmar"), metavar="FILE", help="the binary")
    args = parser.parse_args()
    loads = args.load or LOADS
    columns = [measure(args.fulmar, load, args.rounds) for load in loads]
    print("| step, ns a message | " + " | ".join(f"`{load}`" for load in loads) + " |")
    print("|---|" + "---:|" * len(loads))
    names = [name for name, _ in CALLS] + ["kernel: switching and interrupts"] + [name for name, _ in FUNCTIONS] + ["other"]
    for name in names:
        cells = [cost * shares.get(name, 0) for cost, shares in columns]
        if max(cells) >= 0.5:
            print(f"| {name} | " + " | ".join(f"{cell:.0f}" if cell >= 10 else f"{cell:.1f}" for cell in cells) + " |")
    print("| all | " + " | ".join(f"{cost:.0f}" for cost, _ in columns) + " |")


if __name__ == "__main__":
    main()
