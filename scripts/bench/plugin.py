"""Starts a plugin as Terraform does and asks for its schema; tells time and memory.

Owns the client's half of the start: cookie, certificate by pinning, one call over HTTP/2. It
knows just enough of HTTP/2 for one call, so that nothing has to be installed for it.
"""

import base64
import datetime
import os
import socket
import ssl
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

COOKIE = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2"
SCHEMA = {5: "/tfplugin5.Provider/GetSchema", 6: "/tfplugin6.Provider/GetProviderSchema"}


class Certificate:
    """A client certificate as Terraform makes one for each run: P-521, self-signed, a CA."""

    def __init__(self, folder):
        key = ec.generate_private_key(ec.SECP521R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key, hashes.SHA512())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.file = Path(folder) / "client.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self.file.write_bytes(self.pem + private)


def start_to_schema(program):
    """One start: (seconds to the schema, resident KiB after it, bytes of the schema)."""
    with tempfile.TemporaryDirectory() as folder:
        certificate = Certificate(folder)
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "TF_PLUGIN_MAGIC_COOKIE": COOKIE,
            "PLUGIN_PROTOCOL_VERSIONS": "5,6",
            "PLUGIN_MIN_PORT": "10000",
            "PLUGIN_MAX_PORT": "25000",
            "PLUGIN_UNIX_SOCKET_DIR": folder,
            "TMPDIR": folder,
            "PLUGIN_CLIENT_CERT": certificate.pem.decode(),
        }
        begin = time.monotonic()
        plugin = subprocess.Popen(
            [program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            line = plugin.stdout.readline().decode().strip()
            _, version, network, address, protocol, server = line.split("|")[:6]
            if (network, protocol) != ("unix", "grpc"):
                raise RuntimeError(f"{program} said {line!r}")
            size = call(address, server, certificate, SCHEMA[int(version)])
            taken = time.monotonic() - begin
            return taken, resident_kib(plugin.pid), size
        finally:
            plugin.kill()
            plugin.wait()


def call(address, server, certificate, path):
    """One unary call with an empty request; the size of its answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # pinned below, as go-plugin does
    context.load_cert_chain(certificate.file)
    context.set_alpn_protocols(["h2"])
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    raw.connect(address)
    with context.wrap_socket(raw, server_hostname="localhost") as stream:
        pinned = base64.b64decode(server + "=" * (-len(server) % 4))
        if stream.getpeercert(binary_form=True) != pinned:
            raise RuntimeError("the server's certificate is not the one it announced")
        return unary(stream, path)


def unary(stream, path):
    """HTTP/2: settings, one request on stream 1, and its answer to the end."""
    window = 0x7FFFFFFF
    stream.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, struct.pack(">HI", 4, window))
        + frame(8, 0, 0, struct.pack(">I", window - 65535))
        + frame(1, 4, 1, headers(path))
        + frame(0, 1, 1, b"\0\0\0\0\0")
    )
    reader = stream.makefile("rb")
    size = 0
    while True:
        head = reader.read(9)
        if len(head) < 9:
            raise RuntimeError("the plugin closed the connection")
        length = int.from_bytes(head[:3], "big")
        kind, flags, number = head[3], head[4], int.from_bytes(head[5:9], "big")
        body = reader.read(length)
        if kind == 4 and not flags & 1:
            stream.sendall(frame(4, 1, 0, b""))
        elif kind == 6 and not flags & 1:
            stream.sendall(frame(6, 1, 0, body))
        elif kind in (3, 7):
            raise RuntimeError(f"the plugin refused the call: {body!r}")
        elif kind == 0 and number == 1:
            size += length
        if kind in (0, 1) and number == 1 and flags & 1:
            if size == 0:
                raise RuntimeError(f"the plugin answered {path} with an error")
            return size


def frame(kind, flags, number, body):
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + body


def headers(path):
    """The request's headers in HPACK, each a literal that is not to be kept."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    text = b""
    for name, value in fields:
        text += b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return text


def resident_kib(process):
    """Resident memory of a process in KiB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {process} has no resident memory")
