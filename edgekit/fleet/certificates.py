"""A fleet's own certificate authority, and one certificate per device.

In: the fleet's name and its devices.  Out: PEM files for the hop's mutual TLS 1.3. The same files
serve MQTT where the broker asks for client certificates.
A certificate names the device (common name and DNS name), not an address: addresses change.
"""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgekit.spec.agent_config import HopConfig
from edgekit.spec.base import write_atomically

# Boards before Pi 5 have no clock that survives power-off: they may boot in the past.
_NOT_BEFORE = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
_VALID_YEARS = 20


class FleetAuthority:
    """Signs device certificates. The key stays in memory: it is used once, at enrolment."""

    def __init__(self, fleet: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"EdgeKit fleet {fleet}")
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        self._certificate = (
            _builder(name, name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(_key_id(self._key), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def enrol(self, device: str, folder: Path) -> HopConfig:
        """Write certificate.pem, key.pem and authority.pem of ``device`` into ``folder``.

        Returns: a HopConfig that names them. Raises: OSError if the folder cannot be written.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        both_ways = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(_name(device), self._certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(device)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(both_ways), critical=False)
            .add_extension(_authority_key_id(self._key), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True)
        pem = serialization.Encoding.PEM
        write_atomically(certificate.public_bytes(pem), folder / "certificate.pem")
        write_atomically(self._certificate.public_bytes(pem), folder / "authority.pem")
        secret = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomically(secret, folder / "key.pem", mode=0o600)
        return HopConfig(
            certificate=str(folder / "certificate.pem"),
            key=str(folder / "key.pem"),
            authority=str(folder / "authority.pem"),
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=365 * _VALID_YEARS)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(end)
    )


def _key_id(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _authority_key_id(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
