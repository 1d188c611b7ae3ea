"""PostgreSQL with Patroni, etcd and HAProxy, all on this machine. Each ends with the trial."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request

from servers import Postgres, free_port, until

MEMBERS = 3
PATIENCE = 90
# Seconds between two questions to the members, each of which costs them a connection.
PAUSE = 0.1

PATRONI = """
scope: kith
name: {name}
restapi: {{listen: "127.0.0.1:{rest}", connect_address: "127.0.0.1:{rest}"}}
etcd3: {{host: "127.0.0.1:{etcd}"}}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 2
    retry_timeout: 5
    maximum_lag_on_failover: 100000000
    synchronous_mode: {synchronous}
    postgresql:
      use_pg_rewind: true
      parameters: {{wal_log_hints: "on", max_connections: 150, max_wal_size: 8GB, wal_keep_size: 1GB}}
  initdb: [{{encoding: UTF8}}, {{locale: C}}, {{auth: trust}}]
  pg_hba: ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
postgresql:
  listen: "127.0.0.1:{port}"
  connect_address: "127.0.0.1:{port}"
  data_dir: {dir}/data
  bin_dir: {bin}
  pgpass: {dir}/pgpass
  authentication:
    superuser: {{username: postgres, password: postgres}}
    replication: {{username: replicator, password: replicator}}
  parameters: {{unix_socket_directories: {dir}}}
watchdog: {{mode: "off"}}
"""

HAPROXY = """
defaults
    mode tcp
    timeout connect 2s
    timeout client 30m
    timeout server 30m
listen postgres
    bind 127.0.0.1:{port}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
"""


def children(parent):
    """Returns the processes whose parent this is."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{process}/stat") as stat:
            if int(stat.read().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(process))
    return found


def send(signal_number, processes):
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal_number)


class Member:
    """A machine: PostgreSQL and its Patroni."""

    def __init__(self, cluster, number):
        self.name, self.port, self.rest = f"n{number}", free_port(), free_port()
        self.dir = os.path.join(cluster.dir, self.name)
        os.mkdir(self.dir)
        self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
        file = os.path.join(self.dir, "patroni.yml")
        with open(file, "w") as config:
            config.write(PATRONI.format(name=self.name, rest=self.rest, etcd=cluster.etcd_port, port=self.port,
                                        synchronous=str(cluster.synchronous).lower(), dir=self.dir, bin=cluster.bin))
        if self.user:
            shutil.chown(self.dir, "postgres", "postgres")
            shutil.chown(file, "postgres", "postgres")
        self.command = [*self.user, "patroni", file]
        self.log = open(os.path.join(cluster.logs, f"{self.name}.log"), "ab")
        self.patroni = None

    def start(self):
        self.patroni = subprocess.Popen(self.command, cwd=self.dir, stdout=self.log, stderr=self.log)

    def ask(self, path, body=None):
        """Returns the answer of Patroni, or None."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        data = body and json.dumps(body).encode()
        try:
            with opener.open(urllib.request.Request(f"http://127.0.0.1:{self.rest}{path}", data), timeout=20) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return None if body is None else f"{error.code}: {error.read().decode()}"
        except OSError:
            return None

    def is_leader(self):
        return self.ask("/primary") is not None

    def is_replica(self):
        return self.ask("/replica") is not None

    def is_synchronous(self):
        return self.ask("/synchronous") is not None

    def postgres(self):
        """Returns the processes of PostgreSQL, the parent first."""
        try:
            with open(os.path.join(self.dir, "data", "postmaster.pid")) as file:
                parent = int(file.readline())
        except (OSError, ValueError):
            return []
        return [parent, *children(parent)]

    def senders(self):
        """Returns the processes that send the log to the standbys."""
        found = []
        for process in self.postgres()[1:]:
            with contextlib.suppress(OSError), open(f"/proc/{process}/cmdline") as command:
                if "walsender" in command.read():
                    found.append(process)
        return found

    def machine(self):
        return [self.patroni.pid, *self.postgres()]

    def kill(self):
        """The machine loses its power."""
        processes = self.machine()
        send(signal.SIGSTOP, processes)
        send(signal.SIGKILL, [*processes, *self.postgres()])
        self.patroni.wait()


class Cluster:
    def __init__(self, synchronous, logs):
        self.synchronous, self.logs, self.role = synchronous, logs, "postgres"
        self.bin = Postgres.binaries()
        self.dir = tempfile.mkdtemp(prefix="kith-failover-")
        os.chmod(self.dir, 0o755)
        self.etcd_port, peers, self.proxy_port = free_port(), free_port(), free_port()
        own, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{peers}"
        self.etcd = self.run("etcd", ["etcd", "--data-dir", f"{self.dir}/etcd", "--listen-client-urls", own,
                                      "--advertise-client-urls", own, "--listen-peer-urls", peer,
                                      "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"])
        self.members = [Member(self, number) for number in range(1, MEMBERS + 1)]
        for member in self.members:
            member.start()
        file = os.path.join(self.dir, "haproxy.cfg")
        with open(file, "w") as config:
            config.write(HAPROXY.format(port=self.proxy_port))
            config.writelines(f"    server {member.name} 127.0.0.1:{member.port} check port {member.rest}\n"
                              for member in self.members)
        self.haproxy = self.run("haproxy", [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", file])
        self.settled()

    def run(self, name, command):
        log = open(os.path.join(self.logs, f"{name}.log"), "ab")
        return subprocess.Popen(command, stdout=log, stderr=log)

    def leader(self):
        leaders = [member for member in self.members if member.patroni.poll() is None and member.is_leader()]
        return leaders[0] if len(leaders) == 1 else None

    def settled(self):
        """Waits until there are a leader and its standbys: one is synchronous, or all stream. Returns the leader."""
        def holds():
            leader = self.leader()
            others = [member for member in self.members if member is not leader]
            if not leader or not all(member.is_replica() for member in others):
                return None
            if self.synchronous:
                is_ready = any(member.is_synchronous() for member in others)
            else:
                streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
                is_ready = Database(self, leader).run(streams, check=False).stdout.strip() == str(len(others))
            return leader if is_ready else None

        return until("a settled cluster", holds, 180, PAUSE)

    def another_leader(self, than):
        def holds():
            leader = self.leader()
            return leader if leader is not than else None

        return until(f"another leader than {than.name}", holds, PATIENCE, PAUSE)

    def candidate(self, leader):
        """Waits for a member that may replace the leader. None is synchronous for a moment after a failover."""
        def holds():
            return [member for member in self.members if member is not leader and
                    (member.is_synchronous() or not self.synchronous)]

        return until("a candidate", holds, PATIENCE, PAUSE)[0]

    def hide_timelines(self):
        """Gives Kith a role that may not read the timeline, on which the check of lost commits rests."""
        Database(self, self.settled()).run("CREATE ROLE kith LOGIN; GRANT ALL ON SCHEMA public TO kith; "
                                           "REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC")
        self.role = "kith"

    def url(self, hosts=True):
        ports = [member.port for member in self.members] if hosts else [self.proxy_port]
        parameters = "?sslmode=disable&target_session_attrs=read-write"
        return f"postgres://{self.role}@" + ",".join(f"127.0.0.1:{port}" for port in ports) + "/postgres" + parameters

    def stop(self):
        for member in self.members:
            if member.patroni and member.patroni.poll() is None:
                send(signal.SIGCONT, member.machine())
                member.kill()
            else:
                send(signal.SIGKILL, member.postgres())
        for process in [self.haproxy, self.etcd]:
            process.kill()
            process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


class Database(Postgres):
    """The database of the present leader."""

    def __init__(self, cluster, leader):
        self.bin, self.url = cluster.bin, f"postgres://postgres@127.0.0.1:{leader.port}/postgres"
