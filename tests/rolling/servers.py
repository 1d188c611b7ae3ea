"""The programs of the trial: PostgreSQL, servers of Kith, and HAProxy. Each ends with the trial."""

import contextlib
import csv
import glob
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# The service whose health the balancers follow.
SERVICE = "kith.v1.ConnectionService"
PATIENCE = 60


def free_port():
    """Returns a port that is free, and that the kernel gives to no connection: it takes those above 32,767."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def until(what, holds, patience=PATIENCE, pause=0.02):
    """Polls until the condition holds, and returns what it returned."""
    deadline = time.monotonic() + patience
    while not (held := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} does not come about")
        time.sleep(pause)
    return held


class Postgres:
    """A PostgreSQL server in a directory of its own, without passwords."""

    @staticmethod
    def binaries():
        """Returns the directory of PostgreSQL's programs."""
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
        on_path = shutil.which("initdb")
        directory = found[-1] if found else os.path.dirname(on_path or "")
        if not directory:
            raise SystemExit("this trial needs PostgreSQL: run scripts/install-test-tools")
        return directory

    def __init__(self):
        self.bin = self.binaries()
        self.dir = tempfile.mkdtemp(prefix="kith-rolling-")
        # PostgreSQL refuses to run as root.
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
        if user:
            shutil.chown(self.dir, "postgres", "postgres")
        data = os.path.join(self.dir, "data")
        initdb = [*user, f"{self.bin}/initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
        subprocess.run([*initdb, "-D", data], cwd=self.dir, check=True, stdout=subprocess.DEVNULL)
        self.port = free_port()
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.dir,
                    "max_connections": 60, "max_wal_size": "8GB"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = open(os.path.join(self.dir, "log"), "wb")
        self.process = subprocess.Popen([*user, f"{self.bin}/postgres", "-D", data, *options], cwd=self.dir,
                                        stdout=log, stderr=log)
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"
        until("PostgreSQL", lambda: self.run("SELECT 1", check=False).returncode == 0)

    def run(self, sql, check=True):
        command = [f"{self.bin}/psql", "--no-psqlrc", "--csv", "--tuples-only", "--dbname", self.url, "--command", sql]
        return subprocess.run(command, capture_output=True, text=True, check=check)

    def rows(self, sql):
        """Returns the rows of a query, each a list of texts."""
        return list(csv.reader(io.StringIO(self.run(sql).stdout)))

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)
        shutil.rmtree(self.dir, ignore_errors=True)


class Kith:
    """A server of Kith that always has the same port."""

    def __init__(self, binary, name, database, arguments, logs):
        # Bound, and never listening: the server may bind it too, and nothing else gets the port while it is down.
        self.reserved = socket.socket()
        self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.reserved.bind(("127.0.0.1", 0))
        self.name, self.port = name, self.reserved.getsockname()[1]
        self.command = [binary, "serve", f"--listen=127.0.0.1:{self.port}", f"--database-url={database}", *arguments]
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("KITH_")}
        self.log = open(os.path.join(logs, f"{name}.log"), "ab")
        self.process = None

    def start(self):
        """Starts it, and waits until it is SERVING."""
        self.process = subprocess.Popen(self.command, env=self.environment, stdout=self.log, stderr=self.log)
        until(f"{self.name} serves", self.serves)

    def serves(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}; see {self.log.name}")
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", options) as channel:
            try:
                response = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=SERVICE), timeout=2)
            except grpc.RpcError:
                return False
            return response.status == health_pb2.HealthCheckResponse.SERVING

    def end(self):
        """Ends it as a supervisor does. Returns the exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Haproxy:
    """HAProxy with the example of deploy/, in front of these servers."""

    def __init__(self, servers, logs):
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        if not os.path.exists(program):
            raise SystemExit("this trial needs HAProxy: run scripts/rolling, which installs it")
        self.port, self.statistics = free_port(), free_port()
        with open(os.path.join(ROOT, "deploy/haproxy/haproxy.cfg")) as example:
            text = example.read()
        replacements = [(r"^    bind :50051 ", f"    bind 127.0.0.1:{self.port} "),
                        (r"bind 127\.0\.0\.1:8405$", f"bind 127.0.0.1:{self.statistics}")]
        for number, server in enumerate(servers, 1):
            replacements.append((rf" kith-{number}:50051$", f" 127.0.0.1:{server.port}"))
        for pattern, replacement in replacements:
            text, changed = re.subn(pattern, replacement, text, flags=re.MULTILINE)
            if changed != 1:
                raise SystemExit(f"deploy/haproxy/haproxy.cfg has {changed} lines with {pattern!r}, not 1")
        file = os.path.join(logs, "haproxy.cfg")
        with open(file, "w") as config:
            config.write(text)
        self.log = open(os.path.join(logs, "haproxy.log"), "ab")
        self.process = subprocess.Popen([program, "-db", "-f", file], stdout=self.log, stderr=self.log)
        until("HAProxy finds all servers up", lambda: self.up() == len(servers))

    def table(self):
        """Returns its statistics: a dictionary for each frontend, backend and server."""
        url = f"http://127.0.0.1:{self.statistics}/;csv"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=2) as response:
                return list(csv.DictReader(io.StringIO(response.read().decode().removeprefix("# "))))
        except OSError:
            return []

    def up(self):
        """Returns how many servers it finds up."""
        if self.process.poll() is not None:
            raise RuntimeError(f"HAProxy ended; see {self.log.name}")
        return sum(row["svname"].startswith("kith-") and row["status"] == "UP" for row in self.table())

    def summary(self):
        """Returns how often connections failed and calls were sent again."""
        [backend] = [row for row in self.table() if (row["pxname"], row["svname"]) == ("kith", "BACKEND")]
        names = {"econ": "connection errors", "wretr": "retries", "wredis": "redispatches", "eresp": "response errors",
                 "hrsp_5xx": "responses 5xx"}
        return {words: int(backend[name] or 0) for name, words in names.items()}

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


def service_config(balanced):
    """Returns a client's service config: one retry of a call that a server did not carry out, and with `balanced`
    the balancing of calls between the servers that are SERVING."""
    retry = {"maxAttempts": 2, "initialBackoff": "0.1s", "maxBackoff": "0.1s", "backoffMultiplier": 1,
             "retryableStatusCodes": ["UNAVAILABLE"]}
    config = {"methodConfig": [{"name": [{}], "retryPolicy": retry}]}
    if balanced:
        config["loadBalancingConfig"] = [{"round_robin": {}}]
        config["healthCheckConfig"] = {"serviceName": SERVICE}
    return json.dumps(config)
