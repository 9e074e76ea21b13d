"""Keys for serving TLS inside the cluster: an authority of our own, and a certificate that it signs.

Owns their form and when they are renewed. Must not do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=3650)
LIFE = timedelta(days=90)
"""Of a serving certificate; it is renewed when a third is left."""
_SKEW = timedelta(minutes=5)
"""Clocks of a cluster differ: a certificate is valid from a little before it was made."""
_NAMES = {"authorities": "ca.crt", "authority_key": "ca.key", "certificate": "tls.crt", "key": "tls.key"}


@dataclass(frozen=True, slots=True)
class Keys:
    """All in PEM form, as they lie in a Secret."""

    authorities: str
    """What clients are to trust: the authority that signs, and the one before it."""
    authority_key: str
    certificate: str
    key: str

    @classmethod
    def read(cls, files: Mapping[str, str]) -> Keys | None:
        """Read the data of a Secret; None where a part is missing."""
        if not set(_NAMES.values()) <= files.keys():
            return None
        return cls(**{name: files[file] for name, file in _NAMES.items()})

    def files(self) -> dict[str, str]:
        """The data of a Secret."""
        return {file: getattr(self, name) for name, file in _NAMES.items()}

    @property
    def expires(self) -> datetime:
        """When the serving certificate ends."""
        return _certificate(self.certificate).not_valid_after_utc


def renewed(known: Keys | None, names: Sequence[str], now: datetime) -> Keys:
    """`known` itself while it will do, else new keys in its place.

    A new authority is made when the old one would end before what it is to sign. Clients are told of both, so that
    whoever still serves with the old one is believed meanwhile.

    Args:
        known: The keys so far; None or unreadable ones: there are none.
        names: DNS names that the certificate has to be for.
        now: The time.
    """
    try:
        if known is not None and _will_do(known, names, now):
            return known
        signer = _authorities(known.authorities)[0] if known else None
        signer_key = _private(known.authority_key) if known else None
    except ValueError:
        known = signer = signer_key = None
    former = known.authorities if known else ""
    if signer is None or signer_key is None or signer.not_valid_after_utc < now + LIFE:
        signer_key = ec.generate_private_key(ec.SECP256R1())
        signer = _sign_authority(signer_key, now)
        kept = [_pem(item) for item in _authorities(former)[:1] if item.not_valid_after_utc > now] if former else []
        former = "".join([_pem(signer), *kept])
    key = ec.generate_private_key(ec.SECP256R1())
    return Keys(former, _pem_key(signer_key), _pem(_sign(key, names, signer, signer_key, now)), _pem_key(key))


def _will_do(known: Keys, names: Sequence[str], now: datetime) -> bool:
    certificate = _certificate(known.certificate)
    _private(known.authority_key)
    if not any(_has_signed(authority, certificate) for authority in _authorities(known.authorities)):
        return False
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasts = certificate.not_valid_after_utc - now > LIFE / 3 and certificate.not_valid_before_utc <= now
    return lasts and set(names) <= set(alternatives.get_values_for_type(x509.DNSName))


def _has_signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, InvalidSignature):
        return False
    return True


def _certificate(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _authorities(pem: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem.encode())


def _private(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not one of ours")  # noqa: TRY004  # the caller mends unreadable keys
    return key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _pem_key(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _builder(subject: str, issuer: x509.Name, now: datetime, life: timedelta) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - _SKEW)
        .not_valid_after(now.astimezone(UTC) + life)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign_authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # Two authorities of the same name would be told apart by their key only, which not every client does.
    name = f"whatsapp-operator {now:%Y%m%dT%H%M%S}"
    return (
        _builder(name, _name(name), now, AUTHORITY_LIFE)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _sign(
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    signer: x509.Certificate,
    signer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key())
    return (
        _builder("whatsapp-operator", signer.subject, now, LIFE)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(signer_key, hashes.SHA256())
    )
