"""Google's own Python client against the fake of Secret Manager: what it must find there is what the real one gives."""

import base64
import contextlib
import json
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from collections.abc import Iterator

import google.auth.exceptions
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core import exceptions
from google.auth import credentials as credential
from google.auth import identity_pool
from google.auth.transport.requests import Request
from google.cloud import secretmanager_v1 as secretmanager
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceRestTransport
from google.oauth2 import service_account
from google.protobuf import field_mask_pb2

from started import started

PROJECT = "projects/some-project"
EMAIL = "writer@some-project.iam.gserviceaccount.com"
POOL = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/clusters/providers/one"
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
State = secretmanager.SecretVersion.State


class Bearer(credential.Credentials):
    """An access token and no way to get another: a refusal stays one."""

    def __init__(self, token: str):
        super().__init__()
        self.token = token

    def refresh(self, request: object) -> None:
        pass


def connect(port: int, credentials: credential.Credentials | None = None) -> secretmanager.SecretManagerServiceClient:
    transport = SecretManagerServiceRestTransport(
        host=f"127.0.0.1:{port}",
        url_scheme="http",
        credentials=credentials or credential.AnonymousCredentials(),
    )
    return secretmanager.SecretManagerServiceClient(transport=transport)


@contextlib.contextmanager
def client(*options: str) -> Iterator[secretmanager.SecretManagerServiceClient]:
    with started("google_secret_manager.py", *options) as port:
        yield connect(port)


def create(api: secretmanager.SecretManagerServiceClient, name: str, **fields: object) -> secretmanager.Secret:
    secret = {"replication": {"automatic": {}}} | fields
    return api.create_secret(parent=PROJECT, secret_id=name, secret=secret)


def add(api: secretmanager.SecretManagerServiceClient, name: str, data: bytes) -> secretmanager.SecretVersion:
    return api.add_secret_version(parent=f"{PROJECT}/secrets/{name}", payload={"data": data})


class Secrets(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.api = cls.enterClassContext(client())

    def assertStatus(self, status: str, error: exceptions.GoogleAPICallError) -> None:
        self.assertEqual(status, error.response.json()["error"]["status"])

    def test_a_value_is_read_back_with_its_checksum(self) -> None:
        create(self.api, "value")
        added = add(self.api, "value", b"123456789")
        self.assertEqual(State.ENABLED, added.state)
        self.assertTrue(added.name.endswith("/secrets/value/versions/1"))
        got = self.api.access_secret_version(name=f"{PROJECT}/secrets/value/versions/latest")
        self.assertEqual((b"123456789", 0xE3069283), (got.payload.data, got.payload.data_crc32c))
        self.assertEqual(added.name, got.name)

    def test_names_have_the_projects_number(self) -> None:
        secret = create(self.api, "numbered")
        self.assertRegex(secret.name, r"^projects/[0-9]+/secrets/numbered$")
        self.assertEqual(secret, self.api.get_secret(name=secret.name))

    def test_metadata_survives_and_is_replaced_by_field(self) -> None:
        create(self.api, "metadata", labels={"team": "a"}, annotations={"virtualaccounts-jti": "x/Y.z:1", "other": "o"})
        secret = self.api.get_secret(name=f"{PROJECT}/secrets/metadata")
        self.assertEqual({"team": "a"}, dict(secret.labels))
        self.assertEqual({"virtualaccounts-jti": "x/Y.z:1", "other": "o"}, dict(secret.annotations))
        secret.annotations = {"only": "this"}
        secret.labels = {}
        patched = self.api.update_secret(secret=secret, update_mask={"paths": ["annotations"]})
        self.assertEqual(({"only": "this"}, {"team": "a"}), (dict(patched.annotations), dict(patched.labels)))
        self.assertNotEqual(secret.etag, patched.etag)

    def test_a_name_is_taken_once(self) -> None:
        create(self.api, "taken")
        with self.assertRaises(exceptions.Conflict) as raised:
            create(self.api, "taken")
        self.assertStatus("ALREADY_EXISTS", raised.exception)

    def test_what_is_absent_is_not_found(self) -> None:
        create(self.api, "empty")
        for call in (
            lambda: self.api.get_secret(name=f"{PROJECT}/secrets/absent"),
            lambda: self.api.access_secret_version(name=f"{PROJECT}/secrets/empty/versions/latest"),
            lambda: self.api.get_secret_version(name=f"{PROJECT}/secrets/empty/versions/1"),
            lambda: self.api.delete_secret(name=f"{PROJECT}/secrets/absent"),
            lambda: add(self.api, "absent", b"x"),
        ):
            with self.assertRaises(exceptions.NotFound) as raised:
                call()
            self.assertStatus("NOT_FOUND", raised.exception)

    def test_versions_are_listed_newest_first_over_pages(self) -> None:
        create(self.api, "versions")
        for number in range(25):
            add(self.api, "versions", str(number).encode())
        parent = f"{PROJECT}/secrets/versions"
        pages = list(self.api.list_secret_versions(request={"parent": parent, "page_size": 10}).pages)
        self.assertEqual([10, 10, 5], [len(page.versions) for page in pages])
        self.assertEqual(25, pages[0].total_size)
        numbers = [int(version.name.rpartition("/")[2]) for page in pages for version in page.versions]
        self.assertEqual(list(range(25, 0, -1)), numbers)

    def test_secrets_are_listed_and_filtered(self) -> None:
        with client() as api:
            for number in range(12):
                create(api, f"listed-{number}", labels={"even": str(number % 2 == 0).lower()})
            names = {secret.name.rpartition("/")[2] for secret in api.list_secrets(parent=PROJECT)}
            self.assertEqual({f"listed-{number}" for number in range(12)}, names)
            even = api.list_secrets(request={"parent": PROJECT, "filter": "labels.even=true"})
            self.assertEqual(6, len(list(even)))
            self.assertEqual([], list(api.list_secrets(parent="projects/other-project")))

    def test_states_of_a_version(self) -> None:
        create(self.api, "states")
        version = add(self.api, "states", b"x")
        disabled = self.api.disable_secret_version(name=version.name)
        self.assertEqual(State.DISABLED, disabled.state)
        self.assertNotEqual(version.etag, disabled.etag)
        with self.assertRaises(exceptions.BadRequest) as raised:
            self.api.access_secret_version(name=version.name)
        self.assertStatus("FAILED_PRECONDITION", raised.exception)
        self.assertIn("is in DISABLED state", str(raised.exception))
        self.assertEqual(State.ENABLED, self.api.enable_secret_version(name=version.name).state)
        self.assertEqual(b"x", self.api.access_secret_version(name=version.name).payload.data)
        destroyed = self.api.destroy_secret_version(name=version.name)
        self.assertEqual(State.DESTROYED, destroyed.state)
        self.assertTrue(destroyed.destroy_time)
        for call in (self.api.access_secret_version, self.api.enable_secret_version):
            with self.assertRaises(exceptions.BadRequest) as raised:
                call(name=version.name)
            self.assertStatus("FAILED_PRECONDITION", raised.exception)

    def test_latest_is_the_newest_version_even_if_disabled(self) -> None:
        create(self.api, "latest")
        add(self.api, "latest", b"1")
        newest = add(self.api, "latest", b"2")
        self.api.disable_secret_version(name=newest.name)
        latest = f"{PROJECT}/secrets/latest/versions/latest"
        self.assertEqual(newest.name, self.api.get_secret_version(name=latest).name)
        with self.assertRaises(exceptions.BadRequest):
            self.api.access_secret_version(name=latest)

    def test_a_stale_etag_fails_a_precondition(self) -> None:
        secret = create(self.api, "etags")
        version = add(self.api, "etags", b"x")
        self.assertEqual(secret.etag, self.api.get_secret(name=secret.name).etag, "a new version leaves it alone")
        self.assertRegex(secret.etag, '^".+"$')
        self.api.update_secret(secret=secret, update_mask={"paths": ["labels"]})
        self.api.disable_secret_version(name=version.name)
        mask = field_mask_pb2.FieldMask(paths=["labels"])
        for call in (
            lambda: self.api.update_secret(secret=secret, update_mask=mask),
            lambda: self.api.delete_secret(request={"name": secret.name, "etag": secret.etag}),
            lambda: self.api.enable_secret_version(request={"name": version.name, "etag": version.etag}),
        ):
            with self.assertRaises(exceptions.BadRequest) as raised:
                call()
            self.assertStatus("FAILED_PRECONDITION", raised.exception)
        current = self.api.get_secret(name=secret.name).etag
        self.api.delete_secret(request={"name": secret.name, "etag": current})

    def test_a_deleted_name_is_free_at_once(self) -> None:
        create(self.api, "deleted")
        add(self.api, "deleted", b"x")
        self.api.delete_secret(name=f"{PROJECT}/secrets/deleted")
        create(self.api, "deleted")
        self.assertEqual([], list(self.api.list_secret_versions(parent=f"{PROJECT}/secrets/deleted")))

    def test_replication_and_keys_are_kept(self) -> None:
        key = "projects/p/locations/{}/keyRings/r/cryptoKeys/k"
        places = [
            {"location": place, "customer_managed_encryption": {"kms_key_name": key.format(place)}}
            for place in ("europe-west3", "europe-west4")
        ]
        create(self.api, "replicated", replication={"user_managed": {"replicas": places}})
        replicas = add(self.api, "replicated", b"x").replication_status.user_managed.replicas
        self.assertEqual(["europe-west3", "europe-west4"], [replica.location for replica in replicas])
        encrypted = {"automatic": {"customer_managed_encryption": {"kms_key_name": key.format("global")}}}
        create(self.api, "encrypted", replication=encrypted)
        used = add(self.api, "encrypted", b"x").replication_status.automatic.customer_managed_encryption
        self.assertEqual(f"{key.format('global')}/cryptoKeyVersions/1", used.kms_key_version_name)

    def test_a_region_has_secrets_of_its_own(self) -> None:
        parent = f"{PROJECT}/locations/europe-west3"
        secret = self.api.create_secret(parent=parent, secret_id="regional", secret={})
        self.assertRegex(secret.name, "^projects/[0-9]+/locations/europe-west3/secrets/regional$")
        version = self.api.add_secret_version(parent=secret.name, payload={"data": b"x"})
        self.assertEqual(b"x", self.api.access_secret_version(name=version.name).payload.data)
        with self.assertRaises(exceptions.NotFound):
            self.api.get_secret(name=f"{PROJECT}/secrets/regional")

    def test_what_breaks_a_rule_is_refused(self) -> None:
        create(self.api, "rules")
        mask = {"paths": ["replication"]}
        payload = lambda **fields: self.api.add_secret_version(parent=f"{PROJECT}/secrets/rules", payload=fields)
        for name, call in {
            "name": lambda: create(self.api, "a.b"),
            "long name": lambda: create(self.api, "a" * 256),
            "replication": lambda: self.api.create_secret(parent=PROJECT, secret_id="none", secret={}),
            "label": lambda: create(self.api, "label", labels={"team": "Upper"}),
            "labels": lambda: create(self.api, "labels", labels={f"l{number}": "" for number in range(65)}),
            "annotation": lambda: create(self.api, "annotation", annotations={"a/b": "x"}),
            "annotations": lambda: create(self.api, "annotations", annotations={"a": "x" * 16384}),
            "large": lambda: payload(data=b"x" * (64 * 1024 + 1)),
            "empty": lambda: add(self.api, "rules", b""),
            "checksum": lambda: payload(data=b"x", data_crc32c=1),
            "mask": lambda: self.api.update_secret(secret={"name": f"{PROJECT}/secrets/rules"}, update_mask=mask),
        }.items():
            with self.subTest(name), self.assertRaises(exceptions.BadRequest) as raised:
                call()
            self.assertStatus("INVALID_ARGUMENT", raised.exception)
        self.assertEqual([], list(self.api.list_secret_versions(parent=f"{PROJECT}/secrets/rules")))

    def test_a_good_checksum_is_noted(self) -> None:
        create(self.api, "checked")
        payload = {"data": b"123456789", "data_crc32c": 0xE3069283}
        version = self.api.add_secret_version(parent=f"{PROJECT}/secrets/checked", payload=payload)
        self.assertTrue(version.client_specified_payload_checksum)

    def test_plain_json_has_names_of_states_and_the_clients_form_numbers(self) -> None:
        with started("google_secret_manager.py") as port:
            api = connect(port)
            create(api, "json")
            add(api, "json", b"x")
            url = f"http://127.0.0.1:{port}/v1/{PROJECT}/secrets/json/versions/1"
            self.assertEqual("ENABLED", get(url)["state"])
            self.assertEqual(1, get(f"{url}?%24alt=json%3Benum-encoding%3Dint")["state"])
            self.assertEqual("1", get(f"{url}:access")["name"].rpartition("/")[2])
            with self.assertRaises(urllib.error.HTTPError) as raised:
                get(f"http://127.0.0.1:{port}/v1/nothing")
            with raised.exception as error:
                self.assertEqual((404, b"<!DOCTYPE"), (error.code, error.read(9)))


class Access(unittest.TestCase):
    def test_only_the_token_named_at_start_is_good(self) -> None:
        with started("google_secret_manager.py", "--token", "good") as port:
            create(connect(port, Bearer("good")), "a")
            for credentials in (Bearer(""), Bearer("bad")):
                with self.assertRaises(exceptions.Unauthorized) as raised:
                    create(connect(port, credentials), "b")
                self.assertEqual("UNAUTHENTICATED", raised.exception.response.json()["error"]["status"])

    def test_a_missing_permission_is_named(self) -> None:
        with client("--permissions", "secretmanager.secrets.create,secretmanager.secrets.get") as api:
            create(api, "a")
            with self.assertRaises(exceptions.Forbidden) as raised:
                add(api, "a", b"x")
            self.assertIn("secretmanager.versions.add", str(raised.exception))

    def test_an_unknown_project_is_forbidden(self) -> None:
        with client("--project", "another-project") as api, self.assertRaises(exceptions.Forbidden):
            create(api, "a")

    def test_a_service_accounts_key_gets_a_token_until_it_is_revoked(self) -> None:
        with started("google_secret_manager.py", "--issued-tokens", "--service-account", EMAIL) as port:
            credentials = service_account.Credentials.from_service_account_info(key(port, EMAIL), scopes=SCOPES)
            credentials.refresh(Request())
            api = connect(port, Bearer(credentials.token))
            create(api, "a")
            post(f"http://127.0.0.1:{port}/_fake/revoke")
            with self.assertRaises(exceptions.Unauthorized):
                create(api, "b")
            stranger = service_account.Credentials.from_service_account_info(key(port, "no@body"), scopes=SCOPES)
            with self.assertRaises(google.auth.exceptions.RefreshError):
                stranger.refresh(Request())

    def test_a_service_account_may_sign_its_own_token(self) -> None:
        with started("google_secret_manager.py", "--issued-tokens", "--service-account", EMAIL) as port:
            for email, good in ((EMAIL, True), ("no@body", False)):
                own = service_account.Credentials.from_service_account_info(key(port, email))
                own = own.with_always_use_jwt_access(True)
                own._create_self_signed_jwt("https://secretmanager.googleapis.com/")
                own.refresh(Request())
                api = connect(port, Bearer(own.token))
                if good:
                    create(api, "a")
                else:
                    self.assertRaises(exceptions.Unauthorized, create, api, "b")

    def test_a_federated_token_is_exchanged(self) -> None:
        options = ["--issued-tokens", "--workload-audience", POOL, "--subject", "system:serviceaccount:a:b"]
        with started("google_secret_manager.py", *options) as port:
            subject = {"iss": "https://cluster", "sub": "system:serviceaccount:a:b", "aud": [f"https:{POOL}"]}
            create(connect(port, federated(port, subject)), "a")
            for wrong in ({"aud": ["https://else"]}, {"sub": "system:serviceaccount:a:c"}, {"exp": 1}):
                with self.subTest(wrong), self.assertRaises(google.auth.exceptions.OAuthError):
                    federated(port, subject | wrong)


def key(port: int, email: str) -> dict[str, str]:
    """The JSON file of a service account's key."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "some-project",
        "private_key_id": "1",
        "private_key": private.decode(),
        "client_email": email,
        "token_uri": f"http://127.0.0.1:{port}/token",
    }


def federated(port: int, claims: dict[str, object]) -> Bearer:
    """Credentials for a JWT with these claims, by token exchange."""
    now = int(time.time())
    parts = ({"alg": "RS256", "kid": "1"}, {"iat": now, "exp": now + 600} | claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(".".join([*encoded, "c2lnbmF0dXJl"]))
        file.flush()
        pool = identity_pool.Credentials(
            audience=POOL,
            subject_token_type="urn:ietf:params:oauth:token-type:jwt",
            token_url=f"http://127.0.0.1:{port}/v1/token",
            credential_source={"file": file.name},
            scopes=SCOPES,
        )
        pool.refresh(Request())
    return Bearer(pool.token)


def get(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def post(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, b"", method="POST"), timeout=10).close()


if __name__ == "__main__":
    unittest.main()
