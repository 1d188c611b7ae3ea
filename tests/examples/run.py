"""Runs the examples of clients against real servers: `make examples`.

run.py KITH LANGUAGE…: KITH is the binary. scripts/examples has installed what the languages need.
"""

import concurrent.futures
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import languages

ROOT = Path(__file__).resolve().parents[2]
# Seconds for anything outside this process.
PATIENCE = 120


class Wrong(Exception):
    """An example did not do what it should."""


def environment(**settings):
    """Returns the environment without settings of Kith's, and with these."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("KITH_", "OTEL_"))}
    return others | {name: str(value) for name, value in settings.items()}


def until(what, condition):
    """Waits until a condition holds, and returns its value."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            raise Wrong(f"no {what} after {PATIENCE} s")
        time.sleep(0.02)
    return value


class Program:
    """A running program, whose lines are collected."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.lines, self.errors = [], []
        self.readers = [self._read(self.process.stdout, self.lines), self._read(self.process.stderr, self.errors)]

    @staticmethod
    def _read(stream, lines):
        reader = threading.Thread(target=lambda: lines.extend(iter_lines(stream, lines)), daemon=True)
        reader.start()
        return reader

    def wait(self):
        """Waits until it ends, and returns its exit status."""
        status = self.process.wait(PATIENCE)
        for reader in self.readers:
            reader.join()
        return status

    def until(self, what, condition):
        """Waits until a condition holds, which it must before the program ends."""

        def holds():
            if value := condition():
                return value
            if self.process.poll() is not None:
                raise Wrong(f"{what}: the program ended before\n{self.output()}")

        return until(f"{what}\n{self.output()}", holds)

    def output(self):
        return "\n".join(self.lines + self.errors)

    def stop(self):
        self.process.kill()
        self.wait()


def iter_lines(stream, lines):
    """Adds the lines of a stream as they come."""
    for line in stream:
        lines.append(line.rstrip("\n"))
    return ()


class Server:
    """A kith on a port that stays its own when it is restarted."""

    def __init__(self, binary, folder, **settings):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.binary, self.folder = binary, folder
        self.settings = {"KITH_LISTEN": f"127.0.0.1:{self.port}", "KITH_METRICS_LISTEN": "off"} | settings

    def start(self):
        self.program = Program([self.binary], cwd=self.folder, env=environment(**self.settings))
        self.program.until("server", lambda: any("listening on" in line for line in self.program.errors))

    def stop(self):
        if program := self.__dict__.pop("program", None):
            program.stop()


def plain(lines):
    """Returns lines without the prefixes of enumerations, which TypeScript has not."""
    return [re.sub(r"\b(CONNECTION_STATUS|EVENT_KIND)_", "", line) for line in lines]


def sent(user, sequence):
    """What `send` prints if its first user has this id, and its first request this id."""
    ann, bob, cy = user, user + 1, user + 2
    lines = []
    for other, id in ((bob, sequence), (cy, sequence + 2)):
        lines += [f"{ann} -> {other}: request {id}, REQUEST_SENT", f"REQUEST_PENDING: request {id}"]
        lines += [f"{other} accepts {id}: CONNECTED"]
    return lines + [f"{ann} is connected with {cy}", f"{ann} is connected with {bob}"]


def events(user, sequence):
    """What `watch` prints of that, from the first user on."""
    created = [f"{sequence + i - 3} USER_CREATED {user + i} 0" for i in range(3)]
    pairs = []
    for i in (1, 2):
        first = sequence + 2 * i - 2
        pairs += [f"{first} REQUEST_CREATED {user} {user + i}", f"{first + 1} CONNECTION_CREATED {user} {user + i}"]
    return created + pairs


def same(what, found, expected, program):
    if found != expected:
        raise Wrong(f"{what}\nexpected {expected}\nfound    {found}\n{program.output()}")


class Story:
    """What every example must do, in one language."""

    def __init__(self, language, binary, folder):
        self.language, self.binary, self.folder = language, binary, folder
        self.cursor = folder / "cursor.json"
        self.running = contextlib.ExitStack()

    def run(self):
        with self.running:
            self.without_tls()
            if not self.language.lacks_tls:
                self.with_tls()

    def server(self, name, **settings):
        folder = self.folder / name
        folder.mkdir()
        server = Server(self.binary, folder, **settings)
        self.running.callback(server.stop)
        return server

    def program(self, name, **settings):
        command, cwd, others = self.language.command(name)
        settings = {"KITH_CURSOR": self.cursor} | others | settings
        program = Program(command, cwd=cwd, env=environment(**settings))
        self.running.callback(program.stop)
        return program

    def send(self, expected, **settings):
        self.sent(self.program("send", **settings), expected)

    def sent(self, program, expected):
        if program.wait() != 0:
            raise Wrong(f"send failed\n{program.output()}")
        same("send", plain(program.lines), expected, program)

    def watched(self, program, expected):
        """Waits for lines of a watch, and for the cursor after them."""
        revision = int(expected[-1].split()[-1 if expected[-1].startswith("listed") else 0])
        program.until(f"cursor {revision}", lambda: self.stored() == revision and len(program.lines) >= len(expected))
        same("watch", plain(program.lines), expected, program)

    def cursor_file(self):
        """The stored cursor, as JSON."""
        try:
            return json.loads(self.cursor.read_text())
        except FileNotFoundError:
            return {"revision": -1}

    def stored(self):
        """The revision of the stored cursor."""
        return int(self.cursor_file()["revision"])

    def without_tls(self):
        server = self.server("plain")
        settings = {"KITH_SERVER": f"127.0.0.1:{server.port}"}
        # The server comes later than its client, who retries.
        send = self.program("send", **settings)
        send.until("retry", lambda: any(line.find("retrying in") >= 0 for line in send.errors))
        server.start()
        self.sent(send, sent(1, 4))
        # The first message has no events. It is a cursor all the same.
        watch = self.program("watch", **settings)
        self.watched(watch, ["listed 3 users at revision 7"])
        watch.stop()
        self.send(sent(4, 11), **settings)
        # What happened meanwhile.
        watch = self.program("watch", **settings)
        self.watched(watch, events(4, 11))
        # And what happens after a crash of the server.
        server.stop()
        server.start()
        self.send(sent(7, 18), **settings)
        self.watched(watch, events(4, 11) + events(7, 18))
        watch.stop()
        # A cursor of another database.
        stored = self.cursor_file()
        self.cursor.write_text(json.dumps(stored | {"epoch": "0" * len(stored["epoch"])}))
        watch = self.program("watch", **settings)
        watch.until("new cursor", lambda: self.cursor_file() == stored)
        same("watch", watch.lines, ["WRONG_EPOCH: listing again", "listed 9 users at revision 21"], watch)
        watch.stop()
        server.stop()

    def with_tls(self):
        folder = self.folder / "certificates"
        folder.mkdir()
        certificates(folder)
        key = subprocess.run(
            [self.binary, "key", "new", "example", "--scopes=read,write,users,events"],
            check=True, capture_output=True, text=True, env=environment(),
        )  # fmt: skip
        secret, _, principals = key.stdout.partition("\n")
        (folder / "principals.toml").write_text(principals)
        (folder / "token").write_text(secret + "\n")
        (folder / "wrong").write_text(secret[:-4] + "AAAA\n")
        server = self.server(
            "tls",
            KITH_TLS_CERTIFICATE=folder / "server.pem",
            KITH_TLS_KEY=folder / "server.key",
            KITH_PRINCIPALS=folder / "principals.toml",
        )
        server.start()
        settings = {"KITH_SERVER": f"https://localhost:{server.port}", "KITH_TLS_CA": folder / "ca.pem"}
        refused = self.program("send", KITH_TOKEN_FILE=folder / "wrong", **settings)
        if refused.wait() == 0:
            raise Wrong(f"send with a wrong token\n{refused.output()}")
        settings["KITH_TOKEN_FILE"] = folder / "token"
        self.send(sent(1, 4), **settings)
        self.cursor.unlink()
        watch = self.program("watch", **settings)
        self.watched(watch, ["listed 3 users at revision 7"])


def certificates(folder):
    """Makes an authority and the certificate of a server, for localhost."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "1", "-subj", "/CN=examples")
    openssl("req", *new, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "extensions").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
    issue = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "extensions")
    openssl("x509", "-req", "-in", "server.csr", *issue, "-out", "server.pem")


def run(name, binary):
    """Builds and runs the example of a language. Returns whether it did what it should, and what to say of it."""
    try:
        language = languages.ALL[name](ROOT)
        language.build()
        with tempfile.TemporaryDirectory(prefix="kith-examples-") as folder:
            Story(language, binary, Path(folder)).run()
        language.check()
        return True, f"ok, but not run with TLS: {language.lacks_tls}" if language.lacks_tls else "ok"
    except subprocess.CalledProcessError as error:
        return False, f"FAILED: {error}\n{error.stdout or ''}{error.stderr or ''}"
    except Wrong as error:
        return False, f"FAILED: {error}"


def main():
    binary, names = Path(sys.argv[1]).resolve(), sys.argv[2:]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        for name, (passed, text) in zip(names, pool.map(lambda name: run(name, binary), names)):
            print(f"{name}: {text}", flush=True)
            failed += not passed
    others = [name for name in languages.ALL if name not in names]
    if others:
        print(f"not run, since not asked for: {', '.join(others)}")
    print(f"examples: {len(names) - failed} passed, {failed} failed, {len(others)} skipped")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
