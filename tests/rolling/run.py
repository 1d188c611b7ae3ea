"""Rolling restarts of three servers under load, behind HAProxy and behind a client-side balancer.

Fails if a call fails that was allowed one retry, if a write was lost or made twice, or if a watcher missed an event or
received one twice. `scripts/rolling` installs what it needs and runs it.
"""

import argparse
import collections
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

import load
import verify
from servers import Haproxy, Kith, Postgres, service_config

SERVERS = 3
# Processes of clients, each with `load.CALLERS` callers and three watchers.
PROCESSES = 2
# Seconds for which the callers go as fast as they can, to find the half of it.
CALIBRATION = 8


class Shared:
    """What the processes of clients share with this one."""

    def __init__(self, context):
        # Calls a second of each process. 0: as many as it can.
        self.rate = context.Value("d", 0)
        self.calls = context.Array("q", PROCESSES)
        self.failed = context.Array("q", PROCESSES)
        # Callers end.
        self.stop = context.Event()
        self.idle = context.Semaphore(0)
        # The feed from where watchers begin, and its end, once it is known.
        self.start = context.Value("q", 0)
        self.end = context.Value("q", 0)
        self.end_known = context.Event()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the kith to restart")
    parser.add_argument("--balancer", choices=["haproxy", "client", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=20, help="restarts of each server [20]")
    parser.add_argument("--share", type=float, default=0.5, help="the load, as a share of the most that is taken [0.5]")
    parser.add_argument("--drain-delay", default="3s", help="--drain-delay of the servers [3s]")
    parser.add_argument("--kith-flag", action="append", default=[], help="a further flag of the servers")
    parser.add_argument("--seed", type=int, default=1, help="of the times for which servers are down")
    return parser.parse_args()


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def calibrate(shared):
    """Returns the calls a second that are taken at most, after a second for the start."""
    time.sleep(2)
    before, begun = sum(shared.calls), time.monotonic()
    time.sleep(CALIBRATION)
    most = (sum(shared.calls) - before) / (time.monotonic() - begun)
    if most == 0 or any(shared.failed):
        raise RuntimeError(f"without restarts, {sum(shared.failed)} calls failed, and {most:.0f} a second did not")
    return most


def roll(servers, rounds, shared):
    """Restarts each server in each round, one after the other."""
    for number in range(1, rounds + 1):
        for server in servers:
            status = server.end()
            if status != 0:
                raise RuntimeError(f"{server.name} ended with {status}")
            # A container takes some time to start.
            time.sleep(random.uniform(0, 1))
            server.start()
        say(f"  round {number} of {rounds}: {sum(shared.calls)} calls, {sum(shared.failed)} failed")


def trial(balancer, options, logs):
    """Runs the trial behind one balancer. Returns what is wrong, a line each."""
    stopping, clients = [], []
    context = multiprocessing.get_context("spawn")
    shared, results = Shared(context), context.Queue()
    try:
        database = Postgres()
        stopping.append(database.stop)
        subprocess.run([options.binary, "migrate", f"--database-url={database.url}"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Connections also end of age, so that there are more ends under load than those of servers.
        flags = [f"--drain-delay={options.drain_delay}", "--max-connection-age=15s", "--max-sends-per-hour=0",
                 "--migrate=false", *options.kith_flag]
        servers = [Kith(options.binary, f"{balancer}-kith-{number}", database.url, flags, logs)
                   for number in range(1, SERVERS + 1)]
        for server in servers:
            stopping.append(server.kill)
            server.start()
        load.seed(f"127.0.0.1:{servers[0].port}", PROCESSES * load.USERS)
        proxy = None
        if balancer == "haproxy":
            proxy = Haproxy(servers, logs)
            stopping.append(proxy.stop)
            target = f"ipv4:127.0.0.1:{proxy.port}"
        else:
            target = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
        shared.start.value = verify.head(database)
        config = service_config(balanced=proxy is None)
        for number in range(PROCESSES):
            client = context.Process(target=load.main, args=(number, target, config, shared, results), daemon=True)
            client.start()
            clients.append(client)
        most = calibrate(shared)
        shared.rate.value = most * options.share / PROCESSES
        say(f"{balancer}: {most:.0f} calls a second at most; {options.rounds} rounds at {most * options.share:.0f}")
        begun, before = time.monotonic(), sum(shared.calls)
        roll(servers, options.rounds, shared)
        calls, seconds = sum(shared.calls) - before, time.monotonic() - begun
        shared.stop.set()
        for _ in clients:
            if not shared.idle.acquire(timeout=60):
                raise TimeoutError("the callers do not end")
        shared.end.value = verify.head(database)
        shared.end_known.set()
        reports = [results.get(timeout=90) for _ in clients]
        say(f"{balancer}: {SERVERS * options.rounds} restarts in {seconds:.0f} s, {calls / seconds:.0f} calls a second")
        if proxy:
            say(f"{balancer}: {proxy.summary()}")
        check = subprocess.run([options.binary, "check", f"--database-url={database.url}"], capture_output=True,
                               text=True)
        wrong = [] if check.returncode == 0 else [f"kith check: {check.stdout}{check.stderr}"]
        return wrong + verify.differences(database, reports, shared.start.value) + describe(balancer, reports)
    finally:
        for client in clients:
            client.kill()
        for stop in reversed(stopping):
            stop()


def describe(balancer, reports):
    """Prints what clients saw. Returns the failures."""
    changes, ends, received, failures = collections.Counter(), collections.Counter(), 0, []
    for report in reports:
        changes.update(report["changes"])
        failures.extend(report["failures"])
        for watcher in report["watchers"]:
            ends.update(watcher["ends"])
            received += len(watcher["sequences"])
    say(f"{balancer}: writes {dict(changes)}")
    say(f"{balancer}: {received} events to {sum(len(report['watchers']) for report in reports)} watchers, "
        f"which resumed after {dict(ends)}")
    return [f"failed: {failure}" for failure in failures]


def main():
    options = arguments()
    random.seed(options.seed)
    logs = tempfile.mkdtemp(prefix="kith-rolling-logs-")
    failed = False
    for balancer in ["haproxy", "client"] if options.balancer == "both" else [options.balancer]:
        wrong = trial(balancer, options, logs)
        failed |= bool(wrong)
        for line in wrong[:20]:
            print(line)
        say(f"{balancer}: " + (f"{len(wrong)} things are wrong; the logs are in {logs}" if wrong else
                               "no call failed, and watchers missed and doubled nothing"))
    if not failed:
        shutil.rmtree(logs)
    sys.exit(failed)


if __name__ == "__main__":
    main()
