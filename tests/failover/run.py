"""Failovers of a PostgreSQL cluster of Patroni under load, with synchronous or asynchronous replication.

Two servers of Kith reach the cluster through HAProxy, and one by the list of its hosts. Clients repeat a call with the
same request_id until it succeeds. Fails if a write was lost or made twice, a read at its revision was wrong, or a watcher
missed an event, received one twice, or was told anything but UNAVAILABLE.

With `--asynchronous` primaries that die or are cut off have commits that their standbys have not. Fails if these are not
lost for all in the same way: if a watcher, an answer or a list differs from the tables, a lost position is accepted or a
valid one refused, or WRONG_EPOCH names another sequence than the last common one. With `--hide-timelines` it must fail.
`scripts/failover` installs what it needs and runs it.
"""

import argparse
import collections
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "rolling"))

import load  # noqa: E402
import lossy  # noqa: E402
import lost  # noqa: E402
import verify  # noqa: E402
from cluster import Cluster, Database, send  # noqa: E402
from patient import PATIENCE, Patient  # noqa: E402
from servers import Kith, service_config  # noqa: E402

PROCESSES = 2
# Seconds between two events, and for which a former primary lives on beside the new one.
PAUSE = 5
# Seconds for which standbys receive nothing before a primary dies, with asynchronous replication.
LAG = 2


def client(number, target, config, shared, results):
    """Runs in a process of its own, as `lossy.main` does."""
    load.Load = Patient
    load.main(number, target, config, shared, results)


class Shared:
    """What the processes of clients share with this one, as in `tests/rolling`."""

    def __init__(self, context, rate):
        self.rate = context.Value("d", rate / PROCESSES)
        self.calls, self.failed = context.Array("q", PROCESSES), context.Array("q", PROCESSES)
        self.repeated = context.Value("q", 0)
        self.stop, self.idle = context.Event(), context.Semaphore(0)
        self.start, self.end, self.end_known = context.Value("q", 0), context.Value("q", 0), context.Event()
        self.end_epoch = context.Array("c", 100)


class Gaps(threading.Thread):
    """Measures the longest time in which no call succeeded."""

    def __init__(self, shared):
        super().__init__(daemon=True)
        self.shared, self.longest = shared, 0

    def run(self):
        last, since = 0, time.monotonic()
        while True:
            calls, now = sum(self.shared.calls), time.monotonic()
            if calls != last:
                last, since = calls, now
            self.longest = max(self.longest, now - since)
            time.sleep(0.02)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the kith to try")
    parser.add_argument("--asynchronous", action="store_true", help="replicate asynchronously, so that commits are lost")
    parser.add_argument("--hide-timelines", action="store_true",
                        help="with --asynchronous: a role that may not read the timeline, so that the trial must fail")
    parser.add_argument("--machines", type=int, default=10, help="kills of the primary's machine [10]")
    parser.add_argument("--postgres", type=int, default=5, help="kills of the primary's PostgreSQL alone [5]")
    parser.add_argument("--switchovers", type=int, default=5, help="planned changes of the primary [5]")
    parser.add_argument("--partitions", type=int, default=3, help="primaries that live on without Patroni [3]")
    parser.add_argument("--freezes", type=int, default=0,
                        help="primaries that are frozen, and thaw; without a watchdog Patroni may lose commits then [0]")
    parser.add_argument("--rate", type=float, default=300, help="calls a second [300]")
    parser.add_argument("--seed", type=int, default=1, help="of the order of events")
    return parser.parse_args()


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def cut_off(cluster, leader):
    """With asynchronous replication, lets the standbys receive nothing more. Returns the processes that it stops."""
    senders = [] if cluster.synchronous else leader.senders()
    send(signal.SIGSTOP, senders)
    return senders


def machine(cluster, leader):
    if cut_off(cluster, leader):
        time.sleep(LAG)
    leader.kill()
    cluster.another_leader(leader)
    time.sleep(PAUSE)
    leader.start()


def postgres(cluster, leader):
    # It is started again, with everything that it acknowledged.
    cut_off(cluster, leader)
    send(signal.SIGKILL, leader.postgres())


def switchover(cluster, leader):
    answer = leader.ask("/switchover", {"leader": leader.name, "candidate": cluster.candidate(leader).name})
    if "Successfully" not in (answer or ""):
        raise RuntimeError(f"no switchover: {answer}")


def partition(cluster, leader):
    """The primary lives on without Patroni until another one has been there for a while."""
    cut_off(cluster, leader)
    # Stopped and let go on, Patroni 3.0.2 may take the leadership back, and with it what the new primary has.
    leader.patroni.kill()
    leader.patroni.wait()
    cluster.another_leader(leader)
    time.sleep(PAUSE)
    leader.start()


def freeze(cluster, leader):
    stopped = leader.machine()
    send(signal.SIGSTOP, stopped)
    cluster.another_leader(leader)
    time.sleep(PAUSE)
    send(signal.SIGCONT, leader.machine() + stopped)


EVENTS = {"machines": machine, "postgres": postgres, "switchovers": switchover, "partitions": partition,
          "freezes": freeze}


def fail_over(cluster, shared, options):
    """Carries out the events in a random order."""
    events = [name for name in EVENTS for _ in range(getattr(options, name))]
    random.Random(options.seed).shuffle(events)
    gaps = Gaps(shared)
    gaps.start()
    for number, name in enumerate(events, 1):
        leader = cluster.settled()
        time.sleep(PAUSE)
        gaps.longest, repeated = 0, shared.repeated.value
        EVENTS[name](cluster, leader)
        now = cluster.settled()
        time.sleep(PAUSE)
        say(f"{number} of {len(events)}, {name}: {leader.name} → {now.name}, {gaps.longest:.1f} s without an answer, "
            f"{shared.repeated.value - repeated} calls repeated, {sum(shared.failed)} failed")


def trial(options, logs):
    """Returns what is wrong, a line each."""
    stopping, clients = [], []
    context = multiprocessing.get_context("spawn")
    shared, results = Shared(context, options.rate), context.Queue()
    try:
        cluster = Cluster(not options.asynchronous, logs)
        stopping.append(cluster.stop)
        if options.hide_timelines:
            cluster.hide_timelines()
        subprocess.run([options.binary, "migrate", f"--database-url={cluster.url()}"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        flags = ["--max-sends-per-hour=0", "--migrate=false", "--metrics-listen=off"]
        servers = [Kith(options.binary, f"kith-{number}", cluster.url(hosts=number == 3), flags, logs)
                   for number in range(1, 4)]
        for server in servers:
            stopping.append(server.kill)
            server.start()
        load.seed(f"127.0.0.1:{servers[0].port}", PROCESSES * load.USERS)
        shared.start.value = verify.head(Database(cluster, cluster.settled()))
        target = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
        for number in range(PROCESSES):
            process = context.Process(target=lossy.main if options.asynchronous else client, daemon=True,
                                      args=(number, target, service_config(True), shared, results))
            process.start()
            clients.append(process)
        fail_over(cluster, shared, options)
        shared.stop.set()
        for _ in clients:
            if not shared.idle.acquire(timeout=PATIENCE + 10):
                raise TimeoutError("the callers do not end")
        database = Database(cluster, cluster.settled())
        [[shared.end.value, shared.end_epoch.value]] = [
            (int(head), epoch.encode()) for head, epoch in database.rows("SELECT last_sequence, epoch FROM feed")]
        shared.end_known.set()
        reports = [results.get(timeout=90) for _ in clients]
        check = subprocess.run([options.binary, "check", f"--database-url={cluster.url()}"], capture_output=True,
                               text=True)
        wrong = [] if check.returncode == 0 else [f"kith check: {check.stdout}{check.stderr}"]
        changes, ends = collections.Counter(), collections.Counter()
        for report in reports:
            changes.update(report["changes"])
            wrong += [f"failed: {failure}" for failure in report["failures"]]
            for watcher in report["watchers"]:
                ends.update(watcher["ends"])
        say(f"writes {dict(changes)}; watchers resumed after {dict(ends)}")
        if options.asynchronous:
            differences, summary = lost.differences(database, reports, shared.start.value, servers)
            say(summary)
            return differences + wrong
        return wrong + verify.differences(database, reports, shared.start.value)
    finally:
        for process in clients:
            process.kill()
        for stop in reversed(stopping):
            stop()


def main():
    options = arguments()
    logs = tempfile.mkdtemp(prefix="kith-failover-logs-")
    wrong = trial(options, logs)
    for line in wrong[:20]:
        print(line)
    good = ("what was lost is lost for all, and all were told" if options.asynchronous else
            "no write was lost or made twice, and watchers missed and doubled nothing")
    say(f"{len(wrong)} things are wrong; the logs are in {logs}" if wrong else good)
    if not wrong:
        shutil.rmtree(logs)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
