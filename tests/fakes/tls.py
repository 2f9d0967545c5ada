"""A certificate for loopback that signs itself: `tls.py DIRECTORY` writes cert.pem, which clients trust, and key.pem."""

import datetime
import ipaddress
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Tls:
    """A certificate and its key in a directory."""

    def __init__(self, directory: str):
        self.cert, self.key = (str(pathlib.Path(directory) / name) for name in ("cert.pem", "key.pem"))
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake vault")])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        now = datetime.datetime.now(datetime.timezone.utc)
        cert = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            # Some clients take no authority's certificate for a server's own.
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pathlib.Path(self.cert).write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        pathlib.Path(self.key).write_bytes(private)


if __name__ == "__main__":
    Tls(sys.argv[1])
