"""How the example of each language is built and started."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


class Language:
    # Why TLS cannot be tried, if it cannot.
    lacks_tls = None

    def __init__(self, root):
        self.root = root
        self.folder = root / "examples" / type(self).__name__.lower()
        self.tools = root / ".tools/examples"

    def run(self, *command, cwd=None, **variables):
        """Runs a step of a build. Its output is part of the error if it fails."""
        subprocess.run(
            [str(part) for part in command],
            cwd=cwd or self.folder,
            env=os.environ | {name: str(value) for name, value in variables.items()},
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def generate(self, *inputs):
        """Generates code with the buf that the Makefile names."""
        path = f"{self.tools / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.run(self.root / os.environ.get("BUF", "buf"), "generate", *inputs, PATH=path)

    def check(self):
        """What else is to be shown in this language."""


class Python(Language):
    def build(self):
        self.venv = self.tools / "python"
        requirements = (self.folder / "requirements.txt").read_bytes()
        installed, wanted = self.venv / "requirements", hashlib.sha256(requirements).hexdigest()
        if not installed.exists() or installed.read_text() != wanted:
            shutil.rmtree(self.venv, ignore_errors=True)
            self.run(sys.executable, "-m", "venv", self.venv)
            pip = (self.venv / "bin/pip", "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:")
            self.run(*pip, "-r", "requirements.txt")
            installed.write_text(wanted)
        shutil.rmtree(self.folder / "gen", ignore_errors=True)
        (self.folder / "gen").mkdir()
        protos = sorted(self.folder.glob("../../proto/kith/v1/*.proto"))
        out = ("--python_out=gen", "--pyi_out=gen", "--grpc_python_out=gen")
        self.run(self.venv / "bin/python", "-m", "grpc_tools.protoc", "-I../../proto", *out, *(os.path.relpath(proto, self.folder) for proto in protos))

    def command(self, name):
        variables = {"PYTHONPATH": "gen", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
        return [self.venv / "bin/python", f"{name}.py"], self.folder, variables

    def check(self):
        trial = Path(__file__).with_name("service_config.py")
        self.run(self.venv / "bin/python", trial, PYTHONPATH="gen:.", PYTHONDONTWRITEBYTECODE=1)


class TypeScript(Language):
    def build(self):
        lock = self.folder / "package-lock.json"
        installed, wanted = self.folder / "node_modules/.kith", hashlib.sha256(lock.read_bytes()).hexdigest()
        if not installed.exists() or installed.read_text() != wanted:
            self.run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
            installed.write_text(wanted)
        self.run("npm", "run", "generate")
        self.run("npm", "run", "build")

    def command(self, name):
        return ["node", f"dist/src/{name}.js"], self.folder, {}


class Go(Language):
    """With Debian's packages of Go's libraries, which are for GOPATH and older than those in go.mod."""

    DEBIAN = Path("/usr/share/gocode")

    def build(self):
        path = self.tools / "go"
        variables = {"GO111MODULE": "off", "GOPATH": f"{path}:{self.DEBIAN}", "GOFLAGS": "", "GOCACHE": path / "cache"}
        for plugin in ("google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc"):
            binary = self.tools / "bin" / plugin.rpartition("/")[2]
            if not binary.exists():
                self.run("go", "build", "-o", binary, plugin, **variables)
        self.generate()
        # A copy, changed for an old gRPC.
        module = path / "src/example.com/kith"
        shutil.rmtree(path / "src", ignore_errors=True)
        shutil.copytree(self.folder, module)
        shutil.copy(self.root / "docs/service-config.json", module / "client")
        old = Path(__file__).with_name("debian12")
        shutil.copy(old / "codec.go", module / "client")
        shutil.copytree(old / "insecure", module / "insecure")
        client = module / "client/client.go"
        text = client.read_text().replace("grpc.NewClient(", "grpc.Dial(")
        client.write_text(text.replace("google.golang.org/grpc/credentials/insecure", "example.com/kith/insecure"))
        self.run("go", "vet", "example.com/kith/...", **variables)
        for name in ("send", "watch"):
            self.run("go", "build", "-o", path / name, f"example.com/kith/cmd/{name}", **variables)

    def command(self, name):
        return [self.tools / "go" / name], self.folder, {}


class Java(Language):
    """With Debian's packages of Java's libraries, which are older than those in pom.xml."""

    lacks_tls = "Debian's netty is built without ALPN"
    JARS = """grpc-api grpc-context grpc-core grpc-netty grpc-protobuf grpc-protobuf-lite grpc-stub gson guava
        netty-buffer netty-codec netty-codec-http netty-codec-http2 netty-codec-socks netty-common netty-handler
        netty-handler-proxy netty-resolver netty-transport perfmark-api proto-google-common-protos protobuf
        geronimo-annotation-1.3-spec""".split()

    def build(self):
        plugin = self.tools / "bin/protoc-gen-grpc-java"
        plugin.parent.mkdir(parents=True, exist_ok=True)
        plugin.unlink(missing_ok=True)
        plugin.symlink_to(shutil.which("grpc_java_plugin"))
        self.generate()
        # Debian's google.rpc is older than ErrorInfo.
        self.generate("../proto")
        self.classes = self.folder / "target/classes"
        shutil.rmtree(self.classes, ignore_errors=True)
        self.classes.mkdir(parents=True)
        shutil.copy(self.root / "docs/service-config.json", self.classes)
        self.path = ":".join(f"/usr/share/java/{jar}.jar" for jar in self.JARS)
        sources = [*self.folder.glob("gen/**/*.java"), *self.folder.glob("src/**/*.java")]
        self.run("javac", "-nowarn", "-d", self.classes, "-cp", self.path, *sources)

    def command(self, name):
        return ["java", "-cp", f"{self.classes}:{self.path}", f"example.{name.title()}"], self.folder, {}


class Rust(Language):
    def build(self):
        """scripts/examples builds it together with the server: then cargo uses what the tests have compiled."""

    def command(self, name):
        return [self.root / "target/debug" / name], self.folder, {}


ALL = {kind.__name__.lower(): kind for kind in (Python, TypeScript, Go, Java, Rust)}
