#!/usr/bin/env bash
# The crash test against any broker: what does `kill -9` cost it?
#
#     bash tests/crash/any-broker.sh COMMAND [FILE ...]
#
# COMMAND starts the broker in the foreground; {PORT} in it stands for the port on which it must listen (on
# 127.0.0.1, MQTT 3.1.1 and 5.0, without a password), {DIR} for an empty folder that is its own. FILEs are copied
# there first, with the same two placeholders filled in. The process that COMMAND starts must be the broker
# itself (a script ends with `exec`), because that is what is killed. For example:
#
#     bash tests/crash/any-broker.sh 'mosquitto -c {DIR}/mosquitto.conf' tests/crash/peers/mosquitto.conf
#
# KILLS (20), SEED, RATE (messages a second and publisher, 60), VERSION (3.1.1 or 5.0; both) and
# RECEIVE_MAXIMUM=off (no client has one) change it. With KILLS=0 it shows what has nothing to do with kills. It
# prints how much was promised and how much of that was lost, doubled or out of order, then the first faults
# of each kind with the message's whole life; it ends with an error if there was any fault.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ $# -eq 0 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
fi
command=$1
shift
files=
for file in "$@"; do
    files+=" $(realpath "$file")"
done

export FULMAR_CRASH_BROKER=$command FULMAR_CRASH_FILES=$files FULMAR_CRASH_KILLS=${KILLS:-20}
export FULMAR_CRASH_RATE=${RATE:-60}
[ -z "${SEED:-}" ] || export FULMAR_CRASH_SEED=$SEED
[ -z "${RECEIVE_MAXIMUM:-}" ] || export FULMAR_CRASH_RECEIVE_MAXIMUM=$RECEIVE_MAXIMUM
[ -z "${VERSION:-}" ] || export FULMAR_CRASH_VERSION=$VERSION
cd "$here/../.."
RUST_BACKTRACE=0 exec cargo test --quiet --test crash -- --exact --nocapture \
    killed_again_and_again_it_keeps_what_it_acknowledged
