"""COSE messages made elsewhere: for this project, the examples of the COSE working group, CWTs of python-cwt.

Every algorithm that is implemented is accepted here. `OTHERWISE` names the rows that are answered differently
from their source, each with the reason.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from acebroker_ace.algorithms import ALGORITHMS, KeyType
from acebroker_ace.cose import CoseMessage
from acebroker_ace.errors import AceError, InvalidToken
from acebroker_ace.keys import Key
from acebroker_ace.scope import Scope
from acebroker_ace.token import AuthorizationServer, TokenVerifier
from tests.conformance.statements import ace

FOLDER = Path(__file__).parents[1] / "vectors"
OWN = json.loads((FOLDER / "cose_own.json").read_text())
WG = json.loads((FOLDER / "cose_wg.json").read_text())
PYTHON_CWT = json.loads((FOLDER / "cwt_python_cwt.json").read_text())

OTHERWISE = {
    "encrypted-tests/enc-pass-01": "the algorithm stands in the unprotected header",
    "encrypted-tests/enc-pass-03": "the algorithm stands in the unprotected header",
    "mac0-tests/mac-pass-03": "the algorithm stands in the unprotected header",
    "ecdsa-examples/ecdsa-sig-04": "ES512 with a key of P-256: here each algorithm has its curve",
    "eddsa-examples/eddsa-sig-02": "Ed448",
    "cbc-mac-examples/cbc-mac-enc-02": "AES-CBC-MAC",
    "cbc-mac-examples/cbc-mac-enc-03": "AES-CBC-MAC",
    "cbc-mac-examples/cbc-mac-enc-04": "AES-CBC-MAC",
    "RFC8152/Appendix_C_6_1": "AES-CBC-MAC",
}
#: messages with lists of signers or recipients
OF_MANY = {"sign", "mac", "encrypt"}


def own_key(row: dict[str, Any]) -> Key:
    """The key of a row of cose_own.json."""
    jwk = {
        name: base64.urlsafe_b64encode(bytes.fromhex(value)).decode().rstrip("=") if len(name) == 1 else value
        for name, value in row["key"].items()
    }
    return Key.from_jwk(jwk)


def wg_key(row: dict[str, Any]) -> Key:
    """The key of a row of cose_wg.json."""
    (part,) = (row["input"][name] for name in ("sign0", "mac0", "encrypted") if name in row["input"])
    found = part.get("key") or part["recipients"][0]["key"]
    jwk = {}
    for name, value in found.items():
        if name.endswith("_hex"):
            name, value = name[:-4], base64.urlsafe_b64encode(bytes.fromhex(value)).decode().rstrip("=")
        if name not in ("use", "alg", "kid"):
            jwk[name] = value
    return Key.from_jwk(jwk)


@pytest.mark.parametrize("row", OWN, ids=[row["id"] for row in OWN])
@ace("ADJ-9052-2", "ADJ-9052-4", "ADJ-8392-2", "ADJ-8392-3")
def test_own(row: dict[str, Any]) -> None:
    octets = bytes.fromhex(row["cbor"])
    external_aad = bytes.fromhex(row["external_aad"])
    if row["expect"] == "ok":
        payload = CoseMessage.parse(octets).open(own_key(row), external_aad=external_aad, algorithms=ALGORITHMS)
        assert payload.hex() == row["payload"]
    else:
        with pytest.raises(InvalidToken):
            CoseMessage.parse(octets).open(own_key(row), external_aad=external_aad, algorithms=ALGORITHMS)


@pytest.mark.parametrize("row", WG, ids=[row["id"] for row in WG])
@ace("ADJ-9052-2", "ADJ-9052-4", "ADJ-8392-2", "ADJ-8392-3")
def test_working_group(row: dict[str, Any]) -> None:
    octets = bytes.fromhex(row["cbor"])
    external_aad = bytes.fromhex(next((part["external"] for part in row["input"].values() if "external" in part), ""))
    if row["expect"] == "ok" and row["group"] not in OF_MANY and row["id"].removeprefix("cose-wg/") not in OTHERWISE:
        payload = CoseMessage.parse(octets).open(wg_key(row), external_aad=external_aad, algorithms=ALGORITHMS)
        given = row["input"]
        assert payload == (
            given["plaintext"].encode() if "plaintext" in given else bytes.fromhex(given["plaintext_hex"])
        )
    elif row["group"] in OF_MANY:
        with pytest.raises(InvalidToken):
            CoseMessage.parse(octets)
    else:
        with pytest.raises(AceError):
            CoseMessage.parse(octets).open(wg_key(row), external_aad=external_aad, algorithms=ALGORITHMS)


PYTHON_CWT_VERIFIER = TokenVerifier(
    [
        AuthorizationServer(
            "https://as.example",
            (
                Key.from_jwk({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
                Key.from_jwk(
                    {
                        "kty": "EC",
                        "crv": "P-256",
                        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
                    }
                ),
                Key(bytes(range(32))),
                Key(bytes(range(16))),
            ),
        )
    ],
    ["rs"],
)


@pytest.mark.parametrize("row", PYTHON_CWT, ids=[row["id"] for row in PYTHON_CWT])
@ace("ADJ-8392-2", "ADJ-8392-3", "ADJ-8392-4", "ACE-2.3-5")
def test_tokens_of_python_cwt(row: dict[str, str]) -> None:
    token = PYTHON_CWT_VERIFIER.verify(bytes.fromhex(row["cbor"]), 1_800_000_000)
    assert (token.issuer, token.subject, token.expires_at) == ("https://as.example", "d", 1_900_000_000)
    assert token.scope == Scope([["a/#", ["pub", "sub"]]])
    assert token.key is not None
    assert token.key.key_type is KeyType.OKP


def test_every_disagreement_is_about_a_row() -> None:
    assert {f"cose-wg/{name}" for name in OTHERWISE} <= {row["id"] for row in WG if row["expect"] == "ok"}
